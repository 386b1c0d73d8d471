"""The attenuation of every beam through a phantom chest.

Chord lengths are analytic. Large bodies are intervals (midpoint, half length) along each beam, so that the volume that
one body takes from another is the overlap of their intervals. Tubes are sampled and distributed over the pixels that
they cover. Images are [H, H] arrays, with H pixels per side.
"""

from collections.abc import Sequence

import numpy as np
from scipy import ndimage

from data.sources.phantom.bodies import (
    build_airways,
    build_normal_solids,
    build_pulmonary_vessels,
    build_skeleton,
)
from data.sources.phantom.chest import (
    LUNG_EXPONENT,
    LUNG_OFFSET,
    SPINE_DEPTH,
    TRUNK_EXPONENT,
    Chest,
    Lung,
    table_index,
)
from data.sources.phantom.findings import SIDES
from data.sources.phantom.projection import WHOLE_IMAGE, Projection, Window
from data.sources.phantom.shapes import SOFT_TISSUE, Ellipsoid, Tubes

# Farther than any body, in cm.
_FAR = np.float32(1e3)

Interval = tuple[np.ndarray, np.ndarray]


def line_integrals(chest: Chest, projection: Projection) -> np.ndarray:
    """Return the attenuation along every beam, [H, H]: the negative logarithm of the transmission."""
    total = SOFT_TISSUE * 2 * _trunk_half_chord(chest, projection)
    texture = _Texture(chest, projection)
    total *= 1 + 0.012 * texture.coarse
    mediastinum = _mediastinal_intervals(chest, projection)
    aerated = np.zeros_like(total)
    for lung in chest.lungs.values():
        air = _subtract_lung(chest, lung, projection, mediastinum, texture, total)
        aerated = np.maximum(aerated, air)
    _add_spine(chest, projection, total)
    for solid in (*build_normal_solids(chest, projection.lateral), *chest.solids):
        add_solid(solid, projection, total)
    tubes = [*build_skeleton(chest, projection.lateral), *build_airways(chest), *chest.devices]
    tubes += [vessel for side in SIDES for vessel in build_pulmonary_vessels(chest, side)]
    add_tubes(tubes, projection, aerated, total)
    return np.maximum(total, 0.0)


# Tissue texture


class _Texture:
    """Tissue texture of a patient: [H, H] noise of standard deviation 1, `coarse` (several cm) and `fine`."""

    def __init__(self, chest: Chest, projection: Projection):
        rng = chest.random_generator("texture")
        grids = [rng.standard_normal((cells, cells)) for cells in (12, 28, 64)]
        octaves = [upsample(ndimage.gaussian_filter(grid, 0.6, mode="wrap"), projection.size) for grid in grids]
        self.coarse = _standardise(octaves[0] + 0.6 * octaves[1])
        self.fine = _standardise(octaves[1] + octaves[2])


def upsample(grid: np.ndarray, size: int) -> np.ndarray:
    """Interpolate a small square grid smoothly to [size, size]."""
    positions = np.linspace(0, grid.shape[0] - 1, size)
    low = np.minimum(positions.astype(int), grid.shape[0] - 2)
    weight = (positions - low).astype(np.float32)
    weight = weight * weight * (3 - 2 * weight)
    grid = grid.astype(np.float32)
    rows = grid[low] * (1 - weight)[:, None] + grid[low + 1] * weight[:, None]
    return rows[:, low] * (1 - weight) + rows[:, low + 1] * weight


def _standardise(noise: np.ndarray) -> np.ndarray:
    return (noise - noise.mean()) / noise.std()


# Trunk, mediastinum and lungs


def _superellipse_half_chord(ratio: np.ndarray, exponent: float) -> np.ndarray:
    """Return half the chord of a unit superellipse (exponent 2: a circle) at the distance `ratio` from its centre."""
    ratio = np.abs(ratio)
    np.minimum(ratio, 1.0, out=ratio)
    np.power(ratio, np.float32(exponent), out=ratio)
    np.subtract(1.0, ratio, out=ratio)
    return np.power(ratio, np.float32(1 / exponent), out=ratio)


