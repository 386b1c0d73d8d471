"""The X-ray picture of a phantom chest: projection, attenuation, detector, display, and the boxes of the regions.

Beams are parallel, except that every body is magnified according to its depth. Chord lengths are analytic: a large
body is an interval (middle, half length) on each beam, so that what one body takes from another is the overlap of
intervals; tubes are spread over the pixels that they cover. Arrays are [H, H], H being the side of the image in pixels.
"""

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
from scipy import ndimage

from data.sources.phantom.anatomy import (
    APICAL_ZONE,
    LUNG_OFFSET,
    LUNG_SQUARENESS,
    SIGN,
    SOFT_TISSUE,
    SPINE_DEPTH,
    TRUNK_SQUARENESS,
    ZONES,
    Chest,
    Ellipsoid,
    Lung,
    Patient,
    Tubes,
    airways,
    clavicle,
    depth_magnification,
    ordinary_solids,
    skeleton,
    table_index,
    vessels,
)
from data.sources.phantom.findings import SIDES, Finding
from data.sources.phantom.pathology import chest_with

# Side of the picture at zoom 1, in cm on the detector.
FIELD_OF_VIEW = 37.5
# Photons that reach a pixel of a 256-pixel image where nothing is in their way.
PHOTONS = 4.0e4
# From the side the patient is thicker, and gets more.
LATERAL_EXPOSURE = 8.0
SCATTER_FRACTION, SCATTER_REACH = 0.2, 3.0
# Scatter comes from inside the patient, so that rays that pass by or through a thin part cause no more than one that
# loses this much, from the front and from the side.
LEAST_SCATTERING = (3.0, 4.5)
# The part of a region that must lie in the picture for the region to have a box.
LEAST_VISIBLE = 0.25

# Beyond all bodies, in cm.
_FAR = np.float32(1e3)

Interval = tuple[np.ndarray, np.ndarray]
Window = tuple[slice, slice]
_EVERYWHERE: Window = (slice(None), slice(None))
Box = tuple[float, float, float, float]


@dataclass(frozen=True)
class Picture:
    """A simulated X-ray picture.

    image    [H, H] uint8, bright where much is absorbed
    boxes    region -> xyxy in 0..1 of the image, None where the region is outside; empty for a lateral view
    cardiothoracic_ratio   width of the heart by that of the rib cage
    """

    image: np.ndarray
    boxes: dict[str, Box | None]
    cardiothoracic_ratio: float


def simulate(
    patient: Patient, findings: Sequence[Finding], size: int, noise_seed: int, lateral: bool = False
) -> Picture:
    """The picture of `patient` with `findings`, `size` pixels wide and high, from the front or from the side.

    The same patient and `noise_seed` give pictures that differ only by their findings.
    """
    chest = chest_with(patient, findings)
    projection = Projection(chest, size, lateral)
    exposure = attenuation(chest, projection)
    image = display(detect(exposure, projection, np.random.default_rng(noise_seed)), patient, lateral)
    boxes = {} if lateral else region_boxes(chest, projection)
    return Picture(image, boxes, chest.cardiothoracic_ratio)


