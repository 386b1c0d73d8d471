"""RoI pooling to one cell, including at the edges of the grid."""

import pytest
import torch
import torch.nn.functional as F

from models.region_pooler import RegionPooler

GRID = torch.arange(49.0).view(1, 1, 7, 7)  # cell (row, column) holds 7 * row + column
STUDY = torch.tensor([0])


def pooled(box: list[float], roi: str = "pool") -> float:
    """The pooled cell of `box`, in pixels of a 224-pixel image."""
    return RegionPooler(1, roi=roi).pool(GRID, torch.tensor([box]) / 224, STUDY).item()


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
    assert pooled(box) == expected


@pytest.mark.parametrize(("side", "cells"), [(224, 7), (224, 14), (448, 14), (512, 16), (320, 10)])
def test_half_cells_round_up_whatever_the_side(side, cells):
    """The reference works in pixels, where halves are exact; in 0..1 fp32 cannot represent all of them."""
    halves = (torch.arange(cells - 1) + 0.5) * (side / cells)
    boxes = torch.stack([halves, halves, halves, halves], 1) / side
    grid = torch.arange(float(cells)).expand(1, 1, cells, cells)
    pooled = RegionPooler(1).pool(grid, boxes, torch.zeros(cells - 1, dtype=torch.long))
    assert pooled.flatten().tolist() == list(range(1, cells))


def test_align_takes_the_mean_of_samples():
    assert pooled([32, 32, 64, 64], "align") == 8
    assert pooled([32, 32, 96, 64], "align") == 8.5
    assert 40 < pooled([208, 208, 224, 224], "align") <= 48


@pytest.mark.parametrize("roi", ["pool", "align"])
def test_asked_regions_get_features_and_others_zeros(roi):
    torch.manual_seed(0)
    pooler, grid = RegionPooler(6, roi=roi), torch.randn(2, 6, 5, 5)
    boxes = torch.tensor([0.1, 0.2, 0.6, 0.9]).repeat(2, 3, 1)
    regions = torch.tensor([[True, False, True], [False, True, False]])
    features = pooler(grid, boxes, regions)
    assert (features[~regions] == 0).all() and (features[regions] != 0).any(-1).all()
    cells = pooler.pool(grid, boxes[:, 0], torch.arange(2))
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