def _trunk_half_chord(chest: Chest, projection: Projection) -> np.ndarray:
    """Return half the chord of the trunk. In a lateral view the arms are raised, with the shoulders out of the way."""
    across, down = projection.plane_coordinates(0.0)
    index = table_index(down)
    width, depth = chest.smooth_table(chest.trunk_half_width), chest.smooth_table(chest.trunk_half_depth)
    if projection.lateral:
        patient = chest.patient
        width = np.minimum(width, patient.half_width + 1.0 + patient.wall)
        return width[index] * _superellipse_half_chord(across / depth[index], TRUNK_EXPONENT)
    return depth[index] * _superellipse_half_chord(across / width[index], TRUNK_EXPONENT)


def _ellipsoid_interval(body: Ellipsoid, projection: Projection, window: Window = WHOLE_IMAGE) -> Interval:
    """Return the interval of each beam in an ellipsoid."""
    beam, across = projection.beam_axis, projection.across_axis
    u, v = projection.plane_coordinates(body.centre[beam], window)
    u -= np.float32(body.centre[across])
    v -= np.float32(body.centre[1])
    precision = np.linalg.inv(body.covariance).astype(np.float32)
    along = precision[beam, beam]
    middle = u * (-precision[beam, across] / along) + v * (-precision[beam, 1] / along)
    rest = (
        u * u * precision[across, across] + v * v * precision[1, 1] + u * v * (2 * precision[across, 1]) - 1
    ) / along
    half = np.sqrt(np.maximum(middle * middle - rest, 0))
    middle += np.float32(body.centre[beam])
    return middle, half


def _enclosing_interval(intervals: Sequence[Interval]) -> Interval:
    """Return the smallest interval that contains all non-empty `intervals`, per beam."""
    low = np.minimum.reduce([np.where(half > 0, middle - half, _FAR) for middle, half in intervals])
    high = np.maximum.reduce([np.where(half > 0, middle + half, -_FAR) for middle, half in intervals])
    return (low + high) / 2, np.maximum((high - low) / 2, 0)


def _overlap_length(one: Interval, other: Interval) -> np.ndarray:
    shared = np.minimum(one[0] + one[1], other[0] + other[1]) - np.maximum(one[0] - one[1], other[0] - other[1])
    return np.maximum(shared, 0, out=shared)


def _mediastinal_intervals(chest: Chest, projection: Projection) -> list[Interval]:
    """Return the intervals of heart, great vessels, descending aorta and the surrounding mediastinal tissue."""
    across, down = projection.plane_coordinates(0.0)
    index = table_index(down)
    half_width = chest.table(chest.mediastinum_half_width)[index]
    depth = np.float32(0.96 * chest.patient.half_depth)
    if projection.lateral:
        band = half_width * _superellipse_half_chord(across / depth, 2.0)
    else:
        band = depth * _superellipse_half_chord(across / half_width, 2.0)
    return [
        _enclosing_interval([_ellipsoid_interval(part, projection) for part in chest.heart]),
        _enclosing_interval([_ellipsoid_interval(part, projection) for part in chest.great_vessels]),
        _ellipsoid_interval(chest.descending_aorta, projection),
        (np.zeros_like(band), band),
    ]


