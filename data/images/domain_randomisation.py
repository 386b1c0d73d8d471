"""Domain randomisation: turns a simulated X-ray into one that could come from any machine, archive or screenshot.

A network trained on simulated images alone fails on real ones for reasons unrelated to the anatomy: another window,
arms beside the chest, a collimator's border, burnt-in letters. So these are drawn at random, far beyond what is usual,
until a real image is one more variant (Tobin et al. 2017, https://arxiv.org/abs/1703.06907). Only brightness changes
here; what moves boxes (rotation, zoom, squashing, crops) is in `data/images/transforms.py`.

Images are [height, width] float32 in 0..1 on which dense tissue is bright.
"""

from collections.abc import Callable

import numpy as np
from numpy.typing import NDArray
from PIL import Image, ImageDraw, ImageFont
from scipy import ndimage

_WORDS = ("L", "R", "AP", "PA", "ERECT", "PORTABLE", "SUPINE", "LEFT", "12:41", "2019", "MOBILE", "SEMI")

Step = Callable[[NDArray, np.random.Generator], NDArray]


def randomise_domain(pixels: NDArray, generator: np.random.Generator) -> NDArray:
    """Return a randomised copy of an image, of the same shape and still in 0..1.

    Each kind of change is applied with its own probability, in the order in which it arises: patient, machine, archive.
    """
    image = np.asarray(pixels, dtype=np.float32)
    for step, probability in STEPS:
        if generator.random() < probability:
            image = step(image, generator)
    return image.clip(0, 1).astype(np.float32)


def add_arms(image: NDArray, generator: np.random.Generator) -> NDArray:
    """Add upper arms: bright, blurred bands on one or both sides of the chest."""
    height, width = image.shape
    canvas, draw = _canvas(image)
    for side in generator.choice([0, 1], size=generator.integers(1, 3), replace=False):
        top, bottom = generator.uniform(0.02, 0.12, size=2)
        x = [side * width + (1 - 2 * side) * edge * width for edge in (top, bottom)]
        y = [generator.uniform(-0.1, 0.4) * height, generator.uniform(0.6, 1.2) * height]
        draw.line([x[0], y[0], x[1], y[1]], fill=255, width=max(2, int(generator.uniform(0.08, 0.2) * width)))
    return image + generator.uniform(0.15, 0.6) * _blurred(canvas, generator.uniform(0.5, 3.0) * width / 128)


def add_opacities(image: NDArray, generator: np.random.Generator) -> NDArray:
    """Add one to five soft opacities of any size anywhere, such as consolidations and effusions."""
    height, width = image.shape
    rows, columns = np.mgrid[:height, :width].astype(np.float32)
    for _ in range(generator.integers(1, 6)):
        x, y = generator.uniform(0.1, 0.9) * width, generator.uniform(0.2, 0.95) * height
        wide, high = generator.uniform(0.04, 0.22) * width, generator.uniform(0.04, 0.22) * height
        blob = np.exp(-(((columns - x) / wide) ** 2) - ((rows - y) / high) ** 2)
        image = image + generator.uniform(0.05, 0.45) * blob
    return image


def add_devices(image: NDArray, generator: np.random.Generator) -> NDArray:
    """Add lines, tubes and electrodes."""
    height, width = image.shape
    canvas, draw = _canvas(image)
    for _ in range(generator.integers(1, 5)):
        ends = generator.uniform(0, 1, size=(3, 2))
        along = np.linspace(0, 1, 12)[:, None]
        curve = (1 - along) ** 2 * ends[0] + 2 * along * (1 - along) * ends[1] + along**2 * ends[2]
        draw.line([(x * width, y * height) for x, y in curve], fill=255, width=int(generator.integers(1, 3)))
    for _ in range(generator.integers(0, 4)):
        (x, y), radius = generator.uniform(0, 1, size=2) * (width, height), generator.uniform(0.008, 0.025) * width
        draw.ellipse([x - radius, y - radius, x + radius, y + radius], fill=255)
    return image + generator.uniform(0.2, 0.9) * _blurred(canvas, generator.uniform(0, 0.8))


def change_exposure(image: NDArray, generator: np.random.Generator) -> NDArray:
    """Apply a window, whose ends are quantiles of the image, then a gamma and an S-shaped curve."""
    low, high = np.quantile(image, [generator.uniform(0.0, 0.3), generator.uniform(0.62, 1.0)])
    level = ((image - low) / max(high - low, 0.05)).clip(0, 1)
    level = level ** np.exp(generator.uniform(-0.8, 0.8))
    steepness = generator.uniform(0.5, 6.0)
    ends = np.tanh(steepness / 2)
    level = (np.tanh(steepness * (level - 0.5)) / ends + 1) / 2
    dark, bright = generator.uniform(0, 0.25), generator.uniform(0.75, 1.0)
    return dark + (bright - dark) * level


def change_local_contrast(image: NDArray, generator: np.random.Generator) -> NDArray:
    """Remove, or exaggerate, differences between distant parts of the image, as processing software does."""
    blurred = _blurred(image, generator.uniform(0.05, 0.2) * image.shape[1])
    return image + generator.uniform(-0.7, 0.4) * (blurred - blurred.mean())


