"""The training step of reward training."""

from torch import Tensor

from data.batch import Batch
from models.outputs import BatchSizes
from models.sampling.reports import report_log_probabilities
from modules.runtime import autocast, world_size
from modules.training.losses import Losses
from modules.training.rewards.sampling import SampledReports
from modules.training.training_step import TrainingStep


class RewardTrainingStep(TrainingStep):
    """Also computes the log-probabilities of sampled reports, in one teacher-forced pass over the encoded studies.

    The pass is as training has it, with dropout and the batch's statistics in BatchNorm, as that of the references is:
    the studies are encoded once for both, and what is trained is regularised as before. Samples are drawn without
    (`ReportSampler`), so their probabilities are not exactly those that they were drawn with.
    """

    def forward(
        self, batch: Batch, counts: Tensor, mixing_probability: float, sizes: BatchSizes | None = None,
        sampled: SampledReports | None = None, excluded_ids: tuple[int, ...] = (),
    ) -> Losses:
        """Return the losses of one micro-batch with its samples; `excluded_ids` as they were drawn with."""
        output = self.compute_output(batch, mixing_probability, sizes)
        log_probabilities = output.packed_logits.new_zeros(sampled.token_ids.shape[:2])
        if len(sampled.studies):
            with autocast(self.precision, batch.images.device):
                log_probabilities = report_log_probabilities(
                    self.model, output.encoded, sampled.studies, sampled.token_ids, excluded_ids
                )
        return self.criterion(output, batch, counts, world_size(), sampled, log_probabilities)
