"""Where the 29 regions lie in a frontal image that nobody annotated: the atlas, fitted to the lungs that are found.

The picture of an average chest (`files/chest_template.yaml`) is laid over the image in many places and sizes, and the
one where light and dark agree best is kept. The boxes of `files/anatomy.yaml` then follow the two lungs. Pixels are
[H, W] uint8 of any size, boxes xyxy in 0..1 of the image; the patient's left lies on the right.
"""

from dataclasses import dataclass
from functools import cache
from itertools import product

import numpy as np
import yaml
from numpy.typing import NDArray
from PIL import Image
from scipy import ndimage

from data.ontology import FILES, Anatomy, Region

TEMPLATE_FILE = FILES / "chest_template.yaml"

# Side of the image in which lungs are sought, in pixels, and the reach over which its brightness is evened out.
_SIDE, _REACH = 48, 0.15
# Grey levels that count as no contrast.
_FAINT = 5.0
# How a chest is usually framed: centre x and y, width and height of the two lungs together, in 0..1 of the image
# (sizes by their logarithms), and how far that varies from film to film.
_USUAL = np.array([0.5, 0.47, np.log(0.8), np.log(0.7)])
_SPREAD = np.array([0.04, 0.06, 0.13, 0.18])
# What one squared deviation from the usual framing weighs against the agreement, which is a correlation.
_FRAMING_WEIGHT = 0.01
_LEAST_POSE, _LARGEST_POSE = np.array([0.35, 0.25, 0.5, 0.4]), np.array([0.65, 0.70, 1.1, 1.1])
# Where the search begins, how many of those places are followed up, and with which steps.
_STARTS = ((0.44, 0.56, 5), (0.35, 0.59, 6), (0.55, 1.05, 7), (0.42, 1.0, 7))
_FOLLOWED = 3
_FIRST_STEP, _LAST_STEP = 0.04, 0.004
# The template must lie inside the image by so much of its area.
_LEAST_INSIDE = 0.6
# Below this agreement there is no chest to be seen.
LEAST_AGREEMENT = 0.45


@dataclass(frozen=True)
class Lungs:
    """The lungs of an image.

    right, left   [4] xyxy in 0..1, clipped to the image, each with an area
    agreement     correlation of the image with the average chest laid there, -1..1
    """

    right: NDArray
    left: NDArray
    agreement: float


def atlas_boxes(pixels: NDArray) -> dict[str, list[float]]:
    """The boxes of all 29 regions by name: fitted to the lungs of `pixels`, or those of the atlas where none are found.

    Every box lies in 0..1 and has an area.
    """
    anatomy = _anatomy()
    lungs = find_lungs(pixels)
    if lungs is None:
        return {region.name: list(region.box) for region in anatomy.regions}
    return fitted_boxes(anatomy, lungs)


@cache
def _anatomy() -> Anatomy:
    """The shipped atlas: reading it takes longer than finding lungs."""
    return Anatomy.load()


def find_lungs(pixels: NDArray) -> Lungs | None:
    """The lungs of `pixels`, or None where nothing looks like a chest from the front."""
    brightness, places = _template()
    agreement, pose = _best_pose(_evened(pixels), brightness)
    if agreement < LEAST_AGREEMENT:
        return None
    centre, size = pose[[0, 1, 0, 1]], pose[[2, 3, 2, 3]]
    right, left = np.clip(centre + (places - 0.5) * size, 0, 1)
    return Lungs(right, left, float(agreement))


def chest_agreement(pixels: NDArray) -> float:
    """How much `pixels` look like a chest from the front: correlation with the average one at its best place, -1..1."""
    return float(_best_pose(_evened(pixels), _template()[0])[0])