def _pleural_cavity(
    chest: Chest, lung: Lung, projection: Projection, scale: float = 1.0
) -> tuple[Interval, np.ndarray, np.ndarray]:
    """Return the pleural cavity of a lung, diaphragm and mediastinum ignored, scaled by `scale` about the hilum.

    Returns the interval of each beam, its relative position across the cavity (-1 at the medial edge or the back, 1 at
    the chest wall or the front) and its height y.
    """
    hilum = chest.hilum(lung.side)
    depth = LUNG_OFFSET * lung.sign if projection.lateral else 0.0
    across, down = projection.plane_coordinates(depth)
    if scale != 1.0:
        axis = projection.across_axis
        across = hilum[axis] + (across - hilum[axis]) * np.float32(1 / scale)
        down = hilum[1] + (down - hilum[1]) * np.float32(1 / scale)
        down = down.astype(np.float32)
    index = table_index(down)
    pleura, wall = chest.table(chest.pleura), chest.table(chest.cage)
    middle, width = lung.sign * (pleura + wall) / 2, np.maximum((wall - pleura) / 2, 1e-3)
    half_depth = np.maximum(chest.table(chest.lung_half_depth), 1e-3)
    if projection.lateral:
        position = across / half_depth[index]
        interval = middle[index], width[index] * _superellipse_half_chord(position, LUNG_EXPONENT)
    else:
        position = (across - middle[index]) / width[index] * np.float32(lung.sign)
        interval = np.zeros_like(position), half_depth[index] * _superellipse_half_chord(position, LUNG_EXPONENT)
    above_sulcus = np.clip((np.float32(lung.sulcus) - down) * np.float32(2.0) + 0.5, 0, 1)
    half = np.where(down > 0, interval[1] * above_sulcus, 0)
    return (interval[0], half * np.float32(scale)), position, down


def _subdiaphragmatic_interval(chest: Chest, lung: Lung, projection: Projection) -> Interval:
    """Return the interval below the hemidiaphragm: a paraboloid, steep at the wall and flat towards the heart."""
    patient = chest.patient
    middle = lung.sign * 0.46 * patient.half_width
    lateral, medial = 0.55 * patient.half_width, 1.15 * patient.half_width
    depth = 1.06 * patient.half_depth
    across, down = projection.plane_coordinates(LUNG_OFFSET * lung.sign if projection.lateral else 0.0)
    below = (down - np.float32(lung.dome_top)) * np.float32(1 / max(lung.dome, 0.3))
    if projection.lateral:
        reach = np.maximum(below - (across / depth) ** 2, 0) ** np.float32(0.42)
        return lung.sign * (0.46 * patient.half_width + reach * (lateral - medial) / 2), reach * (lateral + medial) / 2
    outward = (across - middle) * np.float32(lung.sign)
    outward = np.where(outward > 0, outward * np.float32(1 / lateral), outward * np.float32(1 / medial))
    return np.zeros_like(down), np.float32(depth) * np.maximum(below - outward * outward, 0) ** np.float32(0.42)


def lung_depths(chest: Chest, projection: Projection) -> dict[str, np.ndarray]:
    """Return the length of every beam in the left and in the right pleural cavity, [H, H] each, in cm.

    The cavity is free of heart, mediastinum and diaphragm; what findings fill it with does not count.
    """
    mediastinum = _mediastinal_intervals(chest, projection)
    return {side: _free_cavity(chest, lung, projection, mediastinum)[0] for side, lung in chest.lungs.items()}


def _free_cavity(
    chest: Chest, lung: Lung, projection: Projection, mediastinum: list[Interval]
) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """Return the length of each beam in the pleural cavity without mediastinum and diaphragm, then what
    `_pleural_cavity` returns beside the interval.
    """
    cavity, position, down = _pleural_cavity(chest, lung, projection)
    # The heart rests on the diaphragm, so the two form one obstacle.
    heart, *others = mediastinum
    obstacles = [_enclosing_interval([heart, _subdiaphragmatic_interval(chest, lung, projection)]), *others]
    free = 2 * cavity[1] - sum(_overlap_length(cavity, obstacle) for obstacle in obstacles)
    return np.maximum(free, 0, out=free), position, down


