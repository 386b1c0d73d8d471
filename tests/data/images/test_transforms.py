"""Resizing, normalisation, and augmentation of images with their boxes."""

import math

import numpy as np
import pytest
import torch
from hypothesis import assume, given, settings
from hypothesis import strategies as st
from PIL import Image

from data.errors import UserError
from data.images.transforms import (
    IMAGENET_MEAN,
    IMAGENET_STD,
    Augmentation,
    Perturbation,
    clip_boxes,
    normalise,
    read_squashed,
)

SIDE = 160
VISIBLE = torch.ones(1, dtype=torch.bool)

coordinates = st.integers(10, 140)
perturbations = st.builds(
    Perturbation,
    angle=st.floats(-0.5, 0.5),
    zoom=st.floats(0.7, 1.3),
    shift=st.tuples(st.floats(-0.2, 0.2), st.floats(-0.2, 0.2)),
    contrast=st.just(1.0),
    brightness=st.just(1.0),
)


def box_of(image):
    """The box, [4], around the pixels brighter than 0.5."""
    rows, columns = (image > 0.5).nonzero(as_tuple=True)
    low = torch.stack([columns.min(), rows.min()])
    high = torch.stack([columns.max(), rows.max()]) + 1
    return torch.cat([low, high]) / image.shape[0]


@settings(max_examples=60, deadline=None)
@given(change=perturbations, x=coordinates, y=coordinates, width=st.integers(16, 80), height=st.integers(16, 80))
def test_a_box_moves_as_its_rectangle_does(change, x, y, width, height):
    drawn = torch.zeros(SIDE, SIDE)
    drawn[y : y + height, x : x + width] = 1
    box = box_of(drawn)
    hull = hull_of_corners(box, change)
    clipped = hull.clip(0, 1)
    share = np.prod(clipped[2:] - clipped[:2]) / np.prod(hull[2:] - hull[:2])
    assume(abs(share - 0.25) > 1e-3)  # at the threshold, rounding decides
    moved, visible = change.apply_to_boxes(box[None], VISIBLE)
    assert bool(visible) == (share > 0.25)
    torch.testing.assert_close(moved[0].numpy(), (clipped * (share > 0.25)).astype(np.float32), atol=1e-5, rtol=0)
    # If a corner is outside, the pixels around it are cut off, and the clipped hull is larger than what remains.
    if share == 1:
        torch.testing.assert_close(box_of(change.apply_to_image(drawn)), moved[0], atol=2 / SIDE, rtol=0)


def hull_of_corners(box, change):
    """The axis-aligned box around the moved corners, computed corner by corner in polar coordinates."""
    points = []
    for x in (box[0], box[2]):
        for y in (box[1], box[3]):
            radius, angle = math.hypot(x - 0.5, y - 0.5), math.atan2(y - 0.5, x - 0.5)
            points.append((change.zoom * radius * math.cos(angle + change.angle) + 0.5 + change.shift[0],
                           change.zoom * radius * math.sin(angle + change.angle) + 0.5 + change.shift[1]))
    points = np.array(points)
    return np.concatenate([points.min(axis=0), points.max(axis=0)])


def test_a_rectangle_keeps_its_brightness_after_turning_and_zooming():
    change = Perturbation(angle=0.15, zoom=1.1, shift=(0.05, -0.03), contrast=1, brightness=1)
    drawn = torch.zeros(SIDE, SIDE)
    drawn[60:110, 40:90] = 0.8
    moved = change.apply_to_image(drawn)
    assert moved.max() <= 0.8 + 1e-6
    assert moved.sum() == pytest.approx(float(drawn.sum()) * 1.1**2, rel=0.01)


def test_rotation_goes_from_right_to_down():
    change = Perturbation(angle=math.radians(90), zoom=1, shift=(0, 0), contrast=1, brightness=1)
    drawn = torch.zeros(SIDE, SIDE)
    drawn[70:90, 120:150] = 1  # right of the centre
    moved, _ = change.apply_to_boxes(box_of(drawn)[None], VISIBLE)
    torch.testing.assert_close(moved[0], torch.tensor([70, 120, 90, 150]) / SIDE, atol=1e-5, rtol=0)
    assert torch.equal(box_of(change.apply_to_image(drawn)), moved[0].mul(SIDE).round() / SIDE)


def test_a_region_that_leaves_the_image_is_no_longer_visible():
    shifted = Perturbation(angle=0, zoom=1, shift=(0.5, 0), contrast=1, brightness=1)
    boxes = torch.tensor([[0.45, 0.2, 0.55, 0.8], [0.44, 0.2, 0.64, 0.8], [0.46, 0.2, 0.66, 0.8], [0.9, 0.0, 1.0, 0.1]])
    visible = torch.tensor([True, True, True, True])
    moved, still = shifted.apply_to_boxes(boxes, visible)
    assert still.tolist() == [True, True, False, False]  # 50, 30, 20 and 0 % remain
    torch.testing.assert_close(moved[0], torch.tensor([0.95, 0.2, 1.0, 0.8]))
    assert (moved[2:] == 0).all()


def test_invisible_regions_stay_invisible():
    change = Perturbation(angle=0.1, zoom=1, shift=(0, 0), contrast=1, brightness=1)
    moved, visible = change.apply_to_boxes(torch.zeros(3, 4), torch.zeros(3, dtype=torch.bool))
    assert not visible.any() and (moved == 0).all()


def test_inside_clips_and_drops_what_has_no_area():
    boxes = torch.tensor([[-0.2, 0.1, 0.5, 1.4], [0.3, 0.3, 0.3, 0.6], [0.6, 0.6, 0.5, 0.9], [1.1, 0.0, 1.2, 0.5]])
    clipped, visible = clip_boxes(boxes, torch.ones(4, dtype=torch.bool))
    assert visible.tolist() == [True, False, False, False]
    torch.testing.assert_close(clipped[0], torch.tensor([0.0, 0.1, 0.5, 1.0]))
    assert (clipped[1:] == 0).all()


