"""What the data hand to the training code: typed samples and batches.

Shape legend, used all over the project:
    B batch, V views, R regions (29 fixed slots), A attributes a region (padded to the largest region),
    K observations (14), T report tokens, H image side in pixels.
Masks are boolean, True = keep. Boxes are xyxy in 0..1 of the frontal image as the network sees it.
"""

from dataclasses import dataclass, fields

import torch
from torch import Tensor


@dataclass
class RegionAnnotation:
    """The annotated scene graph of a study ([R, ...]) or of a batch ([B, R, ...]).

    boxes       [B, R, 4] float   zeros where not visible
    visible     [B, R] bool       the region has a box in the picture
    mentioned   [B, R] bool       the reference report speaks of it
    abnormal    [B, R] bool       and calls it abnormal
    attributes  [B, R, A] bool    attribute slots that the report gives it
    graph_known [B] bool          mentioned, abnormal and attributes are annotated (else all False)
    boxes_known [B] bool          boxes and visible are annotated (else all False)
    """

    boxes: Tensor
    visible: Tensor
    mentioned: Tensor
    abnormal: Tensor
    attributes: Tensor
    graph_known: Tensor
    boxes_known: Tensor


@dataclass
class Sample:
    """One study, ready to be collated.

    study_id           identifier of the study in its data set
    images             [V, 3, H, H] float, normalised; the frontal view first
    frontal            whether images[0] is a frontal view (regions live there; False masks the graph losses)
    regions            RegionAnnotation without the batch axis
    observations       [K] float, 1 where positive
    observations_known [K] bool, True where the label counts in the loss
    token_ids          [T] long: BOS, words, EOS
    reference          the full cleaned report
    detector_boxes        [R, 4] float and detector_visible [R] bool: boxes of a detector's file, zeros without one
    token_regions      [T, R] bool: the regions that the sentence of each token is about; None where nobody asked for it
    """

    study_id: str
    images: Tensor
    frontal: bool
    regions: RegionAnnotation
    observations: Tensor
    observations_known: Tensor
    token_ids: Tensor
    reference: str
    detector_boxes: Tensor
    detector_visible: Tensor
    token_regions: Tensor | None = None


@dataclass
class Batch:
    """B studies; see `Sample` and `RegionAnnotation` for the fields that only gain a batch axis.

    images             [B, V, 3, H, H] float, zeros for a view that a study lacks
    view_mask          [B, V] bool
    frontal            [B] bool
    observations       [B, K] float; observations_known [B, K] bool
    token_ids          [B, T] long, padded; token_mask [B, T] bool
    detector_boxes        [B, R, 4] float; detector_visible [B, R] bool
    token_regions      [B, T, R] bool; None where nobody asked for it
    """

    study_ids: list[str]
    images: Tensor
    view_mask: Tensor
    frontal: Tensor
    regions: RegionAnnotation
    observations: Tensor
    observations_known: Tensor
    token_ids: Tensor
    token_mask: Tensor
    references: list[str]
    detector_boxes: Tensor
    detector_visible: Tensor
    token_regions: Tensor | None = None

    def __len__(self) -> int:
        return len(self.study_ids)

    def to(self, device: torch.device | str, memory_format: torch.memory_format | None = None) -> "Batch":
        """The batch with every tensor on `device`; copies overlap with computing where the memory is pinned."""
        moved = _map_tensors(self, lambda tensor: tensor.to(device, non_blocking=True))
        if memory_format is not None:
            views = moved.images
            moved.images = views.flatten(0, 1).contiguous(memory_format=memory_format).view_as(views)
        return moved

    def pin_memory(self) -> "Batch":
        """The batch in page-locked memory (called by torch's DataLoader)."""
        return _map_tensors(self, Tensor.pin_memory)


def _map_tensors(record, function):
    """A copy of the dataclass `record` with `function` applied to every tensor in it, nested dataclasses included."""
    mapped = {}
    for field in fields(record):
        value = getattr(record, field.name)
        if isinstance(value, Tensor):
            value = function(value)
        elif isinstance(value, RegionAnnotation):
            value = _map_tensors(value, function)
        mapped[field.name] = value
    return type(record)(**mapped)
