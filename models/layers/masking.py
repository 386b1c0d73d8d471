"""Reductions over masked rows. Masks are boolean, True = keep."""

from torch import Tensor


def masked_mean(values: Tensor, mask: Tensor) -> Tensor:
    """The mean of `values` [B, N, C] over the rows that `mask` [B, N] keeps: [B, C]; zeros if it keeps none."""
    weights = mask.unsqueeze(-1).to(values.dtype)
    return (values * weights).sum(1) / weights.sum(1).clamp(min=1)
