"""Finding the lungs in a frontal X-ray by template matching.

The template is an average chest (`files/chest_template.yaml`). A pose puts it into the image: centre x, centre y, width
and height of the two lungs together, in 0..1 of the image. The search maximises the correlation between image and
template minus a penalty for unusual poses: it scores a grid of poses, then improves the best ones by hill climbing.

Pixels are [height, width] uint8 of any size, boxes xyxy in 0..1 of the image. The patient's left is on the right of the
image.
"""

from dataclasses import dataclass
from functools import cache
from itertools import product

import numpy as np
import yaml
from numpy.typing import NDArray
from PIL import Image
from scipy import ndimage

from data.ontology import FILES

TEMPLATE_FILE = FILES / "chest_template.yaml"
# Below this correlation with the template, the image shows no frontal chest.
MIN_AGREEMENT = 0.45

# Side of the square image that is searched, in pixels.
_SEARCH_SIDE = 48
# Contrast normalisation: sigma of the neighbourhood in 0..1 of the image, and the grey levels added to the contrast.
_CONTRAST_SIGMA, _CONTRAST_FLOOR = 0.15, 5.0
# Gaussian prior of poses, with the logarithm of width and height: how chests are usually framed.
_PRIOR_MEAN = np.array([0.5, 0.47, np.log(0.8), np.log(0.7)])
_PRIOR_DEVIATION = np.array([0.04, 0.06, 0.13, 0.18])
# Weight of one squared standard deviation from the prior against the correlation.
_PRIOR_WEIGHT = 0.01
_MIN_POSE, _MAX_POSE = np.array([0.35, 0.25, 0.5, 0.4]), np.array([0.65, 0.70, 1.1, 1.1])
# Grid of initial poses: lowest value, highest value and number of values of each component.
_START_GRID = ((0.44, 0.56, 5), (0.35, 0.59, 6), (0.55, 1.05, 7), (0.42, 1.0, 7))
# Number of initial poses that are improved, and the largest and smallest step of the hill climbing.
_REFINED_STARTS = 3
_FIRST_STEP, _LAST_STEP = 0.04, 0.004
# Share of the template's area that must be inside the image.
_MIN_OVERLAP = 0.6


@dataclass(frozen=True)
class Lungs:
    """The lungs of an image.

    right, left  [4] boxes, clipped to the image; both have an area
    agreement    correlation of the image with the average chest at this position, -1..1
    """

    right: NDArray
    left: NDArray
    agreement: float


def find_lungs(pixels: NDArray) -> Lungs | None:
    """Return the lungs of an image; None if it does not look like a frontal chest X-ray."""
    template, lung_boxes = _load_template()
    agreement, pose = _find_best_pose(_normalise_contrast(pixels), template)
    if agreement < MIN_AGREEMENT:
        return None
    centre, size = pose[[0, 1, 0, 1]], pose[[2, 3, 2, 3]]
    right, left = np.clip(centre + (lung_boxes - 0.5) * size, 0, 1)
    return Lungs(right, left, float(agreement))


def chest_agreement(pixels: NDArray) -> float:
    """Return how much an image looks like a frontal chest X-ray: its best correlation with the average chest, -1..1."""
    return float(_find_best_pose(_normalise_contrast(pixels), _load_template()[0])[0])


def grid_positions(cells: int) -> NDArray:
    """Return the positions of a template's columns (or rows), [cells]: 0..1 spans both lungs, plus a margin."""
    margin = 0.05
    return (np.arange(cells) + 0.5) / cells * (1 + 2 * margin) - margin


@cache
def _load_template() -> tuple[NDArray, NDArray]:
    """Return the average chest, [cells, cells] on `grid_positions`, and its lung boxes, [2, 4], right lung first."""
    content = yaml.safe_load(TEMPLATE_FILE.read_text(encoding="utf-8"))
    lung_boxes = [content["lungs"][name] for name in ("right lung", "left lung")]
    return np.array(content["brightness"], dtype=float), np.array(lung_boxes, dtype=float)


def _normalise_contrast(pixels: NDArray) -> NDArray:
    """Return the image reduced to a square, [side, side] float, with local mean 0 and local contrast 1."""
    small = np.asarray(Image.fromarray(pixels).resize((_SEARCH_SIDE, _SEARCH_SIDE), Image.Resampling.BOX), dtype=float)
    blur = {"sigma": _CONTRAST_SIGMA * _SEARCH_SIDE, "mode": "nearest"}
    difference = small - ndimage.gaussian_filter(small, **blur)
    contrast = np.sqrt(ndimage.gaussian_filter(difference**2, **blur))
    return difference / (contrast + _CONTRAST_FLOOR)


