"""The change head: the features of a region now and before -> how it has changed."""

import torch
import torch.nn.functional as F
from torch import Tensor, nn


class ChangeHead(nn.Module):
    """Linear, LayerNorm, GELU, dropout, Linear on [now; before; now - before]; shared by all regions.

    The difference is given, because a perceptron would have to learn it.
    """

    def __init__(self, channels: int, hidden: int, changes: int, dropout: float = 0.0):
        super().__init__()
        self.hidden = nn.Linear(3 * channels, hidden)
        self.norm = nn.LayerNorm(hidden)
        self.dropout = nn.Dropout(dropout)
        self.change = nn.Linear(hidden, changes)

    def forward(self, now: Tensor, before: Tensor) -> Tensor:
        """Region features [B, R, C], twice -> logits [B, R, changes]."""
        hidden = self.hidden(torch.cat([now, before, now - before], -1))
        return self.change(self.dropout(F.gelu(self.norm(hidden))))
