"""Proxy task 1: the 14 observations from the mean patch. (Proxy task 2, the contrast, is a loss without weights.)"""

from torch import Tensor, nn


class ObservationHead(nn.Module):
    """One linear layer: mean patch [B, C] -> logits [B, K]."""

    def __init__(self, channels: int, observations: int):
        super().__init__()
        self.head = nn.Linear(channels, observations)

    def forward(self, mean_patch: Tensor) -> Tensor:
        return self.head(mean_patch)
