"""Norms over the channels of a row, and the choices that all transformer layers of a model share."""

from collections.abc import Callable
from dataclasses import dataclass

import torch
import torch.nn.functional as F
from torch import Tensor, nn

# What a norm depends on besides its rows: nothing, or the one tensor of a `ConditionalNorm`.
Condition = tuple[Tensor, ...]


class StandardDeviationNorm(nn.Module):
    """weight * (x - mean) / (s + 1e-6) + bias, with the unbiased standard deviation s of the D channels.

    The norm of the R2Gen family (Chen et al., EMNLP 2020). `nn.LayerNorm` divides by D and adds epsilon inside the
    root. A constant row gives the bias, with finite gradients. Computed in fp32, like `nn.LayerNorm` under autocast.
    """

    def __init__(self, width: int, elementwise_affine: bool = True):
        super().__init__()
        self.weight = nn.Parameter(torch.ones(width)) if elementwise_affine else None
        self.bias = nn.Parameter(torch.zeros(width)) if elementwise_affine else None

    def forward(self, rows: Tensor) -> Tensor:
        """[..., D] -> [..., D] in fp32."""
        rows = rows.float()
        normed = (rows - rows.mean(-1, keepdim=True)) / (rows.std(-1, keepdim=True) + 1e-6)
        return normed if self.weight is None else self.weight * normed + self.bias


@dataclass(frozen=True)
class LayerStyle:
    """What transformer layers are made of.

    norm         width -> norm; takes `elementwise_affine`, except for a conditional norm
    activation   of feed-forward layers
    """

    norm: Callable[..., nn.Module] = nn.LayerNorm
    activation: Callable[[Tensor], Tensor] = F.gelu


OUR_STYLE = LayerStyle()
