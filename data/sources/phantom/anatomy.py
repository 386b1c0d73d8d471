"""The bodies of a phantom chest: their shapes and places, how patients differ, and what each finding changes in them.

Patient coordinates, in cm: x runs to the patient's left (to the right in a frontal image), y runs down from the apex
of the lungs, z runs forward. Attenuation coefficients are in 1/cm, at the energy of a chest X-ray.
"""

from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace
from functools import cached_property

import numpy as np
from scipy import ndimage

from data.sources.phantom.findings import FINDING_KINDS, SIDES

SOFT_TISSUE, LUNG, AIR, CORTICAL_BONE, METAL = 0.20, 0.052, 0.0, 0.62, 2.2
SIGN = {"left": 1.0, "right": -1.0}
NORMAL_CARDIOTHORACIC_RATIO = (0.38, 0.515)
ENLARGED_CARDIOTHORACIC_RATIO = {"mild": (0.54, 0.57), "moderate": (0.575, 0.605), "severe": (0.61, 0.645)}
# Where the lung zones begin and end, in parts of the lung's height.
ZONES = {"upper": (0.0, 0.36), "mid": (0.36, 0.64), "lower": (0.64, 1.0)}
APICAL_ZONE = (0.0, 0.19)
# Depth of the middle of the bodies, where one number stands for all of a body.
HEART_DEPTH, SPINE_DEPTH, HILUM_DEPTH = 2.0, -6.5, -0.5
# Distance of the middle of a lung from the midline.
LUNG_OFFSET = 6.5
# How square the cross-sections are: 2 is an ellipse.
LUNG_SQUARENESS, TRUNK_SQUARENESS = 2.6, 4.0
# Pairs of ribs; the twelfth is too short to matter.
RIBS = 11

# What draws random numbers for a patient: the parts of the body and the kinds of finding, each a stream of its own.
_PURPOSES = ("vessels", "texture", *FINDING_KINDS)

_TABLE_TOP, _TABLE_STEP, _TABLE_LENGTH = -40.0, 0.05, 2000


@dataclass(frozen=True)
class Pose:
    """How the patient stands before the detector.

    yaw, pitch, roll   rotation about y, about x, and in the plane of the image, in radians
    zoom               magnification of the picture, 1 for the usual field of view
    shift              where the middle of the chest lies, from the middle of the image, in parts of its side
    """

    yaw: float
    pitch: float
    roll: float
    zoom: float
    shift: tuple[float, float]


