"""Multi-head attention, the only one in the project. Shapes as in `models/outputs.py`."""

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from models.layers.masking import AttentionMask, masked_log_softmax
from models.layers.packing import PADDED, Layout


class MultiHeadAttention(nn.Module):
    """Scaled dot-product attention with several heads and biased projections.

    Memory can be projected once (`project_memory`) and attended to many times (`attend`), as cached decoding does.
    Masks are boolean, True = may be attended to. A query that may attend to nothing gets zeros, never NaN.

    With a `Packing` as layout, rows [P, D] are the valid rows of padded sequences, and only those are projected.
    """

    def __init__(self, width: int, heads: int, dropout: float = 0.0):
        super().__init__()
        assert width % heads == 0, f"width {width} is not a multiple of {heads} heads"
        self.heads = heads
        self.dropout = dropout
        self.query = nn.Linear(width, width)
        self.key = nn.Linear(width, width)
        self.value = nn.Linear(width, width)
        self.output = nn.Linear(width, width)

    def forward(
        self, queries: Tensor, memory: Tensor, mask: Tensor | AttentionMask | None = None, causal: bool = False,
        layout: Layout = PADDED,
    ) -> Tensor:
        """Attend from `queries` [..., Q, D] to `memory` [..., M, D]: [..., Q, D].

        mask    [..., 1 or Q, M] bool, broadcast over heads; None: everything may be attended to
        causal  query i attends to memory rows 0..i only (without a mask)
        layout  of queries and memory alike; with a packing, `mask` or `causal` must exclude the padding
        """
        return self.attend(queries, *self.project_memory(memory, layout), mask, causal, layout)

    def project_memory(self, memory: Tensor, layout: Layout = PADDED) -> tuple[Tensor, Tensor]:
        """Keys and values of `memory` [..., M, D], each [..., h, M, d]."""
        return self._split_heads(self.key(memory), layout), self._split_heads(self.value(memory), layout)

    def attend(
        self, queries: Tensor, keys: Tensor, values: Tensor, mask: Tensor | AttentionMask | None = None,
        causal: bool = False, layout: Layout = PADDED,
    ) -> Tensor:
        """`forward` with projected memory; the layout is that of the queries."""
        if isinstance(mask, Tensor):
            mask = AttentionMask.of(mask, keys.dtype)
        attended = _attention(
            self._split_heads(self.query(queries), layout), keys, values, None if mask is None else mask.bias, causal,
            self.dropout if self.training else 0.0,
        )
        output = self.output(layout.pack(attended.transpose(-3, -2)).flatten(-2))
        if mask is None or mask.is_empty is None:
            return output
        return output.masked_fill(layout.pack(mask.is_empty), 0.0)

    def log_weights(self, queries: Tensor, keys: Tensor, mask: Tensor) -> Tensor:
        """The logarithm of the attention weights of `attend`, [..., h, Q, M] in fp32, without dropout.

        queries [..., Q, D], keys [..., h, M, d], mask [..., 1 or Q, M] bool. `EXCLUDED` where masked.
        """
        queries = self._split_heads(self.query(queries), PADDED)
        scores = (queries @ keys.transpose(-1, -2)).float() / keys.shape[-1] ** 0.5
        return masked_log_softmax(scores, mask.unsqueeze(-3))

    def _split_heads(self, rows: Tensor, layout: Layout) -> Tensor:
        """Rows [..., D] in `layout` -> [..., h, L, d]."""
        return layout.unpack(rows).unflatten(-1, (self.heads, -1)).transpose(-3, -2)


def _attention(
    queries: Tensor, keys: Tensor, values: Tensor, bias: Tensor | None, causal: bool, dropout: float
) -> Tensor:
    """Scaled dot-product attention: [..., h, Q, d]. On CPUs in fp32, because its backward pass in bf16 is slower."""
    if queries.device.type == "cpu" and queries.dtype != torch.float32:
        with torch.autocast("cpu", enabled=False):
            attended = _attention(queries.float(), keys.float(), values.float(), bias, causal, dropout)
        return attended.to(queries.dtype)
    return F.scaled_dot_product_attention(
        queries, keys, values, attn_mask=None if bias is None else bias.to(keys.dtype), is_causal=causal,
        dropout_p=dropout,
    )
