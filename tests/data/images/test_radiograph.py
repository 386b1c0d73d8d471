"""Reading images in all formats as grey, and files that are not images."""

import io
import os
import struct
import sys
import types
import zlib
from pathlib import Path

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from PIL import Image

from data.errors import UserError
from data.images.network_image import read_image
from data.images.radiograph import read_radiograph
from tests.support.images.dicom_files import EVEN, dicom
from tests.support.images.image_files import encoded

REAL = Path(__file__).resolve().parents[4] / "shared" / "real"
RAMP = np.arange(12, dtype=np.uint8).reshape(3, 4) * 20


def smooth(width, height):
    """[height, width] uint8, bright in the middle."""
    y, x = np.ogrid[-1 : 1 : height * 1j, -1 : 1 : width * 1j]
    return (255 * np.exp(-2 * (x**2 + y**2))).astype(np.uint8)


# Formats


@pytest.mark.parametrize(("kind", "options"), [("PNG", {}), ("TIFF", {}), ("TIFF", {"compression": "tiff_lzw"})])
def test_eight_bits_stay_as_they_are(kind, options):
    image = read_radiograph(encoded(RAMP, kind, **options))
    assert image.pixels.dtype == np.uint8
    np.testing.assert_array_equal(image.pixels, RAMP)
    assert (image.view, image.size, image.warnings) == ("", (4, 3), ())


def test_a_path_and_its_bytes_read_the_same(tmp_path):
    path = tmp_path / "named.dcm"
    path.write_bytes(encoded(RAMP))
    np.testing.assert_array_equal(read_radiograph(path).pixels, RAMP)


def test_dicom_is_told_by_content(tmp_path):
    path = tmp_path / "named.png"
    path.write_bytes(dicom(ViewPosition="AP", BurnedInAnnotation="YES"))
    image = read_radiograph(path)
    np.testing.assert_array_equal(image.pixels, EVEN)
    assert (image.view, image.size, image.warnings) == ("AP", (4, 4), ("annotation burnt in",))


def test_the_window_of_a_dicom_file():
    content = dicom(np.array([[1000, 2000, 3000]], dtype=np.uint16), WindowCenter="2000.5", WindowWidth="4001")
    assert read_radiograph(content, window=True).pixels[0, 0] == 64
    assert read_radiograph(content).pixels[0, 0] == 0


@pytest.mark.parametrize("kind", ["PNG", "TIFF"])
def test_sixteen_bits_are_stretched_by_the_range_in_use(kind):
    twelve_bits = RAMP.astype(np.uint16) * 10 + 500
    pixels = read_radiograph(encoded(twelve_bits, kind)).pixels
    np.testing.assert_array_equal(pixels, np.round((twelve_bits - 500.0) / 2200 * 255))


def test_a_flat_picture_of_sixteen_bits():
    np.testing.assert_array_equal(read_radiograph(encoded(np.full((2, 3), 4095, np.uint16))).pixels, np.zeros((2, 3)))


def test_floating_point_pixels():
    values = np.array([[-1.5, 0.0], [1.5, np.nan]], dtype=np.float32)
    np.testing.assert_array_equal(read_radiograph(encoded(values, "TIFF")).pixels, [[0, 128], [255, 0]])
    with pytest.raises(UserError, match=r"is damaged \(no pixel has a value\)"):
        read_radiograph(encoded(np.full((2, 2), np.nan, np.float32), "TIFF"))


@pytest.mark.parametrize("mode", ["RGB", "RGBA", "LA", "P", "CMYK"])
def test_colour_modes_become_grey(mode):
    image = Image.fromarray(RAMP).convert(mode)
    kind = "TIFF" if mode == "CMYK" else "PNG"
    np.testing.assert_array_equal(read_radiograph(encoded(image, kind)).pixels, RAMP)


def test_colours_weigh_as_the_eye_does():
    pixels = np.array([[[255, 0, 0], [0, 255, 0], [0, 0, 255]]], dtype=np.uint8)
    np.testing.assert_array_equal(read_radiograph(encoded(pixels)).pixels, [[76, 150, 29]])


def test_transparency_is_left_out():
    image = Image.fromarray(RAMP).convert("RGBA")
    image.putalpha(0)
    np.testing.assert_array_equal(read_radiograph(encoded(image)).pixels, RAMP)
    palette = Image.fromarray(RAMP).convert("P")
    np.testing.assert_array_equal(read_radiograph(encoded(palette, transparency=b"\0" * 256)).pixels, RAMP)