@dataclass(frozen=True)
class Patient:
    """What is peculiar to a patient, findings apart. Lengths in cm.

    seed                seed of everything else that is left to chance (branches of vessels, places of findings)
    view                "PA" or "AP"
    half_width          of the rib cage, inside
    lung_height         from the apex to the costophrenic sulcus
    half_depth          of the lungs
    wall                thickness of the chest wall, breasts apart
    dome_heights        of the right and the left hemidiaphragm above the sulcus
    cardiothoracic_ratio   of the healthy heart, as it appears in the image
    heart_tilt          angle of the heart's long axis to the horizontal, in radians
    mediastinum         half width of the upper mediastinum
    aorta               radius of the aortic arch
    breasts             radius; 0 without
    spine_bend          natural sideways bend of the spine
    bone, lung          density of bone and lung relative to the usual one
    stomach_bubble      radius; 0 without
    brightness, contrast   of the display, relative to the usual one
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
    """A patient by chance. Those who cannot stand (AP) are rotated more, breathe in less and are nearer to the tube."""
    view = "AP" if rng.random() < 0.4 else "PA"
    bedridden = view == "AP"
    sex = "F" if rng.random() < 0.5 else "M"
    half_width = _around(rng, 12.6 if sex == "F" else 13.4, 0.9, 2)
    lung_height = half_width * _around(rng, 1.62 if bedridden else 1.74, 0.07, 2)
    dome = _around(rng, 4.4, 0.7, 2)
    lowest, highest = NORMAL_CARDIOTHORACIC_RATIO
    return Patient(
        seed=int(rng.integers(2**63)),
        view=view,
        sex=sex,
        age=int(np.clip(rng.normal(60, 17), 18, 95)),
        half_width=half_width,
        lung_height=lung_height,
        half_depth=_around(rng, 8.3, 0.7, 2),
        wall=float(np.clip(rng.gamma(6.0, 0.4), 1.2, 5.0)),
        dome_heights=(dome + _around(rng, 0.6, 0.3, 2), dome - _around(rng, 0.6, 0.3, 2)),
        cardiothoracic_ratio=lowest + (highest - lowest) * rng.beta(3.0, 2.0 if bedridden else 3.0),
        heart_tilt=_around(rng, 0.68, 0.10, 2),
        mediastinum=_around(rng, 2.55, 0.2, 2),
        aorta=_around(rng, 1.75, 0.15, 2),
        breasts=_around(rng, 7.0, 1.2, 2) if sex == "F" else 0.0,
        spine_bend=_around(rng, 0.0, 0.35, 2),
        bone=_around(rng, 1.0, 0.12, 2),
        lung=_around(rng, 1.0, 0.08, 2),
        stomach_bubble=_around(rng, 2.4, 0.4, 2) if rng.random() < 0.75 else 0.0,
        brightness=_around(rng, 0.0, 0.06, 2),
        contrast=_around(rng, 1.0, 0.10, 2),
        pose=Pose(
            yaw=_around(rng, 0.0, 0.09 if bedridden else 0.04, 2),
            pitch=_around(rng, -0.05 if bedridden else 0.0, 0.05, 2),
            roll=_around(rng, 0.0, 0.06 if bedridden else 0.04, 2),
            zoom=float(rng.uniform(0.82, 1.14)),
            shift=(_around(rng, 0.0, 0.06, 2), _around(rng, 0.0, 0.055, 2)),
        ),
    )


@dataclass(frozen=True)
class Ellipsoid:
    """An ellipsoid, turned by `angle` (radians, from x towards y) in the frontal plane.

    attenuation   what it adds to the tissue that it lies in, in 1/cm
    """

    centre: tuple[float, float, float]
    axes: tuple[float, float, float]
    attenuation: float = 0.0
    angle: float = 0.0

    @cached_property
    def covariance(self) -> np.ndarray:
        """[3, 3]: its surface is where p' inverse(covariance) p = 1, p being measured from the centre."""
        cosine, sine = np.cos(self.angle), np.sin(self.angle)
        rotation = np.array([[cosine, -sine, 0.0], [sine, cosine, 0.0], [0.0, 0.0, 1.0]])
        return rotation @ np.diag(np.square(self.axes)) @ rotation.T

    def outline(self) -> np.ndarray:
        """[4, 3] points whose bounding box in a frontal picture is that of the ellipsoid."""
        x, y, z = self.centre
        reach_x, reach_y = np.sqrt(self.covariance[0, 0]), np.sqrt(self.covariance[1, 1])
        return np.array([[x - reach_x, y, z], [x + reach_x, y, z], [x, y - reach_y, z], [x, y + reach_y, z]])


@dataclass(frozen=True)
class Tubes:
    """Tubes along curves.

    points        [n, k, 3]: each curve as a chain of k points
    radius        [n, k]: half the height of the cross-section in the plane of the picture
    attenuation   [n]: of the wall, beyond the tissue that it lies in, in 1/cm
    core          [n]: of the core
    hollow        radius of the core relative to the radius; 0 for no core
    depth         extent along the beam relative to that of a round tube
    inside_lung   only what lies in aerated lung shows
    """

    points: np.ndarray
    radius: np.ndarray
    attenuation: np.ndarray
    core: np.ndarray | float = 0.0
    hollow: float = 0.0
    depth: float = 1.0
    inside_lung: bool = False


def tube(points: Sequence[Sequence[float]], radius: float | Sequence[float], attenuation: float, **form) -> Tubes:
    """A single tube along the chain of `points`, of one radius or of one a point; further arguments as in `Tubes`."""
    points = np.asarray(points, dtype=float)[None]
    return Tubes(points, np.broadcast_to(radius, points.shape[:2]), np.array([attenuation]), **form)


@dataclass(frozen=True)
class Opacity:
    """Lung filled within an ellipsoid with a soft, uneven border.

    attenuation   what it adds to the lung, in 1/cm
    roughness     how much the border follows the texture of the lung
    """

    ellipsoid: Ellipsoid
    attenuation: float
    roughness: float


