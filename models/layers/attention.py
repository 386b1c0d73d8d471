"""Multi-head attention, the only one in the project.

Shapes: B batch, Q queries, M memory rows, D width, h heads, d = D / h.
"""

import torch.nn.functional as F
from torch import Tensor, nn


class MultiHeadAttention(nn.Module):
    """Scaled dot-product attention with several heads and biased projections.

    Memory can be projected once (`project_memory`) and attended to many times (`attend`): that is what cached decoding
    does. Masks are boolean, True = may be seen. A query that may see nothing gets zeros, never NaN.
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

    def forward(self, queries: Tensor, memory: Tensor, mask: Tensor | None = None, causal: bool = False) -> Tensor:
        """Attend from `queries` [..., Q, D] to `memory` [..., M, D]: [..., Q, D].

        mask    [..., 1 or Q, M] bool, broadcast over heads; None: everything may be seen
        causal  query i sees memory rows 0..i alone (without a mask)
        """
        return self.attend(queries, *self.project_memory(memory), mask, causal)

    def project_memory(self, memory: Tensor) -> tuple[Tensor, Tensor]:
        """Keys and values of `memory` [..., M, D]: two of [..., h, M, d]."""
        return self._split(self.key(memory)), self._split(self.value(memory))

    def attend(
        self, queries: Tensor, keys: Tensor, values: Tensor, mask: Tensor | None = None, causal: bool = False
    ) -> Tensor:
        """`forward` with the memory projected already."""
        blind = None
        if mask is not None:
            mask = mask.unsqueeze(-3)  # the same for every head
            blind = ~mask.any(-1, keepdim=True)
            mask = mask | blind  # a row without any key would be 0 / 0; its answer is dropped below
        attended = F.scaled_dot_product_attention(
            self._split(self.query(queries)), keys, values, attn_mask=mask, is_causal=causal,
            dropout_p=self.dropout if self.training else 0.0,
        )
        answer = self.output(attended.transpose(-3, -2).flatten(-2))
        return answer if blind is None else answer.masked_fill(blind.squeeze(-3), 0.0)

    def _split(self, rows: Tensor) -> Tensor:
        """[..., M, D] -> [..., h, M, d]."""
        return rows.unflatten(-1, (self.heads, -1)).transpose(-3, -2)
