"""Settings of reward training (`train.stage: reward`)."""

from dataclasses import dataclass, field
from typing import Any

from data.errors import UserError, wrong_value
from models.outputs import GraphSource

CROSS_ENTROPY, REWARD = "cross_entropy", "reward"
STAGES = (CROSS_ENTROPY, REWARD)
GREEDY, MEAN = "greedy", "mean"


@dataclass
class RewardConfig:
    """Self-critical sequence training: reports are sampled, and become more or less probable by their rewards.

    rewards        weighted sum of what sampled reports are rewarded for: bleu_4, cider, rouge_l, observations, triples,
                   length, and the scores of radgraph and radeval. A weight of 0 logs a reward without using it
    share          weight of the reward's loss; that of the cross-entropy is loss.report times what is left of 1
    samples        reports sampled for each study and step
    baseline       what a sample's reward is compared with: that of the greedy report, or the mean of the other samples
    labels         what `observations` are compared with: the labels of the reference, or of the data_set
    workers        processes that compute rewards, for each process of the run
    radgraph       folder of RadGraph's model, as in modules.score: adds radgraph_simple, _partial and _complete
    radeval        metrics of RadEval, NAME or NAME:KEY=VALUE, as in modules.score
    metrics_python python of an environment that has RadEval; null: this one
    watch          validation scores that training must not lower, by more than a share of largest_drop
    largest_drop, least_distinct, length_factor, most_repeated   guards: training stops if, compared with the checkpoint
                   it started from, a watched score falls by a larger share, distinct_reports falls below this share,
                   the mean length changes by a larger factor, or repeated_sentences rises by more than this difference
    """

    rewards: str = "observations + triples"
    share: float = 0.5
    samples: int = 4
    baseline: str = MEAN
    labels: str = "reference"
    workers: int = 2
    radgraph: str | None = None
    radeval: list[str] = field(default_factory=list)
    metrics_python: str | None = None
    watch: list[str] = field(
        default_factory=lambda: ["bleu_4", "rouge_l", "cider", "report_14_micro_f1", "triple_f1"]
    )
    largest_drop: float = 0.1
    least_distinct: float = 0.5
    length_factor: float = 1.5
    most_repeated: float = 0.05


REWARD_CHOICES: dict[str, tuple[Any, ...]] = {
    "train.stage": STAGES, "reward.baseline": (GREEDY, MEAN), "reward.labels": ("reference", "data_set"),
}
REWARD_MINIMA = {
    "reward.samples": 1, "reward.workers": 1, "reward.largest_drop": 0, "reward.least_distinct": 0,
    "reward.length_factor": 1, "reward.most_repeated": 0,
}


def check_reward(
    reward: RewardConfig, stage: str, writes_reports: bool, init_from: str | None, graph_source: GraphSource
) -> None:
    """Raise UserError if the settings of reward training contradict each other or those of the run.

    writes_reports, init_from, graph_source   model.report, train.init_from and train.graph_source
    """
    if not 0 < reward.share <= 1:
        raise wrong_value("reward.share", reward.share, "must be above 0 and at most 1")
    if reward.baseline == MEAN and reward.samples < 2:
        rule = "reward.baseline=mean compares a sample with others of its study: use at least 2"
        raise wrong_value("reward.samples", reward.samples, rule)
    if stage != REWARD:
        return
    if not writes_reports:
        raise UserError("train.stage=reward samples reports, which a model with model.report=false does not write")
    if init_from is None:
        raise UserError("train.stage=reward starts from a trained model: set train.init_from to its checkpoint")
    if graph_source == GraphSource.MIXED:
        raise wrong_value(
            "train.graph_source", graph_source,
            "reports are sampled from one kind of graph: choose predicted for train.stage=reward",
        )
