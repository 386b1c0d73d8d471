"""RoI pooling to one cell, including at the edges of the grid."""

import hypothesis.strategies as st
import pytest
import torch
import torch.nn.functional as F
from hypothesis import given, settings

from models.region_pooler import RegionPooler, pool_maximum, pool_mean

GRID = torch.arange(49.0).view(1, 1, 7, 7)  # cell (row, column) holds 7 * row + column
STUDY = torch.tensor([0])


def maximum(box: list[float]) -> float:
    """The maximum under `box`, in pixels of a 224-pixel image."""
    return pool_maximum(GRID, torch.tensor([box]) / 224, STUDY).item()


def mean(box: list[float]) -> float:
    """The mean under `box`, in pixels of a 224-pixel image."""
    return pool_mean(GRID, torch.tensor([[box]]) / 224).item()


@pytest.mark.parametrize(
    ("box", "expected"),
    [
        ([0, 0, 224, 224], 48),  # the whole image
        ([32, 64, 96, 128], 31),  # columns 1 to 3, rows 2 to 4
        ([0, 0, 15, 15], 0),  # rounds to cell 0 on both sides
        ([0, 0, 16, 15], 1),  # half a cell rounds up
        ([0, 0, 15.998, 15], 0),  # less than half rounds down
        ([208, 208, 224, 224], 48),  # past the last cell: clamped to it
        ([100, 210, 110, 220], 45),
        ([224, 224, 224, 224], 48),
    ],
)
def test_pool_takes_the_maximum_of_whole_cells(box, expected):
    assert maximum(box) == expected


@pytest.mark.parametrize(("side", "cells"), [(224, 7), (224, 14), (448, 14), (512, 16), (320, 10)])
def test_half_cells_round_up_whatever_the_side(side, cells):
    """The reference works in pixels, where halves are exact; in 0..1 fp32 cannot represent all of them."""
    halves = (torch.arange(cells - 1) + 0.5) * (side / cells)
    boxes = torch.stack([halves, halves, halves, halves], 1) / side
    grid = torch.arange(float(cells)).expand(1, 1, cells, cells)
    pooled = pool_maximum(grid, boxes, torch.zeros(cells - 1, dtype=torch.long))
    assert pooled.flatten().tolist() == list(range(1, cells))


def test_align_takes_the_mean_of_samples():
    assert mean([32, 32, 64, 64]) == pytest.approx(8)
    assert mean([32, 32, 96, 64]) == pytest.approx(8.5)
    assert mean([208, 208, 224, 224]) == pytest.approx(48)
    assert mean([16, 0, 48, 32]) == pytest.approx(0.5)  # half of cell 0, half of cell 1
    assert mean([100, 100, 100, 100]) == pytest.approx(24)  # no area: the cell that contains it


@settings(deadline=None, derandomize=True)
@given(st.lists(st.integers(0, 56), min_size=4, max_size=4, unique=True), st.integers(1, 3))
def test_align_is_the_mean_over_the_area_of_the_box(corners, seed):
    """Against the mean of pixels: corners are at whole pixels of a grid that is enlarged 8 times."""
    grid = torch.randn(1, 2, 7, 7, generator=torch.Generator().manual_seed(seed))
    (x1, x2), (y1, y2) = sorted(corners[:2]), sorted(corners[2:])
    pixels = grid.repeat_interleave(8, 2).repeat_interleave(8, 3)
    expected = pixels[0, :, y1:y2, x1:x2].mean((1, 2))
    found = pool_mean(grid, torch.tensor([[[x1, y1, x2, y2]]]) / 56)[0, 0]
    torch.testing.assert_close(found, expected, atol=1e-5, rtol=1e-4)


def test_align_reaches_every_cell_under_a_large_box():
    grid = torch.randn(1, 3, 14, 14, requires_grad=True)
    pool_mean(grid, torch.tensor([[[0.0, 0.0, 0.5, 0.86]]])).sum().backward()
    assert (grid.grad[0, 0] > 0).sum() == 7 * 13  # 12.04 rows


@pytest.mark.parametrize("roi", ["pool", "align"])
def test_asked_regions_get_features_and_others_zeros(roi):
    torch.manual_seed(0)
    pooler, grid = RegionPooler(6, roi=roi), torch.randn(2, 6, 5, 5)
    boxes = torch.tensor([0.1, 0.2, 0.6, 0.9]).repeat(2, 3, 1)
    regions = torch.tensor([[True, False, True], [False, True, False]])
    features = pooler(grid, boxes, regions)
    assert (features[~regions] == 0).all() and (features[regions] != 0).any(-1).all()
    cells = pool_maximum(grid, boxes[:, 0], torch.arange(2)) if roi == "pool" else pool_mean(grid, boxes)[:, 0]
    expected = F.gelu(F.layer_norm(F.linear(cells, pooler.project.weight, pooler.project.bias), (6,)))
    torch.testing.assert_close(features[0, 2], expected[0])
    torch.testing.assert_close(features[1, 1], expected[1])


@pytest.mark.parametrize("roi", ["pool", "align"])
def test_boxes_of_other_regions_change_nothing(roi):
    torch.manual_seed(0)
    pooler, grid, boxes = RegionPooler(6, roi=roi), torch.randn(2, 6, 5, 5), torch.rand(2, 3, 2)
    boxes = torch.cat([boxes * 0.5, boxes * 0.5 + 0.4], -1)
    regions = torch.tensor([[True, False, True], [False, True, False]])
    garbage = torch.where(regions.unsqueeze(-1), boxes, torch.tensor([float("nan"), -7.0, 1e9, 3.0]))
    assert torch.equal(pooler(grid, boxes, regions), pooler(grid, garbage, regions))


@pytest.mark.parametrize("roi", ["pool", "align"])
def test_no_region_at_all_keeps_gradients_whole(roi):
    pooler, grid = RegionPooler(6, roi=roi), torch.randn(2, 6, 5, 5, requires_grad=True)
    features = pooler(grid, torch.zeros(2, 3, 4), torch.zeros(2, 3, dtype=torch.bool))
    assert torch.equal(features, torch.zeros(2, 3, 6))
    features.sum().backward()
    assert (grid.grad == 0).all() and all((parameter.grad == 0).all() for parameter in pooler.parameters())