@dataclass
class Lung:
    """A lung and the half of the diaphragm below it.

    sulcus        y of the lowest point
    dome          height of the dome above the sulcus
    density       attenuation in 1/cm
    fluid         height of an effusion above the sulcus, at the wall; 0 without
    collapse      size relative to the pleural cavity, the rest being air: 1 without pneumothorax
    edema         attenuation that an oedema adds at the hilum, in 1/cm
    """

    side: str
    sulcus: float
    dome: float
    density: float
    fluid: float = 0.0
    collapse: float = 1.0
    edema: float = 0.0

    @property
    def sign(self) -> float:
        """1 on the patient's left, -1 on the right."""
        return SIGN[self.side]

    @property
    def dome_top(self) -> float:
        """y of the top of the dome."""
        return self.sulcus - self.dome


class Chest:
    """A patient as bodies in space: healthy when made, and to be changed by `phantom_pathology.py`.

    The same patient has the same bodies with and without a finding, apart from what the finding changes: nothing is
    drawn from a common stream of random numbers. What changes the shape of a body must be set before the body is asked
    for.

    cardiothoracic_ratio   width of the heart by that of the rib cage, in a frontal picture
    mediastinal_widening   what the upper mediastinum has gained on each side, in cm
    unfolding              how far the aorta has lost its curve: 0 healthy, 1 tortuous
    scoliosis              sideways bend of the spine to the left, in cm
    fractured_ribs         (side, index of the rib, angle along it in radians)
    vessel_prominence      radius of the lungs' vessels relative to the usual one
    solids, opacities      bodies of findings; opacities show in aerated lung only
    devices                tubes of findings
    """

    def __init__(self, patient: Patient):
        self.patient = patient
        self.lungs = {
            side: Lung(side, patient.lung_height, patient.dome_heights[side == "left"], LUNG * patient.lung)
            for side in SIDES
        }
        self.cardiothoracic_ratio = patient.cardiothoracic_ratio
        self.mediastinal_widening = 0.0
        self.unfolding = 0.0
        self.scoliosis = 0.0
        self.fractured_ribs: list[tuple[str, int, float]] = []
        self.vessel_prominence = 1.0
        self.solids: list[Ellipsoid] = []
        self.opacities: dict[str, list[Opacity]] = {side: [] for side in SIDES}
        self.devices: list[Tubes] = []

    def chance(self, purpose: str, side: str | None = None) -> np.random.Generator:
        """A generator of its own for every purpose (a kind of finding or a kind of body) of the patient."""
        position = _PURPOSES.index(purpose)
        return np.random.default_rng([self.patient.seed, position, (None, *SIDES).index(side)])

    # Rib cage and lungs

    def cage(self, y: np.ndarray | float) -> np.ndarray:
        """Half width of the rib cage, inside, at the height `y`."""
        opening = np.clip(np.asarray(y) / self.patient.lung_height / 0.8, 0.0, 1.0)
        return self.patient.half_width * (0.34 + 0.66 * np.sqrt(1 - (1 - opening) ** 2.2))

    def pleura(self, y: np.ndarray | float) -> np.ndarray:
        """Distance of the mediastinal pleura from the midline at the height `y`."""
        opening = np.sqrt(1 - (1 - np.clip(np.asarray(y) / self.patient.lung_height / 0.2, 0.0, 1.0)) ** 2)
        return 0.34 * self.patient.half_width * (1 - opening) + 1.0 * opening

    def lung_half_depth(self, y: np.ndarray | float) -> np.ndarray:
        """Half the depth of the lungs at the height `y`."""
        opening = np.clip(np.asarray(y) / self.patient.lung_height / 0.55, 0.0, 1.0)
        return self.patient.half_depth * np.sqrt(1 - (1 - opening) ** 2)

    def in_lung(self, side: str, across: np.ndarray, down: np.ndarray, forward: np.ndarray) -> np.ndarray:
        """[..., 3] points of a lung from its own coordinates: 0..1 from the pleura to the wall, 0..1 from the apex to
        the sulcus, -1..1 from back to front."""
        lung = self.lungs[side]
        y = down * lung.sulcus
        pleura, wall = self.pleura(y), self.cage(y)
        return np.stack((lung.sign * (pleura + across * (wall - pleura)), y, forward * self.lung_half_depth(y)), -1)

    def hilum(self, side: str) -> np.ndarray:
        """[3]: where vessels and bronchi enter the lung. The left one lies a little higher."""
        y = self.carina[1] + (1.0 if side == "left" else 2.0)
        return np.array([SIGN[side] * (self.patient.mediastinum + 1.9), y, HILUM_DEPTH])

    @cached_property
    def carina(self) -> np.ndarray:
        """[3]: where the trachea divides."""
        return np.array([-0.2, 0.36 * self.patient.lung_height, -1.5])

    # Heart and great vessels

    @cached_property
    def heart(self) -> tuple[Ellipsoid, Ellipsoid]:
        """The ventricles and the right atrium, as wide as the cardiothoracic ratio demands."""
        patient = self.patient
        magnification = depth_magnification(patient.view, HEART_DEPTH) / depth_magnification(patient.view, 0.0)
        target = self.cardiothoracic_ratio * 2 * patient.half_width / magnification
        ventricles = Ellipsoid((2.1, 0.3, HEART_DEPTH), (6.3, 4.6, 5.8), angle=patient.heart_tilt)
        atrium = Ellipsoid((-1.5, -0.4, HEART_DEPTH), (2.7, 4.5, 5.0), angle=-0.1)
        scale = 1.0
        for _ in range(4):
            scaled = tuple(_scaled_heart_part(part, scale) for part in (ventricles, atrium))
            scale *= target / (scaled[0].outline()[1, 0] - scaled[1].outline()[0, 0])
        lift = patient.lung_height - patient.dome_heights[1] + 2.4 - scaled[0].outline()[3, 1]
        return tuple(replace(part, centre=(part.centre[0], part.centre[1] + lift, HEART_DEPTH)) for part in scaled)

    @cached_property
    def aortic_arch(self) -> Ellipsoid:
        """The aortic knob."""
        radius = self.patient.aorta * (1 + 0.35 * self.unfolding)
        x = self.patient.mediastinum - 0.5 + 0.9 * self.unfolding
        return Ellipsoid((x, self.carina[1] - 1.6 - 0.6 * self.unfolding, -1.5), (radius, radius * 1.1, 3.5))

    @cached_property
    def great_vessels(self) -> tuple[Ellipsoid, ...]:
        """Aortic arch, pulmonary trunk, ascending aorta and superior vena cava."""
        mediastinum, (_, carina, _) = self.patient.mediastinum, self.carina
        return (
            self.aortic_arch,
            Ellipsoid((mediastinum - 0.1, carina + 2.2, 2.0), (1.9, 2.3, 2.2)),
            Ellipsoid((-1.2 - 0.9 * self.unfolding, carina + 0.5, 2.0), (1.9, 4.2, 2.0)),
            Ellipsoid((-mediastinum + 0.7, carina + 0.3, 1.0), (1.1, 5.5, 1.1)),
        )

    @cached_property
    def descending_aorta(self) -> Ellipsoid:
        """It runs down behind the heart; unfolded it bows to the left."""
        y = self.carina[1] + 6.5
        return Ellipsoid((1.6 + 1.6 * self.unfolding, y, -4.5), (1.3 + 0.9 * self.unfolding, 9.0, 1.4))

    @property
    def atrium_top(self) -> np.ndarray:
        """[3]: where the superior vena cava enters the right atrium."""
        atrium = self.heart[1]
        return np.array([-self.patient.mediastinum + 0.5, atrium.outline()[2, 1] + 0.5, 1.5])

    def mediastinum_half_width(self, y: np.ndarray) -> np.ndarray:
        """Half width of the band of soft tissue between the lungs, at the height `y`."""
        carina = self.carina[1]
        widening = self.mediastinal_widening * np.exp(-np.abs((y - 0.62 * carina) / (0.8 * carina)) ** 4)
        narrowing = 0.35 * np.clip((y - carina) / 5.0, 0.0, 1.0) + 0.25 * np.clip(1 - y / (0.7 * carina), 0.0, 1.5)
        return self.patient.mediastinum * (0.95 - narrowing) + widening

    @property
    def upper_mediastinum_top(self) -> float:
        """y of the thoracic inlet, where the upper mediastinum begins."""
        return -0.6

    # Spine

    def spine_shift(self, y: np.ndarray) -> np.ndarray:
        """How far the spine lies to the left at the height `y`."""
        turn = (np.asarray(y) - 0.5 * self.patient.lung_height) / (0.5 * self.patient.lung_height + 4.0)
        return (self.patient.spine_bend + self.scoliosis) * np.clip(1 - turn**2, 0.0, 1.0) ** 2

    def spine_depth(self, y: np.ndarray) -> np.ndarray:
        """z of the vertebrae at the height `y`: the neck comes forward."""
        return np.interp(y, [-12.0, 4.0, 12.0, 30.0], [-2.0, SPINE_DEPTH + 0.7, SPINE_DEPTH, SPINE_DEPTH + 0.5])

    # Trunk

    def trunk_half_width(self, y: np.ndarray) -> np.ndarray:
        """Half width of the trunk from the neck over the shoulders to the abdomen."""
        patient = self.patient
        flank = patient.half_width + 0.7 + patient.wall
        shoulder = patient.half_width + 6.0 + 0.5 * patient.wall
        heights = [-8.0, -5.0, -2.5, -0.5, 2.5, 5.0, 9.5, 13.0]
        widths = [5.8, 6.8, 0.62 * shoulder, 0.86 * shoulder, shoulder, 1.02 * shoulder, flank + 1.2, flank]
        return np.interp(y, heights, widths)

    def trunk_half_depth(self, y: np.ndarray) -> np.ndarray:
        """Half depth of the trunk at the height `y`."""
        trunk = self.patient.half_depth + 0.6 + 0.6 * self.patient.wall
        return np.interp(y, [-6.0, 0.0, 5.0], [5.8, 0.75 * trunk, trunk])

    def table(self, profile: Callable[[np.ndarray], np.ndarray]) -> np.ndarray:
        """The values of a function of the height y at the heights that `table_index` counts."""
        return profile(_TABLE_TOP + _TABLE_STEP * np.arange(_TABLE_LENGTH)).astype(np.float32)

    def smooth_table(self, profile: Callable[[np.ndarray], np.ndarray]) -> np.ndarray:
        """As `table`, with the corners of the function rounded."""
        return ndimage.gaussian_filter1d(self.table(profile), 1.0 / _TABLE_STEP, mode="nearest")


