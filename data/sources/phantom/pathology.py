"""The effect of each finding on the bodies of a chest."""

from collections.abc import Callable, Sequence

import numpy as np

from data.sources.phantom.bodies import RIBS, rib_centreline
from data.sources.phantom.chest import SIDE_SIGN, ZONES, Chest
from data.sources.phantom.findings import SEVERITIES, Finding
from data.sources.phantom.patient import Patient
from data.sources.phantom.shapes import CORTICAL_BONE, METAL, SOFT_TISSUE, Ellipsoid, Opacity, Tubes

ENLARGED_CARDIOTHORACIC_RATIO = {"mild": (0.54, 0.57), "moderate": (0.575, 0.605), "severe": (0.61, 0.645)}

Effect = Callable[[Chest, Finding, np.random.Generator], None]


def build_chest(patient: Patient, findings: Sequence[Finding]) -> Chest:
    """Build the chest of `patient` with `findings`, in any order.

    Raises ValueError if a finding is of an unknown kind.
    """
    unknown = [finding.kind for finding in findings if finding.kind not in EFFECTS]
    if unknown:
        raise ValueError(f"no physics for the finding '{unknown[0]}': choose one of {', '.join(EFFECTS)}")
    chest = Chest(patient)
    # Effects that change the shape of bodies come first in `EFFECTS`: the other findings are placed relative to them.
    for kind, effect in EFFECTS.items():
        for finding in findings:
            if finding.kind == kind:
                effect(chest, finding, chest.random_generator(kind, finding.side))
    return chest


def _by_severity(finding: Finding, values: Sequence[float]) -> float:
    """Return the value for the severity of `finding`; `values` are those for mild, moderate and severe."""
    return values[SEVERITIES.index(finding.severity)]


def _enlarge_heart(chest: Chest, finding: Finding, rng: np.random.Generator) -> None:
    chest.cardiothoracic_ratio = rng.uniform(*ENLARGED_CARDIOTHORACIC_RATIO[finding.severity])


def _widen_mediastinum(chest: Chest, finding: Finding, rng: np.random.Generator) -> None:
    chest.mediastinal_widening = _by_severity(finding, (1.3, 2.0, 2.8)) * rng.uniform(0.9, 1.1)


def _unfold_aorta(chest: Chest, finding: Finding, rng: np.random.Generator) -> None:
    chest.unfolding = rng.uniform(0.9, 1.3)


def _hyperinflate(chest: Chest, finding: Finding, rng: np.random.Generator) -> None:
    for lung in chest.lungs.values():
        lung.sulcus *= rng.uniform(1.13, 1.16)
        lung.dome *= 0.45
        lung.density *= 0.72


def _lower_volumes(chest: Chest, finding: Finding, rng: np.random.Generator) -> None:
    height, rise = rng.uniform(0.92, 0.95), rng.uniform(3.6, 4.6)
    for lung in chest.lungs.values():
        lung.sulcus *= height
        lung.dome += rise
        lung.density *= 1.25


def _raise_hemidiaphragm(chest: Chest, finding: Finding, rng: np.random.Generator) -> None:
    chest.lungs[finding.side].dome += rng.uniform(4.0, 5.5)


def _bend_spine(chest: Chest, finding: Finding, rng: np.random.Generator) -> None:
    chest.scoliosis = SIDE_SIGN[finding.side] * _by_severity(finding, (2.2, 3.4, 4.8)) * rng.uniform(0.9, 1.1)


def _add_effusion(chest: Chest, finding: Finding, rng: np.random.Generator) -> None:
    chest.lungs[finding.side].fluid = _by_severity(finding, (4.0, 7.0, 11.5)) * rng.uniform(0.9, 1.1)


def _collapse_lung(chest: Chest, finding: Finding, rng: np.random.Generator) -> None:
    lung = chest.lungs[finding.side]
    lung.collapse = _by_severity(finding, (0.84, 0.72, 0.56)) + rng.uniform(-0.02, 0.02)
    lung.density *= lung.collapse**-1.5


def _add_edema(chest: Chest, finding: Finding, rng: np.random.Generator) -> None:
    chest.vessel_prominence = _by_severity(finding, (1.25, 1.4, 1.5))
    for lung in chest.lungs.values():
        lung.edema = _by_severity(finding, (0.022, 0.042, 0.068)) * rng.uniform(0.9, 1.1)