def test_draws_stay_within_their_limits_and_reach_out():
    augmentation = Augmentation(rotate=10, translate=0.1, scale=0.2, intensity=0.3)
    generator = np.random.default_rng(0)
    draws = [augmentation.draw(generator) for _ in range(300)]
    for values, centre, limit in (
        ([math.degrees(draw.angle) for draw in draws], 0, 10),
        ([draw.shift[0] for draw in draws], 0, 0.1),
        ([draw.shift[1] for draw in draws], 0, 0.1),
        ([draw.zoom for draw in draws], 1, 0.2),
        ([draw.contrast for draw in draws], 1, 0.3),
        ([draw.brightness for draw in draws], 1, 0.3),
    ):
        offsets = np.array(values) - centre
        assert np.abs(offsets).max() <= limit
        assert offsets.min() < -0.9 * limit and offsets.max() > 0.9 * limit
    assert augmentation.draw(np.random.default_rng(4)) == augmentation.draw(np.random.default_rng(4))


def test_an_augmentation_of_zeros_changes_nothing():
    change = Augmentation(0, 0, 0, 0).draw(np.random.default_rng(0))
    image, boxes = torch.rand(8, 8), torch.tensor([[0.1, 0.2, 0.3, 0.4]])
    assert torch.equal(change.apply_to_image(image), image)
    assert torch.equal(change.apply_to_boxes(boxes, VISIBLE)[0], boxes)


def test_intensities_change_about_the_mean_and_stay_in_range():
    image = torch.rand(32, 32, generator=torch.Generator().manual_seed(0)) * 0.5 + 0.25
    contrast = Perturbation(0, 1, (0, 0), contrast=0.5, brightness=1).apply_to_image(image)
    torch.testing.assert_close(contrast, (image + image.mean()) / 2)
    brighter = Perturbation(0, 1, (0, 0), contrast=1, brightness=1.2).apply_to_image(image)
    torch.testing.assert_close(brighter, (image * 1.2).clamp(0, 1))
    assert Perturbation(0, 1, (0, 0), contrast=1.9, brightness=1.9).apply_to_image(image).max() == 1


@pytest.mark.parametrize(("name", "value"), [("rotate", -1), ("translate", 0.6), ("scale", 1.0), ("intensity", 2)])
def test_an_impossible_augmentation_is_refused(name, value):
    with pytest.raises(UserError, match=rf"data\.{name}={value}"):
        Augmentation(**(dict(rotate=0, translate=0, scale=0, intensity=0) | {name: value}))


def gradient(height, width):
    """An image whose brightness increases to the right."""
    return np.tile(np.linspace(0, 255, width).round().astype(np.uint8), (height, 1))


def test_pictures_are_squashed_to_a_square(tmp_path):
    Image.fromarray(gradient(50, 200)).save(tmp_path / "x.png")
    pixels = read_squashed(tmp_path / "x.png", 20)
    assert pixels.shape == (20, 20) and pixels.dtype == torch.uint8
    expected = torch.from_numpy(gradient(50, 200)).float().reshape(50, 20, 10).mean(dim=(0, 2))
    torch.testing.assert_close(pixels.float().mean(dim=0), expected, atol=3, rtol=0)


def test_squashing_does_not_alias(tmp_path):
    stripes = np.zeros((256, 256), dtype=np.uint8)
    stripes[:, ::2] = 255
    Image.fromarray(stripes).save(tmp_path / "stripes.png")
    inner = read_squashed(tmp_path / "stripes.png", 60)[:, 2:-2].float()
    assert (inner - 127.5).abs().max() < 16


@pytest.mark.parametrize("mode", ["RGB", "RGBA", "LA", "P", "CMYK"])
def test_any_colour_mode_becomes_grey(tmp_path, mode):
    path = tmp_path / ("x.jpg" if mode == "CMYK" else "x.png")
    image = Image.fromarray(gradient(32, 32))
    (image.convert("RGB") if mode == "CMYK" else image).convert(mode).save(path)
    reference = torch.from_numpy(gradient(32, 32)).int()
    assert (read_squashed(path, 32).int() - reference).abs().max() <= 6


def test_sixteen_bits_are_stretched_from_least_to_greatest(tmp_path):
    values = (gradient(32, 32).astype(np.uint16) * 16 + 100).astype(np.uint16)  # 12 bits in 16
    Image.fromarray(values).save(tmp_path / "x.png")
    assert torch.equal(read_squashed(tmp_path / "x.png", 32), torch.from_numpy(gradient(32, 32)))
    Image.fromarray(np.full((8, 8), 700, dtype=np.uint16)).save(tmp_path / "flat.png")
    assert (read_squashed(tmp_path / "flat.png", 8) == 0).all()


def test_a_large_jpeg_is_squashed_like_a_png(tmp_path):
    image = Image.fromarray(gradient(800, 600))
    image.save(tmp_path / "x.png")
    image.save(tmp_path / "x.jpg", quality=95)
    difference = read_squashed(tmp_path / "x.png", 64).int() - read_squashed(tmp_path / "x.jpg", 64).int()
    assert difference.abs().max() <= 4


def test_normalising_repeats_the_grey_channel():
    pixels = torch.rand(2, 5, 5)
    images = normalise(pixels)
    assert images.shape == (2, 3, 5, 5)
    for channel, (mean, deviation) in enumerate(zip(IMAGENET_MEAN, IMAGENET_STD, strict=True)):
        torch.testing.assert_close(images[:, channel] * deviation + mean, pixels)