def table_index(y: np.ndarray) -> np.ndarray:
    """Where the heights `y` stand in the tables of `Chest.table`."""
    return np.clip((y - _TABLE_TOP) * (1 / _TABLE_STEP), 0, _TABLE_LENGTH - 1).astype(np.int32)


def depth_magnification(view: str, depth: float | np.ndarray) -> float | np.ndarray:
    """How much larger a body at the depth z appears on the detector; `view` is "PA", "AP" or "LATERAL".

    From PA the detector touches the chest and the tube is far away; from AP it is behind the back and the tube near.
    For LATERAL the depth is x, and the left side touches the detector.
    """
    tube_distance, detector = {"PA": (180.0, 12.0), "AP": (105.0, -13.0), "LATERAL": (180.0, 18.0)}[view]
    return tube_distance / (tube_distance - np.abs(detector - depth))


def _around(rng: np.random.Generator, mean: float, deviation: float, limit: float) -> float:
    """A normal variate, cut at `limit` standard deviations."""
    return mean + deviation * float(np.clip(rng.normal(), -limit, limit))


def _scaled_heart_part(part: Ellipsoid, scale: float) -> Ellipsoid:
    """`part` of a heart that grows by `scale` in width and by less in height."""
    x, y, z = part.centre
    long, short, deep = part.axes
    axes = (long * scale**0.85, short * scale**0.75, deep * scale)
    return replace(part, centre=(x * scale, y * scale**0.6, z), axes=axes)


