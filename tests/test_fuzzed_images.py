"""A thousand random files, well-formed, damaged and hostile: each is read as an image or gives an error of one line.

Every file has its own seed, from which its form (PNG, DICOM, animation, text, ...), content and damage are drawn.
"""

import struct
import zlib

import numpy as np
import pytest
import torch
from PIL import Image

from data.errors import UserError
from data.images.network_image import NetworkImage, read_network_image
from data.images.radiograph import read_radiograph
from modules.inference.predictor import Predictor
from tests.support.images.dicom_files import dicom
from tests.support.images.image_files import encoded
from tests.support.tiny_run import write_tiny_run

SIDE = 32
NAMES = ["scan.png", "two\nlines.png", "a\x1b[2J.dcm", "../up.jpg", "-rf", "\udcff.png", "\u202egnp.exe", "x" * 200]


def grey(rng, kind=np.uint8):
    """Random pixels of a random size, which is rarely large."""
    height, width = rng.integers(1, 40, size=2)
    if rng.random() < 0.05:
        height, width = rng.integers(257, 400, size=2)
    return rng.integers(0, np.iinfo(kind).max + 1, (height, width)).astype(kind)


def in_mode(rng, modes):
    return Image.fromarray(grey(rng)).convert(str(rng.choice(modes)))


def png(rng):
    image = in_mode(rng, ["L", "RGB", "RGBA", "LA", "1"])
    return encoded(image, interlace=bool(rng.random() < 0.5), optimize=bool(rng.random() < 0.5))


def palette(rng):
    image = in_mode(rng, ["P"])
    options = {"transparency": rng.bytes(256)} if rng.random() < 0.5 else {}
    return encoded(image, str(rng.choice(["PNG", "TIFF"])), **options)


def png_of_16_bits(rng):
    return encoded(grey(rng, np.uint16))


def jpeg(rng):
    image = in_mode(rng, ["L", "RGB", "CMYK"])
    return encoded(image, "JPEG", quality=int(rng.integers(1, 100)), progressive=bool(rng.random() < 0.5))


def jpeg_of_other_bits(rng):
    """A JPEG whose header claims 12 or 16 bits, which the installed decoders cannot read."""
    content = bytearray(encoded(Image.fromarray(grey(rng)), "JPEG"))
    content[content.index(b"\xff\xc0") + 4] = int(rng.choice([0, 12, 16]))
    return bytes(content)


def tiff(rng):
    image = in_mode(rng, ["L", "RGB", "CMYK", "1", "I", "F"])
    return encoded(image, "TIFF", compression=str(rng.choice(["raw", "tiff_lzw", "tiff_adobe_deflate"])))


def floats(rng):
    values = rng.normal(size=(5, 6)).astype(np.float32)
    values.flat[rng.integers(30, size=rng.integers(31))] = rng.choice([np.nan, np.inf, -np.inf])
    return encoded(values, "TIFF")


def animated(rng):
    frames = [Image.fromarray(grey(rng)).resize((9, 8)) for _ in range(rng.integers(2, 4))]
    kind = str(rng.choice(["PNG", "GIF", "TIFF", "WEBP"]))
    return encoded(frames[0], kind, save_all=True, append_images=frames[1:])


def other_pictures(rng):
    return encoded(in_mode(rng, ["L"]), str(rng.choice(["BMP", "GIF", "PPM", "WEBP", "ICO", "PDF", "PCX", "TGA"])))


def no_picture(rng):
    return [
        b"", b"\0", b"\0" * 500, b"%!PS\nshowpage", b"<svg xmlns='http://www.w3.org/2000/svg'/>", b"PK\3\4" + bytes(99),
        b"\x89PNG\r\n\x1a\n", b"\xff\xd8\xff", b"II*\0\x08\0\0\0", bytes(128) + b"DICM", rng.bytes(rng.integers(300)),
        b"{\"a\": 1}\n" * 20,
    ][rng.integers(12)]


def chunk(name, content):
    return struct.pack(">I", len(content)) + name + content + struct.pack(">I", zlib.crc32(name + content))


def png_of_any_size(rng):
    """A small file whose header claims a huge, empty or narrow image, sometimes with far too many pixels."""
    sides = [0, 1, 2, 50, 30_000, 60_000, 2**31 - 1, 2**32 - 1]
    header = struct.pack(">IIBBBBB", *(int(side) for side in rng.choice(sides, size=2)), 8, 0, 0, 0, 0)
    pixels = zlib.compress(bytes(int(rng.integers(1 << 20))))
    return b"\x89PNG\r\n\x1a\n" + chunk(b"IHDR", header) + chunk(b"IDAT", pixels) + chunk(b"IEND", b"")


def text_bomb(rng):
    """A PNG with a text chunk that expands to far more than its size."""
    content = encoded(np.zeros((4, 4), np.uint8))
    text = b"Comment\0\0" + zlib.compress(bytes(int(rng.integers(1 << 20, 1 << 22))))
    return content[:33] + chunk(b"zTXt", text) + content[33:]


