"""The terms of the loss, one class each. `LOSS_TERMS` lists them in order.

A term is a sum divided by a count, and both are methods of one object. Shapes as in `data/batch.py` and
`models/outputs.py`.
"""

from abc import ABC, abstractmethod
from dataclasses import dataclass
from typing import ClassVar

import torch
import torch.distributed as dist
import torch.nn.functional as F
from torch import Tensor

from data.batch import Batch
from models.layers.masking import EXCLUDED
from models.outputs import GraphAnnotation, SGRRGOutput
from models.sgrrg import annotated_regions
from modules.runtime import rank, world_size

# Weights inside the box term (DETR's: Carion et al., "End-to-end object detection with transformers", 2020).
BOX_L1_WEIGHT, BOX_GIOU_WEIGHT = 5.0, 2.0


@dataclass
class LossTerm(ABC):
    """One term of the loss.

    attribute_slots   [R, A] bool, the attributes that each region can have
    contrast_margin   cosine above which sub-graphs of different abnormality are pushed apart
    attribute_weights [R, A], the weight of a positive attribute; None: 1
    """

    attribute_slots: Tensor
    contrast_margin: float
    attribute_weights: Tensor | None = None

    name: ClassVar[str]

    @abstractmethod
    def count(self, batch: Batch) -> Tensor:
        """Return what `sum` is divided by, a scalar. It depends on the batch alone."""

    @abstractmethod
    def sum(self, output: SGRRGOutput, batch: Batch) -> Tensor | None:
        """Return the summed loss, a scalar; None if the model has no such output."""


class MaskedLoss(LossTerm):
    """A term that sums element-wise losses over the elements of a mask, and counts these elements."""

    @abstractmethod
    def mask(self, batch: Batch) -> Tensor:
        """Return which elements have a label, bool."""

    @abstractmethod
    def element_losses(self, output: SGRRGOutput, batch: Batch) -> Tensor | None:
        """Return the loss of each element, in the shape of `mask`; None if the model has no such output."""

    def count(self, batch: Batch) -> Tensor:
        return self.mask(batch).sum()

    def sum(self, output: SGRRGOutput, batch: Batch) -> Tensor | None:
        losses = self.element_losses(output, batch)
        return None if losses is None else (losses * self.mask(batch)).sum()


class ReportLoss(LossTerm):
    """Cross-entropy of the next token, over the tokens that are not padding."""

    name = "report"

    def count(self, batch: Batch) -> Tensor:
        return batch.token_mask[:, 1:].sum()

    def sum(self, output: SGRRGOutput, batch: Batch) -> Tensor | None:
        if output.packed_logits is None:
            return None
        targets = output.packing.pack(batch.token_ids[:, 1:])
        return F.cross_entropy(output.packed_logits.float(), targets, reduction="sum")


class ObservationLoss(MaskedLoss):
    """Binary cross-entropy of the observations, over known labels."""

    name = "observations"

    def mask(self, batch: Batch) -> Tensor:  # [B, K]
        return batch.observations_known

    def element_losses(self, output: SGRRGOutput, batch: Batch) -> Tensor | None:
        return _binary_cross_entropy(output.encoded.observation_logits, batch.observations)


class RegionLoss(MaskedLoss):
    """Binary cross-entropy of "the report mentions this region", over studies with an annotated graph."""

    name = "regions"

    def mask(self, batch: Batch) -> Tensor:  # [B, R]
        return batch.regions.graph_known.unsqueeze(1).expand_as(batch.regions.mentioned)

    def element_losses(self, output: SGRRGOutput, batch: Batch) -> Tensor | None:
        return _binary_cross_entropy(output.encoded.region_logits, batch.regions.mentioned)


