"""The image encoder: patches -> the memory that the decoder attends to. Shapes as in `models/outputs.py`."""

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from models.family.shared_memory import BoundMemory
from models.graph_attention import GraphAttention
from models.layers.embeddings import sinusoidal_positions
from models.layers.masking import AttentionMask
from models.layers.norms import OUR_STYLE, LayerStyle
from models.layers.transformer import FeedForwardBlock, SelfAttentionBlock
from models.outputs import SceneGraph


class ImageEncoderLayer(nn.Module):
    """Attention to the graph if the layer has one, self-attention among patches, feed-forward."""

    def __init__(
        self, width: int, heads: int, feedforward: int, dropout: float, graph_attention: GraphAttention | None,
        style: LayerStyle = OUR_STYLE,
    ):
        super().__init__()
        self.graph_attention = graph_attention
        self.self_attention = SelfAttentionBlock(width, heads, dropout, style)
        self.feed_forward = FeedForwardBlock(width, feedforward, dropout, style)

    def forward(self, patches: Tensor, mask: AttentionMask, graph: SceneGraph | None) -> Tensor:
        """patches [B, N, D], mask of [B, 1, N] -> [B, N, D]."""
        if self.graph_attention is not None and graph is not None:
            patches = self.graph_attention(patches, self.graph_attention.project(graph))
        return self.feed_forward(self.self_attention(patches, mask))


class ImageEncoder(nn.Module):
    """Projection of the patches, dropout, transformer layers, norm.

    graph_attentions   one per layer for `graph_in: encoder | both`; None otherwise
    projection         norm_gelu: Linear(C, D), LayerNorm, GELU. relu: Linear(C, D), ReLU, zeros for masked patches; the
                       projection of the R2Gen family
    positions          add sinusoidal positions to the patches, which are counted over all views
    """

    def __init__(
        self, channels: int, width: int, heads: int, feedforward: int, layers: int, dropout: float = 0.0,
        input_dropout: float = 0.0, graph_attentions: list[GraphAttention] | None = None,
        projection: str = "norm_gelu", positions: bool = False, style: LayerStyle = OUR_STYLE,
    ):
        super().__init__()
        self.project = nn.Linear(channels, width)
        self.project_norm = nn.LayerNorm(width) if projection == "norm_gelu" else None
        self.positions = positions
        self.dropout = nn.Dropout(input_dropout)
        self.layers = nn.ModuleList(
            ImageEncoderLayer(
                width, heads, feedforward, dropout, graph_attentions[i] if graph_attentions else None, style
            )
            for i in range(layers)
        )
        self.norm = style.norm(width)

    def forward(
        self, patches: Tensor, mask: Tensor, graph: SceneGraph | None = None,
        shared_memory: BoundMemory | None = None, foreground: Tensor | None = None,
    ) -> Tensor:
        """patches [B, N, C], mask [B, N] -> memory [B, N, D]; rows of masked patches are undefined.

        shared_memory   what the projected patches are combined with, before their positions are added
        foreground      [B, 1, C], a row that the layers see before the patches: the result is then [B, 1 + N, D]
        """
        rows = self.dropout(self._project(patches, mask))
        if shared_memory is not None:
            rows = shared_memory.to_patches(rows)
        if self.positions:
            rows = rows + sinusoidal_positions(rows.shape[1], rows.shape[2], rows.device)
        if foreground is not None:
            mask = F.pad(mask, (1, 0), value=True)
            rows = torch.cat([self.dropout(self._project(foreground, mask[:, :1])), rows], 1)
        patch_mask = AttentionMask.of(mask.unsqueeze(1), rows.dtype, may_be_empty=False)  # every study has a view
        for layer in self.layers:
            rows = layer(rows, patch_mask, graph)
        return self.norm(rows)

    def _project(self, patches: Tensor, mask: Tensor) -> Tensor:
        """patches [B, N, C], mask [B, N] -> [B, N, D]."""
        rows = self.project(patches)
        if self.project_norm is not None:
            return F.gelu(self.project_norm(rows))
        return F.relu(rows).masked_fill(~mask.unsqueeze(-1), 0.0)
