"""The bones, airways, vessels and other bodies of a phantom chest."""

import numpy as np

from data.sources.phantom.chest import SIDE_SIGN, Chest
from data.sources.phantom.findings import SIDES
from data.sources.phantom.shapes import CORTICAL_BONE, SOFT_TISSUE, Ellipsoid, Tubes

# Pairs of ribs; the twelfth is too short to matter.
RIBS = 11


def rib_centreline(chest: Chest, side: str, rib: int, angles: np.ndarray) -> np.ndarray:
    """Return [len(angles), 3] points of a rib (0 is the uppermost) at `angles` from the spine (0) towards the front."""
    patient = chest.patient
    start = -2.2 + rib * (patient.lung_height + 3.0) / (RIBS - 0.5)
    slope = 5.0 + 5.5 * min(1.0, (rib + 1) / 6)
    y = start - 0.7 * np.sin(np.minimum(2 * angles, np.pi)) + slope * (1 - np.cos(0.85 * angles)) / 1.6
    reach = chest.cage(y + 2.0) + 0.45
    x = 1.9 + (reach - 1.9) * np.sin(angles) ** 0.9
    return np.stack((SIDE_SIGN[side] * x, y, -(patient.half_depth - 0.3) * np.cos(angles)), -1)


def build_skeleton(chest: Chest, arms_raised: bool = False) -> list[Tubes]:
    """Build ribs, clavicles and, unless the arms are raised, the borders of the shoulder blades."""
    patient = chest.patient
    bone = CORTICAL_BONE * patient.bone
    angles = np.concatenate((np.linspace(0.005, 1.2, 12, endpoint=False), np.linspace(1.2, 2.45, 18)))
    ribs, radii = [], []
    for side in SIDES:
        for rib in range(RIBS):
            ribs.append(rib_centreline(chest, side, rib, angles))
            # The first rib is flat and broad. Front ends fade into cartilage, those of the lowest ribs earlier.
            end = 2.5 - 0.25 * max(0, rib - 6)
            fading = np.clip((end - angles) / 0.5, 0.03, 1.0)
            radii.append((0.75 if rib == 0 else 0.62) * patient.half_width / 13.0 * fading)
    attenuation = np.full(len(ribs), 0.95 * bone)
    rib_tubes = Tubes(np.array(ribs), np.array(radii), attenuation, core=0.25 * bone, hollow=0.74, depth=0.62)
    for side, rib, angle in chest.fractured_ribs:
        _break_rib(rib_tubes, SIDES.index(side) * RIBS + rib, angles, angle)
    bones = [rib_tubes]
    for side in SIDES:
        sign = SIDE_SIGN[side]
        bones.append(build_clavicle(chest, side))
        if arms_raised:
            continue
        out = patient.half_width + (2.2 if patient.view == "PA" else 0.0)
        blade = np.array(
            [[out + 2.6, 3.0, -8.0], [out + 1.0, 6.5, -9.0], [out - 0.6, 10.0, -9.5], [out - 1.2, 14.0, -9.5]]
        )
        bones.append(Tubes.from_polyline(blade * [sign, 1, 1], [0.3, 0.45, 0.4, 0.1], 0.4 * bone))
    return bones


def _break_rib(ribs: Tubes, index: int, angles: np.ndarray, angle: float) -> None:
    """Displace a rib by its own thickness just beyond `angle`, in place; further along it returns to its course."""
    beyond = angles > angle
    ribs.points[index, beyond, 1] += 1.1 * np.exp(-(angles[beyond] - angle) / 0.3)


def build_clavicle(chest: Chest, side: str) -> Tubes:
    """Build the clavicle, from the sternum to the shoulder."""
    bone = CORTICAL_BONE * chest.patient.bone
    along = np.linspace(0.0, 1.0, 16)
    x = SIDE_SIGN[side] * (1.9 + (chest.patient.half_width + 1.4) * along)
    y = 4.2 - 3.6 * along - 0.9 * np.sin(2 * np.pi * along)
    points = np.stack((x, y, 6.5 - 8.0 * along), -1)
    return Tubes.from_polyline(
        points, 0.62 + 0.35 * np.abs(along - 0.5), 0.75 * bone, core=0.25 * bone, hollow=0.7
    )


def build_airways(chest: Chest) -> list[Tubes]:
    """Build trachea and main bronchi: air in the soft tissue of neck and mediastinum."""
    carina = chest.carina
    trachea = [[0.1, -9.0, 1.0], [0.2, -4.0, 0.3], [0.1, 1.0, -0.8], carina]
    tubes = [Tubes.from_polyline(trachea, 1.1, -SOFT_TISSUE)]
    for side in SIDES:
        hilum = chest.hilum(side)
        middle = (carina + hilum) / 2 + [0.0, -0.3, 0.0]
        tubes.append(Tubes.from_polyline([carina, middle, hilum], [0.75, 0.65, 0.5], -0.8 * SOFT_TISSUE))
    return tubes