class AttributeLoss(MaskedLoss):
    """Binary cross-entropy of the attributes that annotated regions can have; positives count `attribute_weights`."""

    name = "attributes"

    def mask(self, batch: Batch) -> Tensor:  # [B, R, A]
        return _annotated_regions(batch).unsqueeze(-1) & self.attribute_slots.to(batch.regions.boxes.device)

    def element_losses(self, output: SGRRGOutput, batch: Batch) -> Tensor | None:
        return _binary_cross_entropy(
            output.encoded.attribute_logits, batch.regions.attributes, self.attribute_weights
        )


class ContrastLoss(LossTerm):
    """Proxy task 2: sub-graphs of the same region attract if abnormality agrees and repel if it differs.

    The mean over all ordered pairs of annotated sub-graphs of the same region in the batch of all processes,
    self-pairs included: max(0, 1 - cos) for the same abnormality, max(0, cos - margin) for different ones.
    """

    name = "contrast"

    def count(self, batch: Batch) -> Tensor:
        """Return 1: `sum` is already a mean."""
        return torch.ones((), device=batch.regions.boxes.device)

    def sum(self, output: SGRRGOutput, batch: Batch) -> Tensor | None:
        graph = output.encoded.annotated_graph
        if graph is None:
            return None
        vectors, selected, abnormal = graph.embeddings.float(), graph.selected, batch.regions.abnormal
        if world_size() > 1:
            vectors = _GatherWithGradient.apply(vectors)
            selected = torch.cat(_gather_without_gradient(selected))
            abnormal = torch.cat(_gather_without_gradient(abnormal))
        directions = F.normalize(vectors, dim=-1).transpose(0, 1)  # [R, B, D]
        cosines = directions @ directions.transpose(1, 2)  # [R, B, B]
        present = selected.T  # [R, B]
        pairs = present.unsqueeze(1) & present.unsqueeze(2)
        same = abnormal.T.unsqueeze(1) == abnormal.T.unsqueeze(2)
        losses = torch.where(same, (1 - cosines).clamp(min=0), (cosines - self.contrast_margin).clamp(min=0))
        return (losses * pairs).sum() / pairs.sum().clamp(min=1)


class BoxLoss(MaskedLoss):
    """5 L1 + 2 (1 - generalised IoU), over annotated visible boxes."""

    name = "boxes"

    def mask(self, batch: Batch) -> Tensor:  # [B, R]
        return batch.regions.visible & batch.regions.boxes_known.unsqueeze(1)

    def element_losses(self, output: SGRRGOutput, batch: Batch) -> Tensor | None:
        boxes, target = output.encoded.boxes, batch.regions.boxes
        if boxes is None:
            return None
        distance = F.l1_loss(boxes, target, reduction="none").sum(-1)
        return BOX_L1_WEIGHT * distance + BOX_GIOU_WEIGHT * (1 - _generalised_iou(boxes, target))


class VisibilityLoss(MaskedLoss):
    """Binary cross-entropy of "this region has a box", over regions for which that is annotated."""

    name = "visibility"

    def mask(self, batch: Batch) -> Tensor:  # [B, R]
        return batch.regions.boxes_known.unsqueeze(1) & batch.regions.visibility_known

    def element_losses(self, output: SGRRGOutput, batch: Batch) -> Tensor | None:
        return _binary_cross_entropy(output.encoded.visible_logits, batch.regions.visible)


class GroundingLoss(LossTerm):
    """Minus the log of a token's attention to the sub-graphs of the regions that its sentence is about.

    Summed over the tokens whose sentence is about an annotated region. A token whose regions are all missing from the
    decoder's graph (if that is predicted) adds 0: it has nothing to attend to, and the count must not depend on the
    model's output.
    """

    name = "grounding"

    def count(self, batch: Batch) -> Tensor:
        return self._targets(batch).any(-1).sum()

    def sum(self, output: SGRRGOutput, batch: Batch) -> Tensor | None:
        log_attention = output.region_log_attention  # [B, T - 1, R]
        if log_attention is None:
            return None
        targets = self._targets(batch) & output.encoded.graph.selected.unsqueeze(1)
        attended = log_attention.masked_fill(~targets, EXCLUDED).logsumexp(-1)
        return -(attended * targets.any(-1)).sum()

    @staticmethod
    def _targets(batch: Batch) -> Tensor:
        """[B, T - 1, R] bool: the annotated regions that the sentence of each token is about."""
        regions = _annotated_regions(batch)
        if batch.token_regions is None:
            return regions.new_zeros(*batch.token_mask[:, 1:].shape, regions.shape[1])
        return batch.token_regions[:, 1:] & regions.unsqueeze(1)