def rib_centreline(chest: Chest, side: str, rib: int, angles: np.ndarray) -> np.ndarray:
    """[len(angles), 3] points of a rib (0 is the uppermost), from the spine (angle 0) round the side to the front."""
    patient = chest.patient
    start = -2.2 + rib * (patient.lung_height + 3.0) / (RIBS - 0.5)
    slope = 5.0 + 5.5 * min(1.0, (rib + 1) / 6)
    y = start - 0.7 * np.sin(np.minimum(2 * angles, np.pi)) + slope * (1 - np.cos(0.85 * angles)) / 1.6
    reach = chest.cage(y + 2.0) + 0.45
    x = 1.9 + (reach - 1.9) * np.sin(angles) ** 0.9
    return np.stack((SIGN[side] * x, y, -(patient.half_depth - 0.3) * np.cos(angles)), -1)


def skeleton(chest: Chest, arms_raised: bool = False) -> list[Tubes]:
    """Ribs, clavicles and the borders of the shoulder blades, unless raised arms take these away."""
    patient = chest.patient
    bone = CORTICAL_BONE * patient.bone
    angles = np.concatenate((np.linspace(0.005, 1.2, 12, endpoint=False), np.linspace(1.2, 2.45, 18)))
    ribs, radii = [], []
    for side in SIDES:
        for rib in range(RIBS):
            ribs.append(rib_centreline(chest, side, rib, angles))
            # The first ribs are flat and broad; the front ends fade into cartilage, those of the lowest ribs early.
            end = 2.5 - 0.25 * max(0, rib - 6)
            fading = np.clip((end - angles) / 0.5, 0.03, 1.0)
            radii.append((0.75 if rib == 0 else 0.62) * patient.half_width / 13.0 * fading)
    attenuation = np.full(len(ribs), 0.95 * bone)
    rib_tubes = Tubes(np.array(ribs), np.array(radii), attenuation, core=0.25 * bone, hollow=0.74, depth=0.62)
    for side, rib, angle in chest.fractured_ribs:
        _break_rib(rib_tubes, SIDES.index(side) * RIBS + rib, angles, angle)
    bones = [rib_tubes]
    for side in SIDES:
        sign = SIGN[side]
        bones.append(clavicle(chest, side))
        if arms_raised:
            continue
        out = patient.half_width + (2.2 if patient.view == "PA" else 0.0)
        blade = np.array(
            [[out + 2.6, 3.0, -8.0], [out + 1.0, 6.5, -9.0], [out - 0.6, 10.0, -9.5], [out - 1.2, 14.0, -9.5]]
        )
        bones.append(tube(blade * [sign, 1, 1], [0.3, 0.45, 0.4, 0.1], 0.4 * bone))
    return bones


