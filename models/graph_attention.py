"""Attention from words (or patches) to the scene graph of their study: the paper's sentence-level attention.

Shapes: B batch, Q rows that ask (words, or patches), R regions, M attributes of the fullest sub-graph, D width.
"""

from dataclasses import dataclass

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from models.layers.attention import MultiHeadAttention
from models.layers.masking import Packing
from models.outputs import SceneGraph


@dataclass
class GraphMemory:
    """A scene graph projected for one `GraphAttention`, so that many steps of decoding can share it.

    keys, values   [B, h, M, d] of sub-graphs or of all nodes; `hierarchical`: [B, R, h, 1 + M, d]
    mask           [B, 1, M]; `hierarchical`: [B, R, 1, 1 + M]
    subgraph_keys  `hierarchical` alone: [B, R, D]
    selected       [B, R]
    """

    keys: Tensor
    values: Tensor
    mask: Tensor
    subgraph_keys: Tensor | None
    selected: Tensor


class GraphAttention(nn.Module):
    """x -> x with the graph of its study mixed in; a study without any sub-graph passes unchanged.

    sentence_attention
        subgraph      a row attends to the sub-graph vectors, about one sentence of the report each
        node          a row attends to all nodes of all sub-graphs
        hierarchical  a row attends inside every sub-graph, then a softmax over sub-graphs weighs the answers
    fuse, with a(x) = x + attended
        attention     a(x)
        add           x plus the attended part once; the same numbers as `attention`, kept by its published name
        concat        Linear([x; a(x)])
    gate              g f(x) + (1 - g) x with g = sigmoid(W x), f the fused answer
    """

    def __init__(
        self, width: int, heads: int, dropout: float = 0.0, sentence_attention: str = "subgraph",
        fuse: str = "attention", gate: bool = False,
    ):
        super().__init__()
        self.sentence_attention = sentence_attention
        self.norm = nn.LayerNorm(width)
        self.attention = MultiHeadAttention(width, heads, dropout)
        self.dropout = nn.Dropout(dropout)
        self.fuse = nn.Linear(2 * width, width) if fuse == "concat" else None
        self.gate = nn.Linear(width, width) if gate else None
        if sentence_attention == "hierarchical":
            self.subgraph_query = nn.Linear(width, width)
            self.subgraph_key = nn.Linear(width, width)

    def project(self, graph: SceneGraph) -> GraphMemory:
        """Keys, values and masks of `graph`, computed once a study."""
        subgraph_keys = None
        if self.sentence_attention == "subgraph":
            rows, mask = graph.embeddings, graph.selected.unsqueeze(1)
        elif self.sentence_attention == "node":
            rows, mask = graph.nodes.flatten(1, 2), graph.node_mask.flatten(1, 2).unsqueeze(1)
        else:
            rows, mask = graph.nodes, graph.node_mask.unsqueeze(2)
            subgraph_keys = self.subgraph_key(graph.embeddings)
        keys, values = self.attention.project_memory(rows)
        return GraphMemory(keys, values, mask, subgraph_keys, graph.selected)

    def forward(self, rows: Tensor, memory: GraphMemory, packing: Packing | None = None) -> Tensor:
        """rows [B, Q, D] -> [B, Q, D]; with the `packing` of [B, Q] slots, rows [P, D] -> [P, D]."""
        attended = rows + self.dropout(self._attend(self.norm(rows), memory, packing))
        fused = attended if self.fuse is None else self.fuse(torch.cat([rows, attended], -1))
        if self.gate is not None:
            gate = torch.sigmoid(self.gate(rows))
            fused = gate * fused + (1 - gate) * rows
        has_graph = memory.selected.any(1)
        has_graph = has_graph[:, None, None] if packing is None else has_graph[packing.sequence].unsqueeze(1)
        return torch.where(has_graph, fused, rows)

    def region_weights(self, rows: Tensor, memory: GraphMemory) -> Tensor:
        """How much each of `rows` [B, Q, D] looks at each sub-graph, on average over heads: [B, Q, R].

        Of a study with sub-graphs each row's weights add up to 1; without any they are 0.
        """
        queries = self.norm(rows)
        if self.sentence_attention == "hierarchical":
            return self._subgraph_weights(queries, memory) * memory.selected.unsqueeze(1)
        weights = self.attention.weights(queries, memory.keys, memory.mask)
        if self.sentence_attention == "node":
            weights = weights.unflatten(-1, (memory.selected.shape[1], -1)).sum(-1)
        return weights

    def _subgraph_weights(self, queries: Tensor, memory: GraphMemory) -> Tensor:
        """`hierarchical`: how the answers of the sub-graphs are weighed, [B, Q, R] in fp32."""
        scores = self.subgraph_query(queries) @ memory.subgraph_keys.transpose(1, 2)
        scores = scores.float() / queries.shape[-1] ** 0.5
        scores = scores.masked_fill(~memory.selected.unsqueeze(1), torch.finfo(scores.dtype).min)
        return F.softmax(scores, -1)

    def _attend(self, queries: Tensor, memory: GraphMemory, packing: Packing | None) -> Tensor:
        if self.sentence_attention != "hierarchical":
            return self.attention.attend(queries, memory.keys, memory.values, memory.mask, packing=packing)
        if packing is not None:
            return packing.pack(self._attend(packing.unpack(queries), memory, None))
        regions = memory.selected.shape[1]
        answers = self.attention.attend(  # [B, R, Q, D]
            queries.unsqueeze(1).expand(-1, regions, -1, -1), memory.keys, memory.values, memory.mask
        )
        weights = self._subgraph_weights(queries, memory).to(answers.dtype)
        return torch.einsum("bqr,brqd->bqd", weights, answers)