class Projection:
    """Where points of the patient appear in the picture, and which points a pixel shows.

    A frontal picture has the patient's left on its right; a lateral one has the front on its left.
    """

    def __init__(self, chest: Chest, size: int, lateral: bool = False):
        pose = chest.patient.pose
        self.size = size
        self.lateral = lateral
        # Index of the coordinate that runs along the beam, and of the one that runs across the picture.
        self.beam, self.across = (0, 2) if lateral else (2, 0)
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
        """[..., 2] positions in the picture, in pixels, of [..., 3] points of the patient."""
        depth = points[..., self.beam]
        magnification = depth_magnification(self._view, depth)
        u = self._direction * points[..., self.across] * np.cos(self._yaw) + depth * np.sin(self._yaw)
        v = (points[..., 1] - self._middle) * np.cos(self._pitch) + depth * np.sin(self._pitch)
        u, v = magnification * u, magnification * v
        (ux, vx), (uy, vy) = self._to_pixels
        return np.stack((u * ux + v * vx + self._origin[0], u * uy + v * vy + self._origin[1]), -1)

    def magnification(self, depth: float | np.ndarray) -> float | np.ndarray:
        """How much larger a body at `depth` appears."""
        return depth_magnification(self._view, depth)

    def plane(self, depth: float, window: Window = _EVERYWHERE) -> tuple[np.ndarray, np.ndarray]:
        """The coordinates across and down of the points at `depth` that the pixels of `window` show."""
        magnification = self.magnification(depth)
        across = self._u[window] * np.float32(self._direction / (magnification * np.cos(self._yaw)))
        across -= np.float32(self._direction * depth * np.tan(self._yaw))
        down = self._v[window] * np.float32(1 / (magnification * np.cos(self._pitch)))
        down += np.float32(self._middle - depth * np.tan(self._pitch))
        return across, down

    def window(self, points: np.ndarray, margin: float) -> Window | None:
        """The pixels within `margin` (cm) of the bounding box of `points`; None where that is outside the picture."""
        places = self.project(points).reshape(-1, 2)
        reach = 1.25 * margin * self.pixels_per_cm + 1
        low = np.clip(np.floor(places.min(0) - reach), 0, self.size).astype(int)
        high = np.clip(np.ceil(places.max(0) + reach), 0, self.size).astype(int)
        if (low >= high).any():
            return None
        return slice(low[1], high[1]), slice(low[0], high[0])


# Attenuation


def attenuation(chest: Chest, projection: Projection) -> np.ndarray:
    """[H, H]: what each beam loses, as the negative logarithm of what passes."""
    total = SOFT_TISSUE * 2 * _trunk(chest, projection)
    texture = _Texture(chest, projection)
    total *= 1 + 0.012 * texture.coarse
    shadows = _mediastinal_shadows(chest, projection)
    aerated = np.zeros_like(total)
    for lung in chest.lungs.values():
        air = _lung(chest, lung, projection, shadows, texture, total)
        aerated = np.maximum(aerated, air)
    _add_spine(chest, projection, total)
    for solid in (*ordinary_solids(chest, projection.lateral), *chest.solids):
        add_solid(solid, projection, total)
    tubes = [*skeleton(chest, projection.lateral), *airways(chest), *chest.devices]
    tubes += [vessel for side in SIDES for vessel in vessels(chest, side)]
    add_tubes(tubes, projection, aerated, total)
    return np.maximum(total, 0.0)


class _Texture:
    """Unevenness of the tissues of a patient: [H, H] noise of deviation 1, `coarse` over some cm and `fine` below."""

    def __init__(self, chest: Chest, projection: Projection):
        rng = chest.chance("texture")
        grids = [rng.standard_normal((cells, cells)) for cells in (12, 28, 64)]
        octaves = [_enlarge(ndimage.gaussian_filter(grid, 0.6, mode="wrap"), projection.size) for grid in grids]
        self.coarse = _standardised(octaves[0] + 0.6 * octaves[1])
        self.fine = _standardised(octaves[1] + octaves[2])


def _enlarge(grid: np.ndarray, size: int) -> np.ndarray:
    """[size, size]: a small square grid, interpolated."""
    places = np.linspace(0, grid.shape[0] - 1, size)
    low = np.minimum(places.astype(int), grid.shape[0] - 2)
    part = (places - low).astype(np.float32)
    part = part * part * (3 - 2 * part)
    grid = grid.astype(np.float32)
    rows = grid[low] * (1 - part)[:, None] + grid[low + 1] * part[:, None]
    return rows[:, low] * (1 - part) + rows[:, low + 1] * part


def _standardised(noise: np.ndarray) -> np.ndarray:
    return (noise - noise.mean()) / noise.std()


def _rounded(ratio: np.ndarray, squareness: float) -> np.ndarray:
    """Half chord of a unit superellipse (2: a circle) at the distance `ratio` from its middle."""
    ratio = np.abs(ratio)
    np.minimum(ratio, 1.0, out=ratio)
    np.power(ratio, np.float32(squareness), out=ratio)
    np.subtract(1.0, ratio, out=ratio)
    return np.power(ratio, np.float32(1 / squareness), out=ratio)


