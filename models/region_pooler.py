"""Region features: the patches under a box -> one vector."""

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from models.layers.packing import Packing

# Boxes are averaged over at least this share of the image per side, so that a box without an area has a feature too.
_MIN_SIDE = 1e-4


class RegionPooler(nn.Module):
    """One vector of the patch grid per box, then Linear(C, C), LayerNorm, GELU, dropout.

    roi   pool   maximum over the cells under the box, corners rounded to cells, both inclusive (as the release);
                 corners are clamped to the grid, so that a box at the lower or right edge keeps its last cells
          align  mean over the area of the box: each cell counts by the part of the box that it covers
    """

    def __init__(self, channels: int, dropout: float = 0.0, roi: str = "pool"):
        super().__init__()
        self.roi = roi
        self.project = nn.Linear(channels, channels)
        self.norm = nn.LayerNorm(channels)
        self.dropout = nn.Dropout(dropout)

    def forward(self, grid: Tensor, boxes: Tensor, regions: Tensor, count: int | None = None) -> Tensor:
        """grid [B, C, G, G], boxes [B, R, 4], regions [B, R] bool -> features [B, R, C], zeros for other regions.

        count: how many `regions` there are, if known.
        """
        packing = Packing.from_mask(regions, count).aligned()
        boxes = boxes.masked_fill(~regions.unsqueeze(-1), 0.0)  # others may be undefined
        # torchvision's kernels need fp32 under autocast on CPUs, and fp32 keeps means exact.
        with torch.autocast(grid.device.type, enabled=False):
            if self.roi == "pool":
                pooled = pool_maximum(grid.float(), packing.pack(boxes), study=packing.sequence)
            else:
                pooled = packing.pack(pool_mean(grid.float(), boxes))
        return packing.unpack(self.dropout(F.gelu(self.norm(self.project(pooled)))))


def pool_maximum(grid: Tensor, boxes: Tensor, study: Tensor) -> Tensor:
    """The maximum of the cells of `study` [S] under each of `boxes` [S, 4]: [S, C]."""
    from torchvision.ops import roi_pool  # takes two seconds to import, which `align` saves

    side = grid.shape[-1]
    # Half a cell rounds up; a box divided by its image's side in fp32 may fall just short of the half.
    corners = torch.floor(boxes.double() * side + 0.5 + 1e-5).clamp(0, side - 1)
    rois = torch.cat([study.unsqueeze(1).float(), corners.float()], 1)
    return roi_pool(grid, rois, output_size=1).flatten(1)


def pool_mean(grid: Tensor, boxes: Tensor) -> Tensor:
    """The mean of grid [B, C, G, G] over the area of each of `boxes` [B, R, 4]: [B, R, C]."""
    columns = _covered_shares(boxes[..., 0], boxes[..., 2], grid.shape[-1])
    rows = _covered_shares(boxes[..., 1], boxes[..., 3], grid.shape[-1])
    weights = rows.unsqueeze(-1) * columns.unsqueeze(-2)  # [B, R, G, G]
    return weights.flatten(-2) @ grid.flatten(-2).transpose(-1, -2)


def _covered_shares(low: Tensor, high: Tensor, cells: int) -> Tensor:
    """The share of each interval [low, high] of 0..1 that each of `cells` equal cells covers: [..., cells]."""
    low = low.clamp(0, 1 - _MIN_SIDE)
    high = torch.maximum(high.clamp(max=1), low + _MIN_SIDE)
    first = torch.arange(cells, device=low.device)  # of each cell, in units of cells
    low, high = low.unsqueeze(-1) * cells, high.unsqueeze(-1) * cells
    return (torch.minimum(high, first + 1) - torch.maximum(low, first)).clamp(min=0) / (high - low)
