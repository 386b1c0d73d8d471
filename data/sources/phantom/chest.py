"""The chest of a phantom patient: the geometry of its organs, healthy or changed by findings.

Coordinates and units are those of `shapes.py`.
"""

from collections.abc import Callable
from dataclasses import dataclass, replace
from functools import cached_property

import numpy as np
from scipy import ndimage

from data.sources.phantom.findings import FINDING_KINDS, SIDES
from data.sources.phantom.patient import Patient, depth_magnification
from data.sources.phantom.shapes import LUNG, Ellipsoid, Opacity, Tubes

# Sign of x on each side of the patient.
SIDE_SIGN = {"left": 1.0, "right": -1.0}
# Upper and lower end of the lung zones, as a share of the height of the lung.
ZONES = {"upper": (0.0, 0.36), "mid": (0.36, 0.64), "lower": (0.64, 1.0)}
APICAL_ZONE = (0.0, 0.19)
# z of the centre of a body, where a single depth is used for the whole body.
HEART_DEPTH, SPINE_DEPTH, HILUM_DEPTH = 2.0, -6.5, -0.5
# Distance between the centre of a lung and the midline.
LUNG_OFFSET = 6.5
# Exponents of the superellipses that are the cross-sections of lungs and trunk; 2 is an ellipse.
LUNG_EXPONENT, TRUNK_EXPONENT = 2.6, 4.0

# Everything that draws random numbers for a patient, each from its own stream: bodies, and the kinds of finding. The
# order is part of the seeds.
_RANDOM_STREAMS = ("vessels", "texture", *FINDING_KINDS)

_TABLE_TOP, _TABLE_STEP, _TABLE_LENGTH = -40.0, 0.05, 2000