def _break_rib(ribs: Tubes, index: int, angles: np.ndarray, angle: float) -> None:
    """Let a rib sag by its own thickness beyond `angle`; further out it is back in its place."""
    beyond = angles > angle
    ribs.points[index, beyond, 1] += 1.1 * np.exp(-(angles[beyond] - angle) / 0.3)


def clavicle(chest: Chest, side: str) -> Tubes:
    """The collar bone, from the breastbone to the shoulder."""
    bone = CORTICAL_BONE * chest.patient.bone
    along = np.linspace(0.0, 1.0, 16)
    x = SIGN[side] * (1.9 + (chest.patient.half_width + 1.4) * along)
    y = 4.2 - 3.6 * along - 0.9 * np.sin(2 * np.pi * along)
    points = np.stack((x, y, 6.5 - 8.0 * along), -1)
    return tube(points, 0.62 + 0.35 * np.abs(along - 0.5), 0.75 * bone, core=0.25 * bone, hollow=0.7)


def airways(chest: Chest) -> list[Tubes]:
    """Trachea and main bronchi: air in the soft tissue of neck and mediastinum."""
    carina = chest.carina
    trachea = [[0.1, -9.0, 1.0], [0.2, -4.0, 0.3], [0.1, 1.0, -0.8], carina]
    tubes = [tube(trachea, 1.1, -SOFT_TISSUE)]
    for side in SIDES:
        hilum = chest.hilum(side)
        middle = (carina + hilum) / 2 + [0.0, -0.3, 0.0]
        tubes.append(tube([carina, middle, hilum], [0.75, 0.65, 0.5], -0.8 * SOFT_TISSUE))
    return tubes