def dicom_file(rng):
    elements = {"PhotometricInterpretation": str(rng.choice(["MONOCHROME1", "MONOCHROME2"]))}
    if rng.random() < 0.3:
        elements |= {"WindowCenter": str(rng.normal() * 1e4), "WindowWidth": str(rng.normal() * 1e4)}
    if rng.random() < 0.3:
        elements["ViewPosition"] = str(rng.choice(["PA", "AP", "LL", "\\", "two\nlines", ""]))
    return dicom(grey(rng, np.uint16), **elements)


def dicom_that_lies(rng):
    """One or two elements contradict the pixels."""
    lies = {
        "Rows": [0, 1, 500, 65535, None], "Columns": [0, 1, 500, 65535, None], "BitsAllocated": [0, 1, 8, 12, 32, None],
        "BitsStored": [0, 1, 8, 17, None], "HighBit": [0, 40], "SamplesPerPixel": [0, 2, 3, 4, None],
        "PixelRepresentation": [1, 2, None], "NumberOfFrames": [0, 2, 100_000],
        "PhotometricInterpretation": ["RGB", "PALETTE COLOR", "YBR_FULL", "", "ODD", None],
        "PixelPaddingValue": [0, 65535], "RescaleSlope": ["0", "1e30"], "RescaleIntercept": ["1e300", "-5"],
    }
    chosen = rng.choice(list(lies), size=rng.integers(1, 3), replace=False)
    return dicom(**{str(name): lies[name][rng.integers(len(lies[name]))] for name in chosen})


def dicom_without_pixels(rng):
    return dicom(PixelData=None, PatientID=str(rng.integers(1e9)))


def plain(rng):
    """A well-formed file, to be damaged."""
    return [png, jpeg, tiff, dicom_file, png_of_16_bits][rng.integers(5)](rng)


def truncated(rng):
    content = plain(rng)
    return content[: rng.integers(len(content))]


def flipped(rng):
    content = bytearray(plain(rng))
    # Damage to the header matters most.
    reach = len(content) if rng.random() < 0.5 else min(len(content), 200)
    for position in rng.integers(reach, size=rng.integers(1, 12)):
        content[position] = rng.integers(256)
    return bytes(content)


def glued(rng):
    """Parts of two files, or a file with bytes inserted or prepended."""
    one, other = plain(rng), plain(rng)
    cut = rng.integers(len(one))
    return [one[:cut] + other, one + other, rng.bytes(20) + one, one[:cut] + rng.bytes(50) + one[cut:]][rng.integers(4)]


FORMS = [
    png, palette, png_of_16_bits, jpeg, jpeg_of_other_bits, tiff, floats, animated, other_pictures, no_picture,
    png_of_any_size, text_bomb, dicom_file, dicom_that_lies, dicom_without_pixels, truncated, flipped, glued,
]
# The damaged forms vary most, so there are more of them.
COUNTS = {form: 45 for form in FORMS} | {truncated: 100, flipped: 125, glued: 100}


def test_there_are_a_thousand():
    assert sum(COUNTS.values()) == 1000


def assert_one_line(error):
    assert str(error).isprintable() and len(str(error)) < 600, repr(str(error))


@pytest.mark.parametrize("form", FORMS, ids=lambda form: form.__name__)
def test_each_is_an_image_or_one_line(form, tmp_path):
    outcomes = {"read": 0, "refused": 0}
    for number in range(COUNTS[form]):
        rng = np.random.default_rng([FORMS.index(form), number])
        content = form(rng)
        name = NAMES[rng.integers(len(NAMES))]
        path = tmp_path / name.replace("/", "_")
        path.write_bytes(content)
        try:
            image = read_network_image(path, "", SIDE, window=bool(rng.random() < 0.5))
        except UserError as error:
            assert_one_line(error)
            outcomes["refused"] += 1
        else:
            assert isinstance(image, NetworkImage) and image.pixels.shape == (SIDE, SIDE)
            assert image.pixels.dtype == torch.uint8 and min(image.size) > 0 and -1 <= image.agreement <= 1
            outcomes["read"] += 1
        path.unlink()
    readable = {png, palette, png_of_16_bits, jpeg, tiff, dicom_file}
    refused = {jpeg_of_other_bits, animated, other_pictures, no_picture, dicom_without_pixels}
    if form in readable:
        assert outcomes["read"] == COUNTS[form]
    elif form in refused:
        assert outcomes["refused"] == COUNTS[form]


@pytest.fixture(scope="module")
def predictor(tmp_path_factory):
    return Predictor(write_tiny_run(tmp_path_factory.mktemp("fuzzed"), lively=True)[0], device="cpu", beam_size=1)


@pytest.mark.parametrize("form", FORMS, ids=lambda form: form.__name__)
def test_some_go_through_the_whole_predictor(form, predictor, tmp_path):
    rng = np.random.default_rng([FORMS.index(form), 10_000])
    path = tmp_path / "two\nlines.png"
    path.write_bytes(form(rng))
    for image in (path, path.read_bytes()):
        try:
            prediction, = predictor.predict([image])
        except UserError as error:
            assert_one_line(error)
        else:
            assert prediction.image_size == read_radiograph(path).size and len(prediction.regions) == 29
            assert prediction.name.isprintable() and all(warning.isprintable() for warning in prediction.warnings)