def _find_best_pose(image: NDArray, template: NDArray) -> tuple[float, NDArray]:
    """Return the correlation at the best pose of the template in `image`, and the pose, [4]."""
    coarse_template = template.reshape(len(template) // 2, 2, -1, 2).mean((1, 3))
    starts = _initial_poses()
    ranking = np.argsort(_score(image, coarse_template, starts), kind="stable")
    best_score, best_pose = -np.inf, starts[0]
    for start in starts[ranking[-_REFINED_STARTS:]]:
        score, pose = _hill_climb(image, template, start)
        if score > best_score:
            best_score, best_pose = score, pose
    return _correlation(image, template, best_pose[None])[0], best_pose


@cache
def _initial_poses() -> NDArray:
    """Return a grid of poses, [poses, 4]; sizes are spaced geometrically."""
    centres = [np.linspace(*bounds) for bounds in _START_GRID[:2]]
    sizes = [np.geomspace(*bounds) for bounds in _START_GRID[2:]]
    return np.array(list(product(*centres, *sizes)))


@cache
def _unit_moves() -> NDArray:
    """Return the moves of the hill climbing, [moves, 4]: shift, stretch, or move a single edge, in either direction."""
    moves = [[0.5, 0, 0, 0], [0, 0.5, 0, 0], [0, 0, 1, 0], [0, 0, 0, 1]]
    moves += [[0.5, 0, 1, 0], [0.5, 0, -1, 0], [0, 0.5, 0, 1], [0, 0.5, 0, -1]]
    return np.concatenate([moves, np.negative(moves)])


def _hill_climb(image: NDArray, template: NDArray, pose: NDArray) -> tuple[float, NDArray]:
    """Return the score and the pose of a local maximum near `pose`.

    Takes the best move as long as it improves the score; otherwise halves the step.
    """
    score, step = -np.inf, _FIRST_STEP
    candidates = pose[None]
    while step >= _LAST_STEP:
        scores = _score(image, template, candidates)
        if scores.max() > score + 1e-6:
            score, pose = scores.max(), candidates[scores.argmax()]
        else:
            step /= 2
        candidates = np.clip(pose + step * _unit_moves(), _MIN_POSE, _MAX_POSE)
    return score, pose


def _score(image: NDArray, template: NDArray, poses: NDArray) -> NDArray:
    """Return the correlation minus the penalty of the prior for every pose, [poses]."""
    return _correlation(image, template, poses) - _prior_penalty(poses)


def _prior_penalty(poses: NDArray) -> NDArray:
    """Return the weighted squared distance of `poses` [poses, 4] from the prior, [poses]."""
    parameters = np.concatenate([poses[:, :2], np.log(poses[:, 2:])], axis=1)
    return _PRIOR_WEIGHT * (((parameters - _PRIOR_MEAN) / _PRIOR_DEVIATION) ** 2).sum(1)


def _correlation(image: NDArray, template: NDArray, poses: NDArray) -> NDArray:
    """Return the correlation of image and template over the cells inside the image, [poses]; -1 for too few cells.

    image [side, side], template [cells, cells], poses [poses, 4]
    """
    cells, side = len(template), len(image)
    offsets = grid_positions(cells) - 0.5
    columns = np.floor((poses[:, 0, None] + offsets * poses[:, 2, None]) * side).astype(int)  # [poses, cells]
    rows = np.floor((poses[:, 1, None] + offsets * poses[:, 3, None]) * side).astype(int)
    column_inside, row_inside = (columns >= 0) & (columns < side), (rows >= 0) & (rows < side)
    pixels = image[rows.clip(0, side - 1)[:, :, None], columns.clip(0, side - 1)[:, None, :]].reshape(len(poses), -1)
    inside = (row_inside[:, :, None] & column_inside[:, None, :]).reshape(len(poses), -1)  # [poses, cells * cells]
    expected = template.ravel()

    overlap = inside.mean(1)
    count = np.maximum(inside.sum(1), 1)
    mean_expected, mean_pixel = inside @ expected / count, (inside * pixels).sum(1) / count
    covariance = (inside * pixels) @ expected / count - mean_expected * mean_pixel
    variance_expected = inside @ expected**2 / count - mean_expected**2
    variance_pixel = (inside * pixels**2).sum(1) / count - mean_pixel**2
    # The minimum makes the correlation of an image without contrast 0.
    correlation = covariance / np.sqrt(np.maximum(variance_expected * variance_pixel, 1e-9))
    return np.where(overlap >= _MIN_OVERLAP, correlation, -1.0)
