"""Simulated chests for the localizer: the boxes are where the image shows the organs."""

from functools import cache

import numpy as np

from data.images.atlas import chest_frame
from data.localizer.films import draw_film
from data.ontology import Anatomy

NAMES = Anatomy.load().names


@cache
def films() -> list:
    return [draw_film(np.random.default_rng([3, number]), 64) for number in range(16)]


def test_an_image_and_its_boxes_are_within_their_ranges():
    for pixels, boxes, visible in films():
        assert pixels.shape == (64, 64) and pixels.dtype == np.float32 and 0 <= pixels.min() < pixels.max() <= 1
        assert boxes.shape == (29, 4) and boxes.min() >= 0 and boxes.max() <= 1
        assert (boxes[visible, :2] < boxes[visible, 2:]).all() and not boxes[~visible].any()
        assert visible.mean() > 0.9


def test_equal_generators_give_equal_chests():
    one, same, other = (draw_film(np.random.default_rng(seed), 64)[0] for seed in (1, 1, 2))
    assert np.array_equal(one, same) and not np.array_equal(one, other)


def test_lungs_are_darker_than_the_heart():
    difference = []
    for pixels, boxes, _ in films():
        means = []
        for name in ("right mid lung zone", "cardiac silhouette"):
            x1, y1, x2, y2 = (boxes[NAMES.index(name)] * 64).round().astype(int)
            means.append(np.median(pixels[y1:y2, x1:x2]))
        difference.append(means[1] - means[0])
    assert np.mean(np.array(difference) > 0.05) > 0.8


def test_builds_vary_more_than_those_of_patients():
    """Lungs from as wide as high to much higher, hearts from small to large."""
    lungs = np.array([[boxes[NAMES.index(f"{side} lung")] for side in ("right", "left")] for _, boxes, _ in films()])
    frames = np.array([chest_frame(right, left) for right, left in lungs])
    size = frames[:, 2:] - frames[:, :2]
    ratio = size[:, 1] / size[:, 0]
    assert ratio.min() < 0.85 and ratio.max() > 1.0
    gap = (lungs[:, 1, 0] - lungs[:, 0, 2]) / size[:, 0]
    assert 0.06 < gap.mean() < 0.14  # between the definitions of annotators, as in files/anatomy.yaml
