"""The simulation of X-ray images of phantom chests: projection, detector and display. Images are [H, H] arrays."""

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
from scipy import ndimage

from data.sources.phantom.attenuation import line_integrals, upsample
from data.sources.phantom.findings import Finding
from data.sources.phantom.pathology import build_chest
from data.sources.phantom.patient import Patient
from data.sources.phantom.projection import Projection
from data.sources.phantom.regions import Box, region_boxes
from data.sources.phantom.shapes import SOFT_TISSUE

# Photons per pixel of a 256-pixel image without a patient.
PHOTONS = 4.0e4
# Lateral views need a higher exposure, because the patient is thicker.
LATERAL_EXPOSURE = 8.0
SCATTER_SHARE, SCATTER_REACH_CM = 0.2, 3.0
# Scatter arises inside the patient: beams that miss the patient, or pass through thin parts, cause no more of it than a
# beam with this attenuation (frontal, lateral).
MIN_SCATTER_ATTENUATION = (3.0, 4.5)


@dataclass(frozen=True)
class SimulatedView:
    """A simulated X-ray image.

    image    [H, H] uint8; high attenuation is bright
    boxes    region -> xyxy in 0..1 of the image, None for regions outside it; empty for a lateral view
    cardiothoracic_ratio   width of the heart divided by that of the rib cage
    """

    image: np.ndarray
    boxes: dict[str, Box | None]
    cardiothoracic_ratio: float


def simulate(
    patient: Patient, findings: Sequence[Finding], size: int, noise_seed: int, lateral: bool = False
) -> SimulatedView:
    """Simulate a frontal or lateral image of `patient` with `findings`, `size` pixels per side.

    Images of the same patient with the same `noise_seed` differ only by their findings.
    """
    chest = build_chest(patient, findings)
    projection = Projection(chest, size, lateral)
    attenuation = line_integrals(chest, projection)
    image = display(detect(attenuation, projection, np.random.default_rng(noise_seed)), patient, lateral)
    boxes = {} if lateral else region_boxes(chest, projection)
    return SimulatedView(image, boxes, chest.cardiothoracic_ratio)


def detect(attenuation: np.ndarray, projection: Projection, rng: np.random.Generator) -> np.ndarray:
    """Return the detector signal [H, H]: the negative logarithm of photon counts with scatter, blur and noise.

    Noise is the normal approximation of Poisson noise, valid for counts in the hundreds and above. Unlike Poisson
    samples, it gives the same deviations for the same seed, so that two images of a patient differ by the finding
    alone.
    """
    transmitted = ndimage.gaussian_filter(np.exp(-attenuation), 0.55, mode="nearest")
    small, factor = _block_average(np.exp(-np.maximum(attenuation, MIN_SCATTER_ATTENUATION[projection.lateral])))
    scattered = ndimage.gaussian_filter(small, SCATTER_REACH_CM * projection.pixels_per_cm / factor, mode="nearest")
    transmitted = (1 - SCATTER_SHARE) * transmitted + SCATTER_SHARE * upsample(scattered, projection.size)
    photons = PHOTONS * (256 / projection.size) ** 2 * (LATERAL_EXPOSURE if projection.lateral else 1)
    counts = transmitted * photons
    counts += np.sqrt(counts) * rng.standard_normal(counts.shape, dtype=np.float32)
    return -np.log(np.maximum(counts, 1.0) / photons)


def _block_average(image: np.ndarray) -> tuple[np.ndarray, int]:
    """Average blocks of an image so that about 32 remain per side; also return the side of a block in pixels."""
    side = len(image)
    block = max(1, side // 32)
    while side % block:
        block -= 1
    return image.reshape(side // block, block, side // block, block).mean((1, 3)), block


def display(signal: np.ndarray, patient: Patient, lateral: bool = False) -> np.ndarray:
    """Convert a detector signal to uint8 [H, H], in a window that suits the size of the patient; bones are bright."""
    if lateral:
        wall = 2 * SOFT_TISSUE * (patient.wall + 1.0)
        lungs, mediastinum = wall + 1.7, wall + SOFT_TISSUE * 2 * patient.half_width
    else:
        wall = 2 * SOFT_TISSUE * 0.6 * (patient.wall + 1.0)
        lungs, mediastinum = wall + 0.9, wall + SOFT_TISSUE * 2 * patient.half_depth
    span = (mediastinum - lungs) * 1.25 / patient.contrast
    level = (signal - lungs) / span + patient.brightness
    small, _ = _block_average(level)
    blurred = upsample(ndimage.gaussian_filter(small, 0.06 * len(small), mode="nearest"), len(level))
    level = 0.8 * blurred + 1.5 * (level - blurred)
    return (255 * _film_response(level) + 0.5).astype(np.uint8)


def _film_response(level: np.ndarray) -> np.ndarray:
    """Map levels to brightness in 0..1 with the sigmoid curve of photographic film."""
    return 1 / (1 + np.exp(-4.2 * (level - 0.5)))
