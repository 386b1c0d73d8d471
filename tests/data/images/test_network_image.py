"""Originals of all formats and sizes are read like their prepared images."""

import io

import numpy as np
import pytest
import torch
from PIL import Image

from data.errors import UserError
from data.images.image_store import IMAGE_SIDE, encode_image
from data.images.network_image import read_network_image
from data.images.radiograph import read_radiograph
from data.images.transforms import read_squashed
from tests.support.images.dicom_files import dicom
from tests.support.images.image_files import encoded


def noise(height, width, kind=np.uint8):
    """Coarse noise, [height, width], that survives resizing and JPEG."""
    coarse = np.random.default_rng(0).integers(0, 250, (9, 8), dtype=np.uint8)
    return np.asarray(Image.fromarray(coarse).resize((width, height))).astype(kind)


@pytest.mark.parametrize("image_size", [32, 100, 224, 300])
@pytest.mark.parametrize("kind", ["PNG", "JPEG"])
@pytest.mark.parametrize("size", [(60, 90), (256, 300)])
def test_prepared_images_are_read_as_a_data_set_reads_them(size, kind, image_size):
    content = encoded(noise(*size), kind)
    image = read_network_image(content, "it", image_size)
    assert torch.equal(image.pixels, read_squashed(io.BytesIO(content), image_size))
    assert image.size == size[::-1]


@pytest.mark.parametrize("image_size", [32, 224])
@pytest.mark.parametrize("content", [
    encoded(noise(257, 900)), encoded(noise(1000, 700), "JPEG"), encoded(noise(600, 300, np.uint16) * 16),
    encoded(noise(300, 400), "TIFF"), dicom(noise(300, 320, np.uint16), PhotometricInterpretation="MONOCHROME1"),
], ids=["PNG", "JPEG", "PNG of 16 bits", "TIFF", "DICOM"])
def test_originals_are_prepared_first(content, image_size):
    prepared = encode_image(read_radiograph(content, min_side=IMAGE_SIDE).pixels, IMAGE_SIDE)
    image = read_network_image(content, "it", image_size)
    assert torch.equal(image.pixels, read_squashed(io.BytesIO(prepared), image_size))
    assert image.size == read_radiograph(content).size


def test_the_longest_strip_can_be_prepared():
    assert read_network_image(encoded(noise(257, 257 * 50)), "it", 32).size == (257 * 50, 257)


def test_what_the_file_says_is_kept():
    image = read_network_image(dicom(noise(40, 40, np.uint16), ViewPosition="AP", BurnedInAnnotation="YES"), "it", 32)
    assert image.view == "AP" and image.warnings == ("annotation burnt in",)
    assert image.agreement < 0.6


def test_errors_name_the_picture(tmp_path):
    (tmp_path / "cut.png").write_bytes(encoded(noise(60, 60))[:200])
    with pytest.raises(UserError, match="^this one is damaged"):
        read_network_image(tmp_path / "cut.png", "this one", 32)
    cut = Image.open(tmp_path / "cut.png")
    with pytest.raises(UserError, match="^this one is damaged"):
        read_network_image(cut, "this one", 32)


@pytest.mark.parametrize("path", ["a\0b.png", "\ud800.png"])
def test_names_that_no_file_can_have_are_an_error_of_one_line(path):
    with pytest.raises(UserError, match="^Cannot read "):
        read_network_image(path, "", 32)


@pytest.mark.parametrize("dtype", [np.uint8, bool, np.float64])
def test_an_enormous_array_is_refused_before_it_is_copied(dtype):
    """One element that is repeated: a copy would take 10 GB and more."""
    with pytest.raises(UserError, match="the image has 100000 x 100000 pixels, too many"):
        read_network_image(np.broadcast_to(np.zeros((), dtype), (100_000, 100_000)), "the image", 32)
