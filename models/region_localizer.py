"""The region localizer: an image alone -> a box and a visibility for each of the 29 regions.

Not part of the published model, which takes its boxes from an external detector.
"""

import torch
import torch.nn.functional as F
from torch import Tensor, nn


class RegionLocalizer(nn.Module):
    """Channels are squeezed, the grid brought to a fixed size and flattened, and a small perceptron moves mean boxes.

    Anatomy keeps its arrangement from patient to patient, so all boxes follow from one picture-wide pose; a perceptron
    over the whole grid sees that pose, and the mean boxes are a close start. Boxes move by centre shift and log size.
    """

    GRID = 8  # cells a side that the perceptron sees

    def __init__(self, channels: int, mean_boxes: Tensor, squeezed: int = 64, hidden: int = 512, dropout: float = 0.0):
        """mean_boxes [R, 4] xyxy in 0..1, each with an area."""
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

        Boxes may stick out of the image by what the perceptron says; whoever crops with them clamps.
        """
        cells = F.gelu(F.adaptive_avg_pool2d(self.squeeze(grid), self.GRID)).flatten(1)
        hidden = self.dropout(F.gelu(self.hidden(self.norm(cells))))
        moves = self.shift(hidden).unflatten(-1, (-1, 4)).float()  # [B, R, (x, y, log w, log h)]
        mean_size = self.mean_boxes[:, 2:] - self.mean_boxes[:, :2]
        mean_centre = (self.mean_boxes[:, 2:] + self.mean_boxes[:, :2]) / 2
        centre = mean_centre + moves[..., :2]
        size = mean_size * torch.exp(moves[..., 2:].clamp(-4, 4))  # a box never grows or shrinks past 50-fold
        return torch.cat([centre - size / 2, centre + size / 2], -1), self.visible(hidden)