def _subtract_lung(
    chest: Chest, lung: Lung, projection: Projection, mediastinum: list[Interval], texture: _Texture,
    total: np.ndarray,
) -> np.ndarray:
    """Replace soft tissue in `total` by a lung, in place; return the length of each beam in aerated lung."""
    free, position, down = _free_cavity(chest, lung, projection, mediastinum)
    if lung.fluid:
        free *= 1 - _effusion_fraction(lung, position, down, projection.lateral)
    density = np.float32(lung.density) * (1 + 0.05 * texture.fine)
    if lung.edema:
        density += _edema_density(chest, lung, projection, texture)
    if lung.collapse < 1:
        shrunk = np.minimum(2 * _pleural_cavity(chest, lung, projection, lung.collapse)[0][1], free)
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
        half = _ellipsoid_interval(body, projection, window)[1] * np.clip(ragged, 0.2, 1.6)
        total[window] += np.float32(opacity.attenuation) * np.minimum(2 * half, free[window])
    return free


def _effusion_fraction(lung: Lung, position: np.ndarray, down: np.ndarray, lateral: bool) -> np.ndarray:
    """Return the fluid's share of the pleural cavity: 1 at the bottom, less further up, with a meniscus at the edges.

    `position` and `down` are those of `_pleural_cavity`.
    """
    edge = np.abs(position) if lateral else np.where(position > 0, position, np.float32(-0.45) * position)
    height = np.float32(lung.fluid) * (0.62 + 0.38 * np.minimum(edge, 1) ** 2)
    border = np.float32(0.8 + 0.1 * lung.fluid)
    depth = np.clip((down - (np.float32(lung.sulcus) - height)) / border + 0.3, 0, 1)
    return depth * depth * (3 - 2 * depth)


def _edema_density(chest: Chest, lung: Lung, projection: Projection, texture: _Texture) -> np.ndarray:
    """Return the density that edema adds to the lung, highest around the hilum."""
    hilum = chest.hilum(lung.side)
    across, down = projection.plane_coordinates(hilum[projection.beam_axis])
    distance = ((across - hilum[projection.across_axis]) / 7.0) ** 2 + ((down - hilum[1] - 1.0) / 7.5) ** 2
    return np.float32(lung.edema) * (0.2 + np.exp(-distance)) * np.clip(1 + 0.3 * texture.fine, 0.2, 2)


# Bones, solids and tubes


def _add_spine(chest: Chest, projection: Projection, total: np.ndarray) -> None:
    """Add the vertebrae: bodies with end plates, pedicles, transverse and spinous processes."""
    heights = np.linspace(-12, 45, 30)
    line = np.stack((chest.spine_shift(heights), heights, chest.spine_depth(heights)), -1)
    window = projection.window(line, 5.0)
    if window is None:
        return
    depth = 0.0 if projection.lateral else SPINE_DEPTH
    across, down = projection.plane_coordinates(depth, window)
    index = table_index(down)
    bone = 0.62 * chest.patient.bone
    height = 2.1 + 0.02 * (down - 10)
    phase = (down / height) % 1
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
    spinous = np.exp(-((offset / 0.35) ** 2) - ((phase - 0.75) / 0.22) ** 2)
    transverse = np.clip(1 - np.abs(offset) / 3.4, 0, 1) * np.exp(-(((phase - 0.4) / 0.16) ** 2))
    total[window] += np.float32(0.15 * bone) * (
        chord + 0.5 * edges + 1.1 * pedicles + 1.1 * spinous + 0.8 * transverse
    )


def add_solid(solid: Ellipsoid, projection: Projection, total: np.ndarray) -> None:
    """Add the attenuation of an ellipsoid to `total` [H, H], in place."""
    window = projection.window(np.array(solid.centre), max(solid.axes))
    if window is not None:
        total[window] += np.float32(2 * solid.attenuation) * _ellipsoid_interval(solid, projection, window)[1]


