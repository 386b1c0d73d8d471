"""From a picture on disk to the network's input, boxes moving along.

Pixels are grey throughout: an X-ray has one channel, which is repeated only when it is normalised. Boxes are xyxy in
0..1 of the image and transform exactly; nothing mirrors the image, because left and right would swap.
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

from data.errors import UserError

# Statistics that the pretrained trunks of torchvision expect.
IMAGENET_MEAN = (0.485, 0.456, 0.406)
IMAGENET_DEVIATION = (0.229, 0.224, 0.225)

# A region with less of its box left inside the image than this counts as out of sight.
_LEAST_VISIBLE_SHARE = 0.25

_MEAN = torch.tensor(IMAGENET_MEAN).view(3, 1, 1)
_DEVIATION = torch.tensor(IMAGENET_DEVIATION).view(3, 1, 1)


def read_squashed(file: str | Path | BinaryIO, image_size: int) -> Tensor:
    """[H, H] uint8: the grey picture in `file`, squashed to a square of side H = `image_size` with antialiasing.

    PNG and JPEG, any colour mode. Pictures of more than 8 bits are stretched from their least to their greatest value
    first, because their nominal range is rarely the one in use (12 bits stored in 16). Raises OSError, SyntaxError,
    ValueError or PIL's DecompressionBombError for a file that is missing or damaged.
    """
    with Image.open(file) as image:
        # A JPEG decodes at a half, a quarter, ... of its size where that is still large enough: much faster.
        image.draft("L", (image_size, image_size))
        return squash(Image.fromarray(grey(image)), image_size)


def grey(image: Image.Image) -> NDArray:
    """[H, W] uint8 for an `image` of any mode; see `read_squashed` for more than 8 bits.

    Values that are no number become black, those beyond all bounds black or white. Raises ValueError where no pixel
    has a value.
    """
    if image.mode not in ("I", "F") and not image.mode.startswith("I;16"):
        return np.array(image.convert("L"))
    values = np.asarray(image, dtype=np.float64)
    known = values[np.isfinite(values)]
    if not known.size:
        raise ValueError("no pixel has a value")
    low, high = known.min(), known.max()
    values = np.nan_to_num(values, nan=low, posinf=high, neginf=low)
    return ((values - low) * (255 / max(high - low, 1e-6))).round().astype(np.uint8)


def squash(image: Image.Image, image_size: int) -> Tensor:
    """[H, H] uint8: the 8-bit grey `image` resized to a square without regard to its proportions."""
    return torch.from_numpy(np.array(image.resize((image_size, image_size), Image.Resampling.BILINEAR)))


def normalise(pixels: Tensor) -> Tensor:
    """[V, 3, H, H] from grey pixels [V, H, H] in 0..1: three equal channels by ImageNet's mean and deviation."""
    return (pixels.unsqueeze(1) - _MEAN) / _DEVIATION


def inside(boxes: Tensor, visible: Tensor, least_share: float = 0.0) -> tuple[Tensor, Tensor]:
    """`boxes` [R, 4] clipped to the image, and which of the `visible` [R] still are.

    A region stays visible with an area left, and at least `least_share` of its area. Invisible regions get zeros.
    """
    clipped = boxes.clamp(0, 1)
    area = (clipped[:, 2:] - clipped[:, :2]).clamp(min=0).prod(dim=1)
    whole_area = (boxes[:, 2:] - boxes[:, :2]).clamp(min=0).prod(dim=1)
    visible = visible & (area > 0) & (area >= least_share * whole_area)
    return clipped * visible.unsqueeze(1), visible


@dataclass(frozen=True)
class Augmentation:
    """How far training images are changed at random; 0 everywhere changes nothing.

    rotate     degrees to either side, about the centre
    translate  share of the image side, along each axis and to either side
    scale      relative zoom to either side: 0.1 draws from 0.9 to 1.1
    intensity  relative change of contrast (about the image's mean) and of brightness, to either side
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
                raise UserError(f"data.{field.name}={value}: must lie between 0 and {limits[field.name]}")

    def draw(self, generator: np.random.Generator) -> "Perturbation":
        """One change of one image."""
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
    """A change of an image and its boxes: rotation and zoom about the centre, then a shift, and new intensities.

    angle       radians, from the x axis (right) towards the y axis (down)
    zoom        factor
    shift       share of the image side, along x and y
    contrast, brightness   factors: about the image's mean, and of the whole
    """

    angle: float
    zoom: float
    shift: tuple[float, float]
    contrast: float
    brightness: float

    @property
    def _moves(self) -> bool:
        return self.angle != 0 or self.zoom != 1 or self.shift != (0, 0)

    def image(self, pixels: Tensor) -> Tensor:
        """The changed image [H, H] float of `pixels` [H, H] float in 0..1; black where nothing is known."""
        if self.contrast != 1 or self.brightness != 1:
            mean = pixels.mean()
            pixels = ((pixels - mean) * self.contrast + mean).mul_(self.brightness).clamp_(0, 1)
        if not self._moves:
            return pixels
        # grid_sample asks where each pixel of the new image comes from: the inverse map, in coordinates -1..1.
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

    def boxes(self, boxes: Tensor, visible: Tensor) -> tuple[Tensor, Tensor]:
        """`boxes` [R, 4] after the change, and which of the `visible` [R] are still in sight.

        A turned box becomes the smallest upright box around its corners, clipped to the image. A region with less than
        a quarter of that left inside the image is no longer visible and gets zeros.
        """
        if not self._moves:
            return boxes, visible
        x, y = boxes[:, [0, 2, 0, 2]] - 0.5, boxes[:, [1, 1, 3, 3]] - 0.5  # the four corners, [R, 4] each
        cosine, sine = math.cos(self.angle) * self.zoom, math.sin(self.angle) * self.zoom
        moved_x = cosine * x - sine * y + (0.5 + self.shift[0])
        moved_y = sine * x + cosine * y + (0.5 + self.shift[1])
        low_x, high_x = moved_x.aminmax(dim=1)
        low_y, high_y = moved_y.aminmax(dim=1)
        return inside(torch.stack([low_x, low_y, high_x, high_y], dim=1), visible, _LEAST_VISIBLE_SHARE)
