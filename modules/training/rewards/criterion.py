"""The loss of reward training: self-critical sequence training beside the terms of `losses.py`.

    loss = share * policy gradient + (1 - share) * cross-entropy + the other terms

The policy gradient's loss of a sample is minus its advantage times its log-probability, the sum over its tokens (Rennie
et al., "Self-critical sequence training for image captioning", CVPR 2017). The advantage is the sample's reward minus a
baseline that does not depend on it: the reward of the greedy report, or the mean reward of the other samples of the
study (Luo, "A better variant of self-critical sequence training", 2020).

Log-probabilities are summed, and the sum is divided by what a batch is known to have before anything is sampled, the
tokens of its references times the samples of each: dividing by the length of each sample would favour long reports
among bad ones. So the loss has the scale of the cross-entropy, and its gradient is that of one large batch.
"""

import torch
from torch import Tensor

from data.batch import Batch
from models.outputs import SGRRGOutput
from modules.settings.reward import GREEDY
from modules.training.losses import Losses, ReportCriterion
from modules.training.rewards.sampling import SampledReports, studies_with_reference
from modules.training.window_losses import SAMPLED


class RewardCriterion:
    """Adds the policy gradient to `criterion`, whose cross-entropy has the weight (1 - share) already.

    weights    name of a reward -> its weight in the sum; 0 for one that is only logged
    share      weight of the policy gradient
    baseline   GREEDY or MEAN
    samples    for each study
    """

    def __init__(
        self, criterion: ReportCriterion, weights: dict[str, float], share: float, baseline: str, samples: int
    ):
        self.criterion = criterion
        self.weights = weights
        self.share = share
        self.baseline = baseline
        self.samples = samples

    def counts(self, batch: Batch) -> Tensor:
        """Return the counts of the other terms, and the number of studies with samples: [9] float64."""
        counts = self.criterion.counts(batch)
        return torch.cat([counts, counts.new_tensor([len(studies_with_reference(batch))])])

    def __call__(
        self, output: SGRRGOutput, batch: Batch, counts: Tensor, world_size: int, sampled: SampledReports,
        log_probabilities: Tensor,
    ) -> Losses:
        """Return the terms of one micro-batch, and the means of what is logged of its samples, under `SAMPLED`.

        counts, world_size         as in `ReportCriterion`
        log_probabilities [n, S]   of the sampled reports, with gradient

        Waits for the rewards, when a GPU has been given the whole forward pass.
        """
        losses = self.criterion(output, batch, counts[:-1], world_size)
        tokens, studies = counts[[ReportCriterion.TERMS.index("report"), -1]].clamp(min=1).float()
        logged = dict.fromkeys(self._logged_names(), log_probabilities.new_zeros(()))
        policy_loss = output.packed_logits.sum() * 0  # without samples: connected to every parameter all the same
        if sampled.pending is not None:
            rewards = {
                name: torch.from_numpy(values).float().to(log_probabilities.device)
                for name, values in sampled.pending.result().items()
            }
            total = sum(weight * rewards[name] for name, weight in self.weights.items())
            baseline = self._baseline(total, sampled.greedy)
            total = total[:, int(sampled.greedy) :]
            weighted = (total - baseline) * log_probabilities
            policy_loss = policy_loss - weighted.sum() * world_size / (tokens * self.samples)
            means = {name: values[:, int(sampled.greedy) :].mean(1) for name, values in rewards.items()}
            distinct = [len(set(texts)) / len(texts) for texts in sampled.texts]
            means |= {"reward": total.mean(1), "baseline": baseline.mean(1)}
            means["distinct_reports"] = total.new_tensor(distinct)
            logged |= {f"{SAMPLED}{name}": values.sum() * world_size / studies for name, values in means.items()}
        total_loss = losses.total + self.share * policy_loss
        return Losses({**losses.terms, "policy": policy_loss, **logged}, total_loss)

    def _logged_names(self) -> list[str]:
        names = (*self.weights, "words", "repeated_sentences", "reward", "baseline", "distinct_reports")
        return [f"{SAMPLED}{name}" for name in names]

    def _baseline(self, rewards: Tensor, greedy: bool) -> Tensor:
        """Return what each sample is compared with, [n, S] or [n, 1]; rewards [n, reports]."""
        if self.baseline == GREEDY:
            return rewards[:, :1]
        return (rewards.sum(1, keepdim=True) - rewards) / (rewards.shape[1] - 1)
