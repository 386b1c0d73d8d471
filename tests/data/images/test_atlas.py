"""Fitting the atlas to lungs."""

import numpy as np
from hypothesis import given, settings
from hypothesis import strategies as st
from numpy.testing import assert_allclose

from data.images.atlas import atlas_boxes, fit_boxes
from data.images.lungs import Lungs
from data.ontology import Anatomy
from tests.support.images.phantom_images import SIZE, iou, phantom, shipped_boxes

ANATOMY = Anatomy.load()


def mean_iou(boxes, true_boxes):
    return np.mean([iou(boxes[name], true_boxes[name]) for name in true_boxes if true_boxes[name]])


def is_a_box_inside(box):
    x1, y1, x2, y2 = box
    return 0 <= x1 < x2 <= 1 and 0 <= y1 < y2 <= 1


def test_all_regions_lie_nearer_to_the_truth_than_in_the_plain_atlas():
    phantoms = [phantom(number) for number in range(12)]
    fitted = np.mean([mean_iou(atlas_boxes(each.image), each.boxes) for each in phantoms])
    unfitted = np.mean([mean_iou(shipped_boxes(), each.boxes) for each in phantoms])
    assert fitted > 0.55
    assert fitted > unfitted + 0.1


def test_the_patients_left_lung_is_on_the_right_of_the_picture():
    boxes = atlas_boxes(phantom(3).image)
    assert boxes["left lung"][0] > boxes["right lung"][2]
    assert boxes["left clavicle"][0] > boxes["right clavicle"][2]


def test_the_same_picture_gives_the_same_boxes():
    assert atlas_boxes(phantom(5).image) == atlas_boxes(phantom(5).image.copy())


def test_lungs_of_the_atlas_itself_change_nothing():
    unchanged = Lungs(np.array(shipped_boxes()["right lung"]), np.array(shipped_boxes()["left lung"]), 1.0)
    boxes = fit_boxes(ANATOMY, unchanged)
    for region in ANATOMY.regions:
        assert_allclose(boxes[region.name], region.box, atol=1e-4)


def test_a_side_follows_its_own_lung_and_the_abdomen_reaches_the_border():
    before = shipped_boxes()
    right = np.array(before["right lung"])
    lower = np.array(before["left lung"]) + [0, 0.1, 0, 0.1]
    boxes = fit_boxes(ANATOMY, Lungs(right, lower, 1.0))
    for region in ANATOMY.regions:
        shift = np.array(boxes[region.name]) - before[region.name]
        if region.side == "right":
            assert_allclose(shift, 0, atol=1e-4)
        elif region.side == "left":
            assert_allclose(shift, [0, 0.1, 0, 0.1], atol=1e-4)
        elif region.name != "abdomen":
            assert shift[1] > 0
    assert boxes["abdomen"][3] == 1


corners = st.tuples(st.floats(0, 0.45), st.floats(0, 0.6), st.floats(0.05, 0.45), st.floats(0.1, 0.9))


@settings(max_examples=100, deadline=None)
@given(right=corners, left=corners)
def test_every_region_keeps_an_area_inside_the_image(right, left):
    """For any lungs, completely or partly inside the image."""
    right, left = (
        np.array([x + start, y, min(x + width, 0.5) + start, min(y + height, 1.0)])
        for (x, y, width, height), start in ((right, 0.0), (left, 0.5))
    )
    boxes = fit_boxes(ANATOMY, Lungs(right, left, 1.0))
    assert list(boxes) == list(ANATOMY.names)
    for name, box in boxes.items():
        assert is_a_box_inside(box), (name, box)


@settings(max_examples=30, deadline=None)
@given(
    height=st.integers(1, 80),
    width=st.integers(1, 80),
    seed=st.integers(0, 2**32 - 1),
    crop=st.booleans(),
)
def test_any_picture_gets_29_boxes(height, width, seed, crop):
    rng = np.random.default_rng(seed)
    pixels = rng.integers(0, 256, (height, width), dtype=np.uint8)
    if crop:
        top, left = (int(value) for value in rng.integers(0, SIZE // 2, 2))
        pixels = np.ascontiguousarray(phantom(6).image[top : top + SIZE // 2, left : left + SIZE // 2])
    boxes = atlas_boxes(pixels)
    assert len(boxes) == 29 and all(is_a_box_inside(box) for box in boxes.values())
