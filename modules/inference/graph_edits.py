"""User edits of the predicted graph, and the tensors that the model takes for them."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field

import torch
from torch import Tensor

from data.errors import UserError
from data.vocabulary import Vocabularies
from models.outputs import GraphOverrides

Box = tuple[float, float, float, float]


@dataclass(frozen=True)
class GraphEdits:
    """User edits of the predicted graph of one study, by region name; everything else is as predicted.

    regions     True adds a region to the graph, False removes it
    only        restrict the report to these regions: they form the graph, and sentences that name none of them are
                dropped (the model also sees the whole image)
    attributes  region -> attribute -> whether the region has it
    boxes       xyxy in pixels of the original frontal image; a region with such a box counts as visible
    """

    regions: Mapping[str, bool] = field(default_factory=dict)
    only: frozenset[str] | None = None
    attributes: Mapping[str, Mapping[str, bool]] = field(default_factory=dict)
    boxes: Mapping[str, Box] = field(default_factory=dict)


def graph_overrides(
    edits: Sequence[GraphEdits | None], image_sizes: Sequence[tuple[int, int]], vocabularies: Vocabularies
) -> GraphOverrides:
    """The edits of a batch as tensors.

    image_sizes: (width, height) of the original frontal image, one per study. Raises UserError for an unknown region or
    attribute and for a box without area in the image.
    """
    anatomy, attributes = vocabularies.anatomy, vocabularies.attributes
    shape = (len(edits), len(anatomy.regions))
    boxes, has_box = torch.zeros(*shape, 4), torch.zeros(shape, dtype=torch.bool)
    regions = {on: torch.zeros(shape, dtype=torch.bool) for on in (True, False)}
    slots = {on: torch.zeros(*shape, attributes.largest, dtype=torch.bool) for on in (True, False)}
    for row, (edit, image_size) in enumerate(zip(edits, image_sizes, strict=True)):
        if edit is None:
            continue
        if edit.only is not None:
            chosen = [anatomy.index(name) for name in edit.only]
            regions[False][row] = True
            regions[False][row, chosen], regions[True][row, chosen] = False, True
        for name, on in edit.regions.items():
            regions[on][row, anatomy.index(name)] = True
            regions[not on][row, anatomy.index(name)] = False
        for name, box in edit.boxes.items():
            boxes[row, anatomy.index(name)] = _normalised_box(name, box, image_size)
            has_box[row, anatomy.index(name)] = True
        for name, changes in edit.attributes.items():
            region = anatomy.index(name)
            for attribute, on in changes.items():
                slot = attributes.index(region, attribute)
                if slot is None:
                    raise UserError(f"'{attribute}' is not an attribute of the region '{name}' in this model")
                slots[on][row, region, slot] = True
    return GraphOverrides(boxes, has_box, regions[True], regions[False], slots[True], slots[False])


def _normalised_box(region: str, box: Box, image_size: tuple[int, int]) -> Tensor:
    """[4] in 0..1. Raises UserError if the box has no area inside the image."""
    width, height = image_size
    corners = (torch.tensor(box, dtype=torch.float64) / torch.tensor([width, height, width, height])).clamp(0, 1)
    if not (torch.isfinite(corners).all() and corners[0] < corners[2] and corners[1] < corners[3]):
        x1, y1, x2, y2 = box
        raise UserError(
            f"The box {x1:g},{y1:g},{x2:g},{y2:g} of '{region}' has no area in the image of {width} x {height} pixels: "
            "give x1,y1,x2,y2 with x1 < x2 and y1 < y2"
        )
    return corners.float()
