"""Resizing, and augmentation of images with their boxes."""

import dataclasses
import math
from dataclasses import replace

import numpy as np
import pytest
import torch
from hypothesis import assume, given, settings
from hypothesis import strategies as st
from PIL import Image

from data.errors import UserError
from data.images.network_input import warp
from data.images.transforms import Augmentation, Perturbation, clip_boxes, read_squashed
from data.sources.phantom.chest import Chest
from data.sources.phantom.projection import Projection
from data.sources.phantom.regions import region_boxes
from tests.support.sources.phantoms import patient

SIDE = 160
VISIBLE = np.ones(1, dtype=bool)

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


def moved_image(change, image):
    """The image [H, H] float after a change."""
    return warp(image[None], torch.from_numpy(change.matrix())[None], len(image))[0]


def moved_box(change, box):
    """The box [4] after a change, as an array, and whether it is still visible."""
    moved, visible = change.apply_to_boxes(np.asarray(box, dtype=np.float32)[None], VISIBLE)
    return moved[0], bool(visible[0])


@settings(max_examples=60, deadline=None)
@given(change=perturbations, x=coordinates, y=coordinates, width=st.integers(16, 80), height=st.integers(16, 80),
       exponent=st.sampled_from([4.0, 5.0, 6.0]))
def test_a_box_stays_around_its_organ(change, x, y, width, height, exponent):
    """The box fits a rotated superellipse, as organs are, within 3 % of its side; one of exponent 5 exactly."""
    across, down = np.meshgrid(np.arange(SIDE) + 0.5, np.arange(SIDE) + 0.5)
    drawn = np.abs((across - x - width / 2) / (width / 2)) ** exponent
    drawn = torch.from_numpy(drawn + np.abs((down - y - height / 2) / (height / 2)) ** exponent <= 1).float()
    box = np.array([x, y, x + width, y + height]) / SIDE
    assume(box.min() > 0 and box.max() < 1)
    angles = np.linspace(0, 2 * np.pi, 4001)
    shape = np.stack([np.cos(angles), np.sin(angles)], axis=1)
    shape = np.sign(shape) * np.abs(shape) ** (2 / exponent) * [width / 2, height / 2] / SIDE
    shape += (box[:2] + box[2:]) / 2 - 0.5
    cosine, sine = change.zoom * math.cos(change.angle), change.zoom * math.sin(change.angle)
    points = shape @ np.array([[cosine, -sine], [sine, cosine]]).T + 0.5 + change.shift
    hull = np.concatenate([points.min(axis=0), points.max(axis=0)])
    clipped = hull.clip(0, 1)
    share = np.prod(clipped[2:] - clipped[:2]) / np.prod(hull[2:] - hull[:2])
    assume(abs(share - 0.25) > 0.05)  # at the threshold, the exact shape decides
    moved, visible = moved_box(change, box)
    assert visible == (share > 0.25)
    if visible:
        tolerance = 1e-4 if exponent == 5 else 0.03 * max(hull[2:] - hull[:2])
        np.testing.assert_allclose(moved, clipped, atol=tolerance)
    if share == 1:  # otherwise pixels are cut off that the extent counts
        np.testing.assert_allclose(box_of(moved_image(change, drawn)), moved, atol=2.5 / SIDE + tolerance)


def test_boxes_of_rotated_phantoms_keep_their_size():
    """The true boxes of the 29 regions after turning the patient, against the moved boxes of the upright one."""
    shares, corner_shares, overlaps, corner_overlaps = [], [], [], []
    for number in range(8):
        upright = true_boxes(number, roll=0)
        for degrees in (-10, 10):
            change = Perturbation(math.radians(degrees), 1, (0, 0), 1, 1)
            turned = true_boxes(number, roll=math.radians(degrees))
            for name, box in upright.items():
                if box is None or turned[name] is None:
                    continue
                moved, corners = moved_box(change, box)[0], hull_of_corners(box, change).clip(0, 1)
                shares.append(area(moved) / area(turned[name]))
                corner_shares.append(area(corners) / area(turned[name]))
                if name in OUTLINED:
                    overlaps.append(overlap(moved, turned[name]))
                    corner_overlaps.append(overlap(corners, turned[name]))
    assert np.mean(corner_shares) > 1.15  # what this replaces
    assert 0.97 < np.mean(shares) < 1.06
    assert np.mean(overlaps) >= np.mean(corner_overlaps)


# Regions of the phantom with an outline of their own; most others are rectangles that turn with the patient.
OUTLINED = ("left lung", "right lung", "left upper lung zone", "right upper lung zone", "cardiac silhouette",
            "mediastinum", "upper mediastinum", "aortic arch", "right atrium", "left apical zone", "right apical zone")


