"""The loss: outputs and batch -> named terms and their weighted sum.

Shapes as in `data/batch.py` and `models/outputs.py`. Every term is a sum divided by a count. The counts come from the
batch alone, so that the trainer can add them up over an accumulation window and over all processes first: gradients are
then those of the one large batch. A term with nothing to count is an exact 0 that keeps the autograd graph whole.
"""

from dataclasses import dataclass

import torch
import torch.distributed as dist
import torch.nn.functional as F
from torch import Tensor

from data.batch import Batch
from models.outputs import GraphAnnotation, SceneGraph, SGRRGOutput
from models.sgrrg import annotated_regions

# Weights inside the box term (DETR's: Carion et al., "End-to-end object detection with transformers", 2020).
BOX_L1_WEIGHT, BOX_GIOU_WEIGHT = 5.0, 2.0


@dataclass
class Losses:
    """terms: name -> unweighted scalar; total: their weighted sum, to be backpropagated."""

    terms: dict[str, Tensor]
    total: Tensor


class ReportCriterion:
    """All loss terms of the paper (its table of weights is in `LossConfig`), the two of the localizer, and grounding.

    weights                name of a term -> its weight; a term of weight 0 is not computed
    attribute_slots        [R, A] bool, the attributes that each region has
    contrast_margin        cosine above which sub-graphs of different abnormality are pushed apart
    """

    TERMS = ("report", "observations", "regions", "attributes", "contrast", "boxes", "visibility", "grounding")

    def __init__(self, weights: dict[str, float], attribute_slots: Tensor, contrast_margin: float = 0.4):
        unknown = set(weights) - set(self.TERMS)
        assert not unknown, f"unknown loss terms {sorted(unknown)}"
        self.weights = {name: weight for name, weight in weights.items() if weight != 0}
        self.attribute_slots = attribute_slots
        self.contrast_margin = contrast_margin

    def counts(self, batch: Batch) -> Tensor:
        """What each of `TERMS` divides by in this batch: [8] float64 on the batch's device.

        report: words; observations: known labels; regions: regions of annotated studies; attributes: those that the
        annotated regions can have; contrast: 1, it is a mean of its own; boxes: visible boxes; visibility: regions of
        studies with boxes; grounding: words of sentences about a region with an annotated sub-graph.
        """
        regions = batch.regions
        slots = self.attribute_slots.to(regions.boxes.device)
        every_region = regions.visible.shape[1]
        counted = {
            "report": batch.token_mask[:, 1:].sum(),
            "observations": batch.observations_known.sum(),
            "regions": regions.graph_known.sum() * every_region,
            "attributes": (annotated_regions(GraphAnnotation(**vars(regions))).unsqueeze(-1) & slots).sum(),
            "contrast": torch.ones((), device=regions.boxes.device),
            "boxes": (regions.visible & regions.boxes_known.unsqueeze(1)).sum(),
            "visibility": regions.boxes_known.sum() * every_region,
            "grounding": self._grounded(batch, annotated_regions(GraphAnnotation(**vars(regions)))).any(-1).sum(),
        }
        return torch.stack([counted[name].double() for name in self.TERMS])

    def __call__(self, output: SGRRGOutput, batch: Batch, counts: Tensor, world_size: int = 1) -> Losses:
        """The terms of one micro-batch on one of `world_size` processes.

        counts: `counts(batch)` summed over the accumulation window and all processes. Each term is multiplied by
        `world_size`, which undoes the mean that DDP takes over gradients (the contrast's count holds it likewise).
        """
        encoded = output.encoded
        sums = {
            "report": self._report(output.word_logits, batch),
            "observations": self._observations(encoded.observation_logits, batch),
            "regions": self._regions(encoded.region_logits, batch),
            "attributes": self._attributes(encoded.attribute_logits, encoded.attribute_regions, batch),
            "contrast": self._contrast(encoded.annotated_graph, batch),
            "boxes": self._boxes(encoded.boxes, batch),
            "visibility": self._visibility(encoded.visible_logits, batch),
            "grounding": self._grounding(output.region_attention, encoded.graph, batch),
        }
        divisors = counts.clamp(min=1).to(torch.float32)
        terms = {
            name: sums[name] * world_size / divisors[index]
            for index, name in enumerate(self.TERMS)
            if name in self.weights and sums[name] is not None
        }
        return Losses(terms, sum(self.weights[name] * term for name, term in terms.items()))

    def _report(self, logits: Tensor, batch: Batch) -> Tensor:
        """Cross-entropy of the next word, summed over real tokens. logits [B, T - 1, W]."""
        targets = batch.token_ids[:, 1:]
        losses = F.cross_entropy(logits.float().flatten(0, 1), targets.flatten(), reduction="none")
        return (losses.view_as(targets) * batch.token_mask[:, 1:]).sum()

    def _observations(self, logits: Tensor | None, batch: Batch) -> Tensor | None:
        if logits is None:
            return None
        return _masked_bce(logits, batch.observations, batch.observations_known)

    def _regions(self, logits: Tensor | None, batch: Batch) -> Tensor | None:
        if logits is None:
            return None
        known = batch.regions.graph_known.unsqueeze(1).expand_as(logits)
        return _masked_bce(logits, batch.regions.mentioned, known)

    def _attributes(self, logits: Tensor | None, regions: Tensor | None, batch: Batch) -> Tensor | None:
        """Over all (annotated region, attribute of that region) pairs. logits [B, R, A], regions [B, R]."""
        if logits is None:
            return None
        known = regions.unsqueeze(-1) & self.attribute_slots.to(logits.device)
        return _masked_bce(logits, batch.regions.attributes, known)

    def _contrast(self, graph: SceneGraph | None, batch: Batch) -> Tensor | None:
        """Proxy task 2: sub-graphs of the same region attract where abnormality agrees and repel where it differs.

        The mean over all ordered pairs of annotated sub-graphs of the same region in the batch of all processes,
        self-pairs included: max(0, 1 - cos) for the same abnormality, max(0, cos - margin) for different ones.
        """
        if graph is None or "contrast" not in self.weights:
            return None
        vectors, selected, abnormal = graph.embeddings.float(), graph.selected, batch.regions.abnormal
        if dist.is_available() and dist.is_initialized() and dist.get_world_size() > 1:
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

    def _boxes(self, boxes: Tensor | None, batch: Batch) -> Tensor | None:
        """5 L1 + 2 (1 - generalised IoU), summed over annotated visible boxes. boxes [B, R, 4]."""
        if boxes is None:
            return None
        counted = batch.regions.visible & batch.regions.boxes_known.unsqueeze(1)
        target = batch.regions.boxes
        distance = F.l1_loss(boxes, target, reduction="none").sum(-1)
        return ((BOX_L1_WEIGHT * distance + BOX_GIOU_WEIGHT * (1 - _generalised_iou(boxes, target))) * counted).sum()

    def _visibility(self, logits: Tensor | None, batch: Batch) -> Tensor | None:
        if logits is None:
            return None
        known = batch.regions.boxes_known.unsqueeze(1).expand_as(logits)
        return _masked_bce(logits, batch.regions.visible, known)

    def _grounding(self, attention: Tensor | None, graph: SceneGraph | None, batch: Batch) -> Tensor | None:
        """Cross-entropy of looking at the right place: minus the log of a word's weight on its sentence's regions.

        Summed over the words of sentences about a region that the decoder's graph has. attention [B, T - 1, R].
        """
        if attention is None:
            return None
        targets = self._grounded(batch, graph.selected)
        right = (attention * targets).sum(-1).clamp(min=1e-6)
        return -(right.log() * targets.any(-1)).sum()

    @staticmethod
    def _grounded(batch: Batch, selected: Tensor) -> Tensor:
        """[B, T - 1, R]: which of the `selected` [B, R] regions the sentences of tokens 1 .. T - 1 are about."""
        if batch.token_regions is None:
            return selected.new_zeros(*batch.token_mask[:, 1:].shape, selected.shape[1])
        return batch.token_regions[:, 1:] & selected.unsqueeze(1)


