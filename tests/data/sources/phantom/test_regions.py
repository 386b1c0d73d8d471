"""The boxes of the regions of phantom chests."""

from dataclasses import replace
from functools import cache

import numpy as np

from data.ontology import Anatomy
from data.sources.phantom.chest import Chest
from data.sources.phantom.findings import SIDES, draw_findings
from data.sources.phantom.pathology import build_chest
from data.sources.phantom.patient import Pose, draw_patient
from data.sources.phantom.projection import Projection
from data.sources.phantom.regions import region_boxes
from tests.support.sources.phantoms import healthy, patient


@cache
def drawn_boxes() -> list[dict]:
    """The boxes of 300 studies with findings, computed without their images."""
    boxes = []
    for number in range(300):
        rng = np.random.default_rng([11, number])
        drawn = draw_patient(rng)
        chest = build_chest(drawn, draw_findings(rng, drawn.view))
        boxes.append(region_boxes(chest, Projection(chest, 8)))
    return boxes


def box_array() -> np.ndarray:
    """[300, 29, 4] boxes of `drawn_boxes`, NaN for regions without a box."""
    names = Anatomy.load().names
    return np.array([[boxes[name] or [np.nan] * 4 for name in names] for boxes in drawn_boxes()], dtype=float)


def test_every_region_has_a_box_inside_the_picture():
    boxes = box_array()
    assert set(drawn_boxes()[0]) == set(Anatomy.load().names)
    has_box = ~np.isnan(boxes[..., 0])
    assert has_box.mean() > 0.99
    corners = boxes[has_box]
    assert corners.min() >= 0 and corners.max() <= 1
    assert (corners[:, :2] < corners[:, 2:]).all()


def test_a_region_outside_the_picture_has_no_box():
    chest = Chest(replace(patient(3), pose=Pose(0.0, 0.0, 0.0, 1.1, (0.45, 0.0))))
    boxes = region_boxes(chest, Projection(chest, 8))
    assert boxes["left costophrenic angle"] is None
    assert boxes["right lung"] is not None


def test_centres_of_all_regions_vary_by_three_percent_in_both_directions():
    boxes = box_array()
    deviation = np.nanstd((boxes[..., :2] + boxes[..., 2:]) / 2, axis=0)
    assert deviation.min() >= 0.03


def test_mean_boxes_are_a_poor_guess():
    boxes = box_array()
    mean = np.nanmean(boxes[:200], axis=0)
    rest = boxes[200:]
    overlap = np.clip(np.minimum(rest[..., 2:], mean[:, 2:]) - np.maximum(rest[..., :2], mean[:, :2]), 0, None).prod(-1)
    union = (rest[..., 2:] - rest[..., :2]).prod(-1) + (mean[:, 2:] - mean[:, :2]).prod(-1) - overlap
    assert np.nanmean(overlap / union) <= 0.52


def test_left_is_the_patients_left():
    for name in ("lung", "hilar structures", "costophrenic angle", "clavicle"):
        left, right = (healthy(4).boxes[f"{side} {name}"] for side in SIDES)
        assert left[0] + left[2] > right[0] + right[2]
