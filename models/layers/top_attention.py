"""Attention to the best-matching rows of a memory. Shapes as in `models/outputs.py`."""

import torch
import torch.nn.functional as F
from torch import Tensor

from models.layers.masking import EXCLUDED


def attend_to_best(
    queries: Tensor, keys: Tensor, values: Tensor, top: int, allowed: Tensor | None = None, dropout: float = 0.0
) -> Tensor:
    """Attend from `queries` [..., h, d] to memory rows, with a softmax over the `top` best of each query and head.

    Only these rows get a gradient. If there are fewer, all respond.

    keys, values   [M, h, d]
    allowed        [..., M] bool: the rows that may respond; None: all. Where none may, the result is zeros
    dropout        probability that a weight is dropped

    Returns [..., h * d].
    """
    scores = torch.einsum("...hd,mhd->...hm", queries, keys) / queries.shape[-1] ** 0.5
    if allowed is not None:
        allowed = allowed.unsqueeze(-2)
        scores = scores.masked_fill(~allowed, EXCLUDED)
    best, index = scores.topk(min(top, scores.shape[-1]), dim=-1)  # [..., h, top]
    responding = F.dropout(F.softmax(best, -1), dropout)
    weights = torch.zeros_like(scores).scatter(-1, index, responding.to(scores.dtype))
    if allowed is not None:
        weights = weights.masked_fill(~allowed, 0.0)
    return torch.einsum("...hm,mhd->...hd", weights, values).flatten(-2)
