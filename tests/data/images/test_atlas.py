"""The fitted atlas: lungs found in pictures whose lungs are known, and boxes that follow them."""

from functools import cache

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from numpy.testing import assert_allclose
from PIL import Image
from torchvision.ops import box_iou

from data.images.atlas import LEAST_AGREEMENT, Lungs, atlas_boxes, chest_agreement, find_lungs, fitted_boxes
from data.ontology import Anatomy
from data.sources.phantom.anatomy import draw_patient
from data.sources.phantom.physics import simulate

SIZE = 128
ANATOMY = Anatomy.load()


@cache
def phantom(number: int):
    return simulate(draw_patient(np.random.default_rng([4, number])), (), SIZE, noise_seed=number)


def iou(first, second):
    return float(box_iou(torch.tensor([list(first)]), torch.tensor([list(second)])))


def mean_iou(boxes, truth):
    return np.mean([iou(boxes[name], truth[name]) for name in truth if truth[name]])


def plain():
    return {region.name: list(region.box) for region in ANATOMY.regions}


def is_a_box_inside(box):
    x1, y1, x2, y2 = box
    return 0 <= x1 < x2 <= 1 and 0 <= y1 < y2 <= 1


def test_all_regions_lie_nearer_to_the_truth_than_in_the_plain_atlas():
    pictures = [phantom(number) for number in range(12)]
    fitted = np.mean([mean_iou(atlas_boxes(picture.image), picture.boxes) for picture in pictures])
    unfitted = np.mean([mean_iou(plain(), picture.boxes) for picture in pictures])
    assert fitted > 0.55
    assert fitted > unfitted + 0.1


@pytest.mark.parametrize("share", [0.85, 0.92])
@pytest.mark.parametrize("corner", [(0.0, 0.0), (1.0, 1.0), (0.5, 0.3)])
def test_lungs_are_found_wherever_they_are(share, corner):
    """A picture made smaller and laid somewhere on black, as a badly collimated film is."""
    picture = phantom(1)
    side = round(share * SIZE)
    left, top = (round(place * (SIZE - side)) for place in corner)
    canvas = Image.new("L", (SIZE, SIZE))
    canvas.paste(Image.fromarray(picture.image).resize((side, side)), (left, top))
    lungs = find_lungs(np.array(canvas))
    offset = np.array([left, top, left, top])
    for found, name in ((lungs.right, "right lung"), (lungs.left, "left lung")):
        assert iou(found, (np.array(picture.boxes[name]) * side + offset) / SIZE) > 0.7


def test_size_proportions_and_brightness_of_the_picture_hardly_matter():
    picture = phantom(2)
    expected = find_lungs(picture.image)
    stretched = np.array(Image.fromarray(picture.image).resize((3 * SIZE, 2 * SIZE)))
    darker = (picture.image * 0.5 + 20).astype(np.uint8)
    for changed in (stretched, darker):
        lungs = find_lungs(changed)
        assert iou(lungs.right, expected.right) > 0.9 and iou(lungs.left, expected.left) > 0.9


def test_the_patients_left_lung_is_on_the_right_of_the_picture():
    boxes = atlas_boxes(phantom(3).image)
    assert boxes["left lung"][0] > boxes["right lung"][2]
    assert boxes["left clavicle"][0] > boxes["right clavicle"][2]


@pytest.mark.parametrize("kind", ["noise", "black", "gradient", "one pixel", "negative"])
def test_without_lungs_the_plain_atlas_stays(kind):
    pixels = {
        "noise": np.random.default_rng(0).integers(0, 256, (90, 70), dtype=np.uint8),
        "black": np.zeros((40, 30), np.uint8),
        "gradient": np.tile(np.arange(200, dtype=np.uint8), (150, 1)),
        "one pixel": np.full((1, 1), 7, np.uint8),
        "negative": 255 - phantom(4).image,
    }[kind]
    assert find_lungs(pixels) is None
    assert atlas_boxes(pixels) == plain()


def test_healthy_chests_agree_far_better_than_is_asked():
    assert min(find_lungs(phantom(number).image).agreement for number in range(12)) > LEAST_AGREEMENT + 0.2


def test_the_same_picture_gives_the_same_boxes():
    assert atlas_boxes(phantom(5).image) == atlas_boxes(phantom(5).image.copy())


def test_lungs_of_the_atlas_itself_change_nothing():
    unchanged = Lungs(np.array(plain()["right lung"]), np.array(plain()["left lung"]), 1.0)
    boxes = fitted_boxes(ANATOMY, unchanged)
    for region in ANATOMY.regions:
        assert_allclose(boxes[region.name], region.box, atol=1e-4)


def test_a_side_follows_its_own_lung_and_the_abdomen_reaches_the_border():
    before = plain()
    right = np.array(before["right lung"])
    lower = np.array(before["left lung"]) + [0, 0.1, 0, 0.1]
    boxes = fitted_boxes(ANATOMY, Lungs(right, lower, 1.0))
    for region in ANATOMY.regions:
        down = np.array(boxes[region.name]) - before[region.name]
        if region.side == "right":
            assert_allclose(down, 0, atol=1e-4)
        elif region.side == "left":
            assert_allclose(down, [0, 0.1, 0, 0.1], atol=1e-4)
        elif region.name != "abdomen":
            assert down[1] > 0
    assert boxes["abdomen"][3] == 1


corners = st.tuples(st.floats(0, 0.45), st.floats(0, 0.6), st.floats(0.05, 0.45), st.floats(0.1, 0.9))


@settings(max_examples=100, deadline=None)
@given(right=corners, left=corners)
def test_every_region_keeps_an_area_inside_the_image(right, left):
    """Wherever the lungs are, wholly or partly in the picture."""
    right, left = (
        np.array([x + start, y, min(x + width, 0.5) + start, min(y + height, 1.0)])
        for (x, y, width, height), start in ((right, 0.0), (left, 0.5))
    )
    boxes = fitted_boxes(ANATOMY, Lungs(right, left, 1.0))
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


def test_agreement_is_that_of_the_lungs_found():
    picture = phantom(4).image
    assert chest_agreement(picture) == find_lungs(picture).agreement
    assert -1 <= chest_agreement(255 - picture) < 0.5 < chest_agreement(picture) <= 1
