"""JPEGs whose scans are repeated, in files of all kinds and in all readers."""

import io

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from PIL import Image
from pydicom.encaps import encapsulate
from pydicom.uid import JPEGBaseline8Bit

from data.errors import UserError
from data.images.jpeg_scans import MAX_SCANS, check_scans
from data.images.network_image import read_image
from data.images.radiograph import read_radiograph
from tests.support.images.dicom_files import dicom
from tests.support.images.image_files import encoded

PIXELS = np.random.default_rng(0).integers(0, 255, (40, 32), dtype=np.uint8)


def last_scan_of(jpeg):
    """The bytes of the last scan, from its marker to the end of the image."""
    return jpeg[jpeg.rindex(b"\xff\xda") : -2]


def with_repeated_scan(count, **options):
    """A JPEG whose last scan is repeated `count` times."""
    jpeg = encoded(PIXELS, "JPEG", **options)
    return jpeg[:-2] + count * last_scan_of(jpeg) + jpeg[-2:]


@pytest.mark.parametrize("progressive", [False, True])
def test_ordinary_jpegs_pass(progressive):
    jpeg = encoded(PIXELS, "JPEG", progressive=progressive)
    check_scans(jpeg, "a")
    assert read_radiograph(jpeg).pixels.shape == (40, 32)


@pytest.mark.parametrize("progressive", [False, True])
def test_repeated_scans_are_refused_before_decoding(progressive, monkeypatch):
    content = with_repeated_scan(500, progressive=progressive)
    monkeypatch.setattr(Image.Image, "load", lambda self: pytest.fail("decoded"))
    with pytest.raises(UserError, match=f"^chest is a JPEG of more than {MAX_SCANS} scans"):
        read_radiograph(content, "chest")


def test_every_reader_refuses_them(tmp_path):
    content = with_repeated_scan(500, progressive=True)
    path = tmp_path / "chest.jpg"
    path.write_bytes(content)
    for source in (content, path, Image.open(io.BytesIO(content))):
        with pytest.raises(UserError, match="scans"):
            read_image(source, "chest")


def test_scans_in_dicom_are_counted():
    def encapsulated(content):
        return dicom(
            PIXELS, syntax=JPEGBaseline8Bit, PixelData=encapsulate([content]), BitsAllocated=8, BitsStored=8, HighBit=7,
        )

    assert read_radiograph(encapsulated(encoded(PIXELS, "JPEG"))).pixels.shape == (40, 32)
    with pytest.raises(UserError, match="scans"):
        read_radiograph(encapsulated(with_repeated_scan(500, progressive=True)))


def test_markers_in_metadata_and_after_the_end_are_not_scans():
    jpeg = encoded(PIXELS, "JPEG")
    comment = b"\xff\xfe" + (2 + 2000).to_bytes(2, "big") + 1000 * b"\xff\xda"
    check_scans(jpeg[:2] + comment + jpeg[2:] + 1000 * b"\xff\xda\x00\x02", "a")


def test_padding_before_a_marker_hides_no_scan():
    jpeg = encoded(PIXELS, "JPEG", progressive=True)
    with pytest.raises(UserError, match="scans"):
        check_scans(jpeg[:-2] + 500 * (b"\xff\xff" + last_scan_of(jpeg)) + jpeg[-2:], "a")


def test_countless_segments_are_refused():
    with pytest.raises(UserError, match="segments"):
        check_scans(b"\xff\xd8" + 100_000 * b"\xff\xfe\x00\x02", "a")


@settings(max_examples=100, deadline=None)
@given(st.binary(max_size=200))
def test_any_bytes_pass_or_are_refused(content):
    check_scans(b"\xff\xd8" + content, "a")
    check_scans(content, "a")
