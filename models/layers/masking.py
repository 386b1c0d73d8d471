"""Reductions over masked rows. Masks are boolean, True = keep."""

import torch.nn.functional as F
from torch import Tensor

# The logarithm of a probability that is excluded: 0 in fp32, but with finite gradients everywhere.
EXCLUDED = -1e4


def masked_mean(values: Tensor, mask: Tensor) -> Tensor:
    """The mean of `values` [B, N, C] over the rows that `mask` [B, N] keeps: [B, C]; zeros if it keeps none."""
    weights = mask.unsqueeze(-1).to(values.dtype)
    return (values * weights).sum(1) / weights.sum(1).clamp(min=1)


def masked_log_softmax(scores: Tensor, mask: Tensor) -> Tensor:
    """Log-softmax of `scores` [..., M] over what `mask` [..., M] keeps, `EXCLUDED` elsewhere."""
    return F.log_softmax(scores.masked_fill(~mask, EXCLUDED), -1).masked_fill(~mask, EXCLUDED)