def _trunk(chest: Chest, projection: Projection) -> np.ndarray:
    """Half chord of the trunk. From the side the arms are raised, and the shoulders out of the way."""
    across, down = projection.plane(0.0)
    index = table_index(down)
    width, depth = chest.smooth_table(chest.trunk_half_width), chest.smooth_table(chest.trunk_half_depth)
    if projection.lateral:
        patient = chest.patient
        width = np.minimum(width, patient.half_width + 1.0 + patient.wall)
        return width[index] * _rounded(across / depth[index], TRUNK_SQUARENESS)
    return depth[index] * _rounded(across / width[index], TRUNK_SQUARENESS)


def _ellipsoid(body: Ellipsoid, projection: Projection, window: Window = _EVERYWHERE) -> Interval:
    """The interval of each beam in an ellipsoid, along the beam's coordinate."""
    beam, across = projection.beam, projection.across
    u, v = projection.plane(body.centre[beam], window)
    u -= np.float32(body.centre[across])
    v -= np.float32(body.centre[1])
    shape = np.linalg.inv(body.covariance).astype(np.float32)
    along = shape[beam, beam]
    middle = u * (-shape[beam, across] / along) + v * (-shape[beam, 1] / along)
    rest = (u * u * shape[across, across] + v * v * shape[1, 1] + u * v * (2 * shape[across, 1]) - 1) / along
    half = np.sqrt(np.maximum(middle * middle - rest, 0))
    middle += np.float32(body.centre[beam])
    return middle, half


def _hull(intervals: Sequence[Interval]) -> Interval:
    """The smallest interval round those of the bodies that a beam meets."""
    low = np.minimum.reduce([np.where(half > 0, middle - half, _FAR) for middle, half in intervals])
    high = np.maximum.reduce([np.where(half > 0, middle + half, -_FAR) for middle, half in intervals])
    return (low + high) / 2, np.maximum((high - low) / 2, 0)


def _overlap(one: Interval, other: Interval) -> np.ndarray:
    """Length that two intervals share."""
    shared = np.minimum(one[0] + one[1], other[0] + other[1]) - np.maximum(one[0] - one[1], other[0] - other[1])
    return np.maximum(shared, 0, out=shared)


def _mediastinal_shadows(chest: Chest, projection: Projection) -> list[Interval]:
    """What stands in the lungs' place: heart, great vessels, descending aorta, and the tissue round them."""
    across, down = projection.plane(0.0)
    index = table_index(down)
    half_width = chest.table(chest.mediastinum_half_width)[index]
    depth = np.float32(0.96 * chest.patient.half_depth)
    if projection.lateral:
        band = half_width * _rounded(across / depth, 2.0)
    else:
        band = depth * _rounded(across / half_width, 2.0)
    return [
        _hull([_ellipsoid(part, projection) for part in chest.heart]),
        _hull([_ellipsoid(part, projection) for part in chest.great_vessels]),
        _ellipsoid(chest.descending_aorta, projection),
        (np.zeros_like(band), band),
    ]


def _cavity(
    chest: Chest, lung: Lung, projection: Projection, scale: float = 1.0
) -> tuple[Interval, np.ndarray, np.ndarray]:
    """The pleural cavity of a lung without regard to diaphragm and mediastinum, shrunk about the hilum by `scale`.

    Returns the interval of each beam, its place across (-1 at the medial edge of the cavity or its back, 1 at the wall
    or its front) and its height y.
    """
    hilum = chest.hilum(lung.side)
    depth = LUNG_OFFSET * lung.sign if projection.lateral else 0.0
    across, down = projection.plane(depth)
    if scale != 1.0:
        across = hilum[projection.across] + (across - hilum[projection.across]) * np.float32(1 / scale)
        down = hilum[1] + (down - hilum[1]) * np.float32(1 / scale)
        down = down.astype(np.float32)
    index = table_index(down)
    pleura, wall = chest.table(chest.pleura), chest.table(chest.cage)
    middle, width = lung.sign * (pleura + wall) / 2, np.maximum((wall - pleura) / 2, 1e-3)
    half_depth = np.maximum(chest.table(chest.lung_half_depth), 1e-3)
    if projection.lateral:
        place = across / half_depth[index]
        interval = middle[index], width[index] * _rounded(place, LUNG_SQUARENESS)
    else:
        place = (across - middle[index]) / width[index] * np.float32(lung.sign)
        interval = np.zeros_like(place), half_depth[index] * _rounded(place, LUNG_SQUARENESS)
    below = np.clip((np.float32(lung.sulcus) - down) * np.float32(2.0) + 0.5, 0, 1)
    half = np.where(down > 0, interval[1] * below, 0)
    return (interval[0], half * np.float32(scale)), place, down


