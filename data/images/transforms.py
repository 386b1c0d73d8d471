"""Image transforms for the network's input: resizing, normalisation, and augmentation of images with their boxes.

Images have one grey channel, which is repeated on normalisation. Boxes are xyxy in 0..1 of the image. No transform
mirrors the image, because that would swap left and right.
"""

import math
from dataclasses import dataclass, fields
from pathlib import Path
from typing import BinaryIO

import numpy as np
import torch
import torch.nn.functional as F
from numpy.typing import NDArray
from PIL import Image
from torch import Tensor

from data.errors import wrong_value

# The statistics for which torchvision's pretrained trunks expect normalised images.
IMAGENET_MEAN = (0.485, 0.456, 0.406)
IMAGENET_STD = (0.229, 0.224, 0.225)

# A region is no longer visible if less than this share of its box is inside the augmented image.
_MIN_VISIBLE_SHARE = 0.25

_MEAN = torch.tensor(IMAGENET_MEAN).view(3, 1, 1)
_STD = torch.tensor(IMAGENET_STD).view(3, 1, 1)


def read_squashed(file: str | Path | BinaryIO, image_size: int) -> Tensor:
    """Read a PNG or JPEG image of any colour mode as a grey square with side `image_size`, [H, H] uint8.

    Raises OSError, SyntaxError, ValueError or PIL's DecompressionBombError if the file is missing or damaged.
    """
    with Image.open(file) as image:
        # Decodes a JPEG at 1/2, 1/4 or 1/8 of its size if that is still large enough, which is much faster.
        image.draft("L", (image_size, image_size))
        return squash(Image.fromarray(to_grey(image)), image_size)


def to_grey(image: Image.Image) -> NDArray:
    """Convert an image of any mode to 8-bit grey, [height, width] uint8.

    Images of more than 8 bits are scaled from their minimum to their maximum, because the nominal range is rarely used
    (12 bits stored in 16). NaN becomes black, infinite values black or white. Raises ValueError if no pixel is finite.
    """
    if image.mode not in ("I", "F") and not image.mode.startswith("I;16"):
        return np.array(image.convert("L"))
    values = np.asarray(image, dtype=np.float64)
    finite = values[np.isfinite(values)]
    if not finite.size:
        raise ValueError("no pixel has a value")
    low, high = finite.min(), finite.max()
    values = np.nan_to_num(values, nan=low, posinf=high, neginf=low)
    return ((values - low) * (255 / max(high - low, 1e-6))).round().astype(np.uint8)


def squash(image: Image.Image, image_size: int) -> Tensor:
    """Resize an 8-bit grey image to a square, [H, H] uint8, with antialiasing and without keeping its aspect ratio."""
    return torch.from_numpy(np.array(image.resize((image_size, image_size), Image.Resampling.BILINEAR)))


def normalise(pixels: Tensor) -> Tensor:
    """Repeat grey pixels, [V, H, H] in 0..1, to three channels, normalised with ImageNet's statistics: [V, 3, H, H]."""
    return (pixels.unsqueeze(1) - _MEAN) / _STD


def clip_boxes(boxes: Tensor, visible: Tensor, min_share: float = 0.0) -> tuple[Tensor, Tensor]:
    """Clip `boxes` [R, 4] to the image, and return them with the new `visible` [R] bool.

    A visible region stays visible if at least `min_share` of its area, and not zero, is inside the image. The boxes of
    regions that are not visible become zeros.
    """
    clipped = boxes.clamp(0, 1)
    clipped_area = (clipped[:, 2:] - clipped[:, :2]).clamp(min=0).prod(dim=1)
    area = (boxes[:, 2:] - boxes[:, :2]).clamp(min=0).prod(dim=1)
    visible = visible & (clipped_area > 0) & (clipped_area >= min_share * area)
    return clipped * visible.unsqueeze(1), visible


