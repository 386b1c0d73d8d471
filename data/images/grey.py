"""Converting images of any mode and depth to 8-bit grey, in bands of rows.

The largest image that is read has 100 million pixels, whose copies in floating point would take gigabytes. In bands,
little more is needed than the image as it was decoded and one byte for each pixel of the result.
"""

from collections.abc import Iterator, Sequence

import numpy as np
from numpy.typing import NDArray
from PIL import Image

from data.images.orientation import exif_orientation, turn_upright

# Pixels of a band. Most radiographs of a prepared data set are a single one.
_BAND_PIXELS = 1 << 22


def to_grey(image: Image.Image) -> NDArray:
    """Convert an image of any mode to 8-bit grey, [height, width] uint8, turned upright by its EXIF orientation.

    Images of more than 8 bits are scaled as in `scale_to_8_bits`. Transparency is ignored. Raises ValueError if no
    pixel has a value, and what Pillow raises for a damaged file.
    """
    image.load()
    bands = _Bands(image)
    is_deep = image.mode in ("I", "F") or image.mode.startswith("I;16")
    pixels = scale_to_8_bits(bands, image.size[::-1]) if is_deep else _join(
        (np.asarray(band.convert("L")) for band in bands.images()), image.size[::-1]
    )
    return turn_upright(pixels, exif_orientation(image))


class _Bands(Sequence):
    """The pixels of an image in bands of rows, each [rows, width]; several passes are possible."""

    def __init__(self, image: Image.Image):
        self._image = image
        self._slices = list(row_slices(image.size[::-1]))

    def __len__(self) -> int:
        return len(self._slices)

    def __getitem__(self, index: int) -> NDArray:
        return np.asarray(self._band(self._slices[index]))

    def images(self) -> Iterator[Image.Image]:
        """Yield the bands as images."""
        return map(self._band, self._slices)

    def _band(self, rows: slice) -> Image.Image:
        return self._image if len(self) == 1 else self._image.crop((0, rows.start, self._image.width, rows.stop))


def row_slices(shape: Sequence[int]) -> Iterator[slice]:
    """Yield the rows of an image of `shape` (height, width, ...) in bands that are small in any number format."""
    height, step = shape[0], max(1, _BAND_PIXELS // max(1, shape[1]))
    return (slice(start, min(start + step, height)) for start in range(0, height, step))


def scale_to_8_bits(bands: Sequence[NDArray], shape: tuple[int, int]) -> NDArray:
    """Scale pixels of any number format from their minimum to their maximum, to [height, width] uint8.

    The nominal range is rarely used (12 bits stored in 16). NaN becomes black, infinite values black or white.

    bands   the rows from top to bottom, each [rows, width]; read twice
    shape   (height, width) of all bands together

    Raises ValueError if no pixel is finite.
    """
    limits = [(finite.min(), finite.max()) for band in bands if (finite := band[np.isfinite(band)]).size]
    if not limits:
        raise ValueError("no pixel has a value")
    low, high = float(min(least for least, _ in limits)), float(max(most for _, most in limits))
    factor = 255 / max(high - low, 1e-6)

    def scaled() -> Iterator[NDArray]:
        for band in bands:
            values = np.nan_to_num(band.astype(np.float64), nan=low, posinf=high, neginf=low)
            yield ((values - low) * factor).round().astype(np.uint8)

    return _join(scaled(), shape)


def _join(bands: Iterator[NDArray], shape: tuple[int, int]) -> NDArray:
    """Stack bands to an image of `shape`, holding one of them at a time."""
    pixels = np.empty(shape, dtype=np.uint8)
    for rows, band in zip(row_slices(shape), bands, strict=True):
        pixels[rows] = band
    return pixels
