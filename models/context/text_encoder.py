"""The text encoder: the words of an indication -> states that the report's words attend to."""

from torch import Tensor, nn

from models.layers.masking import AttentionMask
from models.layers.norms import OUR_STYLE, LayerStyle
from models.layers.transformer import FeedForwardBlock, SelfAttentionBlock


class TextEncoderLayer(nn.Module):
    """Self-attention among words, feed-forward; both pre-norm."""

    def __init__(
        self, width: int, heads: int, feedforward: int, dropout: float = 0.0, style: LayerStyle = OUR_STYLE
    ):
        super().__init__()
        self.self_attention = SelfAttentionBlock(width, heads, dropout, style)
        self.feed_forward = FeedForwardBlock(width, feedforward, dropout, style)

    def forward(self, words: Tensor, mask: AttentionMask) -> Tensor:
        """words [B, Q, D], mask of [B, 1, Q] -> [B, Q, D]."""
        return self.feed_forward(self.self_attention(words, mask))


class TextEncoder(nn.Module):
    """Transformer layers over embedded words, and a norm. The embedding is that of the report's words."""

    def __init__(
        self, width: int, heads: int, feedforward: int, layers: int = 1, dropout: float = 0.0,
        style: LayerStyle = OUR_STYLE,
    ):
        super().__init__()
        self.layers = nn.ModuleList(
            TextEncoderLayer(width, heads, feedforward, dropout, style) for _ in range(layers)
        )
        self.norm = style.norm(width)

    def forward(self, words: Tensor, mask: Tensor) -> Tensor:
        """Embedded words [B, Q, D], mask [B, Q] -> states [B, Q, D]; a text may be empty. Masked rows are undefined."""
        attended = AttentionMask.of(mask.unsqueeze(1), words.dtype)
        for layer in self.layers:
            words = layer(words, attended)
        return self.norm(words)