LOSS_TERMS: tuple[type[LossTerm], ...] = (
    ReportLoss, ObservationLoss, RegionLoss, AttributeLoss, ContrastLoss, BoxLoss, VisibilityLoss, GroundingLoss,
)


def _annotated_regions(batch: Batch) -> Tensor:
    """[B, R] bool: the regions that have an annotated sub-graph."""
    return annotated_regions(GraphAnnotation(**vars(batch.regions)))


def positive_weights(positives: Tensor, counts: Tensor, cap: float) -> Tensor:
    """Negatives per positive, between 1 and `cap`, and `cap` for a label without positives.

    positives [R, A]: number of positive labels; counts [R]: number of labels, positive or negative.
    """
    negatives = counts.unsqueeze(-1) - positives
    return (negatives / positives.clamp(min=1)).clamp(1, cap).where(positives > 0, torch.tensor(float(cap)))


def _binary_cross_entropy(
    logits: Tensor | None, targets: Tensor, weights_of_positives: Tensor | None = None
) -> Tensor | None:
    """Element-wise binary cross-entropy in fp32; None without logits."""
    if logits is None:
        return None
    if weights_of_positives is not None:
        weights_of_positives = weights_of_positives.to(logits.device)
    return F.binary_cross_entropy_with_logits(
        logits.float(), targets.float(), reduction="none", pos_weight=weights_of_positives
    )


def _generalised_iou(first: Tensor, second: Tensor) -> Tensor:
    """IoU minus the empty share of the hull (Rezatofighi et al., "Generalized intersection over union", 2019).

    first, second [..., 4] xyxy -> [...]. torchvision's version indexes by a mask, which synchronises with the GPU.
    """
    inner = (torch.minimum(first, second)[..., 2:] - torch.maximum(first, second)[..., :2]).clamp(min=0)
    outer = torch.maximum(first, second)[..., 2:] - torch.minimum(first, second)[..., :2]
    intersection, hull = inner[..., 0] * inner[..., 1], outer[..., 0] * outer[..., 1]
    sides = [box[..., 2:] - box[..., :2] for box in (first, second)]
    union = sides[0][..., 0] * sides[0][..., 1] + sides[1][..., 0] * sides[1][..., 1] - intersection
    epsilon = 1e-7  # for two empty boxes
    return intersection / (union + epsilon) - (hull - union) / (hull + epsilon)


class _GatherWithGradient(torch.autograd.Function):
    """Gather the vectors [B, ...] of all processes, in order of rank (equal B), with a gradient for the local ones.

    Every process computes the same loss of all vectors, so the summed gradient that all of them would send back is
    `world_size` times the local one. The mean that DDP takes over processes makes that the gradient of one loss.
    """

    @staticmethod
    def forward(ctx: torch.autograd.function.FunctionCtx, vectors: Tensor) -> Tensor:
        return torch.cat(_gather_without_gradient(vectors))

    @staticmethod
    def backward(ctx: torch.autograd.function.FunctionCtx, gradient: Tensor) -> Tensor:
        return gradient.chunk(world_size())[rank()] * world_size()


def _gather_without_gradient(rows: Tensor) -> list[Tensor]:
    """The rows [B, ...] of all processes (equal B), in order of rank."""
    gathered = [torch.empty_like(rows) for _ in range(world_size())]
    dist.all_gather(gathered, rows.contiguous())
    return gathered
