"""Image transforms on the CPU: resizing, drawing an augmentation, and moving boxes with the image.

The pixels are normalised and warped later, in a batch on the device (`data/images/network_input.py`). Images have one
grey channel. Boxes are xyxy in 0..1 of the image. No transform mirrors the image, because that would swap left and
right.
"""

import math
from dataclasses import dataclass, fields
from pathlib import Path
from typing import BinaryIO

import numpy as np
import torch
from numpy.typing import NDArray
from PIL import Image
from torch import Tensor

from data.errors import wrong_value
from data.images.domain_randomisation import randomise_domain
from data.images.grey import to_grey

# A region is no longer visible if less than this share of its box is inside the augmented image.
_MIN_VISIBLE_SHARE = 0.25

# An organ fills more of its box than an ellipse and less than a rectangle. The superellipse |x/a|^5 + |y/b|^5 = 1 keeps
# the area of boxes: for the 29 regions of rotated phantoms, areas are 0.99 (5 degrees) and 1.02 (10 degrees) times the
# true ones, against 1.09 and 1.18 for the box around the rotated corners, and 0.91 and 0.86 for an ellipse.
_BOX_EXPONENT = 5.0

# A warp interpolates linearly, without antialiasing, from an image of at most this many times the network's side. On
# phantoms this ratio comes closest to rotating at full resolution and then reducing: the error is 1.0 grey levels
# (root mean square), against 2.2 from the network's own side (blurred) and 1.8 from twice that (aliased).
_WARP_RATIO = 1.5


def warp_side(image_size: float) -> int:
    """Return the largest useful side of an image that is warped to the side `image_size`."""
    return round(_WARP_RATIO * image_size)


def read_squashed(file: str | Path | BinaryIO, image_size: int, largest: int | None = None) -> Tensor:
    """Read a PNG or JPEG image of any colour mode as a grey square, [S, S] uint8, upright by its EXIF orientation.

    S is `image_size`; with `largest`, it is the short side of the image, but between `image_size` and `largest`.
    Raises OSError, SyntaxError, ValueError or PIL's DecompressionBombError if the file is missing or damaged.
    """
    with Image.open(file) as image:
        side = image_size if largest is None else min(max(image_size, min(image.size)), largest)
        # Decodes a JPEG at 1/2, 1/4 or 1/8 of its size if that is still large enough, which is much faster.
        image.draft("L", (side, side))
        return squash(Image.fromarray(to_grey(image)), side)


def squash(image: Image.Image, image_size: int) -> Tensor:
    """Resize an 8-bit grey image to a square, [H, H] uint8, with antialiasing and without keeping its aspect ratio."""
    return torch.from_numpy(np.array(image.resize((image_size, image_size), Image.Resampling.BILINEAR)))


def clip_boxes(boxes: NDArray, visible: NDArray, min_share: float = 0.0) -> tuple[NDArray, NDArray]:
    """Clip `boxes` [R, 4] to the image, and return them with the new `visible` [R] bool.

    A visible region stays visible if at least `min_share` of its area, and not zero, is inside the image. The boxes of
    regions that are not visible become zeros.
    """
    clipped = boxes.clip(0, 1)
    clipped_area = _areas(clipped)
    visible = visible & (clipped_area > 0)
    if min_share > 0:
        visible &= clipped_area >= min_share * _areas(boxes)
    return clipped * visible[:, None], visible


def _areas(boxes: NDArray) -> NDArray:
    """Return the areas [R] of `boxes` [R, 4]; 0 for boxes whose corners are in the wrong order."""
    return (boxes[:, 2] - boxes[:, 0]).clip(min=0) * (boxes[:, 3] - boxes[:, 1]).clip(min=0)


