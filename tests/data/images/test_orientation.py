"""Images that are stored turned or mirrored are read upright, whatever their format."""

import io
import itertools

import numpy as np
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from PIL import Image, ImageOps

from data.images.network_image import read_image, read_network_image
from data.images.orientation import exif_orientation_of_bytes, is_on_side, patient_orientation, turn_upright
from data.images.radiograph import read_radiograph
from data.images.transforms import read_squashed
from tests.support.images.dicom_files import dicom
from tests.support.images.image_files import encoded

UPRIGHT = np.arange(6 * 9, dtype=np.uint8).reshape(6, 9) * 4
TAG = 0x0112


def stored(orientation, pixels=UPRIGHT):
    """`pixels` as a camera of this orientation stores them, by brute force."""
    turns = [np.rot90(flipped, turn).copy() for flipped in (pixels, pixels[:, ::-1]) for turn in range(4)]
    return next(each for each in turns if np.array_equal(as_viewers_show(each, orientation), pixels))


def as_viewers_show(pixels, orientation):
    image = Image.open(io.BytesIO(with_exif(pixels, orientation)))
    return np.asarray(ImageOps.exif_transpose(image))


def with_exif(pixels, orientation, kind="PNG", **options):
    exif = Image.Exif()
    exif[TAG] = orientation
    return encoded(pixels, kind, exif=exif, **options)


@pytest.mark.parametrize("orientation", range(1, 9))
def test_every_orientation_is_turned_as_viewers_do(orientation):
    np.testing.assert_array_equal(turn_upright(stored(orientation), orientation), UPRIGHT)
    assert is_on_side(orientation) == (stored(orientation).shape != UPRIGHT.shape)


@pytest.mark.parametrize("orientation", range(1, 9))
@pytest.mark.parametrize("kind", ["PNG", "TIFF", "JPEG"])
def test_files_with_an_exif_orientation(kind, orientation):
    content = with_exif(stored(orientation), orientation, kind, **({"quality": 100} if kind == "JPEG" else {}))
    image = read_radiograph(content)
    assert np.abs(image.pixels.astype(int) - UPRIGHT).max() <= (3 if kind == "JPEG" else 0)
    assert image.size == (9, 6)
    # A data set with photographs of its own, and an image that is open already, are read alike.
    difference = read_squashed(io.BytesIO(content), 16).int() - read_squashed(io.BytesIO(encoded(UPRIGHT)), 16).int()
    assert difference.abs().max() <= 3
    opened = read_image(Image.open(io.BytesIO(content)), "it")
    np.testing.assert_array_equal(opened.pixels, image.pixels)
    assert opened.size == (9, 6)


@pytest.mark.parametrize("kind", ["PNG", "TIFF"])
def test_deep_images_are_turned_too(kind):
    content = with_exif(stored(8, UPRIGHT.astype(np.uint16) * 100), 8, kind)
    upright = read_radiograph(encoded(UPRIGHT.astype(np.uint16) * 100))
    np.testing.assert_array_equal(read_radiograph(content).pixels, upright.pixels)


def test_a_lower_resolution_keeps_the_upright_size():
    image = read_radiograph(with_exif(np.zeros((300, 800), np.uint8), 6, "JPEG"), min_side=64)
    assert image.size == (300, 800) and image.pixels.shape == (200, 75)


def test_the_network_sees_an_upright_image():
    pixels = np.asarray(Image.linear_gradient("L").resize((400, 300)))
    turned = read_network_image(with_exif(stored(6, pixels), 6), "it", 32)
    assert torch.equal(turned.pixels, read_network_image(encoded(pixels), "it", 32).pixels)
    assert turned.size == (400, 300)


@pytest.mark.parametrize("value", [0, 9, 65535])
def test_an_invalid_orientation_is_ignored(value):
    np.testing.assert_array_equal(read_radiograph(with_exif(UPRIGHT, value)).pixels, UPRIGHT)


@given(st.binary(max_size=200), st.booleans())
def test_damaged_exif_data_are_ignored(garbage, has_head):
    exif = (b"Exif\0\0" if has_head else b"") + garbage
    assert 1 <= exif_orientation_of_bytes(exif) <= 8
    read_radiograph(encoded(UPRIGHT, "JPEG", exif=exif))


# DICOM

# Upright, the right border of a frontal image is the patient's left, and the lower border is at the feet.
_BORDERS = {"L": (0, 1), "R": (0, -1), "F": (1, 0), "H": (-1, 0)}


@pytest.mark.parametrize(("row", "column"), [
    (row, column) for row, column in itertools.product("LRHF", repeat=2) if (row in "LR") != (column in "LR")
])  # fmt: skip
def test_frontal_dicom_images_are_turned_by_the_directions_in_the_patient(row, column):
    upright = np.array([[1000, 2000], [2500, 4000]], np.uint16)
    # A step along the rows of the stored image moves by `across` in the upright one, along its columns by `down`.
    across, down = np.array(_BORDERS[row]), np.array(_BORDERS[column])
    start = (across + down < 0).astype(int)
    as_stored = np.array([[upright[tuple(start + y * down + x * across)] for x in (0, 1)] for y in (0, 1)])
    image = read_radiograph(dicom(as_stored, PatientOrientation=[row, column]))
    np.testing.assert_array_equal(image.pixels, read_radiograph(dicom(upright)).pixels)
    is_mirrored = across[1] * down[0] - across[0] * down[1] < 0
    expected = () if (row, column) == ("L", "F") else ("stored as a mirror image, mirrored back",) if is_mirrored else (
        "stored turned, turned upright",
    )
    assert image.warnings == expected and image.view == "FRONTAL"


@pytest.mark.parametrize(("row", "column", "orientation", "direction"), [
    ("A", "F", 1, "A"), ("P", "F", 1, "P"), ("A", "H", 3, "P"), ("F", "A", 6, "P"), ("H", "A", 8, "A"),
    ("AL", "FP", 1, "A"), ("LH", "FR", 1, "L"),
])  # fmt: skip
def test_lateral_images_are_turned_without_mirroring(row, column, orientation, direction):
    assert patient_orientation(row, column) == (orientation, direction)


@pytest.mark.parametrize("directions", [
    ["L", "P"], ["F", "H"], ["L", "R"], ["?", "F"], ["", "F"], ["L"], ["L", "F", "H"], "",
])  # fmt: skip
def test_other_directions_change_nothing(directions):
    image = read_radiograph(dicom(PatientOrientation=directions))
    np.testing.assert_array_equal(image.pixels, read_radiograph(dicom()).pixels)
    assert image.warnings == ()


def test_directions_in_small_letters_and_padded():
    upright = read_radiograph(dicom())
    np.testing.assert_array_equal(
        read_radiograph(dicom(PatientOrientation=["r ", " f"])).pixels, upright.pixels[:, ::-1]
    )