def true_boxes(number, roll):
    pose = replace(patient(number).pose, roll=roll, shift=(0, 0))
    chest = Chest(replace(patient(number), pose=pose))
    return region_boxes(chest, Projection(chest, 64))


def area(box):
    return (box[2] - box[0]) * (box[3] - box[1])


def overlap(first, second):
    """Intersection over union."""
    inner = np.concatenate([np.maximum(first[:2], second[:2]), np.minimum(first[2:], second[2:])])
    shared = area(inner) if (inner[2:] > inner[:2]).all() else 0.0
    return shared / (area(first) + area(second) - shared)


def test_a_region_that_continues_beyond_the_image_fills_its_corners():
    spine = [0.45, 0.0, 0.55, 1.0]
    change = Perturbation(math.radians(8), 1, (0, 0), 1, 1)
    np.testing.assert_allclose(moved_box(change, spine)[0], hull_of_corners(spine, change).clip(0, 1), atol=1e-6)


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
    moved = moved_image(change, drawn)
    assert moved.max() <= 0.8 + 1e-6
    assert moved.sum() == pytest.approx(float(drawn.sum()) * 1.1**2, rel=0.01)


def test_rotation_goes_from_right_to_down():
    change = Perturbation(angle=math.radians(90), zoom=1, shift=(0, 0), contrast=1, brightness=1)
    drawn = torch.zeros(SIDE, SIDE)
    drawn[70:90, 120:150] = 1  # right of the centre
    moved, _ = moved_box(change, box_of(drawn))
    np.testing.assert_allclose(moved, np.array([70, 120, 90, 150]) / SIDE, atol=1e-5)
    np.testing.assert_allclose(box_of(moved_image(change, drawn)), moved, atol=1e-5)


def test_a_region_that_leaves_the_image_is_no_longer_visible():
    shifted = Perturbation(angle=0, zoom=1, shift=(0.5, 0), contrast=1, brightness=1)
    boxes = np.array([[0.45, 0.2, 0.55, 0.8], [0.44, 0.2, 0.64, 0.8], [0.46, 0.2, 0.66, 0.8], [0.9, 0.0, 1.0, 0.1]])
    visible = np.array([True, True, True, True])
    moved, still = shifted.apply_to_boxes(boxes, visible)
    assert still.tolist() == [True, True, False, False]  # 50, 30, 20 and 0 % remain
    np.testing.assert_allclose(moved[0], [0.95, 0.2, 1.0, 0.8], atol=1e-6)
    assert (moved[2:] == 0).all()


def test_invisible_regions_stay_invisible():
    change = Perturbation(angle=0.1, zoom=1, shift=(0, 0), contrast=1, brightness=1)
    moved, visible = change.apply_to_boxes(np.zeros((3, 4)), np.zeros(3, dtype=bool))
    assert not visible.any() and (moved == 0).all()


def test_inside_clips_and_drops_what_has_no_area():
    boxes = np.array([[-0.2, 0.1, 0.5, 1.4], [0.3, 0.3, 0.3, 0.6], [0.6, 0.6, 0.5, 0.9], [1.1, 0.0, 1.2, 0.5]])
    clipped, visible = clip_boxes(boxes, np.ones(4, dtype=bool))
    assert visible.tolist() == [True, False, False, False]
    assert clipped[0].tolist() == [0.0, 0.1, 0.5, 1.0]
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
    augmentation = Augmentation(0, 0, 0, 0)
    change = augmentation.draw(np.random.default_rng(0))
    assert not augmentation.is_geometric and change.intensities(np.arange(9, dtype=np.uint8)) == (1, 0)
    boxes = np.array([[0.1, 0.2, 0.3, 0.4]])
    assert change.apply_to_boxes(boxes, VISIBLE)[0] is boxes


