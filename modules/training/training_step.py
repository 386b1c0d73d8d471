"""The forward pass up to the loss, as the one module that training calls."""

from torch import Tensor, nn
from torch.nn.parallel import DistributedDataParallel

from data.batch import Batch
from models.outputs import BatchSizes, GraphSource
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
        self.sources = {"graph_source": config.train.graph_source, "box_source": config.eval.box_source}

    def forward(
        self, batch: Batch, counts: Tensor, mixing_probability: float, sizes: BatchSizes | None = None
    ) -> Losses:
        """Return the losses of one micro-batch.

        counts [len(TERMS)]: over its whole window and all processes; sizes: of the micro-batch, if known.
        """
        with autocast(self.precision, batch.images.device):
            inputs = model_inputs(batch, **self.sources, training=True, sizes=sizes)
            output = self.model(
                inputs, batch.token_ids, batch.token_mask, **self.sources, mixing_probability=mixing_probability,
                with_region_attention=self.with_region_attention,
            )
        return self.criterion(output, batch, counts, world_size())


def build_training_step(model: nn.Module, criterion: ReportCriterion, config: Config) -> nn.Module:
    """Return the training step, wrapped in DDP if there are several processes.

    DDP searches for unused parameters, which costs time in each step, only if some may exist: a loss term is switched
    off, or the decoder sees no graph.
    """
    step = TrainingStep(model, criterion, config)
    if not is_distributed():
        return step
    may_have_unused = _has_disabled_term(config.loss) or config.train.graph_source == GraphSource.NONE
    return DistributedDataParallel(step, find_unused_parameters=may_have_unused)


def _has_disabled_term(loss: LossConfig) -> bool:
    """Whether a term with a separate part of the model has weight 0. Grounding has no separate part."""
    return any(weight == 0 for name, weight in vars(loss).items() if name not in ("contrast_margin", "grounding"))