@dataclass(frozen=True)
class Augmentation:
    """Limits of the random changes of training images; 0 for all, and `crop` 1, disable augmentation.

    rotate     largest rotation about the centre, in degrees
    translate  largest shift along each axis, as a share of the image side
    scale      largest relative zoom: 0.1 means 0.9 to 1.1
    intensity  largest relative change of contrast (about the image's mean) and of brightness
    crop       side of a randomly placed crop that is enlarged to the whole image, as a share of each side
    squash     largest relative change of the width, the height changing inversely: 0.2 means 0.8 to 1.2 times as wide
    domain_randomisation   share of images that `data.images.domain_randomisation` changes
    """

    rotate: float
    translate: float
    scale: float
    intensity: float
    crop: float = 1.0
    squash: float = 0.0
    domain_randomisation: float = 0.0

    def __post_init__(self) -> None:
        limits = {
            "rotate": (0, 180.0), "translate": (0, 0.5), "scale": (0, 0.9), "intensity": (0, 0.9), "crop": (0.1, 1.0),
            "squash": (0, 0.5), "domain_randomisation": (0, 1.0),
        }
        for field in fields(self):
            value, (low, high) = getattr(self, field.name), limits[field.name]
            if not low <= value <= high:
                raise wrong_value(f"data.{field.name}", value, f"must be between {low} and {high}")

    @property
    def is_geometric(self) -> bool:
        """Whether it moves anything, beyond changing intensities."""
        return self.rotate > 0 or self.translate > 0 or self.scale > 0 or self.crop < 1 or self.squash > 0

    def draw(self, generator: np.random.Generator) -> "Perturbation":
        """Draw the change of one image."""
        angle, shift_x, shift_y, zoom, contrast, brightness, *place = generator.uniform(-1, 1, size=8).tolist()
        margin = (1 - self.crop) / 2
        shift_x, shift_y = self.translate * shift_x + margin * place[0], self.translate * shift_y + margin * place[1]
        return Perturbation(
            angle=math.radians(self.rotate * angle),
            zoom=(1 + self.scale * zoom) / self.crop,
            shift=(shift_x / self.crop, shift_y / self.crop),
            contrast=1 + self.intensity * contrast,
            brightness=1 + self.intensity * brightness,
            # Without it nothing is drawn: the draws of earlier versions stay the same.
            squash=1 + self.squash * generator.uniform(-1, 1) if self.squash > 0 else 1.0,
        )

    def randomise(self, image: Tensor, generator: np.random.Generator) -> Tensor:
        """Return an image [S, S] uint8, or with the probability `domain_randomisation` a randomised copy."""
        if self.domain_randomisation == 0 or generator.random() >= self.domain_randomisation:
            return image
        randomised = randomise_domain(image.numpy().astype(np.float32) / 255, generator)
        return torch.from_numpy((randomised * 255 + 0.5).astype(np.uint8))


@dataclass(frozen=True)
class Perturbation:
    """A change of an image and its boxes: rotation and zoom about the centre, squashing, a shift; contrast, brightness.

    angle       in radians, from the x axis (right) towards the y axis (down)
    zoom        factor
    shift       along x and y, as a share of the image side
    contrast    factor of the differences from the image's mean
    brightness  factor of all pixels
    squash      factor of the width; the height is divided by it
    """

    angle: float
    zoom: float
    shift: tuple[float, float]
    contrast: float
    brightness: float
    squash: float = 1.0

    def matrix(self) -> NDArray:
        """Return the inverse map that `grid_sample` needs, float32 [2, 3]: new position -> source, in -1..1 each."""
        cosine, sine = math.cos(self.angle) / self.zoom, math.sin(self.angle) / self.zoom
        shift_x, shift_y = 2 * self.shift[0] / self.squash, 2 * self.shift[1] * self.squash
        return np.array(
            [
                [cosine / self.squash, sine * self.squash, -cosine * shift_x - sine * shift_y],
                [-sine / self.squash, cosine * self.squash, sine * shift_x - cosine * shift_y],
            ],
            dtype=np.float32,
        )

    def intensities(self, pixels: NDArray) -> tuple[float, float]:
        """Return gain and offset of the new pixels: clip(gain x + offset) for an image [H, H] uint8 with x in 0..1."""
        mean = float(pixels.mean(dtype=np.float64)) / 255
        return self.contrast * self.brightness, mean * (1 - self.contrast) * self.brightness

    def apply_to_boxes(self, boxes: NDArray, visible: NDArray) -> tuple[NDArray, NDArray]:
        """Apply the change to `boxes` [R, 4], and return them with the new `visible` [R] bool.

        A rotated box becomes the box around the rotated superellipse that fills it (see `_BOX_EXPONENT`), clipped to
        the image. A region whose box touches the border of the image continues beyond it, so it fills the corners of
        its box: the new box is the one around the rotated corners. If less than a quarter of it is inside the image,
        the region is no longer visible and its box becomes zeros.
        """
        if self.angle == 0 and self.zoom == self.squash == 1 and self.shift == (0, 0):
            return boxes, visible
        centre, half = (boxes[:, 2:] + boxes[:, :2]) / 2 - 0.5, (boxes[:, 2:] - boxes[:, :2]) / 2  # [R, 2]
        cosine, sine = math.cos(self.angle) * self.zoom, math.sin(self.angle) * self.zoom
        rotation = np.array([[cosine, -sine], [sine, cosine]], dtype=np.float32)
        rotation *= np.array([[self.squash], [1 / self.squash]], dtype=np.float32)
        # The support function of a superellipse of exponent p has the dual exponent p / (p - 1).
        is_cut = ((boxes <= 0) | (boxes >= 1)).any(axis=1)
        dual = np.where(is_cut, 1.0, _BOX_EXPONENT / (_BOX_EXPONENT - 1))[:, None]
        extent = (np.abs(rotation) * half[:, None]) ** dual[..., None]  # [R, 2, 2]
        half = extent.sum(axis=2) ** (1 / dual)
        centre = centre @ rotation.T + (np.array(self.shift) + 0.5)
        moved = np.concatenate([centre - half, centre + half], axis=1).astype(np.float32)
        return clip_boxes(moved, visible, _MIN_VISIBLE_SHARE)
