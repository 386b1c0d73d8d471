"""Reading radiographs in PNG, JPEG, TIFF or DICOM as 8-bit grey images."""

import io
import warnings
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import BinaryIO

import numpy as np
from PIL import Image, UnidentifiedImageError

from data.errors import UserError, cannot_read, damaged, readable, reason, wrong_format
from data.images.dicom import MAX_LARGE_PIXELS, MAX_PIXELS, looks_like_dicom, read_dicom
from data.images.grey import row_slices, scale_to_8_bits, to_grey
from data.images.jpeg_scans import check_scans
from data.images.orientation import exif_orientation, exif_orientation_of_bytes, is_on_side, turn_upright

# Archives of radiographs use no other formats, and some of Pillow's other readers start programs.
_FORMATS = ("PNG", "JPEG", "TIFF")
_HEAD_SIZE = 132
# Modes whose decoded pixels take one or two bytes; Pillow stores those of all others in four.
_SMALL_MODES = ("1", "L", "P", "I;16", "I;16L", "I;16B", "I;16N")
_JPEG_START, _JPEG_END = b"\xff\xd8", b"\xff\xd9"
# More than the largest image takes without compression (`MAX_PIXELS` of 16 bits, or of three colours).
_MAX_BYTES = 1 << 29
# Largest ratio of the sides: with a short side of 256 pixels, JPEG can still store the image.
_MAX_ASPECT_RATIO = 50


@dataclass(frozen=True)
class Radiograph:
    """An image that was read.

    pixels    [height, width] uint8 grey, upright
    view      "PA", "AP", "LATERAL", ...; "" if the file does not state it; only DICOM files do
    size      (width, height) of the full resolution, even if fewer pixels were read
    warnings  short reasons why the image may not look as a radiologist sees it
    """

    pixels: np.ndarray
    view: str
    size: tuple[int, int]
    warnings: tuple[str, ...] = ()


def read_radiograph(
    source: Path | bytes, name: str = "", min_side: int | None = None, window: bool = False
) -> Radiograph:
    """Read an image from a file, or from the bytes of a file; the format is detected from the content.

    Images of more than 8 bits are scaled from their minimum to their maximum, because the nominal range is rarely used
    (12 bits stored in 16). Transparency is ignored. An image that is stored turned or mirrored by its EXIF orientation
    is turned upright. For DICOM see `data.images.dicom.read_dicom`.

    name      of the image in error messages; defaults to the path
    min_side  allow a lower resolution whose shorter side has at least this number of pixels: large JPEGs decode faster
    window    apply the file's own window, if it is a DICOM file

    Raises UserError naming the image if it cannot be read.
    """
    name = name or ("the image" if isinstance(source, bytes) else readable(str(source)))
    try:
        _check_file(source, name)
        with io.BytesIO(source) if isinstance(source, bytes) else source.open("rb") as file:
            head = file.read(_HEAD_SIZE)
            file.seek(0)
            if not head:
                raise UserError(f"{name} is empty: replace it")
            if looks_like_dicom(head):
                image = read_dicom(file, name, window)
                check_size(image.pixels.shape[::-1], name)
                return Radiograph(image.pixels, image.view, image.pixels.shape[::-1], image.warnings)
            if head.startswith(_JPEG_START):
                check_scans(file.read(), name)
                file.seek(0)
            return _read_with_pillow(file, name, min_side)
    except (OSError, ValueError) as error:  # ValueError: no file can have this name
        raise cannot_read(name, error) from error


def _check_file(source: Path | bytes, name: str) -> None:
    """Raise UserError for sources that could take forever to read: pipes, devices, huge files."""
    size = len(source) if isinstance(source, bytes) else source.stat().st_size
    if size > _MAX_BYTES:
        raise UserError(f"{name} has {size / 2**20:.0f} MiB, too many for a radiograph: replace it")
    if isinstance(source, Path) and not (source.is_file() or source.is_dir()):
        raise wrong_format(name, "a regular file", "use an image file")


