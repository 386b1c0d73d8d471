"""Attention from tokens (or patches) to the scene graph of their study: the paper's sentence-level attention.

Shapes as in `models/outputs.py`.
"""

from dataclasses import dataclass

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from models.layers.attention import MultiHeadAttention
from models.layers.masking import AttentionMask, masked_log_softmax
from models.layers.norms import OUR_STYLE, Condition, LayerStyle
from models.layers.packing import PADDED, Layout
from models.outputs import SceneGraph


@dataclass
class GraphMemory:
    """A scene graph projected for one `GraphAttention`, so that many decoding steps can share it.

    keys, values   `subgraph`: [B, h, R, d]; `node`: [B, h, R * E, d]; `hierarchical`: [B, R, h, E, d]
    mask           of `subgraph`: [B, 1, R]; of `node`: [B, 1, R * E]; of `hierarchical`: [B, R, 1, E]
    subgraph_keys  [B, R, D] for `hierarchical`, else None
    selected       [B, R] bool
    has_graph      [B, 1, 1] bool: studies with a sub-graph; None if all are known to have one
    """

    keys: Tensor
    values: Tensor
    mask: AttentionMask
    subgraph_keys: Tensor | None
    selected: Tensor
    has_graph: Tensor | None

    @classmethod
    def of(
        cls, keys: Tensor, values: Tensor, allowed: Tensor, subgraph_keys: Tensor | None, selected: Tensor,
        all_have_graphs: bool = False,
    ) -> "GraphMemory":
        """The memory with the mask that allows `allowed` (bool). all_have_graphs: whether that is known."""
        # `hierarchical` attends within every sub-graph, also within those that are not selected and have no nodes.
        may_be_empty = not all_have_graphs or subgraph_keys is not None
        return cls(
            keys, values, AttentionMask.of(allowed, keys.dtype, may_be_empty), subgraph_keys, selected,
            None if all_have_graphs else selected.any(1)[:, None, None],
        )


class GraphAttention(nn.Module):
    """Adds the scene graph of a study to its rows; rows of a study without a sub-graph are returned unchanged.

    sentence_attention
        subgraph      a row attends to the sub-graph vectors, each about one sentence of the report
        node          a row attends to all nodes of all sub-graphs
        hierarchical  a row attends within every sub-graph, then a softmax over sub-graphs weights the results
    fuse, with a(x) = x + attended
        attention     a(x)
        add           x plus the attended part; identical to `attention`, kept under its published name
        concat        Linear([x; a(x)])
    gate              g f(x) + (1 - g) x with g = sigmoid(W x) and f the fused result
    """

    def __init__(
        self, width: int, heads: int, dropout: float = 0.0, sentence_attention: str = "subgraph",
        fuse: str = "attention", gate: bool = False, style: LayerStyle = OUR_STYLE,
    ):
        super().__init__()
        self.sentence_attention = sentence_attention
        self.norm = style.norm(width)
        self.attention = MultiHeadAttention(width, heads, dropout)
        self.dropout = nn.Dropout(dropout)
        self.fuse = nn.Linear(2 * width, width) if fuse == "concat" else None
        self.gate = nn.Linear(width, width) if gate else None
        if sentence_attention == "hierarchical":
            self.subgraph_query = nn.Linear(width, width)
            self.subgraph_key = nn.Linear(width, width)

    def project(self, graph: SceneGraph, all_have_graphs: bool = False) -> GraphMemory:
        """Keys, values and masks of `graph`. all_have_graphs: whether every study is known to have a sub-graph."""
        subgraph_keys = None
        if self.sentence_attention == "subgraph":
            rows, mask = graph.embeddings, graph.selected.unsqueeze(1)
        elif self.sentence_attention == "node":
            rows, mask = graph.nodes.flatten(1, 2), graph.node_mask.flatten(1, 2).unsqueeze(1)
        else:
            rows, mask = graph.nodes, graph.node_mask.unsqueeze(2)
            subgraph_keys = self.subgraph_key(graph.embeddings)
        keys, values = self.attention.project_memory(rows)
        return GraphMemory.of(keys, values, mask, subgraph_keys, graph.selected, all_have_graphs)

    def forward(
        self, rows: Tensor, memory: GraphMemory, layout: Layout = PADDED, condition: Condition = ()
    ) -> Tensor:
        """rows [B, Q, D], or packed from [B, Q] slots [P, D] -> the same shape; condition: of a conditional norm."""
        attended = rows + self.dropout(self._attend(self.norm(rows, *condition), memory, layout))
        if self.fuse is None and self.gate is None and self.sentence_attention != "hierarchical":
            return attended  # without a sub-graph, the attention has added zeros
        fused = attended if self.fuse is None else self.fuse(torch.cat([rows, attended], -1))
        if self.gate is not None:
            gate = torch.sigmoid(self.gate(rows))
            fused = gate * fused + (1 - gate) * rows
        return fused if memory.has_graph is None else torch.where(layout.pack(memory.has_graph), fused, rows)

    def region_log_weights(self, rows: Tensor, memory: GraphMemory, condition: Condition = ()) -> Tensor:
        """The logarithm of the attention of `rows` [B, Q, D] to each sub-graph, [B, heads, Q, R] in fp32.

        `EXCLUDED` for regions without a sub-graph. `hierarchical` has a single head here.
        """
        queries = self.norm(rows, *condition)
        if self.sentence_attention == "hierarchical":
            mask = memory.selected.unsqueeze(1)
            return masked_log_softmax(self._subgraph_scores(queries, memory), mask).unsqueeze(1)
        log_weights = self.attention.log_weights(queries, memory.keys, memory.mask.allowed)
        if self.sentence_attention == "node":
            log_weights = log_weights.unflatten(-1, (memory.selected.shape[1], -1)).logsumexp(-1)
        return log_weights

    def _attend(self, queries: Tensor, memory: GraphMemory, layout: Layout) -> Tensor:
        if self.sentence_attention != "hierarchical":
            return self.attention.attend(queries, memory.keys, memory.values, memory.mask, layout=layout)
        queries = layout.unpack(queries)
        regions = memory.selected.shape[1]
        by_subgraph = self.attention.attend(  # [B, R, Q, D]
            queries.unsqueeze(1).expand(-1, regions, -1, -1), memory.keys, memory.values, memory.mask
        )
        scores = self._subgraph_scores(queries, memory)
        scores = scores.masked_fill(~memory.selected.unsqueeze(1), torch.finfo(scores.dtype).min)
        weights = F.softmax(scores, -1).to(by_subgraph.dtype)
        return layout.pack(torch.einsum("bqr,brqd->bqd", weights, by_subgraph))

    def _subgraph_scores(self, queries: Tensor, memory: GraphMemory) -> Tensor:
        """`hierarchical`: how well each row matches each sub-graph, [B, Q, R] in fp32."""
        scores = self.subgraph_query(queries) @ memory.subgraph_keys.transpose(1, 2)
        return scores.float() / queries.shape[-1] ** 0.5
