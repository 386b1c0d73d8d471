"""The terms of the loss, one class each. `LOSS_TERMS` lists them in order.

A term is a sum divided by a count, and both are methods of one object. Shapes as in `data/batch.py` and
`models/outputs.py`.
"""

from abc import ABC, abstractmethod
from collections.abc import Sequence
from dataclasses import dataclass
from typing import ClassVar

import torch
import torch.distributed as dist
import torch.nn.functional as F
from torch import Tensor

from data.batch import Batch
from models.family.discriminative_map import aggregate_attention
from models.layers.masking import EXCLUDED, masked_mean
from models.outputs import GraphAnnotation, SGRRGOutput
from models.sgrrg import annotated_regions
from modules.runtime import rank, world_size

# Weights inside the box term (DETR's: Carion et al., "End-to-end object detection with transformers", 2020).
BOX_L1_WEIGHT, BOX_GIOU_WEIGHT = 5.0, 2.0
# XProNet's: the cosine that two studies should have is a power of this; cosine above which others are pushed apart.
_CONTRAST_BASE, _CONTRAST_MARGIN = 1.5, 0.4


@dataclass
class LossTerm(ABC):
    """One term of the loss.

    attribute_slots   [R, A] bool, the attributes that each region can have
    contrast_margin   cosine above which sub-graphs of different abnormality are pushed apart
    attribute_weights [R, A], the weight of a positive attribute; None: 1
    consistency_words the share of a report's words whose attention is aggregated
    change_weights    weight of each change; None: 1
    """

    attribute_slots: Tensor
    contrast_margin: float
    attribute_weights: Tensor | None = None
    consistency_words: float = 0.25
    change_weights: Tensor | None = None

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
    """Cross-entropy of the next token, over the tokens that are not padding.

    Of a model that reads priors, sentences that compare with a prior that it does not see do not count; of one that
    writes sections, neither do the tokens that would teach it to leave one out.
    """

    name = "report"

    def count(self, batch: Batch) -> Tensor:
        untrained = self._untrained(batch)
        return (batch.token_mask if untrained is None else batch.token_mask & ~untrained)[:, 1:].sum()

    def sum(self, output: SGRRGOutput, batch: Batch) -> Tensor | None:
        if output.packed_logits is None:
            return None
        targets, untrained = output.packing.pack(batch.token_ids[:, 1:]), self._untrained(batch)
        if untrained is None:
            return F.cross_entropy(output.packed_logits.float(), targets, reduction="sum")
        losses = F.cross_entropy(output.packed_logits.float(), targets, reduction="none")
        return (losses * ~output.packing.pack(untrained[:, 1:])).sum()

    @staticmethod
    def _untrained(batch: Batch) -> Tensor | None:
        """[B, T] bool: the tokens that do not count; None if all do."""
        unseen = None if batch.context is None else batch.context.unseen_comparison
        untrained = None
        for flags in (unseen, batch.untrained_tokens):
            if flags is not None:
                flags = F.pad(flags, (0, batch.token_mask.shape[1] - flags.shape[1]))
                untrained = flags if untrained is None else untrained | flags
        return untrained


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


class AttentionConsistencyLoss(LossTerm):
    """Squared difference between where the words look and the discriminative map; CAMANet's.

    The mean over the patches of the studies with a positive observation. A study is counted by its views, since a batch
    does not know how many patches a view has. The words are those most similar to the encoded foreground row.
    """

    name = "attention_consistency"

    def count(self, batch: Batch) -> Tensor:
        return (batch.view_mask & self._has_positive(batch).unsqueeze(1)).sum()

    def sum(self, output: SGRRGOutput, batch: Batch) -> Tensor | None:
        encoded = output.encoded
        if encoded.discriminative_map is None or output.image_attention is None:
            return None
        aggregated = aggregate_attention(
            output.words, output.packing.mask, encoded.foreground,
            output.image_attention[..., : encoded.patch_mask.shape[1]], encoded.patch_mask, self.consistency_words,
        )
        differences = (aggregated - encoded.discriminative_map).square().sum(1)
        patches_per_view = encoded.patch_mask.shape[1] / batch.view_mask.shape[1]
        return (differences * self._has_positive(batch)).sum() / patches_per_view

    @staticmethod
    def _has_positive(batch: Batch) -> Tensor:
        """[B] bool: the studies with a positive observation."""
        return ((batch.observations > 0) & batch.observations_known).any(1)