def _place_in_zone(chest: Chest, finding: Finding, radius: float, rng: np.random.Generator) -> np.ndarray:
    """Draw a centre [3] in the zone of `finding` for a body of `radius` that heart and diaphragm do not hide."""
    lung = chest.lungs[finding.side]
    top, bottom = (part * lung.sulcus for part in ZONES[finding.place])
    if finding.place == "lower":
        bottom = lung.dome_top + 0.35 * lung.dome
        top = min(top, bottom - 1.0)
    if finding.place == "upper":
        top += 0.25 * (bottom - top)
    margin = min(0.8 * radius, 0.45 * (bottom - top))
    y = rng.uniform(top + margin, bottom - margin)
    # Small bodies would be lost among the vessels of the hilum.
    medial = chest.patient.mediastinum + (3.5 if finding.place == "mid" and radius < 2 else 0.5)
    for part in chest.heart:
        # Edge of the heart at this height, measured towards the side of the lung.
        reach = 1 - ((y - part.centre[1]) / (part.outline()[3, 1] - part.centre[1])) ** 2
        if reach > 0:
            half = part.outline()[1, 0] - part.centre[0]
            medial = max(medial, lung.sign * part.centre[0] + half * reach**0.5)
    lateral = float(chest.cage(y)) - 0.7
    low, high = medial + 0.6 * radius, lateral - 0.7 * radius
    x = rng.uniform(low, high) if low < high else 0.4 * medial + 0.6 * lateral
    return np.array([lung.sign * x, y, rng.uniform(-0.3, 0.3) * chest.patient.half_depth])


def _add_consolidation(chest: Chest, finding: Finding, rng: np.random.Generator) -> None:
    radius = _by_severity(finding, (2.6, 3.3, 4.0)) * rng.uniform(0.92, 1.08)
    axes = radius * np.array([rng.uniform(1.0, 1.25), rng.uniform(0.8, 0.95), 1.2])
    attenuation = (SOFT_TISSUE - chest.lungs[finding.side].density) * _by_severity(finding, (0.85, 0.95, 1.05))
    blob = Ellipsoid(tuple(_place_in_zone(chest, finding, radius, rng)), tuple(axes), angle=rng.uniform(-0.5, 0.5))
    chest.opacities[finding.side].append(Opacity(blob, attenuation, 0.35))


def _add_patchy_atelectasis(chest: Chest, finding: Finding, rng: np.random.Generator) -> None:
    radius = _by_severity(finding, (1.6, 2.0, 2.4))
    attenuation = (SOFT_TISSUE - chest.lungs[finding.side].density) * 0.95
    centre = _place_in_zone(chest, finding, 1.8 * radius, rng)
    for offset in (-1.0, 0.0, 1.0):
        place = centre + np.array([1.25 * radius * offset, rng.uniform(-0.5, 0.5) * radius, rng.uniform(-1, 1)])
        axes = radius * rng.uniform(0.8, 1.1) * np.array([1.0, 0.75, 1.3])
        blob = Ellipsoid(tuple(place), tuple(axes), angle=rng.uniform(-0.6, 0.6))
        chest.opacities[finding.side].append(Opacity(blob, attenuation, 0.45))


def _add_linear_atelectasis(chest: Chest, finding: Finding, rng: np.random.Generator) -> None:
    centre = _place_in_zone(chest, finding, 2.0, rng)
    attenuation = (SOFT_TISSUE - chest.lungs[finding.side].density) * 0.9
    for offset in ((0.0,) if rng.random() < 0.5 else (-0.7, 0.7)):
        # A plate seen edge-on: wide, thin, and deep along the beam.
        half, slope = rng.uniform(2.6, 3.4), rng.uniform(-0.35, 0.35)
        plate = Ellipsoid(tuple(centre + [0.0, offset, 0.0]), (half, 0.42, 4.5), attenuation, angle=slope)
        chest.opacities[finding.side].append(Opacity(plate, attenuation, 0.0))


def _add_lesion(
    chest: Chest, finding: Finding, radius: float, calcification: float, rng: np.random.Generator
) -> None:
    """Add a ball whose attenuation is `calcification` times that of soft tissue."""
    centre = _place_in_zone(chest, finding, radius, rng)
    attenuation = calcification * SOFT_TISSUE - chest.lungs[finding.side].density
    chest.opacities[finding.side].append(Opacity(Ellipsoid(tuple(centre), (radius,) * 3), attenuation, 0.0))


def _add_nodule(chest: Chest, finding: Finding, rng: np.random.Generator) -> None:
    _add_lesion(chest, finding, rng.uniform(1.35, 1.7), 2.0, rng)


def _add_mass(chest: Chest, finding: Finding, rng: np.random.Generator) -> None:
    _add_lesion(chest, finding, rng.uniform(2.4, 3.3), 1.3, rng)


def _calcify_aorta(chest: Chest, finding: Finding, rng: np.random.Generator) -> None:
    arch = chest.aortic_arch
    angles = np.linspace(-2.5, 0.9, 14) + rng.uniform(-0.2, 0.2)
    rim = np.array(arch.centre) + 0.9 * np.stack(
        (arch.axes[0] * np.cos(angles), arch.axes[1] * np.sin(angles), 0 * angles), -1)
    thickness = 0.24 * (1 + 0.35 * np.sin(5 * angles + rng.uniform(0, 6)))
    chest.devices.append(Tubes.from_polyline(rim, thickness, 1.3 * CORTICAL_BONE, depth=1.6))


