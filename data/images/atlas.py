"""The atlas: boxes of the 29 regions for images without annotated boxes, fitted to the lungs.

The boxes of `files/anatomy.yaml` are moved and scaled to follow the two lungs that `data/images/lungs.py` finds. Boxes
are xyxy in 0..1 of the image; the patient's left is on the right.
"""

import numpy as np
from numpy.typing import NDArray

from data.images.lungs import Lungs, find_lungs
from data.ontology import Anatomy, Region


def atlas_boxes(pixels: NDArray) -> dict[str, list[float]]:
    """Return the boxes of all 29 regions by name, fitted to the lungs of an image, [height, width] uint8.

    If no lungs are found, they are the boxes of the atlas. Every box is inside the image and has an area.
    """
    anatomy = Anatomy.load()
    lungs = find_lungs(pixels)
    if lungs is None:
        return {region.name: list(region.box) for region in anatomy.regions}
    return fit_boxes(anatomy, lungs)


def fit_boxes(anatomy: Anatomy, lungs: Lungs) -> dict[str, list[float]]:
    """Return the boxes of `anatomy`, moved and scaled from its own lungs to `lungs`.

    A region of one side follows the lung of that side; a region in the middle follows both lungs. An edge at the border
    of the image, such as the lower edge of the abdomen, stays there.
    """
    atlas = {region.name: np.array(region.box) for region in anatomy.regions}
    boxes = {}
    for region in anatomy.regions:
        box = atlas[region.name]
        atlas_frame = _frame_of(region, atlas["right lung"], atlas["left lung"])
        frame = _frame_of(region, lungs.right, lungs.left)
        fitted = from_frame(frame, to_frame(atlas_frame, box))
        fitted = np.where((box == 0) | (box == 1), box, fitted).clip(0, 1)
        boxes[region.name] = fitted.round(5).tolist()
    return boxes


def _frame_of(region: Region, right: NDArray, left: NDArray) -> NDArray:
    """Return the box that `region` follows, [4], given the boxes of the right and left lung."""
    if region.side is not None:
        return right if region.side == "right" else left
    return chest_frame(right, left)


def chest_frame(right: NDArray, left: NDArray) -> NDArray:
    """Return the box from the outer edge of the right lung to that of the left lung, with their mean height, [4]."""
    return np.array([right[0], (right[1] + left[1]) / 2, left[2], (right[3] + left[3]) / 2])


def to_frame(frame: NDArray, box: NDArray) -> NDArray:
    """Return `box` [4] in the coordinates in which the box `frame` [4] is the unit square."""
    return (box - frame[[0, 1, 0, 1]]) / (frame[2:] - frame[:2])[[0, 1, 0, 1]]


def from_frame(frame: NDArray, box: NDArray) -> NDArray:
    """Return the inverse of `to_frame`."""
    return frame[[0, 1, 0, 1]] + box * (frame[2:] - frame[:2])[[0, 1, 0, 1]]


class MeanBox:
    """The running mean of boxes, clipped to the image; boxes without an area are ignored.

    Uses plain numbers: a training split has millions of boxes, for which small arrays are slow.
    """

    def __init__(self) -> None:
        self.count = 0
        self._sums = [0.0] * 4

    def add(self, box: list[float]) -> None:
        """Add a box, xyxy."""
        x1, y1, x2, y2 = (min(max(value, 0.0), 1.0) for value in box)
        if x1 < x2 and y1 < y2:
            self.count += 1
            self._sums = [total + value for total, value in zip(self._sums, (x1, y1, x2, y2), strict=True)]

    @property
    def mean(self) -> tuple[float, ...]:
        """The mean box, rounded to six decimals."""
        return tuple(round(total / self.count, 6) for total in self._sums)
