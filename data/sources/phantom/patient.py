"""Phantom patients: how they vary, how they are positioned, and how the views magnify them. Lengths are in cm."""

from dataclasses import dataclass

import numpy as np

# Share of AP views; the rest are PA.
AP_SHARE = 0.4
NORMAL_CARDIOTHORACIC_RATIO = (0.38, 0.515)
# What an image may show clearly beside findings, see `visible_traits`.
TRAITS = ("rotated", "tilted", "thick chest wall", "breast shadows", "stomach bubble")


@dataclass(frozen=True)
class Pose:
    """Position of the patient in front of the detector.

    yaw, pitch, roll   rotation about y, about x, and in the plane of the image, in radians
    zoom               magnification of the image; 1 is the usual field of view
    shift              offset (x, y) of the centre of the chest from the centre of the image, as a share of its side
    """

    yaw: float
    pitch: float
    roll: float
    zoom: float
    shift: tuple[float, float]


@dataclass(frozen=True)
class Patient:
    """The properties of a patient, findings excluded.

    seed                seed of everything else that is random (branches of vessels, places of findings)
    view                "PA" or "AP"
    half_width          half the inner width of the rib cage
    lung_height         from the apex to the costophrenic sulcus
    half_depth          half the depth of the lungs
    wall                thickness of the chest wall without breasts
    dome_heights        of the right and the left hemidiaphragm, above the sulcus
    cardiothoracic_ratio   of the healthy heart, as it appears in the image
    heart_tilt          angle between the long axis of the heart and the horizontal, in radians
    mediastinum         half the width of the upper mediastinum
    aorta               radius of the aortic arch
    breasts             radius; 0 if absent
    spine_bend          natural lateral curvature of the spine
    bone, lung          density of bone and lung, relative to the average
    stomach_bubble      radius; 0 if absent
    brightness, contrast   of the displayed image, relative to the average
    """

    seed: int
    view: str
    sex: str
    age: int
    half_width: float
    lung_height: float
    half_depth: float
    wall: float
    dome_heights: tuple[float, float]
    cardiothoracic_ratio: float
    heart_tilt: float
    mediastinum: float
    aorta: float
    breasts: float
    spine_bend: float
    bone: float
    lung: float
    stomach_bubble: float
    brightness: float
    contrast: float
    pose: Pose


def draw_patient(rng: np.random.Generator) -> Patient:
    """Draw a patient. Those who cannot stand (AP) are rotated more and inhale less."""
    view = "AP" if rng.random() < AP_SHARE else "PA"
    bedridden = view == "AP"
    sex = "F" if rng.random() < 0.5 else "M"
    half_width = _clipped_normal(rng, 12.6 if sex == "F" else 13.4, 0.9)
    lung_height = half_width * _clipped_normal(rng, 1.62 if bedridden else 1.74, 0.07)
    dome = _clipped_normal(rng, 4.4, 0.7)
    lowest, highest = NORMAL_CARDIOTHORACIC_RATIO
    return Patient(
        seed=int(rng.integers(2**63)),
        view=view,
        sex=sex,
        age=int(np.clip(rng.normal(60, 17), 18, 95)),
        half_width=half_width,
        lung_height=lung_height,
        half_depth=_clipped_normal(rng, 8.3, 0.7),
        wall=float(np.clip(rng.gamma(6.0, 0.4), 1.2, 5.0)),
        dome_heights=(dome + _clipped_normal(rng, 0.6, 0.3), dome - _clipped_normal(rng, 0.6, 0.3)),
        cardiothoracic_ratio=lowest + (highest - lowest) * rng.beta(3.0, 2.0 if bedridden else 3.0),
        heart_tilt=_clipped_normal(rng, 0.68, 0.10),
        mediastinum=_clipped_normal(rng, 2.55, 0.2),
        aorta=_clipped_normal(rng, 1.75, 0.15),
        breasts=_clipped_normal(rng, 7.0, 1.2) if sex == "F" else 0.0,
        spine_bend=_clipped_normal(rng, 0.0, 0.35),
        bone=_clipped_normal(rng, 1.0, 0.12),
        lung=_clipped_normal(rng, 1.0, 0.08),
        stomach_bubble=_clipped_normal(rng, 2.4, 0.4) if rng.random() < 0.75 else 0.0,
        brightness=_clipped_normal(rng, 0.0, 0.06),
        contrast=_clipped_normal(rng, 1.0, 0.10),
        pose=Pose(
            yaw=_clipped_normal(rng, 0.0, 0.09 if bedridden else 0.04),
            pitch=_clipped_normal(rng, -0.05 if bedridden else 0.0, 0.05),
            roll=_clipped_normal(rng, 0.0, 0.06 if bedridden else 0.04),
            zoom=float(rng.uniform(0.82, 1.14)),
            shift=(_clipped_normal(rng, 0.0, 0.06), _clipped_normal(rng, 0.0, 0.055)),
        ),
    )


def _clipped_normal(rng: np.random.Generator, mean: float, deviation: float, limit: float = 2) -> float:
    """Draw from a normal distribution, clipped at `limit` standard deviations."""
    return mean + deviation * float(np.clip(rng.normal(), -limit, limit))


def visible_traits(patient: Patient) -> tuple[str, ...]:
    """Return the `TRAITS` that a frontal image of `patient` shows clearly."""
    visible = (
        abs(patient.pose.yaw) > 0.06, abs(patient.pose.roll) > 0.05, patient.wall > 3.0, patient.breasts > 6.0,
        patient.stomach_bubble > 2.6,
    )
    return tuple(trait for trait, is_visible in zip(TRAITS, visible, strict=True) if is_visible)


def depth_magnification(view: str, depth: float | np.ndarray) -> float | np.ndarray:
    """Return the magnification, on the detector, of a body at `depth`; `view` is "PA", "AP" or "LATERAL".

    Depth is z for frontal views. In PA views the detector touches the front of the chest and the tube is far away; in
    AP views it is behind the back and the tube is close. For "LATERAL" the depth is x, and the left side touches the
    detector.
    """
    tube_distance, detector = {"PA": (180.0, 12.0), "AP": (105.0, -13.0), "LATERAL": (180.0, 18.0)}[view]
    return tube_distance / (tube_distance - np.abs(detector - depth))