def _masked_bce(logits: Tensor, targets: Tensor, known: Tensor) -> Tensor:
    """Binary cross-entropy summed over the entries that `known` keeps."""
    losses = F.binary_cross_entropy_with_logits(logits.float(), targets.float(), reduction="none")
    return (losses * known).sum()


def _generalised_iou(first: Tensor, second: Tensor) -> Tensor:
    """IoU minus the empty share of the hull (Rezatofighi et al., "Generalized intersection over union", 2019).

    first, second [..., 4] xyxy -> [...]. torchvision's own indexes by a mask, which waits for the GPU at every step.
    """
    inner = (torch.minimum(first, second)[..., 2:] - torch.maximum(first, second)[..., :2]).clamp(min=0)
    outer = torch.maximum(first, second)[..., 2:] - torch.minimum(first, second)[..., :2]
    intersection, hull = inner[..., 0] * inner[..., 1], outer[..., 0] * outer[..., 1]
    sides = [box[..., 2:] - box[..., :2] for box in (first, second)]
    union = sides[0][..., 0] * sides[0][..., 1] + sides[1][..., 0] * sides[1][..., 1] - intersection
    tiny = 1e-7  # two empty boxes
    return intersection / (union + tiny) - (hull - union) / (hull + tiny)


class _GatherWithGradient(torch.autograd.Function):
    """vectors [B, ...] of this process -> those of all processes, in order of rank (equal B).

    Every process computes the same loss of all vectors. The gradient that its own get is what all of them would send
    back, added up; the mean that DDP takes over processes makes that the gradient of one loss.
    """

    @staticmethod
    def forward(ctx: torch.autograd.function.FunctionCtx, vectors: Tensor) -> Tensor:
        return torch.cat(_gather_without_gradient(vectors))

    @staticmethod
    def backward(ctx: torch.autograd.function.FunctionCtx, gradient: Tensor) -> Tensor:
        return gradient.chunk(dist.get_world_size())[dist.get_rank()] * dist.get_world_size()


def _gather_without_gradient(rows: Tensor) -> list[Tensor]:
    """The rows [B, ...] of all processes (equal B), in order of rank."""
    gathered = [torch.empty_like(rows) for _ in range(dist.get_world_size())]
    dist.all_gather(gathered, rows.contiguous())
    return gathered
