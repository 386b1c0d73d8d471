"""Proxy task 1: the 14 observations from the mean patch. (Proxy task 2, the contrastive loss, has no weights.)"""

from torch import Tensor, nn

from models.rows import Rows


class ObservationHead(nn.Module):
    """One linear layer: mean patch [B, C] -> logits [B, K]."""

    rows = {"head.weight": Rows.OBSERVATIONS, "head.bias": Rows.OBSERVATIONS}

    def __init__(self, channels: int, observations: int):
        super().__init__()
        self.head = nn.Linear(channels, observations)

    def forward(self, mean_patch: Tensor) -> Tensor:
        return self.head(mean_patch)
