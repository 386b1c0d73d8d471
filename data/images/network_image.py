"""An original picture, brought to what a network sees of it in a prepared data set.

`data.prepare` reduces pictures to a short side of `IMAGE_SIDE` pixels and stores them as JPEG; the data set squashes
these to the network's square. Both steps are taken here by the very same functions, so that a model gives an original
the report that it gives its prepared image. A picture whose short side is no longer than that is taken for a prepared
one, and squashed as it is.
"""

import io
from dataclasses import dataclass
from pathlib import Path

import numpy as np
from numpy.typing import NDArray
from PIL import Image
from torch import Tensor

from data.errors import UserError
from data.images.atlas import chest_agreement
from data.images.image_store import IMAGE_SIDE, encode_image
from data.images.radiograph import Radiograph, check_size, read_radiograph
from data.images.transforms import grey, read_squashed, squash

# A picture as a file's path, the bytes of a file, or in memory: grey [H, W] of any numbers, or colours [H, W, 3] uint8.
Picture = Path | str | bytes | Image.Image | NDArray


@dataclass(frozen=True)
class NetworkImage:
    """A picture as the network sees it.

    pixels     [H, H] uint8
    view       "PA", "AP", "LATERAL", ...; "" where the file does not say
    size       (width, height) of the original
    agreement  how much it looks like a chest from the front, -1..1 (`data.images.atlas.chest_agreement`)
    warnings   short reasons to doubt the picture
    """

    pixels: Tensor
    view: str
    size: tuple[int, int]
    agreement: float
    warnings: tuple[str, ...] = ()


def read_network_image(picture: Picture, name: str, image_size: int, window: bool = False) -> NetworkImage:
    """The `picture`, which error messages call `name`, as a network of `image_size` sees it.

    window: show a DICOM file as its own window says, not as prepared data sets do.
    Raises UserError as `data.images.radiograph.read_radiograph` does.
    """
    radiograph = read_picture(picture, name, IMAGE_SIDE, window)
    if min(radiograph.size) > IMAGE_SIDE:
        squashed = read_squashed(io.BytesIO(encode_image(radiograph.pixels, IMAGE_SIDE)), image_size)
    else:
        if image_size < min(radiograph.size):
            # A JPEG decodes at the least size that will do, and so it does when a data set reads it.
            radiograph = read_picture(picture, name, image_size, window)
        squashed = squash(Image.fromarray(radiograph.pixels), image_size)
    return NetworkImage(
        squashed, radiograph.view, radiograph.size, chest_agreement(radiograph.pixels), radiograph.warnings
    )


def read_picture(picture: Picture, name: str, at_least: int | None = None, window: bool = False) -> Radiograph:
    """`picture` as 8-bit grey; the other arguments and errors as those of `data.images.radiograph.read_radiograph`."""
    if isinstance(picture, (str, Path)):
        return read_radiograph(Path(picture), name, at_least, window)
    if isinstance(picture, bytes):
        return read_radiograph(picture, name, at_least, window)
    image = picture if isinstance(picture, Image.Image) else _image_of(picture, name)
    check_size(image.size, name)
    try:
        return Radiograph(grey(image), "", image.size)
    except (OSError, ValueError, SyntaxError) as error:  # an image that is not decoded yet can be damaged
        raise UserError(f"{name} is damaged ({error}): replace it") from error


def _image_of(pixels: NDArray, name: str) -> Image.Image:
    """An array as an image: numbers of more than 8 bits as they are, to be stretched."""
    pixels = np.asarray(pixels)
    colours = pixels.ndim == 3 and pixels.shape[2] in (3, 4) and pixels.dtype == np.uint8
    if not (colours or (pixels.ndim == 2 and pixels.dtype.kind in "buif")):
        raise UserError(
            f"{name} is an array of {pixels.dtype} {list(pixels.shape)}: give [H, W] of numbers, or [H, W, 3] of uint8"
        )
    if pixels.dtype == bool:
        pixels = pixels.astype(np.uint8) * 255
    return Image.fromarray(pixels if pixels.dtype == np.uint8 else pixels.astype(np.float32))