def _dome(chest: Chest, lung: Lung, projection: Projection) -> Interval:
    """What lies below the hemidiaphragm: a paraboloid, steep at the wall and flat towards the heart."""
    patient = chest.patient
    middle = lung.sign * 0.46 * patient.half_width
    lateral, medial = 0.55 * patient.half_width, 1.15 * patient.half_width
    depth = 1.06 * patient.half_depth
    across, down = projection.plane(LUNG_OFFSET * lung.sign if projection.lateral else 0.0)
    below = (down - np.float32(lung.dome_top)) * np.float32(1 / max(lung.dome, 0.3))
    if projection.lateral:
        reach = np.maximum(below - (across / depth) ** 2, 0) ** np.float32(0.42)
        return lung.sign * (0.46 * patient.half_width + reach * (lateral - medial) / 2), reach * (lateral + medial) / 2
    outward = (across - middle) * np.float32(lung.sign)
    outward = np.where(outward > 0, outward * np.float32(1 / lateral), outward * np.float32(1 / medial))
    return np.zeros_like(down), np.float32(depth) * np.maximum(below - outward * outward, 0) ** np.float32(0.42)


def _lung(
    chest: Chest, lung: Lung, projection: Projection, shadows: list[Interval], texture: _Texture, total: np.ndarray
) -> np.ndarray:
    """Take a lung out of the soft tissue in `total` and return the length of each beam in aerated lung."""
    cavity, place, down = _cavity(chest, lung, projection)
    # The heart rests on the diaphragm, so that the two are one body.
    heart, *others = shadows
    obstacles = [_hull([heart, _dome(chest, lung, projection)]), *others]
    free = 2 * cavity[1] - sum(_overlap(cavity, obstacle) for obstacle in obstacles)
    np.maximum(free, 0, out=free)
    if lung.fluid:
        free *= 1 - _effusion(lung, place, down, projection.lateral)
    density = np.float32(lung.density) * (1 + 0.05 * texture.fine)
    if lung.edema:
        density += _edema(chest, lung, projection, texture)
    if lung.collapse < 1:
        shrunk = np.minimum(2 * _cavity(chest, lung, projection, lung.collapse)[0][1], free)
        total -= SOFT_TISSUE * (free - shrunk)
        free = shrunk
    total -= (SOFT_TISSUE - density) * free
    for opacity in chest.opacities[lung.side]:
        body = opacity.ellipsoid
        margin = (1 + opacity.roughness) * max(body.axes)
        window = projection.window(np.array(body.centre), margin)
        if window is None:
            continue
        ragged = 1 + np.float32(opacity.roughness) * texture.fine[window]
        half = _ellipsoid(body, projection, window)[1] * np.clip(ragged, 0.2, 1.6)
        total[window] += np.float32(opacity.attenuation) * np.minimum(2 * half, free[window])
    return free


def _effusion(lung: Lung, place: np.ndarray, down: np.ndarray, lateral: bool) -> np.ndarray:
    """The part of the lung's place that fluid takes: all of it at the bottom, less upwards, higher at the edges."""
    edge = np.abs(place) if lateral else np.where(place > 0, place, np.float32(-0.45) * place)
    height = np.float32(lung.fluid) * (0.62 + 0.38 * np.minimum(edge, 1) ** 2)
    border = np.float32(0.8 + 0.1 * lung.fluid)
    depth = np.clip((down - (np.float32(lung.sulcus) - height)) / border + 0.3, 0, 1)
    return depth * depth * (3 - 2 * depth)