def _fracture_ribs(chest: Chest, finding: Finding, rng: np.random.Generator) -> None:
    lung = chest.lungs[finding.side]
    top, bottom = (part * lung.sulcus for part in ZONES[finding.place])
    angle = rng.uniform(0.6, 0.85)
    places = np.array([rib_centreline(chest, finding.side, rib, np.array([angle]))[0] for rib in range(RIBS)])
    target = min((top + bottom) / 2, lung.dome_top - 1.0)
    middle = int(np.argmin(np.abs(places[1:-1, 1] - target))) + 1
    for rib in (middle - 1, middle, middle + 1):
        chest.fractured_ribs.append((finding.side, rib, angle))
        # Callus around the fracture.
        callus = tuple(places[rib] + [0.0, 0.4, 0.0])
        chest.solids.append(
            Ellipsoid(callus, (1.2, 0.65, 0.75), 1.2 * CORTICAL_BONE, angle=0.6 * SIDE_SIGN[finding.side]))


def _implant_pacemaker(chest: Chest, finding: Finding, rng: np.random.Generator) -> None:
    sign, patient = SIDE_SIGN[finding.side], chest.patient
    generator = np.array([sign * 0.60 * patient.half_width, 0.235 * patient.lung_height, patient.half_depth + 1.0])
    chest.solids.append(Ellipsoid(tuple(generator), (2.5, 2.1, 0.45), METAL, angle=sign * rng.uniform(-0.4, 0.4)))
    vein = [sign * 1.2, 0.16 * patient.lung_height, 2.0]
    cava = [-patient.mediastinum + 0.8, chest.carina[1], 1.2]
    atrium, ventricles = chest.heart[1], chest.heart[0]
    middle = [atrium.centre[0] - 0.3, atrium.centre[1] - 0.5, 2.0]
    floor = [atrium.centre[0] + 1.0, atrium.centre[1] + 0.55 * atrium.axes[1], 2.5]
    apex = [ventricles.centre[0] + 0.35 * ventricles.axes[0], ventricles.centre[1] + 0.42 * ventricles.axes[1], 3.5]
    for path in ([generator, vein, cava, middle, floor, apex], [generator, vein, cava, middle, floor]):
        chest.devices.append(Tubes.from_polyline(_spline(path), 0.17, METAL))


def _insert_central_line(chest: Chest, finding: Finding, rng: np.random.Generator) -> None:
    sign, patient = SIDE_SIGN[finding.side], chest.patient
    top = chest.upper_mediastinum_top
    end = chest.atrium_top + [0.1, rng.uniform(-0.3, 0.6), 0.0]
    path = [[sign * 1.6, top + 0.2, 2.0], [sign * 1.7, top + 2.5, 2.0],
            [-0.75 * patient.mediastinum, chest.carina[1] - 1.0, 1.5], end]
    chest.devices.append(Tubes.from_polyline(_spline(path), 0.20, METAL))


def _intubate(chest: Chest, finding: Finding, rng: np.random.Generator) -> None:
    carina = chest.carina
    end = carina[1] - rng.uniform(2.5, 4.0)
    path = np.array([[0.15, -4.6, 0.4], [0.2, -2.0, 0.0], [0.1, 1.0, -0.8], [-0.1, end, -1.3]])
    chest.devices.append(Tubes.from_polyline(path, 0.55, 0.45 * METAL, core=0.0, hollow=0.72))


def _spline(path: Sequence[Sequence[float]], points: int = 30) -> np.ndarray:
    """Return a smooth curve [points, 3] through `path`."""
    path = np.asarray(path, dtype=float)
    # A Catmull-Rom spline: tangents at the ends of each piece follow from their neighbours.
    padded = np.concatenate((2 * path[:1] - path[1:2], path, 2 * path[-1:] - path[-2:-1]))
    position = np.linspace(0, len(path) - 1, points)
    piece = np.minimum(position.astype(int), len(path) - 2)
    t = (position - piece)[:, None]
    a, b, c, d = (padded[piece + offset] for offset in range(4))
    return 0.5 * (2 * b + (c - a) * t + (2 * a - 5 * b + 4 * c - d) * t**2 + (3 * b - a - 3 * c + d) * t**3)


EFFECTS: dict[str, Effect] = {
    "cardiomegaly": _enlarge_heart,
    "widened mediastinum": _widen_mediastinum,
    "tortuous aorta": _unfold_aorta,
    "hyperinflation": _hyperinflate,
    "low lung volumes": _lower_volumes,
    "raised hemidiaphragm": _raise_hemidiaphragm,
    "scoliosis": _bend_spine,
    "pleural effusion": _add_effusion,
    "pneumothorax": _collapse_lung,
    "edema": _add_edema,
    "consolidation": _add_consolidation,
    "patchy atelectasis": _add_patchy_atelectasis,
    "linear atelectasis": _add_linear_atelectasis,
    "nodule": _add_nodule,
    "mass": _add_mass,
    "calcified aorta": _calcify_aorta,
    "rib fracture": _fracture_ribs,
    "pacemaker": _implant_pacemaker,
    "central line": _insert_central_line,
    "endotracheal tube": _intubate,
}
