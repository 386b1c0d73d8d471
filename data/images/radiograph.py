"""Pictures as archives hold them (PNG, JPEG, TIFF, DICOM) as 8-bit grey."""

import io
import warnings
from dataclasses import dataclass
from pathlib import Path
from typing import BinaryIO

import numpy as np
from PIL import Image, UnidentifiedImageError

from data.errors import UserError, readable
from data.images.dicom import MOST_PIXELS, looks_like_dicom, read_dicom, short_reason
from data.images.transforms import grey

# Only these: Pillow's other readers are for pictures that no archive of radiographs holds, and some start programs.
_FORMATS = ("PNG", "JPEG", "TIFF")
_HEAD = 132
_JPEG_END = b"\xff\xd9"
# More than the largest picture takes without compression (`MOST_PIXELS` of 16 bits, or of three colours).
_MOST_BYTES = 1 << 29
# How many times longer than wide a picture may be. Reduced to a short side of 256 pixels, a JPEG can hold it then.
_MOST_ELONGATED = 50


@dataclass(frozen=True)
class Radiograph:
    """A picture that was read.

    pixels    [H, W] uint8 grey
    view      "PA", "AP", "LATERAL", ...; "" where the file does not say, as only DICOM does
    size      (width, height) of the file's full resolution, even where fewer pixels were asked for
    warnings  short reasons to doubt the picture, the same words for the same reason
    """

    pixels: np.ndarray
    view: str
    size: tuple[int, int]
    warnings: tuple[str, ...] = ()


def read_radiograph(
    source: Path | bytes, name: str = "", at_least: int | None = None, window: bool = False
) -> Radiograph:
    """The picture in a file, or in the bytes of one; its content tells the kind, not its name.

    More than 8 bits are stretched from the least to the greatest value, because their nominal range is rarely the one
    in use (12 bits stored in 16). Transparency is left out: what lies under it is the picture. For DICOM see
    `data.images.dicom.read_dicom`.

    name      what error messages call the source; by default the path
    at_least  fewer pixels will do, as long as the shorter side keeps so many: a JPEG then decodes much faster
    window    show a DICOM file as its own window says

    Raises UserError naming the source for whatever cannot be read as one picture.
    """
    name = name or ("the image" if isinstance(source, bytes) else readable(str(source)))
    try:
        _check_file(source, name)
        with io.BytesIO(source) if isinstance(source, bytes) else source.open("rb") as file:
            head = file.read(_HEAD)
            file.seek(0)
            if not head:
                raise UserError(f"{name} is empty: replace it")
            if looks_like_dicom(head):
                image = read_dicom(file, name, window)
                check_size(image.pixels.shape[::-1], name)
                return Radiograph(image.pixels, image.view, image.pixels.shape[::-1], image.warnings)
            return _read_picture(file, name, at_least)
    except OSError as error:
        raise UserError(f"Cannot read {name}: {error.strerror or short_reason(error)}") from error


def _check_file(source: Path | bytes, name: str) -> None:
    """Raise UserError for what would take forever to read: a pipe, a device, an enormous file."""
    size = len(source) if isinstance(source, bytes) else source.stat().st_size
    if size > _MOST_BYTES:
        raise UserError(f"{name} has {size / 2**20:.0f} MiB, too many for a radiograph: replace it")
    if isinstance(source, Path) and not (source.is_file() or source.is_dir()):
        raise UserError(f"{name} is no file: give one")


def check_size(size: tuple[int, int], name: str) -> None:
    """Raise UserError, before anything is decoded, for a (width, height) that no radiograph has."""
    width, height = size
    if width * height > MOST_PIXELS:
        raise UserError(f"{name} has {width} x {height} pixels, too many for a radiograph: replace it")
    if not 0 < max(size) <= _MOST_ELONGATED * min(size):
        raise UserError(f"{name} has {width} x {height} pixels: no radiograph is so narrow, replace it")


def _read_picture(file: BinaryIO, name: str, at_least: int | None) -> Radiograph:
    """The PNG, JPEG or TIFF in `file`."""
    try:
        with warnings.catch_warnings():
            # Pillow warns of large pictures, which are refused below, and of details of broken files.
            warnings.simplefilter("ignore")
            with Image.open(file, formats=_FORMATS) as image:
                size = image.size
                if getattr(image, "n_frames", 1) > 1:
                    raise UserError(f"{name} holds {image.n_frames} pictures: give a file of one")
                check_size(size, name)
                # A JPEG decodes at a half, a quarter, ... of its size, and grey only: much faster.
                image.draft("L", size if at_least is None else (at_least, at_least))
                return Radiograph(grey(image), "", size)
    except UserError:
        raise
    except UnidentifiedImageError as error:
        file.seek(0)
        content = file.read()
        if _jpeg_bits(content) > 8:
            return _read_deep_jpeg(content, name)
        raise UserError(f"{name} is no PNG, JPEG, TIFF or DICOM picture: replace it") from error
    # A damaged file can lead the decoders anywhere.
    except Exception as error:
        raise UserError(f"{name} is damaged ({short_reason(error)}): replace it") from error


def _jpeg_bits(content: bytes) -> int:
    """The bits of a pixel that the frame header of a JPEG states; 0 for what is no JPEG or has none."""
    position = 2 if content[:2] == b"\xff\xd8" else len(content)
    while position + 5 <= len(content) and content[position] == 0xFF:
        marker = content[position + 1]
        if 0xC0 <= marker <= 0xCF and marker not in (0xC4, 0xC8, 0xCC):  # tables and extensions, no frames
            return content[position + 4]
        position += 2 + int.from_bytes(content[position + 2 : position + 4], "big")
    return 0


def _read_deep_jpeg(content: bytes, name: str) -> Radiograph:
    """A JPEG of more than 8 bits, which Pillow does not know, by the package that decodes those in DICOM files."""
    try:
        import libjpeg
    except ImportError as error:
        raise UserError(
            f"{name} is a JPEG of {_jpeg_bits(content)} bits: pip install pylibjpeg-libjpeg to read it, or convert it"
        ) from error
    try:
        described = libjpeg.get_parameters(content)
        size = (described["columns"], described["rows"])
        check_size(size, name)
        if described["nr_components"] != 1:
            raise UserError(f"{name} is a JPEG of {described['precision']} bits in colour: convert it")
        if _JPEG_END not in content[-64:]:  # libjpeg would make up what is missing
            raise ValueError("it is cut short")
        return Radiograph(grey(Image.fromarray(libjpeg.decode(content).astype(np.float32))), "", size)
    except (RuntimeError, ValueError) as error:
        raise UserError(f"{name} is damaged ({short_reason(error)}): replace it") from error