def check_size(size: tuple[int, int], name: str, mode: str = "L") -> None:
    """Raise UserError for a (width, height) that no radiograph has; call it before decoding.

    mode  Pillow's mode, which decides how many bytes a decoded pixel takes
    """
    width, height = size
    if width * height > (MAX_PIXELS if mode in _SMALL_MODES else MAX_LARGE_PIXELS):
        raise UserError(f"{name} has {width} x {height} pixels, too many for a radiograph: replace it")
    if not 0 < max(size) <= _MAX_ASPECT_RATIO * min(size):
        raise UserError(f"{name} has {width} x {height} pixels, too narrow for a radiograph: replace it")


def _read_with_pillow(file: BinaryIO, name: str, min_side: int | None) -> Radiograph:
    """Read a PNG, JPEG or TIFF image."""
    try:
        with warnings.catch_warnings():
            # Pillow warns about large images, which `check_size` rejects, and about details of broken files.
            warnings.simplefilter("ignore")
            with Image.open(file, formats=_FORMATS) as image:
                size = image.size
                if getattr(image, "n_frames", 1) > 1:
                    raise UserError(f"{name} contains {image.n_frames} images: use a file with one")
                check_size(size, name)
                # Decodes a JPEG at 1/2, 1/4 or 1/8 of its size, without colours, which is much faster.
                image.draft("L", size if min_side is None else (min_side, min_side))
                check_size(image.size, name, image.mode)
                pixels = to_grey(image)
                return Radiograph(pixels, "", size[::-1] if is_on_side(exif_orientation(image)) else size)
    except UserError:
        raise
    except UnidentifiedImageError as error:
        file.seek(0)
        content = file.read()
        if _jpeg_bits(content) > 8:
            return _read_deep_jpeg(content, name)
        raise wrong_format(name, "a PNG, JPEG, TIFF or DICOM image", "replace it") from error
    # The decoders can raise anything for a damaged file.
    except Exception as error:
        raise damaged(name, reason(error), "replace it") from error


def _jpeg_bits(content: bytes) -> int:
    """Return the bits per pixel from the frame header of a JPEG; 0 if there is no such header."""
    for marker, segment in _jpeg_segments(content):
        if 0xC0 <= marker <= 0xCF and marker not in (0xC4, 0xC8, 0xCC):  # these are tables and extensions, not frames
            return segment[0] if segment else 0
    return 0


def _jpeg_orientation(content: bytes) -> int:
    """Return the EXIF orientation of a JPEG."""
    exif = (segment for marker, segment in _jpeg_segments(content) if marker == 0xE1 and segment[:6] == b"Exif\0\0")
    return exif_orientation_of_bytes(next(exif, b""))


def _jpeg_segments(content: bytes) -> Iterator[tuple[int, bytes]]:
    """Yield marker and content of the segments before the pixels of a JPEG."""
    position = 2 if content[:2] == b"\xff\xd8" else len(content)
    while position + 4 <= len(content) and content[position] == 0xFF:
        length = int.from_bytes(content[position + 2 : position + 4], "big")
        yield content[position + 1], content[position + 4 : position + 2 + length]
        position += 2 + max(2, length)


def _read_deep_jpeg(content: bytes, name: str) -> Radiograph:
    """Read a JPEG of more than 8 bits, which Pillow does not support, with the package that decodes them in DICOM."""
    try:
        import libjpeg
    except ImportError as error:
        raise UserError(
            f"{name} is a JPEG of {_jpeg_bits(content)} bits: pip install pylibjpeg-libjpeg to read it, or convert it"
        ) from error
    try:
        parameters = libjpeg.get_parameters(content)
        size = (parameters["columns"], parameters["rows"])
        check_size(size, name)
        if parameters["nr_components"] != 1:
            raise UserError(f"{name} is a JPEG of {parameters['precision']} bits in colour: convert it")
        if _JPEG_END not in content[-64:]:  # libjpeg would invent the missing pixels
            raise ValueError("it is truncated")
        decoded = libjpeg.decode(content)
        pixels = scale_to_8_bits([decoded[rows] for rows in row_slices(decoded.shape)], decoded.shape)
        pixels = turn_upright(pixels, _jpeg_orientation(content))
        return Radiograph(pixels, "", pixels.shape[::-1])
    except (RuntimeError, ValueError) as error:
        raise damaged(name, reason(error), "replace it") from error