def test_crops_show_a_randomly_placed_part_of_the_image_and_its_boxes():
    augmentation = Augmentation(0, 0, 0, 0, crop=0.875)
    generator = np.random.default_rng(0)
    corners = []
    # A ramp tells for each pixel where in the image it comes from.
    ramp = ((torch.arange(SIDE) + 0.5) / SIDE).expand(SIDE, -1)
    for _ in range(60):
        change = augmentation.draw(generator)
        left, right = (moved_image(change, ramp)[SIDE // 2, [0, -1]]).tolist()
        top, bottom = (moved_image(change, ramp.T)[[0, -1], SIDE // 2]).tolist()
        assert right - left == pytest.approx(0.875, abs=0.01) and bottom - top == pytest.approx(0.875, abs=0.01)
        assert min(left, top) > -0.01 and max(right, bottom) < 1.01
        corners.append((left, top))
        half = 0.875 / SIDE / 2  # from the centre of the first pixel to its edge
        moved, visible = moved_box(change, [left - half, top - half, right + half, bottom + half])
        assert visible
        np.testing.assert_allclose(moved, [0.0, 0.0, 1.0, 1.0], atol=0.01)
    offsets = np.array(corners)
    assert (offsets.min(axis=0) < 0.02).all() and (offsets.max(axis=0) > 0.105).all()


def test_a_crop_does_not_change_the_other_draws():
    limits = {"rotate": 10, "translate": 0.0, "scale": 0.2, "intensity": 0.3}
    plain = Augmentation(**limits).draw(np.random.default_rng(3))
    cropped = Augmentation(**limits, crop=0.8).draw(np.random.default_rng(3))
    assert (cropped.angle, cropped.contrast, cropped.brightness) == (plain.angle, plain.contrast, plain.brightness)
    assert cropped.zoom == pytest.approx(plain.zoom / 0.8)


def test_squashing_does_not_change_the_other_draws_and_is_drawn_within_its_limit():
    limits = {"rotate": 10, "translate": 0.1, "scale": 0.2, "intensity": 0.3}
    plain = Augmentation(**limits).draw(np.random.default_rng(3))
    squashed = Augmentation(**limits, squash=0.25).draw(np.random.default_rng(3))
    assert plain.squash == 1 and dataclasses.replace(squashed, squash=1.0) == plain
    generator, augmentation = np.random.default_rng(0), Augmentation(0, 0, 0, 0, squash=0.25)
    draws = [augmentation.draw(generator).squash for _ in range(200)]
    assert augmentation.is_geometric and 0.75 <= min(draws) < 0.78 and 1.22 < max(draws) <= 1.25


@pytest.mark.parametrize("angle", [0, 20])
def test_a_squashed_box_follows_the_image(angle):
    """A bright ellipse and its box; a rotated box is the one around a superellipse, slightly larger."""
    change = Perturbation(math.radians(angle), 1.0, (0.05, -0.03), 1, 1, squash=1.3)
    rows, columns = np.mgrid[:SIDE, :SIDE] / SIDE
    image = torch.from_numpy((((columns - 0.5) / 0.15) ** 2 + ((rows - 0.45) / 0.2) ** 2 < 1).astype(np.float32))
    bright = (moved_image(change, image) > 0.5).nonzero()
    (top, left), (bottom, right) = bright.min(0).values / SIDE, (bright.max(0).values + 1) / SIDE
    box, visible = moved_box(change, [0.35, 0.25, 0.65, 0.65])
    assert visible
    np.testing.assert_allclose(box, [left, top, right, bottom], atol=0.012 if angle == 0 else 0.05)


def test_the_domain_of_the_chosen_share_of_images_is_randomised():
    image = torch.full((24, 24), 90, dtype=torch.uint8)
    image[6:18, 6:18] = 180
    kept = image.clone()
    off, half = (Augmentation(0, 0, 0, 0, domain_randomisation=share) for share in (0.0, 0.5))
    assert off.randomise(image, np.random.default_rng(0)) is image
    results = [half.randomise(image, np.random.default_rng(seed)) for seed in range(60)]
    changed = [not torch.equal(result, image) for result in results]
    assert 18 <= sum(changed) <= 42 and torch.equal(image, kept)
    assert all(result.dtype == torch.uint8 and result.shape == image.shape for result in results)


def test_intensities_change_about_the_mean():
    pixels = torch.randint(60, 190, (32, 32), generator=torch.Generator().manual_seed(0), dtype=torch.uint8)
    image = pixels.double().numpy() / 255
    for contrast, brightness in ((0.5, 1), (1, 1.2), (1.3, 0.7)):
        gain, offset = Perturbation(0, 1, (0, 0), contrast, brightness).intensities(pixels.numpy())
        expected = ((image - image.mean()) * contrast + image.mean()) * brightness
        np.testing.assert_allclose(gain * image + offset, expected, atol=1e-12)


@pytest.mark.parametrize(
    ("name", "value"),
    [
        ("rotate", -1), ("translate", 0.6), ("scale", 1.0), ("intensity", 2), ("crop", 0), ("crop", 1.5),
        ("squash", 0.6), ("domain_randomisation", 1.1),
    ],
)
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


def test_images_to_be_warped_keep_their_stored_size_within_limits(tmp_path):
    for (height, width), side in (((40, 60), 40), ((20, 90), 32), ((70, 300), 48)):
        Image.fromarray(gradient(height, width)).save(tmp_path / "x.png")
        assert read_squashed(tmp_path / "x.png", 32, largest=48).shape == (side, side)