# The main branches of a pulmonary artery, from the hilum: downwards, upwards and outwards.
_ARTERIES = np.array([
    [[-0.6, -1.5, 0.0], [0.3, -0.2, 0.0], [0.9, 1.4, 0.0], [1.1, 3.2, 0.0], [1.3, 5.0, 0.0]],
    [[-1.0, -0.5, 0.0], [0.0, -1.0, 0.0], [0.9, -1.8, 0.0], [1.6, -2.8, 0.0], [2.1, -3.9, 0.0]],
    [[-1.0, 1.0, 0.0], [0.2, 1.4, 0.0], [1.5, 1.9, 0.0], [2.8, 2.6, 0.0], [4.0, 3.4, 0.0]],
])


def vessels(chest: Chest, side: str) -> list[Tubes]:
    """The pulmonary vessels of a lung: some from the hilum, smaller ones that branch off them, and the arteries."""
    trees, sprouts = 24, 5
    rng = chest.chance("vessels", side)
    lung = chest.lungs[side]
    hilum = chest.hilum(side)
    # Spread over the lung by a low-discrepancy sequence, so that no part stays empty.
    numbers = np.arange(trees) + rng.random()
    across, down = 0.12 + 0.84 * (numbers * 0.7549 % 1), 0.05 + 0.92 * (numbers * 0.5698 % 1)
    forward = rng.uniform(-0.7, 0.7, trees)
    ends = chest.in_lung(side, across, down, forward)
    along = np.linspace(0, 1, 12)[:, None]
    starts = hilum + rng.normal(0, 1.0, (trees, 3)) * [0.5, 1.4, 0.5]
    lengths = np.linalg.norm(ends - hilum, axis=-1, keepdims=True)
    bends = rng.normal(0, 0.9, (trees, 3)) * [1.0, 1.0, 0.5] * lengths / 8
    trunks = starts[:, None] * (1 - along) + ends[:, None] * along + bends[:, None] * np.sin(np.pi * along)
    thick = rng.uniform(0.22, 0.40, trees)[:, None] * (1 - along[:, 0]) ** 0.8 + 0.06
    forks = rng.integers(2, 9, (trees, sprouts))
    tips = chest.in_lung(
        side,
        np.clip(across[:, None] + rng.normal(0, 0.20, (trees, sprouts)), 0.05, 0.98),
        np.clip(down[:, None] + rng.normal(0, 0.13, (trees, sprouts)), 0.03, 0.99),
        np.clip(forward[:, None] + rng.normal(0, 0.3, (trees, sprouts)), -0.8, 0.8),
    )
    roots = np.take_along_axis(trunks, forks[..., None], axis=1)
    short = np.linspace(0, 1, 8)[:, None]
    curl = rng.normal(0, 0.35, (trees, sprouts, 1, 3)) * np.sin(np.pi * short)
    branches = (roots[:, :, None] + (tips - roots)[:, :, None] * short + curl).reshape(-1, 8, 3)
    thin = 0.75 * np.take_along_axis(thick, forks, axis=1).reshape(-1, 1) * (1 - 0.75 * short[:, 0])
    arteries = hilum + _ARTERIES * [lung.sign, 1, 1]
    girth = np.array([[0.65, 0.7, 0.65, 0.5, 0.3], [0.6, 0.5, 0.4, 0.3, 0.2], [0.6, 0.5, 0.4, 0.3, 0.2]])
    tubes = []
    for points, radius in ((trunks, thick), (branches, thin), (arteries, girth)):
        points = hilum + (points - hilum) * lung.collapse
        attenuation = np.full(len(points), SOFT_TISSUE - lung.density)
        tubes.append(Tubes(points, radius * chest.vessel_prominence, attenuation, inside_lung=True))
    return tubes


def ordinary_solids(chest: Chest, arms_raised: bool = False) -> list[Ellipsoid]:
    """Breastbone, heads of the upper arms and shoulder blades (unless raised arms take them away), breasts, gas in the
    stomach."""
    patient = chest.patient
    bone = CORTICAL_BONE * patient.bone
    solids = [
        Ellipsoid((0.0, 9.5, 7.8), (1.7, 7.5, 0.5), 0.15 * bone),
        Ellipsoid((0.0, 2.6, 7.5), (3.0, 1.9, 0.6), 0.15 * bone),
    ]
    for side in SIDES:
        sign = SIGN[side]
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