def add_shading(image: NDArray, generator: np.random.Generator) -> NDArray:
    """Add an uneven exposure: a gradient and a bow."""
    rows, columns = (np.linspace(-1, 1, side, dtype=np.float32) for side in image.shape)
    across, down, bow = generator.uniform(-0.2, 0.2, size=3)
    return image + across * columns + down * rows[:, None] + bow * (columns**2 + rows[:, None] ** 2 - 0.7)


def add_scatter(image: NDArray, generator: np.random.Generator) -> NDArray:
    """Mix the image with its own blur: the haze of scattered radiation."""
    share = generator.uniform(0.1, 0.5)
    return (1 - share) * image + share * _blurred(image, generator.uniform(0.04, 0.15) * image.shape[1])


def blur(image: NDArray, generator: np.random.Generator) -> NDArray:
    """Blur the image."""
    return _blurred(image, generator.uniform(0.3, 1.6) * image.shape[1] / 128)


def add_noise(image: NDArray, generator: np.random.Generator) -> NDArray:
    """Add Gaussian noise."""
    noise = generator.standard_normal(image.shape, dtype=np.float32)
    return image + generator.uniform(0.005, 0.06) * noise


def invert(image: NDArray, generator: np.random.Generator) -> NDArray:
    """Invert the image, as files are whose photometric interpretation was lost."""
    return 1 - image


def collimate(image: NDArray, generator: np.random.Generator) -> NDArray:
    """Cover one to four borders with a uniform strip, or the outside of a slightly rotated rectangle."""
    height, width = image.shape
    canvas, draw = _canvas(image)
    edges = generator.uniform(0.005, 0.09, size=4) * (generator.random(4) < 0.6)
    tilt = generator.uniform(-0.015, 0.015, size=4)
    left, top, right, bottom = edges[0] * width, edges[1] * height, (1 - edges[2]) * width, (1 - edges[3]) * height
    corners = [
        (left + tilt[0] * width, top), (right, top + tilt[1] * height), (right + tilt[2] * width, bottom),
        (left, bottom + tilt[3] * height),
    ]
    draw.polygon(corners, fill=255)
    inside = np.asarray(canvas) > 0
    value = generator.choice([0.0, 1.0, generator.random()], p=[0.6, 0.3, 0.1])
    return np.where(inside, image, np.float32(value))


def add_labels(image: NDArray, generator: np.random.Generator) -> NDArray:
    """Add burnt-in letters and the rectangles of name plates, mostly near the border."""
    height, width = image.shape
    result = Image.fromarray((image.clip(0, 1) * 255).astype(np.uint8))
    draw = ImageDraw.Draw(result)
    for _ in range(generator.integers(1, 5)):
        near = generator.random(2) < 0.7
        place = near * generator.choice([0.0, 0.86], size=2) + generator.uniform(0, np.where(near, 0.14, 1.0))
        x, y = place * (width, height)
        shade = int(generator.choice([0, 255, generator.integers(256)], p=[0.3, 0.6, 0.1]))
        if generator.random() < 0.6:
            size = generator.uniform(0.04, 0.1) * height
            draw.text((x, y), str(generator.choice(_WORDS)), fill=shade, font=ImageFont.load_default(size))
        else:
            right, bottom = x + generator.uniform(0.03, 0.2) * width, y + generator.uniform(0.02, 0.1) * height
            draw.rectangle([x, y, right, bottom], fill=shade)
    return np.asarray(result, dtype=np.float32) / 255


def _canvas(image: NDArray) -> tuple[Image.Image, ImageDraw.ImageDraw]:
    """Return a black 8-bit image of the same size, and a pencil for it."""
    canvas = Image.new("L", image.shape[::-1])
    return canvas, ImageDraw.Draw(canvas)


def _blurred(image: NDArray | Image.Image, sigma: float) -> NDArray:
    """Return the image blurred by a Gaussian, float32 in 0..1; `sigma` in pixels."""
    pixels = np.asarray(image, dtype=np.float32)
    if isinstance(image, Image.Image):
        pixels = pixels / 255
    if sigma > 6:  # a wide blur needs only a coarse image
        factor = int(sigma / 3)
        small = ndimage.uniform_filter(pixels, factor, mode="nearest")[factor // 2 :: factor, factor // 2 :: factor]
        small = ndimage.gaussian_filter(small, sigma / factor, mode="nearest", truncate=3)
        resized = Image.fromarray(small).resize(pixels.shape[::-1], Image.Resampling.BILINEAR)
        return np.asarray(resized)
    return ndimage.gaussian_filter(pixels, sigma, mode="nearest", truncate=3)


# Every kind of change with its probability, in the order of application.
STEPS: tuple[tuple[Step, float], ...] = (
    (add_arms, 0.4), (add_opacities, 0.4), (add_devices, 0.3), (add_scatter, 0.4), (change_exposure, 0.95),
    (change_local_contrast, 0.4), (add_shading, 0.5), (blur, 0.5), (add_noise, 0.5), (invert, 0.05), (collimate, 0.4),
    (add_labels, 0.4),
)