# Main branches of a pulmonary artery, relative to the hilum: downwards, upwards and outwards.
_ARTERIES = np.array([
    [[-0.6, -1.5, 0.0], [0.3, -0.2, 0.0], [0.9, 1.4, 0.0], [1.1, 3.2, 0.0], [1.3, 5.0, 0.0]],
    [[-1.0, -0.5, 0.0], [0.0, -1.0, 0.0], [0.9, -1.8, 0.0], [1.6, -2.8, 0.0], [2.1, -3.9, 0.0]],
    [[-1.0, 1.0, 0.0], [0.2, 1.4, 0.0], [1.5, 1.9, 0.0], [2.8, 2.6, 0.0], [4.0, 3.4, 0.0]],
])
_ARTERY_RADII = np.array([[0.65, 0.7, 0.65, 0.5, 0.3], [0.6, 0.5, 0.4, 0.3, 0.2], [0.6, 0.5, 0.4, 0.3, 0.2]])


def build_pulmonary_vessels(chest: Chest, side: str) -> list[Tubes]:
    """Build the vessels of a lung: stems from the hilum, their branches, and the arteries."""
    stem_count, branches_per_stem = 24, 5
    rng = chest.random_generator("vessels", side)
    lung = chest.lungs[side]
    hilum = chest.hilum(side)
    # Ends of stems follow a low-discrepancy sequence, so that they reach every part of the lung.
    numbers = np.arange(stem_count) + rng.random()
    across, down = 0.12 + 0.84 * (numbers * 0.7549 % 1), 0.05 + 0.92 * (numbers * 0.5698 % 1)
    forward = rng.uniform(-0.7, 0.7, stem_count)
    ends = chest.in_lung(side, across, down, forward)
    along = np.linspace(0, 1, 12)[:, None]
    starts = hilum + rng.normal(0, 1.0, (stem_count, 3)) * [0.5, 1.4, 0.5]
    lengths = np.linalg.norm(ends - hilum, axis=-1, keepdims=True)
    bends = rng.normal(0, 0.9, (stem_count, 3)) * [1.0, 1.0, 0.5] * lengths / 8
    stems = starts[:, None] * (1 - along) + ends[:, None] * along + bends[:, None] * np.sin(np.pi * along)
    stem_radii = rng.uniform(0.22, 0.40, stem_count)[:, None] * (1 - along[:, 0]) ** 0.8 + 0.06
    forks = rng.integers(2, 9, (stem_count, branches_per_stem))
    tips = chest.in_lung(
        side,
        np.clip(across[:, None] + rng.normal(0, 0.20, (stem_count, branches_per_stem)), 0.05, 0.98),
        np.clip(down[:, None] + rng.normal(0, 0.13, (stem_count, branches_per_stem)), 0.03, 0.99),
        np.clip(forward[:, None] + rng.normal(0, 0.3, (stem_count, branches_per_stem)), -0.8, 0.8),
    )
    roots = np.take_along_axis(stems, forks[..., None], axis=1)
    along_branch = np.linspace(0, 1, 8)[:, None]
    curl = rng.normal(0, 0.35, (stem_count, branches_per_stem, 1, 3)) * np.sin(np.pi * along_branch)
    branches = (roots[:, :, None] + (tips - roots)[:, :, None] * along_branch + curl).reshape(-1, 8, 3)
    radii_at_forks = np.take_along_axis(stem_radii, forks, axis=1).reshape(-1, 1)
    branch_radii = 0.75 * radii_at_forks * (1 - 0.75 * along_branch[:, 0])
    arteries = hilum + _ARTERIES * [lung.sign, 1, 1]
    tubes = []
    for points, radius in ((stems, stem_radii), (branches, branch_radii), (arteries, _ARTERY_RADII)):
        points = hilum + (points - hilum) * lung.collapse
        attenuation = np.full(len(points), SOFT_TISSUE - lung.density)
        tubes.append(Tubes(points, radius * chest.vessel_prominence, attenuation, inside_lung=True))
    return tubes


def build_normal_solids(chest: Chest, arms_raised: bool = False) -> list[Ellipsoid]:
    """Build sternum, humeral heads and shoulder blades (unless the arms are raised), breasts and stomach bubble."""
    patient = chest.patient
    bone = CORTICAL_BONE * patient.bone
    solids = [
        Ellipsoid((0.0, 9.5, 7.8), (1.7, 7.5, 0.5), 0.15 * bone),
        Ellipsoid((0.0, 2.6, 7.5), (3.0, 1.9, 0.6), 0.15 * bone),
    ]
    for side in SIDES:
        sign = SIDE_SIGN[side]
        out = patient.half_width + (2.6 if patient.view == "PA" else 0.2)
        if not arms_raised:
            solids += [
                Ellipsoid((sign * (patient.half_width + 4.6), 2.3, -1.0), (2.4, 2.4, 2.4), 0.30 * bone),
                Ellipsoid((sign * out, 7.5, -8.5), (2.6, 6.8, 0.5), 0.25 * bone, angle=sign * 0.18),
            ]
        if patient.breasts:
            y = 0.98 * patient.lung_height - 0.8 * patient.breasts
            centre = (sign * 0.62 * patient.half_width, y, patient.half_depth + 0.6 * patient.wall - 0.2)
            solids.append(Ellipsoid(centre, (patient.breasts, 0.9 * patient.breasts, 1.8), 0.6 * SOFT_TISSUE))
    if patient.stomach_bubble:
        size = patient.stomach_bubble
        top = chest.lungs["left"].dome_top + 0.6
        solids.append(Ellipsoid((5.4, top + 0.6 * size, 1.0), (1.4 * size, 0.6 * size, size), -SOFT_TISSUE))
    return solids
