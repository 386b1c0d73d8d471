"""The projection of patient coordinates onto the image: parallel beams, with each body magnified by its depth."""

import numpy as np

from data.sources.phantom.chest import Chest
from data.sources.phantom.patient import depth_magnification

# Side of the image at zoom 1, in cm on the detector.
FIELD_OF_VIEW = 37.5

Window = tuple[slice, slice]
WHOLE_IMAGE: Window = (slice(None), slice(None))


class Projection:
    """Converts between points of the patient and pixels of an image with `size` pixels per side.

    A frontal image shows the patient's left on its right; a lateral one shows the front on its left.
    """

    def __init__(self, chest: Chest, size: int, lateral: bool = False):
        pose = chest.patient.pose
        self.size = size
        self.lateral = lateral
        # Indices of the coordinate along the beam and of the one across the image.
        self.beam_axis, self.across_axis = (0, 2) if lateral else (2, 0)
        self._direction = -1.0 if lateral else 1.0
        self._view = "LATERAL" if lateral else chest.patient.view
        self._yaw, self._pitch = (pose.yaw * 0.5, 0.0) if lateral else (pose.yaw, pose.pitch)
        self._middle = 0.5 * chest.patient.lung_height + 0.5
        scale = size * pose.zoom / FIELD_OF_VIEW
        cosine, sine = np.cos(pose.roll), np.sin(pose.roll)
        self._to_pixels = scale * np.array([[cosine, -sine], [sine, cosine]])
        self._origin = size * (0.5 + np.array(pose.shift))
        pixels = np.arange(size) + 0.5
        from_pixels = np.linalg.inv(self._to_pixels)
        du, dv = pixels - self._origin[0], pixels - self._origin[1]
        self._u = (from_pixels[0, 0] * du[None, :] + from_pixels[0, 1] * dv[:, None]).astype(np.float32)
        self._v = (from_pixels[1, 0] * du[None, :] + from_pixels[1, 1] * dv[:, None]).astype(np.float32)
        self.pixels_per_cm = float(scale)

    def project(self, points: np.ndarray) -> np.ndarray:
        """Project [..., 3] points of the patient to [..., 2] positions (x, y) in the image, in pixels."""
        depth = points[..., self.beam_axis]
        magnification = depth_magnification(self._view, depth)
        u = self._direction * points[..., self.across_axis] * np.cos(self._yaw) + depth * np.sin(self._yaw)
        v = (points[..., 1] - self._middle) * np.cos(self._pitch) + depth * np.sin(self._pitch)
        u, v = magnification * u, magnification * v
        (ux, vx), (uy, vy) = self._to_pixels
        return np.stack((u * ux + v * vx + self._origin[0], u * uy + v * vy + self._origin[1]), -1)

    def magnification(self, depth: float | np.ndarray) -> float | np.ndarray:
        """Return the magnification of a body at `depth`."""
        return depth_magnification(self._view, depth)

    def plane_coordinates(self, depth: float, window: Window = WHOLE_IMAGE) -> tuple[np.ndarray, np.ndarray]:
        """Return the across and the down coordinates of the points at `depth` that the pixels of `window` show."""
        magnification = self.magnification(depth)
        across = self._u[window] * np.float32(self._direction / (magnification * np.cos(self._yaw)))
        across -= np.float32(self._direction * depth * np.tan(self._yaw))
        down = self._v[window] * np.float32(1 / (magnification * np.cos(self._pitch)))
        down += np.float32(self._middle - depth * np.tan(self._pitch))
        return across, down

    def window(self, points: np.ndarray, margin: float) -> Window | None:
        """Return the window within `margin` (cm) of the bounding box of `points`; None if outside the image."""
        positions = self.project(points).reshape(-1, 2)
        reach = 1.25 * margin * self.pixels_per_cm + 1
        low = np.clip(np.floor(positions.min(0) - reach), 0, self.size).astype(int)
        high = np.clip(np.ceil(positions.max(0) + reach), 0, self.size).astype(int)
        if (low >= high).any():
            return None
        return slice(low[1], high[1]), slice(low[0], high[0])