def test_one_bit():
    image = Image.fromarray(RAMP).point(lambda value: 255 * (value >= 100)).convert("1")
    np.testing.assert_array_equal(read_radiograph(encoded(image)).pixels, np.where(RAMP >= 100, 255, 0))


@pytest.mark.parametrize(("mode", "options"), [
    ("L", {}), ("L", {"progressive": True}), ("RGB", {}), ("RGB", {"keep_rgb": True}), ("CMYK", {}),
])
def test_jpeg(mode, options):
    original = smooth(64, 48)
    image = read_radiograph(encoded(Image.fromarray(original).convert(mode), "JPEG", quality=95, **options))
    assert image.pixels.shape == (48, 64) and image.size == (64, 48)
    assert np.abs(image.pixels.astype(int) - original).mean() < 2


# Fewer pixels


@pytest.mark.parametrize(("min_side", "shape"), [
    (None, (480, 640)), (1000, (480, 640)), (300, (480, 640)), (240, (240, 320)), (100, (120, 160)), (1, (60, 80)),
])
def test_a_jpeg_decodes_at_a_power_of_two(min_side, shape):
    original = smooth(640, 480)
    image = read_radiograph(encoded(original, "JPEG", quality=95), min_side=min_side)
    assert image.pixels.shape == shape and image.size == (640, 480)
    step = 640 // shape[1]
    means = original.reshape(shape[0], step, shape[1], step).mean(axis=(1, 3))
    assert np.abs(image.pixels - means).mean() < 2


@settings(max_examples=30, deadline=None)
@given(st.integers(6, 300), st.integers(6, 300), st.integers(1, 300))
def test_the_shorter_side_keeps_enough(width, height, min_side):
    image = read_radiograph(encoded(np.zeros((height, width), np.uint8), "JPEG"), min_side=min_side)
    assert image.size == (width, height)
    assert min(image.pixels.shape) >= min(width, height, min_side)


def test_other_kinds_keep_all_pixels():
    assert read_radiograph(encoded(smooth(640, 480)), min_side=1).pixels.shape == (480, 640)
    assert read_radiograph(dicom(), min_side=1).pixels.shape == (4, 4)


# Errors


def png_chunk(kind, content):
    return struct.pack(">I", len(content)) + kind + content + struct.pack(">I", zlib.crc32(kind + content))


def png(width, height, compressed):
    """A grey PNG whose header states this size."""
    header = png_chunk(b"IHDR", struct.pack(">IIBBBBB", width, height, 8, 0, 0, 0, 0))
    return b"\x89PNG\r\n\x1a\n" + header + png_chunk(b"IDAT", compressed) + png_chunk(b"IEND", b"")


FRAMES = [Image.fromarray(RAMP), Image.fromarray(RAMP[::-1])]


@pytest.mark.parametrize(("content", "message"), [
    (b"", "is empty"), (b"not an image", "is not a PNG, JPEG, TIFF or DICOM"),
    (encoded(RAMP, "GIF"), "is not a PNG"), (encoded(RAMP, "BMP"), "is not a PNG"),
    (b"%!PS-Adobe-3.0 EPSF-3.0", "is not a PNG"),
    (png(30_000, 30_000, b""), "is damaged .*bomb"), (png(10_001, 10_000, b""), "has 10001 x 10000 pixels, too"),
    (png(8, 8, zlib.compress(RAMP.tobytes() * 6)[:-9]), "is damaged"), (png(0, 8, b""), "is"), (png(8, 0, b""), "is"),
    (encoded(FRAMES[0], "PNG", save_all=True, append_images=FRAMES[1:]), "contains 2 images"),
    (encoded(FRAMES[0], "TIFF", save_all=True, append_images=FRAMES[1:]), "contains 2 images"),
    (encoded(smooth(64, 64), "JPEG")[:-200], "is damaged"), (encoded(smooth(64, 64))[:-200], "is damaged"),
    (encoded(smooth(64, 64), "TIFF")[:-200], "is damaged"), (encoded(RAMP)[:20], "is"),
], ids=[
    "empty", "text", "gif", "bmp", "postscript", "bomb", "large", "short", "no width", "no height", "animated",
    "pages", "cut jpeg", "cut png", "cut tiff", "cut head",
])
def test_a_file_that_is_no_picture_is_named(tmp_path, content, message, recwarn):
    path = tmp_path / "invented.png"
    path.write_bytes(content)
    for source, name in ((path, ""), (content, "invented.png")):
        with pytest.raises(UserError, match=rf"invented\.png ({message})") as caught:
            read_radiograph(source, name)
        assert "\n" not in str(caught.value)
    assert not recwarn.list


