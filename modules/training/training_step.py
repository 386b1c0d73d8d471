"""The forward pass up to the loss, as the one module that training calls."""

from torch import Tensor, nn
from torch.nn.parallel import DistributedDataParallel

from data.batch import Batch
from models.outputs import BatchSizes, GraphSource, SGRRGOutput
from modules.config import Config, LossConfig
from modules.model_inputs import model_inputs
from modules.runtime import autocast, is_distributed, world_size
from modules.training.losses import Losses, ReportCriterion


class TrainingStep(nn.Module):
    """Model and criterion in one module: DDP searches for unused parameters from what its module returns."""

    def __init__(self, model: nn.Module, criterion: ReportCriterion, config: Config):
        super().__init__()
        self.model = model
        self.criterion = criterion
        self.precision = config.train.precision
        self.with_region_attention = config.loss.grounding > 0
        self.image_attention_layer = None
        if config.loss.attention_consistency > 0:
            layer = config.loss.consistency_layer
            self.image_attention_layer = (config.model.decoder_layers if layer is None else layer) - 1
        self.sources = {"graph_source": config.train.graph_source, "box_source": config.eval.box_source}

    def forward(
        self, batch: Batch, counts: Tensor, mixing_probability: float, sizes: BatchSizes | None = None
    ) -> Losses:
        """Return the losses of one micro-batch.

        counts [len(TERMS)]: over its whole window and all processes; sizes: of the micro-batch, if known.
        """
        return self.criterion(self.compute_output(batch, mixing_probability, sizes), batch, counts, world_size())

    def compute_output(self, batch: Batch, mixing_probability: float, sizes: BatchSizes | None) -> SGRRGOutput:
        """Return the model's output for the annotations of `batch`."""
        with autocast(self.precision, batch.images.device):
            inputs = model_inputs(batch, **self.sources, training=True, sizes=sizes)
            return self.model(
                inputs, batch.token_ids, batch.token_mask, **self.sources, mixing_probability=mixing_probability,
                with_region_attention=self.with_region_attention, image_attention_layer=self.image_attention_layer,
            )


def wrap_training_step(step: TrainingStep, config: Config) -> nn.Module:
    """Return the training step, wrapped in DDP if there are several processes.

    DDP searches for unused parameters, which costs time in each step, only if some may exist: a loss term is switched
    off, or the decoder sees no graph.
    """
    if not is_distributed():
        return step
    may_have_unused = _has_disabled_term(config.loss) or config.train.graph_source == GraphSource.NONE
    return DistributedDataParallel(step, find_unused_parameters=may_have_unused)


def _has_disabled_term(loss: LossConfig) -> bool:
    """Whether a term with a separate part of the model has weight 0."""
    terms = ("report", "observations", "regions", "attributes", "contrast", "boxes", "visibility")
    return any(getattr(loss, term) == 0 for term in terms)
