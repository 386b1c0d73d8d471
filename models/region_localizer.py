"""The region localizer: an image alone -> a box and a visibility for each of the 29 regions.

Not part of the published model, which takes its boxes from an external detector.
"""

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from models.rows import Rows


class RegionLocalizer(nn.Module):
    """A perceptron over the whole patch grid that moves and scales the mean boxes.

    The arrangement of the anatomy varies little between patients, so the mean boxes are a close start and all boxes
    follow from the pose of the chest, which a perceptron sees in the whole grid. Channels are reduced and the grid is
    resized to a fixed size first. Boxes change by a shift of the centre and the logarithm of the size.
    """

    GRID = 8  # cells per side of the resized grid
    rows = {
        "shift.weight": Rows.REGIONS, "shift.bias": Rows.REGIONS, "visible.weight": Rows.REGIONS,
        "visible.bias": Rows.REGIONS, "mean_boxes": Rows.REGIONS,
    }

    def __init__(self, channels: int, mean_boxes: Tensor, squeezed: int = 64, hidden: int = 512, dropout: float = 0.0):
        """mean_boxes [R, 4] xyxy in 0..1, each with a positive area."""
        super().__init__()
        regions = len(mean_boxes)
        self.squeeze = nn.Conv2d(channels, squeezed, kernel_size=1)
        self.norm = nn.LayerNorm(squeezed * self.GRID**2)
        self.hidden = nn.Linear(squeezed * self.GRID**2, hidden)
        self.dropout = nn.Dropout(dropout)
        self.shift = nn.Linear(hidden, regions * 4)
        self.visible = nn.Linear(hidden, regions)
        self.register_buffer("mean_boxes", mean_boxes.clone().float())

    def forward(self, grid: Tensor) -> tuple[Tensor, Tensor]:
        """grid [B, C, G, G] -> boxes [B, R, 4] and visibility logits [B, R].

        Boxes are not clamped to the image.
        """
        cells = F.gelu(F.adaptive_avg_pool2d(self.squeeze(grid), self.GRID)).flatten(1)
        hidden = self.dropout(F.gelu(self.hidden(self.norm(cells))))
        moves = self.shift(hidden).unflatten(-1, (-1, 4)).float()  # [B, R, (x, y, log w, log h)]
        mean_size = self.mean_boxes[:, 2:] - self.mean_boxes[:, :2]
        mean_centre = (self.mean_boxes[:, 2:] + self.mean_boxes[:, :2]) / 2
        centre = mean_centre + moves[..., :2]
        size = mean_size * torch.exp(moves[..., 2:].clamp(-4, 4))  # at most 50 times larger or smaller
        return torch.cat([centre - size / 2, centre + size / 2], -1), self.visible(hidden)
