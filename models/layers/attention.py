"""Multi-head attention, the only one in the project.

Shapes: B batch, Q queries, M memory rows, D width, h heads, d = D / h, P packed rows.
"""

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from models.layers.masking import Packing


class MultiHeadAttention(nn.Module):
    """Scaled dot-product attention with several heads and biased projections.

    Memory can be projected once (`project_memory`) and attended to many times (`attend`): that is what cached decoding
    does. Masks are boolean, True = may be seen. A query that may see nothing gets zeros, never NaN.

    Rows that come with a `packing` are the valid ones of padded sequences, [P, D]: projections then run on those alone.
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
        self, queries: Tensor, memory: Tensor, mask: Tensor | None = None, causal: bool = False,
        packing: Packing | None = None,
    ) -> Tensor:
        """Attend from `queries` [..., Q, D] to `memory` [..., M, D]: [..., Q, D].

        mask    [..., 1 or Q, M] bool, broadcast over heads; None: everything may be seen
        causal  query i sees memory rows 0..i alone (without a mask)
        packing of queries and memory alike; a mask must then hide what is not valid, unless `causal` does
        """
        return self.attend(queries, *self.project_memory(memory, packing), mask, causal, packing)

    def project_memory(self, memory: Tensor, packing: Packing | None = None) -> tuple[Tensor, Tensor]:
        """Keys and values of `memory` [..., M, D]: two of [..., h, M, d]."""
        return self._split(self.key(memory), packing), self._split(self.value(memory), packing)

    def attend(
        self, queries: Tensor, keys: Tensor, values: Tensor, mask: Tensor | None = None, causal: bool = False,
        packing: Packing | None = None,
    ) -> Tensor:
        """`forward` with the memory projected already."""
        blind = None
        if mask is not None:
            mask = mask.unsqueeze(-3)  # the same for every head
            blind = ~mask.any(-1, keepdim=True)
            mask = mask | blind  # a row without any key would be 0 / 0; its answer is dropped below
        attended = F.scaled_dot_product_attention(
            self._split(self.query(queries), packing), keys, values, attn_mask=mask, is_causal=causal,
            dropout_p=self.dropout if self.training else 0.0,
        )
        attended = attended.transpose(-3, -2)
        answer = self.output((attended if packing is None else packing.pack(attended)).flatten(-2))
        if blind is None:
            return answer
        blind = blind.squeeze(-3)  # [..., 1 or Q, 1]
        return answer.masked_fill(
            blind if packing is None else packing.pack(blind.expand(*packing.mask.shape, 1)), 0.0
        )

    def weights(self, queries: Tensor, keys: Tensor, mask: Tensor) -> Tensor:
        """How `attend` weighs the memory rows, on average over heads: [..., Q, M]; zeros for a query that sees nothing.

        queries [..., Q, D], keys [..., h, M, d], mask [..., 1 or Q, M] bool; without dropout. Softmax in fp32.
        """
        mask = mask.unsqueeze(-3)
        queries = self._split(self.query(queries), None)
        scores = (queries @ keys.transpose(-1, -2)).float() / keys.shape[-1] ** 0.5
        scores = scores.masked_fill(~mask, torch.finfo(scores.dtype).min)
        return (F.softmax(scores, -1) * mask).mean(-3)

    def _split(self, rows: Tensor, packing: Packing | None) -> Tensor:
        """[..., M, D], or [P, D] with a packing -> [..., h, M, d]."""
        slots = rows if packing is None else packing.unpack(rows)
        return slots.unflatten(-1, (self.heads, -1)).transpose(-3, -2)