def fitted_boxes(anatomy: Anatomy, lungs: Lungs) -> dict[str, list[float]]:
    """The boxes of `anatomy` moved and stretched from its own lungs to `lungs`.

    A region of one side follows the lung of that side, one in the middle both lungs. An edge that lies on the border of
    the image in the atlas (the abdomen goes on below it) stays there.
    """
    before = {region.name: np.array(region.box) for region in anatomy.regions}
    boxes = {}
    for region in anatomy.regions:
        old = _frame(region, before["right lung"], before["left lung"])
        new = _frame(region, lungs.right, lungs.left)
        box = before[region.name]
        moved = from_frame(new, to_frame(old, box))
        moved = np.where((box == 0) | (box == 1), box, moved).clip(0, 1)
        boxes[region.name] = moved.round(5).tolist()
    return boxes


def _frame(region: Region, right: NDArray, left: NDArray) -> NDArray:
    """[4]: the box that `region` follows, for lungs at `right` and `left`."""
    if region.side is not None:
        return right if region.side == "right" else left
    return chest_frame(right, left)


def chest_frame(right: NDArray, left: NDArray) -> NDArray:
    """[4]: from the outer edge of the right lung to that of the left one, and their mean height."""
    return np.array([right[0], (right[1] + left[1]) / 2, left[2], (right[3] + left[3]) / 2])


def to_frame(frame: NDArray, box: NDArray) -> NDArray:
    """`box` [4] in coordinates in which the box `frame` [4] is the unit square."""
    return (box - frame[[0, 1, 0, 1]]) / (frame[2:] - frame[:2])[[0, 1, 0, 1]]


def from_frame(frame: NDArray, box: NDArray) -> NDArray:
    """The inverse of `to_frame`."""
    return frame[[0, 1, 0, 1]] + box * (frame[2:] - frame[:2])[[0, 1, 0, 1]]


# The search


@cache
def _template() -> tuple[NDArray, NDArray]:
    """The average chest [C, C] on the grid of `grid_positions`, and where its right and left lung lie: [2, 4]."""
    content = yaml.safe_load(TEMPLATE_FILE.read_text(encoding="utf-8"))
    places = [content["lungs"][name] for name in ("right lung", "left lung")]
    return np.array(content["brightness"], dtype=float), np.array(places, dtype=float)


def grid_positions(cells: int) -> NDArray:
    """[cells]: where the columns (and rows) of a template stand, 0..1 spanning both lungs, with a margin round them."""
    margin = 0.05
    return (np.arange(cells) + 0.5) / cells * (1 + 2 * margin) - margin


def _evened(pixels: NDArray) -> NDArray:
    """[S, S] float: `pixels` made small and square, by how much each stands out from its neighbourhood."""
    small = np.asarray(Image.fromarray(pixels).resize((_SIDE, _SIDE), Image.Resampling.BOX), dtype=float)
    blur = {"sigma": _REACH * _SIDE, "mode": "nearest"}
    outstanding = small - ndimage.gaussian_filter(small, **blur)
    contrast = np.sqrt(ndimage.gaussian_filter(outstanding**2, **blur))
    return outstanding / (contrast + _FAINT)


