"""Simulated chests for the training of the localizer: phantoms of a wider range of builds and framings than patients.

A network that has seen every build within these limits has seen something like any real chest. The limits follow what
differs most between phantoms and real images: lungs are taller, hearts more upright, bones fainter.
"""

from dataclasses import replace

import numpy as np
from numpy.typing import NDArray

from data.images.atlas import from_frame, to_frame
from data.ontology import Anatomy
from data.sources.phantom.attenuation import line_integrals, lung_depths
from data.sources.phantom.chest import Chest
from data.sources.phantom.findings import draw_findings
from data.sources.phantom.pathology import build_chest
from data.sources.phantom.patient import Patient, draw_patient
from data.sources.phantom.physics import detect
from data.sources.phantom.projection import Projection
from data.sources.phantom.regions import region_boxes
from data.sources.phantom.shapes import SOFT_TISSUE

# People outline what they see, which differs a little from the phantom's own boxes. A lung begins where beams cross
# this much of it, in cm: at the mediastinum, which beams cross as well, more of it than elsewhere. It reaches to the
# middle of the ribs, this far (cm) outside the pleura. Of the height of a heart, these shares at the top and at the
# bottom belong to the great vessels and disappear in the shadow of the diaphragm. All were chosen by comparing boxes
# with those of JSRT and of covid_seg (docs/real_images.md).
VISIBLE_DEPTH, MEDIAL_DEPTH, RIB_MARGIN = 2.0, 3.0, 0.4
HEART_SHARES = (0.05, 0.09)
_OUTLINE_SIDE = 100  # pixels per side of the images in which outlines are found
# How far hearts are raised, in cm: a heart is outlined where it is seen, above the shadow of the diaphragm.
_HEART_LIFT = (0.2, 2.0)


def draw_film(generator: np.random.Generator, side: int) -> tuple[NDArray, NDArray, NDArray]:
    """Simulate a frontal image of a random chest, [side, side] float32 in 0..1 with dense tissue bright.

    Also returns the boxes of the regions, [R, 4] xyxy in 0..1, and which regions the image shows, [R] bool.
    """
    patient = _vary(draw_patient(generator), generator)
    findings = draw_findings(generator, patient.view, 1.0)
    chest = build_chest(patient, findings)
    for lung in chest.lungs.values():
        lung.sulcus *= generator.uniform(0.88, 1.04)
    lift = generator.uniform(*_HEART_LIFT)
    chest.heart = tuple(
        replace(part, centre=(part.centre[0], part.centre[1] - lift, part.centre[2])) for part in chest.heart
    )
    projection = Projection(chest, side)
    signal = detect(line_integrals(chest, projection), projection, generator)
    wall = 2 * SOFT_TISSUE * 0.6 * (patient.wall + 1.0)
    lungs, mediastinum = wall + 0.9, wall + SOFT_TISSUE * 2 * patient.half_depth
    level = (signal - lungs) / (mediastinum - lungs)
    found = region_boxes(chest, projection)
    regions = Anatomy.load().regions
    visible = np.array([found[region.name] is not None for region in regions])
    boxes = np.array([found[region.name] or (0.0,) * 4 for region in regions], dtype=np.float32)
    heart = boxes[Anatomy.load().index("cardiac silhouette")]
    height = heart[3] - heart[1]
    heart[1::2] += height * HEART_SHARES[0], -height * HEART_SHARES[1]
    for side, lung in _visible_lungs(chest).items():
        whole = found[f"{side} lung"]
        # A lung that the image cuts off ends there, whatever its outline.
        if whole is None or min(whole) <= 0 or max(whole) >= 1:
            continue
        for number, region in enumerate(regions):
            if region.side == side and visible[number] and "clavicle" not in region.name:
                boxes[number] = from_frame(lung, to_frame(np.array(whole), boxes[number])).clip(0, 1)
    return ((level + 0.4) / 2).clip(0, 1).astype(np.float32), boxes, visible


def _visible_lungs(chest: Chest) -> dict[str, NDArray]:
    """Return the boxes, xyxy in 0..1, of the parts of both lungs that stand out from their surroundings.

    The phantom's own boxes reach further: to the pleura behind the mediastinum, and to the ends of the sulcus and of
    the apex, where there is hardly any air in the beam.
    """
    boxes = {}
    projection = Projection(chest, _OUTLINE_SIDE)
    margin = RIB_MARGIN * projection.pixels_per_cm
    for side, depth in lung_depths(chest, projection).items():
        columns, rows = (np.flatnonzero((depth > VISIBLE_DEPTH).any(axis)) for axis in (0, 1))
        inner = np.flatnonzero((depth > MEDIAL_DEPTH).any(0))
        if len(inner):
            x = (columns[0] - margin, inner[-1] + 1) if side == "right" else (inner[0], columns[-1] + 1 + margin)
            boxes[side] = np.array([x[0], rows[0], x[1], rows[-1] + 1]) / _OUTLINE_SIDE
    return boxes


def _vary(patient: Patient, generator: np.random.Generator) -> Patient:
    """Return `patient` with another build, fainter bones and another framing."""
    dome = generator.uniform(0.8, 6.0)
    return replace(
        patient,
        lung_height=patient.half_width * generator.uniform(1.55, 2.2),
        half_depth=generator.uniform(6.5, 10.0),
        wall=generator.uniform(0.8, 5.0),
        dome_heights=(dome + generator.uniform(0, 1.6), dome - generator.uniform(0, 0.6)),
        cardiothoracic_ratio=generator.uniform(0.34, 0.56),
        heart_tilt=generator.uniform(0.3, 0.9),
        mediastinum=generator.uniform(2.0, 3.2),
        spine_bend=generator.uniform(-1.0, 1.0),
        bone=generator.uniform(0.2, 1.1),
        lung=generator.uniform(0.8, 2.3),
        pose=replace(
            patient.pose,
            yaw=generator.uniform(-0.15, 0.15),
            roll=generator.uniform(-0.03, 0.03),
            zoom=generator.uniform(0.85, 1.0),
            shift=(generator.uniform(-0.03, 0.03), generator.uniform(-0.03, 0.03)),
        ),
    )