def test_missing_files(tmp_path):
    with pytest.raises(UserError, match=r"^Cannot read .*none\.png \(No such file or directory\)$"):
        read_radiograph(tmp_path / "none.png")
    with pytest.raises(UserError, match=r"^Cannot read .* \(Is a directory\)$"):
        read_radiograph(tmp_path)


IMAGES = [
    encoded(smooth(24, 20)), encoded(smooth(24, 20).astype(np.uint16) * 9), encoded(smooth(24, 20), "JPEG"),
    encoded(Image.fromarray(smooth(24, 20)).convert("CMYK"), "JPEG"), encoded(smooth(24, 20), "TIFF"),
    encoded(Image.fromarray(smooth(24, 20)).convert("P"), transparency=3), dicom(),
]  # fmt: skip


def result_or_one_line(content, **options):
    try:
        image = read_radiograph(content, "invented", **options)
    except UserError as error:
        assert "invented" in str(error) and "\n" not in str(error) and str(error).isprintable()
        return None
    assert image.pixels.dtype == np.uint8 and image.pixels.ndim == 2 and image.pixels.size > 0
    return image


@pytest.mark.parametrize("content", IMAGES, ids=["png", "png16", "jpeg", "cmyk", "tiff", "palette", "dicom"])
def test_a_file_cut_anywhere_gives_a_picture_or_an_error_of_one_line(content):
    whole = result_or_one_line(content)
    for length in range(0, len(content), max(1, len(content) // 60)):
        image = result_or_one_line(content[:length])
        # What follows the pixels may be missing, but not pixels.
        assert image is None or np.array_equal(image.pixels, whole.pixels)


@settings(max_examples=150, deadline=None)
@given(st.sampled_from(IMAGES), st.integers(0, 2000), st.binary(min_size=1, max_size=8), st.booleans())
def test_a_changed_file_gives_a_picture_or_an_error_of_one_line(content, place, garbage, small):
    place %= len(content)
    changed = content[:place] + garbage + content[place + len(garbage) :]
    result_or_one_line(changed, min_side=4 if small else None)


@settings(max_examples=100, deadline=None)
@given(st.binary(max_size=200))
def test_random_bytes_give_an_error_of_one_line(garbage):
    for head in (b"", b"\x89PNG\r\n\x1a\n", b"\xff\xd8\xff\xe0", b"II*\0", b"MM\0*"):
        result_or_one_line(head + garbage)


# Real images


def test_real_radiographs():
    paths = [*sorted(REAL.glob("iu_xray/r2gen_sample/**/*.png")), *sorted(REAL.glob("covid_cxr/**/*.jpg"))[:20]]
    if not paths:
        pytest.skip("needs the public radiographs beside the checkout")
    for path in paths:
        image = read_radiograph(path, min_side=128)
        assert 128 <= min(image.pixels.shape) <= min(image.size) == 256
        assert image.pixels.std() > 20


# Sizes that no radiograph has


@pytest.mark.parametrize("kind", ["PNG", "JPEG", "TIFF"])
def test_strips_are_refused_before_they_are_decoded(kind):
    assert read_radiograph(encoded(np.zeros((2, 100), np.uint8), kind)).size == (100, 2)
    for shape in ((2, 102), (101, 2)):
        with pytest.raises(UserError, match="too narrow"):
            read_radiograph(encoded(np.zeros(shape, np.uint8), kind))


def test_a_strip_in_a_dicom_file_is_refused():
    with pytest.raises(UserError, match="101 x 2 pixels, too narrow"):
        read_radiograph(dicom(np.zeros((2, 101), np.uint16)))


@pytest.mark.parametrize(
    ("mode", "is_read"), [("L", True), ("I;16", True), ("RGB", False), ("CMYK", False), ("F", False)]
)
def test_large_pixels_have_a_lower_limit(mode, is_read, monkeypatch):
    monkeypatch.setattr("data.images.radiograph.MAX_LARGE_PIXELS", 99)
    content = encoded(Image.new(mode, (10, 10)), "TIFF")
    for read in (read_radiograph, lambda file: read_image(Image.open(io.BytesIO(file)), "it")):
        if is_read:
            assert read(content).size == (10, 10)
        else:
            with pytest.raises(UserError, match="10 x 10 pixels, too many for a radiograph"):
                read(content)


def test_colours_in_a_dicom_file_have_a_lower_limit(monkeypatch):
    monkeypatch.setattr("data.images.dicom.MAX_LARGE_PIXELS", 99)
    with pytest.raises(UserError, match="6 x 6 pixels, too many for a radiograph"):
        read_radiograph(dicom(np.zeros((6, 6, 3), np.uint8)))
    assert read_radiograph(dicom(np.zeros((10, 10), np.uint16))).size == (10, 10)


# Files that could take forever


def test_pipes_and_devices_are_not_opened(tmp_path):
    os.mkfifo(tmp_path / "pipe")
    for path in (tmp_path / "pipe", Path("/dev/zero")):
        with pytest.raises(UserError, match=f"{path} is not a regular file"):
            read_radiograph(path)


def test_enormous_files_are_not_read(tmp_path):
    path = tmp_path / "enormous.dcm"
    with path.open("wb") as file:
        file.write(dicom()[:200])
        file.truncate((1 << 29) + 1)  # sparse: takes no disk space
    with pytest.raises(UserError, match="512 MiB, too many"):
        read_radiograph(path)


def test_a_name_of_several_lines_gives_an_error_of_one(tmp_path):
    path = tmp_path / "two\nlines\x1b[31m.png"
    path.write_bytes(b"not an image")
    with pytest.raises(UserError) as raised:
        read_radiograph(path)
    assert str(raised.value).isprintable() and "two\ufffdlines\ufffd[31m.png" in str(raised.value)


# JPEGs of more than 8 bits

# 3 x 4 pixels of 16 bits, lossless: 300, 5300, ..., 55300.
DEEP_JPEG = bytes.fromhex(
    "ffd8ffc4001600010101000000000000000000000000000e0d0fffc3000b100003000401001100ffda0008010000060000c04ae9c45388a711a7"
    "1027104e209c434e204e209c413880ffd9"
)


def test_a_deep_jpeg_names_the_package_that_reads_it(monkeypatch):
    monkeypatch.setitem(sys.modules, "libjpeg", None)
    with pytest.raises(UserError, match="a JPEG of 16 bits: pip install pylibjpeg-libjpeg to read it"):
        read_radiograph(DEEP_JPEG)


@pytest.fixture(params=["stand-in", "package"])
def libjpeg(request, monkeypatch):
    """A stand-in with the two functions that are used, and the package itself if it is installed."""
    if request.param == "package":
        return pytest.importorskip("libjpeg")
    stand_in = types.SimpleNamespace(
        get_parameters=lambda content: {"columns": 4, "rows": 3, "nr_components": 1, "precision": 16},
        decode=lambda content: np.arange(12, dtype=np.uint16).reshape(3, 4) * 5000 + 300,
    )
    monkeypatch.setitem(sys.modules, "libjpeg", stand_in)
    return stand_in


def test_a_deep_jpeg_is_stretched_by_the_range_in_use(libjpeg):
    image = read_radiograph(DEEP_JPEG)
    np.testing.assert_array_equal(image.pixels, np.round(np.arange(12).reshape(3, 4) / 11 * 255))
    assert image.size == (4, 3)


def test_a_deep_jpeg_that_is_cut_short(libjpeg):
    with pytest.raises(UserError, match=r"is damaged \(it is truncated\)"):
        read_radiograph(DEEP_JPEG[:-4])


@pytest.mark.parametrize(("described", "message"), [
    ({"columns": 60_000}, "60000 x 3 pixels"), ({"columns": 60_000, "rows": 60_000}, "too many"),
    ({"nr_components": 3}, "16 bits in colour"),
])
def test_deep_jpegs_that_are_no_radiographs(monkeypatch, described, message):
    parameters = {"columns": 4, "rows": 3, "nr_components": 1, "precision": 16} | described
    monkeypatch.setitem(sys.modules, "libjpeg", types.SimpleNamespace(get_parameters=lambda content: parameters))
    with pytest.raises(UserError, match=message):
        read_radiograph(DEEP_JPEG)
