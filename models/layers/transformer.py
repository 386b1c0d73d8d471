"""Pre-norm transformer blocks: x + dropout(f(norm(x)))."""

from torch import Tensor, nn

from models.layers.attention import MultiHeadAttention
from models.layers.masking import AttentionMask
from models.layers.norms import OUR_STYLE, Condition, LayerStyle
from models.layers.packing import PADDED, Layout


class FeedForward(nn.Module):
    """Linear, activation, dropout, Linear on the last axis: [..., D] -> [..., D]."""

    def __init__(self, width: int, hidden: int, dropout: float = 0.0, style: LayerStyle = OUR_STYLE):
        super().__init__()
        self.expand = nn.Linear(width, hidden)
        self.contract = nn.Linear(hidden, width)
        self.activation = style.activation
        self.dropout = nn.Dropout(dropout)

    def forward(self, rows: Tensor) -> Tensor:
        return self.contract(self.dropout(self.activation(self.expand(rows))))


class SelfAttentionBlock(nn.Module):
    """x + dropout(self-attention(norm(x))); mask, causal and layout as in `MultiHeadAttention`.

    condition   of a conditional norm
    """

    def __init__(self, width: int, heads: int, dropout: float = 0.0, style: LayerStyle = OUR_STYLE):
        super().__init__()
        self.norm = style.norm(width)
        self.attention = MultiHeadAttention(width, heads, dropout)
        self.dropout = nn.Dropout(dropout)

    def forward(
        self, rows: Tensor, mask: Tensor | AttentionMask | None = None, causal: bool = False, layout: Layout = PADDED,
        condition: Condition = (),
    ) -> Tensor:
        normed = self.norm(rows, *condition)
        return rows + self.dropout(self.attention(normed, normed, mask, causal, layout))


class FeedForwardBlock(nn.Module):
    """x + dropout(feed-forward(norm(x))) on the last axis; condition: of a conditional norm."""

    def __init__(self, width: int, hidden: int, dropout: float = 0.0, style: LayerStyle = OUR_STYLE):
        super().__init__()
        self.norm = style.norm(width)
        self.feed_forward = FeedForward(width, hidden, dropout, style)
        self.dropout = nn.Dropout(dropout)

    def forward(self, rows: Tensor, condition: Condition = ()) -> Tensor:
        return rows + self.dropout(self.feed_forward(self.norm(rows, *condition)))
