"""Region features: the patches under a box -> one vector."""

import torch
import torch.nn.functional as F
from torch import Tensor, nn
from torchvision.ops import roi_align, roi_pool

from models.layers.packing import Packing


class RegionPooler(nn.Module):
    """RoI pooling to 1x1 on the patch grid, then Linear(C, C), LayerNorm, GELU, dropout.

    roi   pool   maximum over the cells under the box, corners rounded to cells, both inclusive (as the release);
                 corners are clamped to the grid, so that a box at the lower or right edge keeps its last cells
          align  mean of bilinear samples under the box
    """

    def __init__(self, channels: int, dropout: float = 0.0, roi: str = "pool"):
        super().__init__()
        self.roi = roi
        self.project = nn.Linear(channels, channels)
        self.norm = nn.LayerNorm(channels)
        self.dropout = nn.Dropout(dropout)

    def forward(self, grid: Tensor, boxes: Tensor, regions: Tensor) -> Tensor:
        """grid [B, C, G, G], boxes [B, R, 4], regions [B, R] bool -> features [B, R, C], zeros for other regions."""
        packing = Packing.from_mask(regions)
        pooled = self.pool(grid, packing.pack(boxes), study=packing.sequence)
        return packing.unpack(self.dropout(F.gelu(self.norm(self.project(pooled)))))

    def pool(self, grid: Tensor, boxes: Tensor, study: Tensor) -> Tensor:
        """Pool the grid of `study` [S] under each of `boxes` [S, 4]: [S, C]."""
        side = grid.shape[-1]
        corners = boxes.double() * side
        if self.roi == "pool":
            # Half a cell rounds up; a box divided by its image's side in fp32 may fall just short of the half.
            corners = torch.floor(corners + 0.5 + 1e-5).clamp(0, side - 1)
        rois = torch.cat([study.unsqueeze(1).float(), corners.float()], 1)
        # torchvision's kernels need fp32 under autocast on CPUs.
        with torch.autocast(grid.device.type, enabled=False):
            if self.roi == "pool":
                cells = roi_pool(grid.float(), rois, output_size=1)
            else:
                cells = roi_align(grid.float(), rois, output_size=1, sampling_ratio=2, aligned=True)
        return cells.flatten(1)
