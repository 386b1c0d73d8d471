"""The shapes that phantom bodies are made of, and the attenuation of their materials.

Patient coordinates, in cm: x points to the patient's left (right in a frontal image), y points down from the apex of
the lungs, z points forward.
"""

from collections.abc import Sequence
from dataclasses import dataclass
from functools import cached_property

import numpy as np

# Attenuation coefficients at the energy of a chest X-ray, in 1/cm.
SOFT_TISSUE, LUNG, CORTICAL_BONE, METAL = 0.20, 0.052, 0.62, 2.2


@dataclass(frozen=True)
class Ellipsoid:
    """An ellipsoid, rotated by `angle` (radians, from x towards y) in the frontal plane.

    attenuation   added to that of the surrounding tissue, in 1/cm
    """

    centre: tuple[float, float, float]
    axes: tuple[float, float, float]
    attenuation: float = 0.0
    angle: float = 0.0

    @cached_property
    def covariance(self) -> np.ndarray:
        """[3, 3] matrix C with p' inverse(C) p = 1 on the surface, for p relative to the centre."""
        cosine, sine = np.cos(self.angle), np.sin(self.angle)
        rotation = np.array([[cosine, -sine, 0.0], [sine, cosine, 0.0], [0.0, 0.0, 1.0]])
        return rotation @ np.diag(np.square(self.axes)) @ rotation.T

    def outline(self) -> np.ndarray:
        """Return [4, 3] points whose bounding box in a frontal image is that of the ellipsoid."""
        x, y, z = self.centre
        reach_x, reach_y = np.sqrt(self.covariance[0, 0]), np.sqrt(self.covariance[1, 1])
        return np.array([[x - reach_x, y, z], [x + reach_x, y, z], [x, y - reach_y, z], [x, y + reach_y, z]])


@dataclass(frozen=True)
class Tubes:
    """Tubes along curves.

    points        [n, k, 3]: curves as polylines of k points
    radius        [n, k]: half the height of the cross-section, in the plane of the image
    attenuation   [n]: of the wall, added to that of the surrounding tissue, in 1/cm
    core          [n]: of the core
    hollow        radius of the core, relative to the radius of the tube; 0 if there is no core
    depth         extent along the beam, relative to that of a round tube
    inside_lung   show only the parts in aerated lung
    """

    points: np.ndarray
    radius: np.ndarray
    attenuation: np.ndarray
    core: np.ndarray | float = 0.0
    hollow: float = 0.0
    depth: float = 1.0
    inside_lung: bool = False

    @classmethod
    def from_polyline(
        cls, points: Sequence[Sequence[float]], radius: float | Sequence[float], attenuation: float, **form
    ) -> "Tubes":
        """Create a single tube along `points`, with one radius or one per point; `form` as in the class."""
        points = np.asarray(points, dtype=float)[None]
        return cls(points, np.broadcast_to(radius, points.shape[:2]), np.array([attenuation]), **form)


@dataclass(frozen=True)
class Opacity:
    """An opacity of the lung: an ellipsoid with a soft, uneven border.

    attenuation   added to that of the lung, in 1/cm
    roughness     how much the border follows the texture of the lung
    """

    ellipsoid: Ellipsoid
    attenuation: float
    roughness: float