def _edema(chest: Chest, lung: Lung, projection: Projection, texture: _Texture) -> np.ndarray:
    """What an oedema adds to the density of the lung: most round the hilum, little at the edges."""
    hilum = chest.hilum(lung.side)
    across, down = projection.plane(hilum[projection.beam])
    distance = ((across - hilum[projection.across]) / 7.0) ** 2 + ((down - hilum[1] - 1.0) / 7.5) ** 2
    return np.float32(lung.edema) * (0.2 + np.exp(-distance)) * np.clip(1 + 0.3 * texture.fine, 0.2, 2)


def _add_spine(chest: Chest, projection: Projection, total: np.ndarray) -> None:
    """Add the vertebrae: bodies with end plates, pedicles, transverse and spinous processes."""
    heights = np.linspace(-12, 45, 30)
    line = np.stack((chest.spine_shift(heights), heights, chest.spine_depth(heights)), -1)
    window = projection.window(line, 5.0)
    if window is None:
        return
    depth = 0.0 if projection.lateral else SPINE_DEPTH
    across, down = projection.plane(depth, window)
    index = table_index(down)
    bone = 0.62 * chest.patient.bone
    tall = 2.1 + 0.02 * (down - 10)
    phase = (down / tall) % 1
    body = np.clip(6 * np.minimum(phase, 1 - phase) - 0.25, 0, 1)
    if projection.lateral:
        offset = np.abs(across - chest.table(chest.spine_depth)[index]) / np.float32(1.7)
        chord = 3.4 * np.sqrt(np.clip(1 - offset**4, 0, 1)) * (0.35 + 0.65 * body)
        total[window] += np.float32(0.30 * bone) * chord
        return
    offset = across - chest.table(chest.spine_shift)[index]
    square = np.clip(1 - (np.abs(offset) / np.float32(1.75)) ** 6, 0, 1)
    plates = np.exp(-(((np.minimum(phase, 1 - phase) - 0.09) / 0.05) ** 2))
    chord = square * (0.7 + 1.5 * body + 0.8 * plates)
    edges = np.exp(-(((np.abs(offset) - 1.6) / 0.18) ** 2)) * body
    pedicles = np.exp(-(((np.abs(offset) - 1.15) / 0.32) ** 2) - ((phase - 0.35) / 0.2) ** 2)
    processes = np.exp(-((offset / 0.35) ** 2) - ((phase - 0.75) / 0.22) ** 2)
    wings = np.clip(1 - np.abs(offset) / 3.4, 0, 1) * np.exp(-(((phase - 0.4) / 0.16) ** 2))
    total[window] += np.float32(0.15 * bone) * (chord + 0.5 * edges + 1.1 * pedicles + 1.1 * processes + 0.8 * wings)


def add_solid(solid: Ellipsoid, projection: Projection, total: np.ndarray) -> None:
    """Add what an ellipsoid absorbs to `total` ([H, H])."""
    window = projection.window(np.array(solid.centre), max(solid.axes))
    if window is not None:
        total[window] += np.float32(2 * solid.attenuation) * _ellipsoid(solid, projection, window)[1]


