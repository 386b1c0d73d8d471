"""Masks of attention, and reductions over masked rows. Masks are boolean, True = keep."""

from dataclasses import dataclass

import torch
import torch.nn.functional as F
from torch import Tensor

from models.layers.packing import is_all_true

# The logarithm of a probability that is excluded: 0 in fp32, but with finite gradients everywhere.
EXCLUDED = -1e4


@dataclass(frozen=True)
class AttentionMask:
    """What queries may attend to, in the form in which attention needs it: made once, used by many layers or steps.

    allowed   [..., 1 or Q, M] bool
    bias      [..., 1, 1 or Q, M], broadcast over heads: 0 where allowed, otherwise -inf; all 0 for an empty query
    is_empty  [..., 1 or Q, 1] bool: empty queries, which may attend to nothing; None if there are none
    """

    allowed: Tensor
    bias: Tensor
    is_empty: Tensor | None

    @classmethod
    def of(cls, allowed: Tensor, dtype: torch.dtype, may_be_empty: bool = True) -> "AttentionMask":
        """The mask for queries, keys and values of `dtype`. may_be_empty: False if no query is known to be empty."""
        is_empty = None
        attended = allowed
        if may_be_empty:
            is_empty = ~allowed.any(-1, keepdim=True)
            attended = allowed | is_empty  # a softmax over no key is 0 / 0; its output is replaced by zeros
        bias = torch.zeros_like(attended, dtype=dtype).masked_fill_(~attended, -torch.inf)
        return cls(allowed, bias.unsqueeze(-3), is_empty)

    @classmethod
    def for_many_uses(cls, allowed: Tensor, dtype: torch.dtype) -> "AttentionMask | None":
        """The same; None if everything is allowed. Asks for the values of `allowed`, which waits for a GPU."""
        if is_all_true(allowed):
            return None
        return cls.of(allowed, dtype, may_be_empty=not is_all_true(allowed.any(-1)))


def masked_mean(values: Tensor, mask: Tensor) -> Tensor:
    """The mean of `values` [B, N, C] over the rows that `mask` [B, N] keeps: [B, C]; zeros if it keeps none."""
    weights = mask.unsqueeze(-1).to(values.dtype)
    return (values * weights).sum(1) / weights.sum(1).clamp(min=1)


def masked_log_softmax(scores: Tensor, mask: Tensor) -> Tensor:
    """Log-softmax of `scores` [..., M] over what `mask` [..., M] keeps, `EXCLUDED` elsewhere."""
    return F.log_softmax(scores.masked_fill(~mask, EXCLUDED), -1).masked_fill(~mask, EXCLUDED)