class ResponseContrastLoss(LossTerm):
    """Responses of the shared memory attract if two studies share an observation, and repel if not; XProNet's.

    The mean over all ordered pairs of studies with known observations in the batch of all processes.
    """

    def count(self, batch: Batch) -> Tensor:
        """Return 1: `sum` is already a mean."""
        return torch.ones((), device=batch.observations.device)

    def sum(self, output: SGRRGOutput, batch: Batch) -> Tensor | None:
        if output.encoded.shared_memory is None or output.packing is None:
            return None
        vectors = self.mean_response(output).float()
        labels, known = (batch.observations > 0) & batch.observations_known, batch.observations_known.any(1)
        if world_size() > 1:
            vectors = _GatherWithGradient.apply(vectors)
            labels, known = (torch.cat(_gather_without_gradient(rows)) for rows in (labels, known))
        return response_contrast(vectors, labels, known)

    @abstractmethod
    def mean_response(self, output: SGRRGOutput) -> Tensor:
        """Return the mean response of each study, [B, D]."""


class ImageContrastLoss(ResponseContrastLoss):
    """`ResponseContrastLoss` of the responses to patches."""

    name = "image_contrast"

    def mean_response(self, output: SGRRGOutput) -> Tensor:
        return masked_mean(output.encoded.shared_memory.patch_response, output.encoded.patch_mask)


class TextContrastLoss(ResponseContrastLoss):
    """`ResponseContrastLoss` of the responses to words."""

    name = "text_contrast"

    def mean_response(self, output: SGRRGOutput) -> Tensor:
        return masked_mean(output.encoded.shared_memory.word_response, output.packing.mask)


def response_contrast(vectors: Tensor, labels: Tensor, known: Tensor) -> Tensor:
    """XProNet's contrast of `vectors` [B, D] of studies with `labels` [B, K] bool, over those of `known` [B] bool.

    max(0, 1.5^-d - cos) for two studies with a common label, where d is the number of labels that differ, divided by
    the number of labels of both; max(0, cos - 0.4) for others. A study without label is not compared with itself.
    """
    directions = F.normalize(vectors, dim=-1)
    cosines = directions @ directions.T
    labels = labels.to(vectors.dtype)
    common = labels @ labels.T
    counts = labels.sum(1)
    both = counts.unsqueeze(1) + counts
    similarity = _CONTRAST_BASE ** -((both - 2 * common) / both.clamp(min=1))
    losses = torch.where(common > 0, (similarity - cosines).clamp(min=0), (cosines - _CONTRAST_MARGIN).clamp(min=0))
    itself = torch.eye(len(vectors), dtype=torch.bool, device=vectors.device) & (common == 0)
    pairs = known.unsqueeze(1) & known
    return (losses * (pairs & ~itself)).sum() / pairs.sum().clamp(min=1)


class ChangeLoss(LossTerm):
    """Weighted cross-entropy of the change of annotated regions, over known changes of studies with a visible prior."""

    name = "change"

    def count(self, batch: Batch) -> Tensor:
        """Return the sum of the weights of the known changes."""
        return self._weights(batch).sum()

    def sum(self, output: SGRRGOutput, batch: Batch) -> Tensor | None:
        logits = output.encoded.change_logits  # [B, R, changes]
        if logits is None:
            return None
        targets = batch.regions.change.clamp(min=0)
        losses = F.cross_entropy(logits.float().flatten(0, 1), targets.flatten(), reduction="none")
        return (losses.view_as(targets) * self._weights(batch)).sum()

    def _weights(self, batch: Batch) -> Tensor:
        """[B, R]: the weight of each region's change, 0 where it is unknown or the model sees no prior."""
        change = batch.regions.change
        if batch.context is None or batch.context.has_prior is None:
            return torch.zeros(change.shape, device=change.device)
        known = (change >= 0) & batch.context.has_prior.unsqueeze(1) & _annotated_regions(batch)
        if self.change_weights is None:
            return known.float()
        return self.change_weights.to(change.device)[change.clamp(min=0)] * known


LOSS_TERMS: tuple[type[LossTerm], ...] = (
    ReportLoss, ObservationLoss, RegionLoss, AttributeLoss, ContrastLoss, BoxLoss, VisibilityLoss, GroundingLoss,
    AttentionConsistencyLoss, ImageContrastLoss, TextContrastLoss,
    ChangeLoss,
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


def class_weights(counts: Sequence[int]) -> Tensor:
    """The square root of the mean count divided by each count; 0 for a class that does not occur.

    Weights that are inverse to the counts would make rare classes as likely as frequent ones.
    """
    occurrences = torch.tensor(counts, dtype=torch.float64)
    weights = (occurrences.sum() / len(counts) / occurrences.clamp(min=1)).sqrt()
    return weights.where(occurrences > 0, torch.zeros(())).float()


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