@dataclass
class Lung:
    """A lung and the hemidiaphragm below it.

    sulcus        y of the lowest point
    dome          height of the hemidiaphragm above the sulcus
    density       attenuation in 1/cm
    fluid         height of an effusion above the sulcus, at the chest wall; 0 if there is none
    collapse      size relative to the pleural cavity, the rest being air; 1 without pneumothorax
    edema         attenuation added by an edema at the hilum, in 1/cm
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
        return SIDE_SIGN[self.side]

    @property
    def dome_top(self) -> float:
        """y of the top of the dome."""
        return self.sulcus - self.dome


class Chest:
    """The bodies of a patient's chest: healthy at first, changed by the effects in `pathology.py`.

    Bodies are the same with and without a finding, apart from what the finding changes, because they do not share a
    stream of random numbers. Attributes that change the shape of a body must be set before the body is first read.

    cardiothoracic_ratio   width of the heart divided by that of the rib cage, in a frontal image
    mediastinal_widening   added to the upper mediastinum on each side, in cm
    unfolding              of the aorta: 0 is healthy, 1 tortuous
    scoliosis              lateral curvature of the spine to the left, in cm
    fractured_ribs         (side, index of the rib, angle along it in radians)
    vessel_prominence      radius of the pulmonary vessels, relative to the normal one
    solids, opacities      bodies of findings; opacities are visible in aerated lung only
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

    def random_generator(self, purpose: str, side: str | None = None) -> np.random.Generator:
        """Create the patient's generator for `purpose` (a kind of finding or of body), separately for each side."""
        position = _RANDOM_STREAMS.index(purpose)
        return np.random.default_rng([self.patient.seed, position, (None, *SIDES).index(side)])

    # Rib cage and lungs

    def cage(self, y: np.ndarray | float) -> np.ndarray:
        """Return half the inner width of the rib cage at height `y`."""
        opening = np.clip(np.asarray(y) / self.patient.lung_height / 0.8, 0.0, 1.0)
        return self.patient.half_width * (0.34 + 0.66 * np.sqrt(1 - (1 - opening) ** 2.2))

    def pleura(self, y: np.ndarray | float) -> np.ndarray:
        """Return the distance between the mediastinal pleura and the midline at height `y`."""
        opening = np.sqrt(1 - (1 - np.clip(np.asarray(y) / self.patient.lung_height / 0.2, 0.0, 1.0)) ** 2)
        return 0.34 * self.patient.half_width * (1 - opening) + 1.0 * opening

    def lung_half_depth(self, y: np.ndarray | float) -> np.ndarray:
        """Return half the depth of the lungs at height `y`."""
        opening = np.clip(np.asarray(y) / self.patient.lung_height / 0.55, 0.0, 1.0)
        return self.patient.half_depth * np.sqrt(1 - (1 - opening) ** 2)

    def in_lung(self, side: str, across: np.ndarray, down: np.ndarray, forward: np.ndarray) -> np.ndarray:
        """Convert relative coordinates in a lung to [..., 3] points.

        across    0..1 from the pleura to the chest wall
        down      0..1 from the apex to the sulcus
        forward   -1..1 from back to front
        """
        lung = self.lungs[side]
        y = down * lung.sulcus
        pleura, wall = self.pleura(y), self.cage(y)
        return np.stack((lung.sign * (pleura + across * (wall - pleura)), y, forward * self.lung_half_depth(y)), -1)

    def hilum(self, side: str) -> np.ndarray:
        """Return the point [3] where vessels and bronchi enter the lung; the left one is slightly higher."""
        y = self.carina[1] + (1.0 if side == "left" else 2.0)
        return np.array([SIDE_SIGN[side] * (self.patient.mediastinum + 1.9), y, HILUM_DEPTH])

    @cached_property
    def carina(self) -> np.ndarray:
        """The point [3] where the trachea divides."""
        return np.array([-0.2, 0.36 * self.patient.lung_height, -1.5])

    # Heart and great vessels

    @cached_property
    def heart(self) -> tuple[Ellipsoid, Ellipsoid]:
        """The ventricles and the right atrium, scaled to the cardiothoracic ratio."""
        patient = self.patient
        magnification = depth_magnification(patient.view, HEART_DEPTH) / depth_magnification(patient.view, 0.0)
        target = self.cardiothoracic_ratio * 2 * patient.half_width / magnification
        ventricles = Ellipsoid((2.1, 0.3, HEART_DEPTH), (6.3, 4.6, 5.8), angle=patient.heart_tilt)
        atrium = Ellipsoid((-1.5, -0.4, HEART_DEPTH), (2.7, 4.5, 5.0), angle=-0.1)
        scale = 1.0
        for _ in range(4):
            scaled = tuple(_scale_heart_part(part, scale) for part in (ventricles, atrium))
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
        """The descending aorta, behind the heart; an unfolded one bows to the left."""
        y = self.carina[1] + 6.5
        return Ellipsoid((1.6 + 1.6 * self.unfolding, y, -4.5), (1.3 + 0.9 * self.unfolding, 9.0, 1.4))

    @property
    def atrium_top(self) -> np.ndarray:
        """The point [3] where the superior vena cava enters the right atrium."""
        atrium = self.heart[1]
        return np.array([-self.patient.mediastinum + 0.5, atrium.outline()[2, 1] + 0.5, 1.5])

    def mediastinum_half_width(self, y: np.ndarray) -> np.ndarray:
        """Return half the width of the soft tissue between the lungs at height `y`."""
        carina = self.carina[1]
        widening = self.mediastinal_widening * np.exp(-np.abs((y - 0.62 * carina) / (0.8 * carina)) ** 4)
        narrowing = 0.35 * np.clip((y - carina) / 5.0, 0.0, 1.0) + 0.25 * np.clip(1 - y / (0.7 * carina), 0.0, 1.5)
        return self.patient.mediastinum * (0.95 - narrowing) + widening

    @property
    def upper_mediastinum_top(self) -> float:
        """y of the thoracic inlet, the upper end of the mediastinum."""
        return -0.6

    # Spine

    def spine_shift(self, y: np.ndarray) -> np.ndarray:
        """Return the shift of the spine to the left at height `y`."""
        turn = (np.asarray(y) - 0.5 * self.patient.lung_height) / (0.5 * self.patient.lung_height + 4.0)
        return (self.patient.spine_bend + self.scoliosis) * np.clip(1 - turn**2, 0.0, 1.0) ** 2

    def spine_depth(self, y: np.ndarray) -> np.ndarray:
        """Return z of the vertebrae at height `y`; those of the neck are further forward."""
        return np.interp(y, [-12.0, 4.0, 12.0, 30.0], [-2.0, SPINE_DEPTH + 0.7, SPINE_DEPTH, SPINE_DEPTH + 0.5])

    # Trunk

    def trunk_half_width(self, y: np.ndarray) -> np.ndarray:
        """Return half the width of the trunk (neck, shoulders, flanks) at height `y`."""
        patient = self.patient
        flank = patient.half_width + 0.7 + patient.wall
        shoulder = patient.half_width + 6.0 + 0.5 * patient.wall
        heights = [-8.0, -5.0, -2.5, -0.5, 2.5, 5.0, 9.5, 13.0]
        widths = [5.8, 6.8, 0.62 * shoulder, 0.86 * shoulder, shoulder, 1.02 * shoulder, flank + 1.2, flank]
        return np.interp(y, heights, widths)

    def trunk_half_depth(self, y: np.ndarray) -> np.ndarray:
        """Return half the depth of the trunk at height `y`."""
        trunk = self.patient.half_depth + 0.6 + 0.6 * self.patient.wall
        return np.interp(y, [-6.0, 0.0, 5.0], [5.8, 0.75 * trunk, trunk])

    def table(self, profile: Callable[[np.ndarray], np.ndarray]) -> np.ndarray:
        """Tabulate a function of height y; `table_index` gives the position of a height in the table."""
        return profile(_TABLE_TOP + _TABLE_STEP * np.arange(_TABLE_LENGTH)).astype(np.float32)

    def smooth_table(self, profile: Callable[[np.ndarray], np.ndarray]) -> np.ndarray:
        """Tabulate a function of height y and smooth it."""
        return ndimage.gaussian_filter1d(self.table(profile), 1.0 / _TABLE_STEP, mode="nearest")


def table_index(y: np.ndarray) -> np.ndarray:
    """Return the positions of the heights `y` in the tables of `Chest.table`."""
    return np.clip((y - _TABLE_TOP) * (1 / _TABLE_STEP), 0, _TABLE_LENGTH - 1).astype(np.int32)


def _scale_heart_part(part: Ellipsoid, scale: float) -> Ellipsoid:
    """Scale a part of the heart by `scale` in width and by less in height."""
    x, y, z = part.centre
    long, short, deep = part.axes
    axes = (long * scale**0.85, short * scale**0.75, deep * scale)
    return replace(part, centre=(x * scale, y * scale**0.6, z), axes=axes)