@dataclass(frozen=True)
class Augmentation:
    """Limits of the random changes of training images; 0 for all disables augmentation.

    rotate     largest rotation about the centre, in degrees
    translate  largest shift along each axis, as a share of the image side
    scale      largest relative zoom: 0.1 means 0.9 to 1.1
    intensity  largest relative change of contrast (about the image's mean) and of brightness
    """

    rotate: float
    translate: float
    scale: float
    intensity: float

    def __post_init__(self) -> None:
        limits = {"rotate": 180.0, "translate": 0.5, "scale": 0.9, "intensity": 0.9}
        for field in fields(self):
            value = getattr(self, field.name)
            if not 0 <= value <= limits[field.name]:
                raise wrong_value(f"data.{field.name}", value, f"must be between 0 and {limits[field.name]}")

    def draw(self, generator: np.random.Generator) -> "Perturbation":
        """Draw the change of one image."""
        angle, shift_x, shift_y, zoom, contrast, brightness = generator.uniform(-1, 1, size=6).tolist()
        return Perturbation(
            angle=math.radians(self.rotate * angle),
            zoom=1 + self.scale * zoom,
            shift=(self.translate * shift_x, self.translate * shift_y),
            contrast=1 + self.intensity * contrast,
            brightness=1 + self.intensity * brightness,
        )


@dataclass(frozen=True)
class Perturbation:
    """A change of an image and its boxes: rotation and zoom about the centre, then a shift; contrast and brightness.

    angle       in radians, from the x axis (right) towards the y axis (down)
    zoom        factor
    shift       along x and y, as a share of the image side
    contrast    factor of the differences from the image's mean
    brightness  factor of all pixels
    """

    angle: float
    zoom: float
    shift: tuple[float, float]
    contrast: float
    brightness: float

    @property
    def _is_geometric(self) -> bool:
        return self.angle != 0 or self.zoom != 1 or self.shift != (0, 0)

    def apply_to_image(self, pixels: Tensor) -> Tensor:
        """Apply the change to an image, [H, H] float in 0..1; what comes from outside the image is black."""
        if self.contrast != 1 or self.brightness != 1:
            mean = pixels.mean()
            pixels = ((pixels - mean) * self.contrast + mean).mul_(self.brightness).clamp_(0, 1)
        if not self._is_geometric:
            return pixels
        # grid_sample needs the source of each pixel of the new image: the inverse map, in coordinates -1..1.
        cosine, sine = math.cos(self.angle) / self.zoom, math.sin(self.angle) / self.zoom
        shift_x, shift_y = 2 * self.shift[0], 2 * self.shift[1]
        inverse = torch.tensor(
            [
                [cosine, sine, -cosine * shift_x - sine * shift_y],
                [-sine, cosine, sine * shift_x - cosine * shift_y],
            ]
        )
        image = pixels[None, None]
        grid = F.affine_grid(inverse[None], list(image.shape), align_corners=False)
        return F.grid_sample(image, grid, mode="bilinear", padding_mode="zeros", align_corners=False)[0, 0]

    def apply_to_boxes(self, boxes: Tensor, visible: Tensor) -> tuple[Tensor, Tensor]:
        """Apply the change to `boxes` [R, 4], and return them with the new `visible` [R] bool.

        A rotated box becomes the axis-aligned box around its corners, clipped to the image. If less than a quarter of
        it is inside the image, the region is no longer visible and its box becomes zeros.
        """
        if not self._is_geometric:
            return boxes, visible
        x, y = boxes[:, [0, 2, 0, 2]] - 0.5, boxes[:, [1, 1, 3, 3]] - 0.5  # the four corners, [R, 4] each
        cosine, sine = math.cos(self.angle) * self.zoom, math.sin(self.angle) * self.zoom
        moved_x = cosine * x - sine * y + (0.5 + self.shift[0])
        moved_y = sine * x + cosine * y + (0.5 + self.shift[1])
        low_x, high_x = moved_x.aminmax(dim=1)
        low_y, high_y = moved_y.aminmax(dim=1)
        return clip_boxes(torch.stack([low_x, low_y, high_x, high_y], dim=1), visible, _MIN_VISIBLE_SHARE)