def add_tubes(tubes: Sequence[Tubes], projection: Projection, aerated: np.ndarray, total: np.ndarray) -> None:
    """Add what tubes absorb to `total` ([H, H]), by spreading the mass of each over the pixels under it.

    `aerated` is the length of each beam in aerated lung: without it a tube that is `inside_lung` does not show.
    """
    places, masses = [], []
    for group in tubes:
        where, mass = _spread(group, projection)
        if group.inside_lung:
            middle = np.clip(where[:, :, where.shape[2] // 2], 0, projection.size - 1).astype(int)
            mass *= np.clip(aerated[middle[..., 1], middle[..., 0]] - 1.0, 0, 1)[..., None]
        places.append(where.reshape(-1, 2))
        masses.append(mass.ravel())
    total += _deposit(np.concatenate(places), np.concatenate(masses), projection.size)


def _spread(tubes: Tubes, projection: Projection) -> tuple[np.ndarray, np.ndarray]:
    """Samples of tubes: [n, k, m, 2] positions in pixels, k along and m across, and [n, k, m] masses.

    A mass is attenuation times area in pixels, so that masses laid on pixels of area 1 are attenuations.
    """
    corners = projection.project(tubes.points)
    steps = np.diff(corners, axis=1)
    directions = np.arctan2(steps[..., 1], steps[..., 0])
    turns = np.abs((np.diff(directions, axis=1) + np.pi) % (2 * np.pi) - np.pi).sum(-1)
    # Where a tube turns, its outer edge is longer than its middle.
    broadest = projection.pixels_per_cm * tubes.radius.max(-1)
    longest = (np.linalg.norm(steps, axis=-1).sum(-1) + turns * broadest).max()
    samples = int(np.clip(1.15 * longest, 6, 2000))
    position = np.linspace(0, tubes.points.shape[1] - 1, samples)
    low = np.minimum(position.astype(int), tubes.points.shape[1] - 2)
    part = position - low
    points = tubes.points[:, low] * (1 - part)[:, None] + tubes.points[:, low + 1] * part[:, None]
    radius = tubes.radius[:, low] * (1 - part) + tubes.radius[:, low + 1] * part
    scale = projection.pixels_per_cm * projection.magnification(points[..., projection.beam])
    lengths = np.linalg.norm(np.gradient(points, axis=1), axis=-1) * scale
    lengths[:, [0, -1]] /= 2
    middle = projection.project(points)
    strips = int(np.clip(np.ceil(3 * (radius * scale).max()), 3, 99)) | 1
    # Averaged over the width, or the edges would fray where a tube turns towards the beam.
    tangent = ndimage.uniform_filter1d(np.gradient(middle, axis=1), strips, axis=1, mode="nearest")
    tangent /= np.linalg.norm(tangent, axis=-1, keepdims=True) + 1e-9
    normal = np.stack((-tangent[..., 1], tangent[..., 0]), -1)
    offsets = (np.arange(strips) + 0.5) * (2 / strips) - 1
    # Scaled to the area of the circle, which few strips overrate.
    chord = np.sqrt(1 - offsets**2)
    chord *= np.pi / 4 / chord.mean()
    profile = tubes.attenuation[:, None] * chord
    if tubes.hollow:
        hole = np.sqrt(np.maximum(tubes.hollow**2 - offsets**2, 0))
        hole *= np.pi / 4 * tubes.hollow**2 / hole.mean()
        profile = profile + (tubes.core - tubes.attenuation)[:, None] * hole
    where = middle[:, :, None] + normal[:, :, None] * (radius * scale)[..., None, None] * offsets[:, None]
    area = lengths * 2 * radius * scale / strips
    mass = (2 * tubes.depth * radius * area)[..., None] * profile[:, None]
    return where, mass


def _deposit(places: np.ndarray, masses: np.ndarray, size: int) -> np.ndarray:
    """[size, size]: the masses at `places` ([N, 2], in pixels), each shared by the four nearest pixels."""
    # A margin of two pixels catches what falls over the border.
    wide = size + 4
    x, y = (np.clip(places + 1.5, 0, size + 2).astype(np.float32)).T
    column, row = x.astype(np.int32), y.astype(np.int32)
    index = row * wide + column
    x -= column
    y -= row
    right = masses * x
    left = masses - right
    grid = np.zeros(wide * wide)
    for step, share in ((0, left), (1, right)):
        below = share * y
        grid += np.bincount(index + step, share - below, wide * wide)
        grid += np.bincount(index + step + wide, below, wide * wide)
    return grid.reshape(wide, wide)[2:-2, 2:-2].astype(np.float32)


# Detector and display


def detect(attenuations: np.ndarray, projection: Projection, rng: np.random.Generator) -> np.ndarray:
    """[H, H]: the negative logarithm of what the detector counts, with scatter, blur and photon noise.

    The noise is the normal limit of Poisson's, since counts are in the hundreds and more: so equal seeds give equal
    deviations, and two pictures of a patient differ by the finding alone.
    """
    passing = ndimage.gaussian_filter(np.exp(-attenuations), 0.55, mode="nearest")
    small, coarse = _shrunk(np.exp(-np.maximum(attenuations, LEAST_SCATTERING[projection.lateral])))
    scattered = ndimage.gaussian_filter(small, SCATTER_REACH * projection.pixels_per_cm / coarse, mode="nearest")
    passing = (1 - SCATTER_FRACTION) * passing + SCATTER_FRACTION * _enlarge(scattered, projection.size)
    photons = PHOTONS * (256 / projection.size) ** 2 * (LATERAL_EXPOSURE if projection.lateral else 1)
    counts = passing * photons
    counts += np.sqrt(counts) * rng.standard_normal(counts.shape, dtype=np.float32)
    return -np.log(np.maximum(counts, 1.0) / photons)


def _shrunk(image: np.ndarray) -> tuple[np.ndarray, int]:
    """An image of about 32 pixels a side by averaging, and how many pixels went into one in each direction."""
    side = len(image)
    coarse = max(1, side // 32)
    while side % coarse:
        coarse -= 1
    return image.reshape(side // coarse, coarse, side // coarse, coarse).mean((1, 3)), coarse


def display(signal: np.ndarray, patient: Patient, lateral: bool = False) -> np.ndarray:
    """[H, H] uint8: the detector's signal in a window that suits the patient's size, lungs dark and bones bright."""
    if lateral:
        wall = 2 * SOFT_TISSUE * (patient.wall + 1.0)
        lungs, mediastinum = wall + 1.7, wall + SOFT_TISSUE * 2 * patient.half_width
    else:
        wall = 2 * SOFT_TISSUE * 0.6 * (patient.wall + 1.0)
        lungs, mediastinum = wall + 0.9, wall + SOFT_TISSUE * 2 * patient.half_depth
    span = (mediastinum - lungs) * 1.25 / patient.contrast
    level = (signal - lungs) / span + patient.brightness
    small, _ = _shrunk(level)
    blurred = _enlarge(ndimage.gaussian_filter(small, 0.06 * len(small), mode="nearest"), len(level))
    level = 0.8 * blurred + 1.5 * (level - blurred)
    return (255 * _film(level) + 0.5).astype(np.uint8)


def _film(level: np.ndarray) -> np.ndarray:
    """Brightness 0..1 of a level: straight in the middle, soft at both ends."""
    return 1 / (1 + np.exp(-4.2 * (level - 0.5)))


# Regions


def region_boxes(chest: Chest, projection: Projection) -> dict[str, Box | None]:
    """The boxes of the 29 regions of a frontal picture, xyxy in 0..1; None for a region outside the picture."""
    boxes = {}
    for name, points in region_outlines(chest).items():
        places = projection.project(points) / projection.size
        if name in ("spine", "abdomen"):
            # They go on beyond the picture: only what is inside counts, or a rolled spine would have too wide a box.
            places = places[(places[:, 1] > -0.02) & (places[:, 1] < 1.02)]
        boxes[name] = _visible_box(places)
    return boxes


def _visible_box(places: np.ndarray) -> Box | None:
    """The bounding box of `places`, cut at the border; None where too little of it is in the picture."""
    if not len(places):
        return None
    x1, y1 = places.min(0)
    x2, y2 = places.max(0)
    cut = np.clip([x1, y1, x2, y2], 0, 1)
    if (cut[2] - cut[0]) * (cut[3] - cut[1]) < LEAST_VISIBLE * (x2 - x1) * (y2 - y1):
        return None
    return tuple(float(value) for value in cut)


def region_outlines(chest: Chest) -> dict[str, np.ndarray]:
    """[n, 3] points for each of the 29 regions, whose bounding box in the picture is the region's box."""
    patient = chest.patient
    carina, arch, heart = chest.carina, chest.aortic_arch, chest.heart
    band = float(chest.mediastinum_half_width(np.array(0.62 * carina[1])))
    outlines = {}
    for side in SIDES:
        outlines |= _lung_outlines(chest, chest.lungs[side])
        bone = clavicle(chest, side)
        thickness = bone.radius[0][:, None] * [0.0, 1.0, 0.0]
        outlines[f"{side} clavicle"] = np.concatenate((bone.points[0] - thickness, bone.points[0] + thickness))
        outlines[f"{side} hilar structures"] = _rectangle(chest.hilum(side) + [0.9 * SIGN[side], 0.6, 0.0], 2.9, 3.4)
    silhouette = np.concatenate([part.outline() for part in heart])
    inlet = chest.upper_mediastinum_top
    cava = [-patient.mediastinum - 0.3, carina[1] - 2.0, 2.0]
    corners = [[-band, inlet, 0.0], [band, inlet, 0.0], [0.0, carina[1] + 1.2, 0.0], cava]
    upper = np.concatenate((corners, arch.outline()))
    throat = np.array([[-1.6, -5.0, 0.5], [1.7, -5.0, 0.5]])
    return outlines | {
        "cardiac silhouette": silhouette,
        "mediastinum": np.concatenate((upper, silhouette)),
        "upper mediastinum": upper,
        "aortic arch": np.concatenate((arch.outline(), [[arch.centre[0] - arch.axes[0] - 1.6, arch.centre[1], -1.5]])),
        "trachea": np.concatenate((throat, carina + [[-1.5, 0.0, 0.0], [1.8, 0.3, 0.0]])),
        "carina": _rectangle(carina + [0.0, 0.4, 0.0], 2.3, 1.9),
        "svc": _rectangle([-patient.mediastinum + 0.4, (carina[1] - 2.5 + chest.atrium_top[1]) / 2, 1.0], 1.7,
                          (chest.atrium_top[1] - carina[1] + 2.5) / 2),
        "right atrium": heart[1].outline(),
        "cavoatrial junction": _rectangle(chest.atrium_top, 2.0, 2.0),
        "abdomen": _abdomen_outline(chest),
        "spine": _spine_outline(chest),
    }


def _lung_outlines(chest: Chest, lung: Lung) -> dict[str, np.ndarray]:
    """The outlines of a lung, its zones, its hemidiaphragm and its costophrenic angle."""
    side, bottom = lung.side, lung.sulcus
    outlines = {f"{side} lung": _lung_part(chest, lung, 0.0, 1.0)}
    for zone, (start, end) in ZONES.items():
        outlines[f"{side} {zone} lung zone"] = _lung_part(chest, lung, start, end)
    outlines[f"{side} apical zone"] = _lung_part(chest, lung, *APICAL_ZONE)
    wall = float(chest.cage(bottom))
    top = max(lung.dome_top, 0.0)
    outlines[f"{side} hemidiaphragm"] = np.array(
        [[lung.sign * 1.0, top, 0.0], [lung.sign * wall, top, 0.0], [lung.sign * wall, bottom, 0.0]])
    outlines[f"{side} costophrenic angle"] = _rectangle([lung.sign * (wall - 1.7), bottom - 1.7, 0.0], 2.2, 2.2)
    return outlines


def _lung_part(chest: Chest, lung: Lung, start: float, end: float) -> np.ndarray:
    """[n, 3] points round a lung between two heights, given in parts of the lung's height."""
    y = np.linspace(start, end, 9) * lung.sulcus
    edges = [np.stack((lung.sign * edge(y), y, np.zeros_like(y)), -1) for edge in (chest.pleura, chest.cage)]
    return np.concatenate(edges)


def _rectangle(centre: Sequence[float], half_width: float, half_height: float) -> np.ndarray:
    """[4, 3]: the corners of an upright rectangle."""
    return np.asarray(centre) + [[x, y, 0.0] for x in (-half_width, half_width) for y in (-half_height, half_height)]


def _abdomen_outline(chest: Chest) -> np.ndarray:
    """[n, 3]: from the higher dome down beyond the picture, between the flanks."""
    y = np.linspace(min(lung.dome_top for lung in chest.lungs.values()), 60.0, 60)
    flank = chest.patient.half_width + 0.5
    return np.concatenate([np.stack((np.full_like(y, x), y, np.zeros_like(y)), -1) for x in (-flank, flank)])


def _spine_outline(chest: Chest) -> np.ndarray:
    """[n, 3]: the thoracic spine, as wide as the transverse processes."""
    y = np.linspace(-3.5, chest.patient.lung_height + 4.0, 60)
    line = chest.spine_shift(y)
    return np.concatenate([np.stack((line + x, y, np.full_like(y, SPINE_DEPTH)), -1) for x in (-3.0, 3.0)])
