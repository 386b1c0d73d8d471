"""The region localizer: mean boxes, moved by a shift of the centre and scaled by the log of the size."""

import pytest
import torch

from models.region_localizer import RegionLocalizer

MEAN_BOXES = torch.tensor([[0.1, 0.2, 0.5, 0.4], [0.6, 0.0, 1.0, 0.9], [0.3, 0.3, 0.4, 0.8]])


def localizer(moves: list[float]) -> RegionLocalizer:
    """A localizer that predicts `moves` (x, y, log w, log h) for every region and any image."""
    torch.manual_seed(0)
    made = RegionLocalizer(8, MEAN_BOXES, squeezed=2, hidden=5)
    torch.nn.init.zeros_(made.shift.weight)
    made.shift.bias.data = torch.tensor(moves, dtype=torch.float32).repeat(3)
    return made


def test_no_move_gives_the_mean_boxes():
    boxes, visible = localizer([0, 0, 0, 0])(torch.randn(2, 8, 7, 7))
    torch.testing.assert_close(boxes, MEAN_BOXES.expand(2, 3, 4))
    assert visible.shape == (2, 3)


def test_boxes_move_by_centre_and_log_size():
    boxes, _ = localizer([0.1, -0.2, torch.tensor(2.0).log().item(), torch.tensor(0.5).log().item()])(
        torch.randn(1, 8, 4, 4)
    )
    x1, y1, x2, y2 = boxes[0, 0].tolist()  # was 0.4 x 0.2 around (0.3, 0.3)
    assert (x1 + x2) / 2 == pytest.approx(0.4) and (y1 + y2) / 2 == pytest.approx(0.1)
    assert x2 - x1 == pytest.approx(0.8) and y2 - y1 == pytest.approx(0.1)


def test_extreme_sizes_stay_finite():
    grown, _ = localizer([0, 0, 1e6, -1e6])(torch.randn(1, 8, 4, 4))
    assert torch.isfinite(grown).all()
    assert (grown[..., 2] > grown[..., 0]).all() and (grown[..., 3] > grown[..., 1]).all()


@pytest.mark.parametrize("side", [2, 7, 8, 14])
def test_any_grid_is_brought_to_one_size(side):
    torch.manual_seed(0)
    boxes, visible = RegionLocalizer(8, MEAN_BOXES)(torch.randn(2, 8, side, side))
    assert boxes.shape == (2, 3, 4) and visible.shape == (2, 3)


def test_boxes_depend_on_where_things_are():
    torch.manual_seed(0)
    made, grid = RegionLocalizer(8, MEAN_BOXES).eval(), torch.randn(1, 8, 8, 8)
    assert not torch.allclose(made(grid)[0], made(grid.flip(-1))[0])
