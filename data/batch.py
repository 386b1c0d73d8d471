"""Typed samples and batches.

Shapes use the letters of `models/outputs.py`: B batch, V views, R regions (29 fixed slots), A attributes per region
(padded), K observations (14), T report tokens, H side of the network's input, S side of the stored images, in pixels.
Masks are boolean, True = keep. Boxes are xyxy in 0..1 of the frontal image as the network sees it.
"""

from dataclasses import dataclass, fields, is_dataclass

import torch
from torch import Tensor

from data.context.fields import StudyContext


@dataclass
class RegionAnnotation:
    """The annotated scene graph of a study ([R, ...]) or of a batch ([B, R, ...]).

    boxes        [B, R, 4] float  zeros where not visible
    visible      [B, R] bool      the region has a box in the image
    mentioned    [B, R] bool      the reference report mentions the region
    abnormal     [B, R] bool      the reference report calls the region abnormal
    attributes   [B, R, A] bool   attributes that the reference report gives the region
    graph_known  [B] bool         mentioned, abnormal and attributes are annotated; if not, they are all False
    boxes_known  [B] bool         boxes are annotated; if not, visible is all False
    visibility_known [B, R] bool  whether the region is visible is annotated; by default, all regions of studies with
                                  annotated boxes. Outlines of a few regions say nothing about the others
    change       [B, R] long      the change since the prior, an index of `data.ontology.CHANGES`; -1 where unknown, and
                                  by default everywhere
    """

    boxes: Tensor
    visible: Tensor
    mentioned: Tensor
    abnormal: Tensor
    attributes: Tensor
    graph_known: Tensor
    boxes_known: Tensor
    visibility_known: Tensor | None = None
    change: Tensor | None = None

    def __post_init__(self) -> None:
        if self.visibility_known is None:
            self.visibility_known = self.boxes_known.unsqueeze(-1).expand_as(self.visible)
        if self.change is None:
            self.change = torch.full_like(self.visible, -1, dtype=torch.long)


@dataclass
class Sample:
    """One study, ready to be collated.

    study_id            identifier of the study in its data set
    images              V images, each [S, S] uint8; the frontal view first
    frontal             whether images[0] is a frontal view; if not, the graph losses are masked
    regions             RegionAnnotation without the batch axis
    observations        [K] float, 1 where positive
    observations_known  [K] bool, True where the label counts in the loss
    token_ids           [T] long: BOS, report, EOS; only BOS if the study has no report
    reference           the full cleaned report, with its markers if it has sections; "" if the study has none
    detector_boxes      [R, 4] float, boxes from a detector's file; zeros if absent
    detector_visible    [R] bool, True where `detector_boxes` has a box
    token_regions       [T, R] bool, the regions that the sentence of each token is about; None unless requested
    image_size          H, if the images are to be warped to that side; None if S is H
    warps               [V, 2, 3] float, position in the network's input -> position in the stored image, both in -1..1
                        of their sides; None if the images are not warped
    intensities         [V, 2] float, gain and offset of the pixels in 0..1; None if they are not changed
    context             indication and previous study, as far as they were requested; None if nothing was
    untrained_tokens    [T] bool, the tokens that do not count in the report loss; None if all count
    """

    study_id: str
    images: list[Tensor]
    frontal: bool
    regions: RegionAnnotation
    observations: Tensor
    observations_known: Tensor
    token_ids: Tensor
    reference: str
    detector_boxes: Tensor
    detector_visible: Tensor
    token_regions: Tensor | None = None
    image_size: int | None = None
    warps: Tensor | None = None
    intensities: Tensor | None = None
    context: StudyContext | None = None
    untrained_tokens: Tensor | None = None


@dataclass
class Batch:
    """B studies: the fields of `Sample` with a batch axis, and masks for the padding.

    images              [B, V, S, S] uint8, zero-padded to the largest number of views and the largest image of the
                        batch; after `data.images.network_input.to_network_input`, [B, V, 3, H, H] float, normalised
    view_mask           [B, V] bool, True for images, False for padding
    frontal             [B] bool
    observations        [B, K] float
    observations_known  [B, K] bool
    token_ids           [B, T] long, padded
    token_mask          [B, T] bool, True for tokens, False for padding
    detector_boxes      [B, R, 4] float
    detector_visible    [B, R] bool
    token_regions       [B, T, R] bool, False for padding; None unless requested
    image_size, warps, intensities   as in `Sample`, for the padded images; None in the network's input
    context             as in `Sample`
    untrained_tokens    [B, T] bool, False for padding; None if all count
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
    image_size: int | None = None
    warps: Tensor | None = None
    intensities: Tensor | None = None
    context: StudyContext | None = None
    untrained_tokens: Tensor | None = None

    def __len__(self) -> int:
        return len(self.study_ids)

    @property
    def has_report(self) -> Tensor:
        """[B] bool: the study has a report, possibly an empty one."""
        return self.token_mask[:, 1]

    def select(self, indices: list[int]) -> "Batch":
        """Return the studies at `indices`, with the padding of this batch."""
        return _map_tensors(self, lambda tensor: tensor[indices], lambda items: [items[index] for index in indices])

    def to(self, device: torch.device | str) -> "Batch":
        """Return the batch with every tensor on `device`; copies from pinned memory are asynchronous."""
        return _map_tensors(self, lambda tensor: tensor.to(device, non_blocking=True))

    def pin_memory(self) -> "Batch":
        """Return the batch in page-locked memory; torch's DataLoader calls this."""
        return _map_tensors(self, Tensor.pin_memory)


def _map_tensors(record, function, of_list=list):
    """Return a copy of the dataclass `record` with `function` applied to its tensors and those of dataclasses in it.

    Lists are replaced by what `of_list` returns for them.
    """
    mapped = {}
    for field in fields(record):
        value = getattr(record, field.name)
        if isinstance(value, Tensor):
            value = function(value)
        elif isinstance(value, list):
            value = of_list(value)
        elif is_dataclass(value):
            value = _map_tensors(value, function)
        mapped[field.name] = value
    return type(record)(**mapped)
