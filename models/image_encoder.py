"""The image encoder: patches -> the memory that the decoder attends to. Shapes as in `models/outputs.py`."""

import torch.nn.functional as F
from torch import Tensor, nn

from models.graph_attention import GraphAttention
from models.layers.masking import AttentionMask
from models.layers.transformer import FeedForwardBlock, SelfAttentionBlock
from models.outputs import SceneGraph


class ImageEncoderLayer(nn.Module):
    """Attention to the graph if the layer has one, self-attention among patches, feed-forward."""

    def __init__(
        self, width: int, heads: int, feedforward: int, dropout: float, graph_attention: GraphAttention | None
    ):
        super().__init__()
        self.graph_attention = graph_attention
        self.self_attention = SelfAttentionBlock(width, heads, dropout)
        self.feed_forward = FeedForwardBlock(width, feedforward, dropout)

    def forward(self, patches: Tensor, mask: AttentionMask, graph: SceneGraph | None) -> Tensor:
        """patches [B, N, D], mask of [B, 1, N] -> [B, N, D]."""
        if self.graph_attention is not None and graph is not None:
            patches = self.graph_attention(patches, self.graph_attention.project(graph))
        return self.feed_forward(self.self_attention(patches, mask))


class ImageEncoder(nn.Module):
    """Linear(C, D), LayerNorm, GELU, dropout; transformer layers; LayerNorm. Patches get no position embedding.

    graph_attentions   one per layer for `graph_in: encoder | both`; None otherwise
    """

    def __init__(
        self, channels: int, width: int, heads: int, feedforward: int, layers: int, dropout: float = 0.0,
        input_dropout: float = 0.0, graph_attentions: list[GraphAttention] | None = None,
    ):
        super().__init__()
        self.project = nn.Linear(channels, width)
        self.project_norm = nn.LayerNorm(width)
        self.dropout = nn.Dropout(input_dropout)
        self.layers = nn.ModuleList(
            ImageEncoderLayer(width, heads, feedforward, dropout, graph_attentions[i] if graph_attentions else None)
            for i in range(layers)
        )
        self.norm = nn.LayerNorm(width)

    def forward(self, patches: Tensor, mask: Tensor, graph: SceneGraph | None = None) -> Tensor:
        """patches [B, N, C], mask [B, N] -> memory [B, N, D]; rows of masked patches are undefined."""
        rows = self.dropout(F.gelu(self.project_norm(self.project(patches))))
        patch_mask = AttentionMask.of(mask.unsqueeze(1), rows.dtype, may_be_empty=False)  # every study has a view
        for layer in self.layers:
            rows = layer(rows, patch_mask, graph)
        return self.norm(rows)
