"""Builds what a stage of training adds to the loop: `train.stage`."""

from data.dataset import StudyDataset
from data.errors import unknown_name
from data.mixture.dataset import MixedDataset
from data.vocabulary import Vocabularies
from modules.config import Config
from modules.evaluation.rewards.building import build_reward_pool
from modules.evaluation.validation import SplitValidator
from modules.settings.reward import GREEDY, REWARD
from modules.training.losses import ReportCriterion
from modules.training.rewards.criterion import RewardCriterion
from modules.training.rewards.guards import Guards
from modules.training.rewards.sampling import ReportSampler
from modules.training.rewards.stage import RewardStage
from modules.training.stage import Stage


def build_stage(
    config: Config, vocabularies: Vocabularies, criterion: ReportCriterion, validator: SplitValidator,
    training: StudyDataset | MixedDataset,
) -> tuple[ReportCriterion | RewardCriterion, Stage]:
    """Return the criterion of the stage, made of `criterion`, and the stage; `training` is the training split.

    Raises UserError if `config.reward` names an unknown reward or score, or a package that is not installed.
    """
    if config.train.stage != REWARD:
        return criterion, Stage()
    settings, evaluator = config.reward, validator.evaluator
    for name in settings.watch:
        if name not in validator.score_names:
            raise unknown_name("score", name, validator.score_names, "reward.watch")
    pool, weights = build_reward_pool(settings, training, evaluator.apply_protocol)
    sampler = ReportSampler(
        scorer=pool, tokenizer=vocabularies.tokenizer, samples=settings.samples,
        with_greedy=settings.baseline == GREEDY, max_tokens=config.data.max_tokens,
        graph_source=config.train.graph_source, box_source=config.eval.box_source, precision=config.train.precision,
        excluded_ids=evaluator.excluded_ids, seed=config.seed,
    )
    guards = Guards(
        tuple(settings.watch), settings.largest_drop, settings.least_distinct, settings.length_factor,
        settings.most_repeated,
    )
    rewarded = RewardCriterion(criterion, weights, settings.share, settings.baseline, settings.samples)
    return rewarded, RewardStage(sampler, guards)
