"""The projection of phantom chests."""

import numpy as np
import pytest

from data.sources.phantom.chest import Chest
from data.sources.phantom.projection import Projection
from tests.support.sources.phantoms import patient


@pytest.mark.parametrize("lateral", [False, True])
def test_pixels_show_the_points_that_project_onto_them(lateral):
    projection = Projection(Chest(patient(2)), 64, lateral)
    point = np.array([3.0, 9.0, -2.0])
    column, row = projection.project(point) - 0.5
    across, down = projection.plane_coordinates(point[projection.beam_axis])
    nearest = [np.round(row).astype(int), np.round(column).astype(int)]
    pixel = 1 / projection.pixels_per_cm
    assert across[*nearest] == pytest.approx(point[projection.across_axis], abs=pixel)
    assert down[*nearest] == pytest.approx(point[1], abs=pixel)