def _best_pose(image: NDArray, brightness: NDArray) -> tuple[float, NDArray]:
    """The agreement and the pose [4] (centre x, y, width, height) of the best place for the template in `image`."""
    coarse = brightness.reshape(len(brightness) // 2, 2, -1, 2).mean((1, 3))
    starts = _starting_poses()
    ranked = np.argsort(_agreement(image, coarse, starts) - _strangeness(starts), kind="stable")
    best, best_pose = -np.inf, starts[0]
    for start in starts[ranked[-_FOLLOWED:]]:
        score, pose = _climbed(image, brightness, start)
        if score > best:
            best, best_pose = score, pose
    return _agreement(image, brightness, best_pose[None])[0], best_pose


@cache
def _starting_poses() -> NDArray:
    """[n, 4]: poses that cover all framings there are; sizes by equal ratios."""
    centres = [np.linspace(*bounds) for bounds in _STARTS[:2]]
    sizes = [np.geomspace(*bounds) for bounds in _STARTS[2:]]
    return np.array(list(product(*centres, *sizes)))


@cache
def _moves() -> NDArray:
    """[m, 4]: changes of a pose by a step: a shift, a stretch, and a single edge moved, each to either side."""
    moves = [[0.5, 0, 0, 0], [0, 0.5, 0, 0], [0, 0, 1, 0], [0, 0, 0, 1]]
    moves += [[0.5, 0, 1, 0], [0.5, 0, -1, 0], [0, 0.5, 0, 1], [0, 0.5, 0, -1]]
    return np.concatenate([moves, np.negative(moves)])


def _climbed(image: NDArray, brightness: NDArray, pose: NDArray) -> tuple[float, NDArray]:
    """The score and the pose of the nearest height above `pose`: the best move is made until none is better."""
    score, step = -np.inf, _FIRST_STEP
    candidates = pose[None]
    while step >= _LAST_STEP:
        scores = _agreement(image, brightness, candidates) - _strangeness(candidates)
        if scores.max() > score + 1e-6:
            score, pose = scores.max(), candidates[scores.argmax()]
        else:
            step /= 2
        candidates = np.clip(pose + step * _moves(), _LEAST_POSE, _LARGEST_POSE)
    return score, pose


def _strangeness(poses: NDArray) -> NDArray:
    """[n]: what the framing of `poses` [n, 4] costs."""
    described = np.concatenate([poses[:, :2], np.log(poses[:, 2:])], axis=1)
    return _FRAMING_WEIGHT * (((described - _USUAL) / _SPREAD) ** 2).sum(1)


def _agreement(image: NDArray, brightness: NDArray, poses: NDArray) -> NDArray:
    """[n]: correlation of `image` [S, S] with `brightness` [C, C] laid on it by `poses` [n, 4], over what lies inside.

    -1 where too little does.
    """
    cells, side = len(brightness), len(image)
    steps = grid_positions(cells) - 0.5
    columns = np.floor((poses[:, 0, None] + steps * poses[:, 2, None]) * side).astype(int)  # [n, C]
    rows = np.floor((poses[:, 1, None] + steps * poses[:, 3, None]) * side).astype(int)
    inside_columns, inside_rows = (columns >= 0) & (columns < side), (rows >= 0) & (rows < side)
    seen = image[rows.clip(0, side - 1)[:, :, None], columns.clip(0, side - 1)[:, None, :]].reshape(len(poses), -1)
    inside = (inside_rows[:, :, None] & inside_columns[:, None, :]).reshape(len(poses), -1)
    expected = brightness.ravel()

    share = inside.mean(1)
    total = np.maximum(inside.sum(1), 1)
    mean_expected, mean_seen = inside @ expected / total, (inside * seen).sum(1) / total
    covariance = (inside * seen) @ expected / total - mean_expected * mean_seen
    variance_expected = inside @ expected**2 / total - mean_expected**2
    variance_seen = (inside * seen**2).sum(1) / total - mean_seen**2
    # A picture without any contrast correlates with nothing.
    correlation = covariance / np.sqrt(np.maximum(variance_expected * variance_seen, 1e-9))
    return np.where(share >= _LEAST_INSIDE, correlation, -1.0)


class MeanBox:
    """The mean of the boxes added, which are clipped to the image; those without an area do not count.

    Plain numbers: a training split has millions of boxes, for which small arrays are slow.
    """

    def __init__(self) -> None:
        self.count = 0
        self._sums = [0.0] * 4

    def add(self, box: list[float]) -> None:
        """Take in one box, xyxy."""
        x1, y1, x2, y2 = (min(max(value, 0.0), 1.0) for value in box)
        if x1 < x2 and y1 < y2:
            self.count += 1
            self._sums = [total + value for total, value in zip(self._sums, (x1, y1, x2, y2), strict=True)]

    @property
    def mean(self) -> tuple[float, ...]:
        """The mean box. Its six decimals are enough for any image."""
        return tuple(round(total / self.count, 6) for total in self._sums)
