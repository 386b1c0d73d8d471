"""Reading an image as the network sees it, whether it is an original or already prepared.

`data.prepare` reduces originals to a short side of `IMAGE_SIDE` pixels and stores them as JPEG; the data set resizes
these to the network's square. Originals go through the same two functions here, so a model generates the same report
for an original as for its prepared image. An image whose short side is at most `IMAGE_SIDE` counts as prepared.
"""

import io
from dataclasses import dataclass
from pathlib import Path

import numpy as np
from numpy.typing import NDArray
from PIL import Image
from torch import Tensor

from data.errors import UserError, damaged, reason
from data.images.grey import to_grey
from data.images.image_store import IMAGE_SIDE, encode_image
from data.images.jpeg_scans import check_scans
from data.images.lungs import chest_agreement
from data.images.radiograph import Radiograph, check_size, read_radiograph
from data.images.transforms import read_squashed, squash

# A path, the bytes of a file, or an image in memory: grey [height, width], or colour [height, width, 3] uint8.
ImageLike = Path | str | bytes | Image.Image | NDArray


@dataclass(frozen=True)
class NetworkImage:
    """An image as the network sees it.

    pixels     [H, H] uint8
    view       "PA", "AP", "LATERAL", ...; "" if the file does not state it
    size       (width, height) of the original
    agreement  how much it looks like a frontal chest X-ray, -1..1 (`data.images.lungs.chest_agreement`)
    warnings   short reasons why the image may not look as a radiologist sees it
    """

    pixels: Tensor
    view: str
    size: tuple[int, int]
    agreement: float
    warnings: tuple[str, ...] = ()


def read_network_image(image: ImageLike, name: str, image_size: int, window: bool = False) -> NetworkImage:
    """Read an image as a network with input side `image_size` sees it.

    name    of the image in error messages
    window  apply the window of a DICOM file instead of the preparation of data sets

    Raises UserError as `data.images.radiograph.read_radiograph` does.
    """
    radiograph = read_image(image, name, IMAGE_SIDE, window)
    if min(radiograph.size) > IMAGE_SIDE:
        pixels = read_squashed(io.BytesIO(encode_image(radiograph.pixels, IMAGE_SIDE)), image_size)
    else:
        if image_size < min(radiograph.size):
            # The data set decodes JPEGs at the smallest sufficient size: do the same.
            radiograph = read_image(image, name, image_size, window)
        pixels = squash(Image.fromarray(radiograph.pixels), image_size)
    return NetworkImage(
        pixels, radiograph.view, radiograph.size, chest_agreement(radiograph.pixels), radiograph.warnings
    )


def read_image(image: ImageLike, name: str, min_side: int | None = None, window: bool = False) -> Radiograph:
    """Read an image as 8-bit grey; arguments and errors are those of `data.images.radiograph.read_radiograph`."""
    if isinstance(image, (str, Path)):
        return read_radiograph(Path(image), name, min_side, window)
    if isinstance(image, bytes):
        return read_radiograph(image, name, min_side, window)
    if not isinstance(image, Image.Image):
        image = _from_array(image, name)
    check_size(image.size, name, image.mode)
    _check_undecoded(image, name)
    try:
        pixels = to_grey(image)
        return Radiograph(pixels, "", pixels.shape[::-1])
    except (OSError, ValueError, SyntaxError) as error:  # Pillow decodes lazily: a damaged file fails here
        raise damaged(name, reason(error), "replace it") from error


def _check_undecoded(image: Image.Image, name: str) -> None:
    """Raise UserError for a JPEG that Pillow has opened but not yet decoded, if it has too many scans."""
    file = getattr(image, "fp", None)
    if file is not None and image.format == "JPEG":
        position = file.tell()
        file.seek(0)
        check_scans(file.read(), name)
        file.seek(position)


def _from_array(pixels: NDArray, name: str) -> Image.Image:
    """Return an array as an image: 8-bit arrays and booleans as 8 bits, other numbers as floats."""
    pixels = np.asarray(pixels)
    is_colour = pixels.ndim == 3 and pixels.shape[2] in (3, 4) and pixels.dtype == np.uint8
    if not (is_colour or (pixels.ndim == 2 and pixels.dtype.kind in "buif")):
        raise UserError(
            f"{name} is an array of {pixels.dtype} {list(pixels.shape)}: use numbers [height, width], or uint8 "
            "[height, width, 3]"
        )
    check_size(pixels.shape[1::-1], name)  # converting copies the pixels
    if pixels.dtype == bool:
        pixels = pixels.astype(np.uint8) * 255
    return Image.fromarray(pixels if pixels.dtype == np.uint8 else pixels.astype(np.float32))
