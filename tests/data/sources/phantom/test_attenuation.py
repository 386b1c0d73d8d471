"""The attenuation of phantom bodies."""

import numpy as np
import pytest

from data.sources.phantom.attenuation import add_solid, add_tubes, lung_depths
from data.sources.phantom.chest import Chest
from data.sources.phantom.findings import Finding
from data.sources.phantom.pathology import build_chest
from data.sources.phantom.projection import Projection
from data.sources.phantom.regions import region_boxes
from data.sources.phantom.shapes import Ellipsoid, Tubes
from tests.support.sources.phantoms import patient


def test_an_ellipsoid_absorbs_by_its_chord():
    chest = Chest(patient(0))
    projection = Projection(chest, 101)
    ball = Ellipsoid((3.0, 10.0, 0.0), (4.0, 4.0, 4.0), attenuation=0.5)
    total = np.zeros((101, 101), dtype=np.float32)
    add_solid(ball, projection, total)
    column, row = projection.project(np.array(ball.centre)).astype(int)
    assert total[row, column] == pytest.approx(0.5 * 8.0, rel=0.01)
    half_way = projection.project(np.array(ball.centre) + [2.0, 0.0, 0.0]).astype(int)
    assert total[half_way[1], half_way[0]] == pytest.approx(0.5 * 2 * 12**0.5, rel=0.05)


@pytest.mark.parametrize("direction", [(1.0, 0.0, 0.0), (0.6, 0.8, 0.0), (0.3, 0.4, 0.866)])
def test_a_tube_loses_no_mass(direction):
    chest = Chest(patient(1))
    projection = Projection(chest, 200)
    middle = np.array([0.0, 12.0, 0.0])
    ends = [middle - 5 * np.array(direction), middle + 5 * np.array(direction)]
    total = np.zeros((200, 200), dtype=np.float32)
    add_tubes([Tubes.from_polyline(ends, 0.7, 0.3)], projection, np.zeros_like(total), total)
    area_of_pixel = (1 / (projection.pixels_per_cm * projection.magnification(0.0))) ** 2
    assert total.sum() * area_of_pixel == pytest.approx(0.3 * np.pi * 0.7**2 * 10, rel=0.03)


def test_depths_of_lungs_end_at_their_boxes_and_ignore_effusions():
    healthy = Chest(patient(2))
    projection = Projection(healthy, 100)
    boxes, depths = region_boxes(healthy, projection), lung_depths(healthy, projection)
    for side in ("left", "right"):
        rows, columns = (np.flatnonzero((depths[side] > 0).any(axis)) for axis in (1, 0))
        seen = np.array([columns[0], rows[0], columns[-1] + 1, rows[-1] + 1]) / 100
        np.testing.assert_allclose(seen, boxes[f"{side} lung"], atol=0.03)
        assert 8 < depths[side].max() < 22
    effusion = build_chest(patient(2), [Finding("pleural effusion", "left", None, "severe")])
    assert np.array_equal(lung_depths(effusion, projection)["left"], depths["left"])
