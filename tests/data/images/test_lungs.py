"""Finding lungs in phantom images with known lungs, and in images that show no chest."""

import numpy as np
import pytest
from PIL import Image

from data.images.atlas import atlas_boxes
from data.images.lungs import MIN_AGREEMENT, chest_agreement, find_lungs
from tests.support.images.phantom_images import SIZE, iou, phantom, shipped_boxes


@pytest.mark.parametrize("share", [0.85, 0.92])
@pytest.mark.parametrize("corner", [(0.0, 0.0), (1.0, 1.0), (0.5, 0.3)])
def test_lungs_are_found_wherever_they_are(share, corner):
    """An image that is reduced and pasted on black, like a badly collimated X-ray."""
    original = phantom(1)
    side = round(share * SIZE)
    left, top = (round(position * (SIZE - side)) for position in corner)
    canvas = Image.new("L", (SIZE, SIZE))
    canvas.paste(Image.fromarray(original.image).resize((side, side)), (left, top))
    lungs = find_lungs(np.array(canvas))
    offset = np.array([left, top, left, top])
    for box, name in ((lungs.right, "right lung"), (lungs.left, "left lung")):
        assert iou(box, (np.array(original.boxes[name]) * side + offset) / SIZE) > 0.7


def test_size_proportions_and_brightness_of_the_picture_hardly_matter():
    original = phantom(2)
    expected = find_lungs(original.image)
    stretched = np.array(Image.fromarray(original.image).resize((3 * SIZE, 2 * SIZE)))
    darker = (original.image * 0.5 + 20).astype(np.uint8)
    for changed in (stretched, darker):
        lungs = find_lungs(changed)
        assert iou(lungs.right, expected.right) > 0.9 and iou(lungs.left, expected.left) > 0.9


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
    assert atlas_boxes(pixels) == shipped_boxes()


def test_healthy_chests_agree_far_better_than_is_asked():
    assert min(find_lungs(phantom(number).image).agreement for number in range(12)) > MIN_AGREEMENT + 0.2


def test_agreement_is_that_of_the_lungs_found():
    pixels = phantom(4).image
    assert chest_agreement(pixels) == find_lungs(pixels).agreement
    assert -1 <= chest_agreement(255 - pixels) < 0.5 < chest_agreement(pixels) <= 1