def add_tubes(tubes: Sequence[Tubes], projection: Projection, aerated: np.ndarray, total: np.ndarray) -> None:
    """Add the attenuation of tubes to `total` [H, H], in place.

    aerated   [H, H]: length of each beam in aerated lung; tubes with `inside_lung` are invisible where it is 0
    """
    positions, masses = [], []
    for group in tubes:
        samples, mass = _sample_tubes(group, projection)
        if group.inside_lung:
            centre = np.clip(samples[:, :, samples.shape[2] // 2], 0, projection.size - 1).astype(int)
            mass *= np.clip(aerated[centre[..., 1], centre[..., 0]] - 1.0, 0, 1)[..., None]
        positions.append(samples.reshape(-1, 2))
        masses.append(mass.ravel())
    total += _splat(np.concatenate(positions), np.concatenate(masses), projection.size)


def _sample_tubes(tubes: Tubes, projection: Projection) -> tuple[np.ndarray, np.ndarray]:
    """Sample tubes at k points along and m across; return positions [n, k, m, 2] in pixels and masses [n, k, m].

    A mass is attenuation times area in pixels, so that the masses deposited on a pixel add up to its attenuation.
    """
    corners = projection.project(tubes.points)
    steps = np.diff(corners, axis=1)
    directions = np.arctan2(steps[..., 1], steps[..., 0])
    turns = np.abs((np.diff(directions, axis=1) + np.pi) % (2 * np.pi) - np.pi).sum(-1)
    # In a turn the outer edge of a tube is longer than its centreline.
    broadest = projection.pixels_per_cm * tubes.radius.max(-1)
    longest = (np.linalg.norm(steps, axis=-1).sum(-1) + turns * broadest).max()
    samples = int(np.clip(1.15 * longest, 6, 2000))
    position = np.linspace(0, tubes.points.shape[1] - 1, samples)
    low = np.minimum(position.astype(int), tubes.points.shape[1] - 2)
    weight = position - low
    points = tubes.points[:, low] * (1 - weight)[:, None] + tubes.points[:, low + 1] * weight[:, None]
    radius = tubes.radius[:, low] * (1 - weight) + tubes.radius[:, low + 1] * weight
    scale = projection.pixels_per_cm * projection.magnification(points[..., projection.beam_axis])
    lengths = np.linalg.norm(np.gradient(points, axis=1), axis=-1) * scale
    lengths[:, [0, -1]] /= 2
    middle = projection.project(points)
    strips = int(np.clip(np.ceil(3 * (radius * scale).max()), 3, 99)) | 1
    # Tangents are averaged over the width: otherwise edges fray where a tube turns towards the beam.
    tangent = ndimage.uniform_filter1d(np.gradient(middle, axis=1), strips, axis=1, mode="nearest")
    tangent /= np.linalg.norm(tangent, axis=-1, keepdims=True) + 1e-9
    normal = np.stack((-tangent[..., 1], tangent[..., 0]), -1)
    offsets = (np.arange(strips) + 0.5) * (2 / strips) - 1
    # Normalised to the area of the circle, which a small number of strips overestimates.
    chord = np.sqrt(1 - offsets**2)
    chord *= np.pi / 4 / chord.mean()
    profile = tubes.attenuation[:, None] * chord
    if tubes.hollow:
        hole = np.sqrt(np.maximum(tubes.hollow**2 - offsets**2, 0))
        hole *= np.pi / 4 * tubes.hollow**2 / hole.mean()
        profile = profile + (tubes.core - tubes.attenuation)[:, None] * hole
    positions = middle[:, :, None] + normal[:, :, None] * (radius * scale)[..., None, None] * offsets[:, None]
    area = lengths * 2 * radius * scale / strips
    mass = (2 * tubes.depth * radius * area)[..., None] * profile[:, None]
    return positions, mass


def _splat(positions: np.ndarray, masses: np.ndarray, size: int) -> np.ndarray:
    """Deposit `masses` at `positions` [points, 2], in pixels, on [size, size]; the four nearest pixels share each."""
    # A margin of two pixels takes what falls beyond the border.
    wide = size + 4
    x, y = (np.clip(positions + 1.5, 0, size + 2).astype(np.float32)).T
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
