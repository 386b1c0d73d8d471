"""The report decoder: tokens so far, patches and sub-graphs -> logits of the next token.

Shapes as in `models/outputs.py`. While decoding, the beams of a study are rows next to each other, [B * beams], and
share the memories of their study.
"""

import math
from dataclasses import dataclass

import torch
from torch import Tensor, nn

from models.family.relational_memory import RelationalMemory
from models.family.shared_memory import BoundMemory
from models.graph_attention import GraphAttention, GraphMemory
from models.layers.attention import MultiHeadAttention
from models.layers.embeddings import WordEmbedding
from models.layers.masking import AttentionMask
from models.layers.norms import OUR_STYLE, Condition, LayerStyle
from models.layers.packing import PADDED, Layout, Packing, is_all_true
from models.layers.transformer import FeedForwardBlock, SelfAttentionBlock
from models.outputs import SceneGraph
from models.rows import Rows
from models.token_cache import TokenCache


@dataclass
class DecoderState:
    """The state of decoding token by token.

    tokens                      keys and values of the tokens so far
    memory_keys, memory_values  one [B, h, N, d] per layer
    memory_mask                 [B, 1, N]; None if all patches may be attended to
    graph_memories              one per layer; None without a graph
    shared_memory               what the tokens read before the first layer
    report_memory               [B, beams, slots, D] of a relational memory: what each hypothesis has written
    """

    tokens: TokenCache
    memory_keys: list[Tensor]
    memory_values: list[Tensor]
    memory_mask: AttentionMask | None
    graph_memories: list[GraphMemory] | None
    shared_memory: BoundMemory | None = None
    report_memory: Tensor | None = None

    def reorder(self, rows: Tensor) -> None:
        """Row i continues hypothesis rows[i]; rows [B * beams] stay within their study."""
        self.tokens.reorder(rows)
        if self.report_memory is not None:
            self.report_memory = self.report_memory.flatten(0, 1)[rows].view_as(self.report_memory)


@dataclass
class LayerAttention:
    """The attention of one decoder layer, as far as requested.

    region   log-attention to sub-graphs [B, heads, T, R]
    image    attention to patches [B, T, N], averaged over heads, without dropout; zeros for padding
    """

    region: Tensor | None = None
    image: Tensor | None = None


@dataclass
class Decoded:
    """The result of teacher forcing.

    logits               [P, W]
    words                [B, T, D], the embedded tokens
    region_log_attention as returned by `ReportDecoder.with_region_attention`; None unless requested
    image_attention      as in `LayerAttention`, of the requested layer; None if none is requested
    """

    logits: Tensor
    words: Tensor
    region_log_attention: Tensor | None
    image_attention: Tensor | None


class ReportDecoderLayer(nn.Module):
    """Causal self-attention, attention to patches, attention to the graph, feed-forward; all pre-norm.

    The norms may be conditional; they then need the `condition` of each row.
    """

    def __init__(
        self, width: int, heads: int, feedforward: int, dropout: float, graph_attention: GraphAttention | None,
        style: LayerStyle = OUR_STYLE,
    ):
        super().__init__()
        self.self_attention = SelfAttentionBlock(width, heads, dropout, style)
        self.image_norm = style.norm(width)
        self.image_attention = MultiHeadAttention(width, heads, dropout)
        self.dropout = nn.Dropout(dropout)
        self.graph_attention = graph_attention
        self.feed_forward = FeedForwardBlock(width, feedforward, dropout, style)

    def forward(
        self, rows: Tensor, packing: Packing, memory: Tensor, memory_mask: AttentionMask, graph: SceneGraph | None,
        with_region_attention: bool = False, with_image_attention: bool = False, condition: Condition = (),
    ) -> tuple[Tensor, LayerAttention]:
        """rows [P, D], packed from [B, T] tokens -> [P, D]; every token attends to itself and those before it."""
        attention = LayerAttention()
        rows = self.self_attention(rows, causal=True, layout=packing, condition=condition)
        projected = self.image_attention.project_memory(memory)
        if with_image_attention:
            queries = packing.unpack(self.image_norm(rows, *condition))
            weights = self.image_attention.log_weights(queries, projected[0], memory_mask.allowed).exp()
            attention.image = weights.mean(1) * packing.mask.unsqueeze(-1)
        rows = self._attend_to_patches(rows, *projected, memory_mask, packing, condition)
        graph_memory = None
        if self.graph_attention is not None and graph is not None:
            graph_memory = self.graph_attention.project(graph)
            if with_region_attention:
                padded, padded_condition = packing.unpack(rows), tuple(map(packing.unpack, condition))
                attention.region = self.graph_attention.region_log_weights(padded, graph_memory, padded_condition)
        return self._attend_to_graph_and_transform(rows, graph_memory, packing, condition), attention

    def step(
        self, rows: Tensor, state: DecoderState, layer: int, token_mask: AttentionMask | None,
        condition: Condition = (),
    ) -> Tensor:
        """Decode one token per beam: rows [B, beams, D] -> [B, beams, D]. Appends its keys and values to `state`.

        token_mask: `state.tokens.mask()`, the same for all layers
        """
        attention = self.self_attention.attention
        normed = self.self_attention.norm(rows, *condition)
        keys, values = state.tokens.append(layer, *attention.project_memory(normed))
        rows = rows + attention.attend(normed, keys, values, token_mask)
        rows = self._attend_to_patches(
            rows, state.memory_keys[layer], state.memory_values[layer], state.memory_mask, PADDED, condition
        )
        graph_memory = None if state.graph_memories is None else state.graph_memories[layer]
        return self._attend_to_graph_and_transform(rows, graph_memory, PADDED, condition)

    def _attend_to_patches(
        self, rows: Tensor, keys: Tensor, values: Tensor, mask: AttentionMask | None, layout: Layout,
        condition: Condition,
    ) -> Tensor:
        attended = self.image_attention.attend(self.image_norm(rows, *condition), keys, values, mask, layout=layout)
        return rows + self.dropout(attended)

    def _attend_to_graph_and_transform(
        self, rows: Tensor, graph_memory: GraphMemory | None, layout: Layout, condition: Condition
    ) -> Tensor:
        if graph_memory is not None:
            rows = self.graph_attention(rows, graph_memory, layout, condition)
        return self.feed_forward(rows, condition)


class ReportDecoder(nn.Module):
    """Token embedding, decoder layers, norm, and a Linear to words that is not tied to the embedding.

    longest            the most tokens of a report
    graph_attentions   one per layer for `graph_in: decoder | both`; None otherwise
    relational_memory  conditions the norms of the layers, for a `layer_style` with conditional norms; otherwise None
    style, layer_style of the last norm, and of the layers; layer_style None: the same
    """

    rows = {"word_head.weight": Rows.WORDS, "word_head.bias": Rows.WORDS}

    def __init__(
        self, words: int, width: int, heads: int, feedforward: int, layers: int, longest: int, dropout: float = 0.0,
        graph_attentions: list[GraphAttention] | None = None, style: LayerStyle = OUR_STYLE,
        relational_memory: RelationalMemory | None = None, layer_style: LayerStyle | None = None,
    ):
        super().__init__()
        self.embedding = WordEmbedding(words, width, longest, dropout)
        self.relational_memory = relational_memory
        self.layers = nn.ModuleList(
            ReportDecoderLayer(
                width, heads, feedforward, dropout, graph_attentions[i] if graph_attentions else None,
                layer_style or style,
            )
            for i in range(layers)
        )
        self.norm = style.norm(width)
        self.word_head = nn.Linear(width, words)

    @property
    def attends_to_graphs(self) -> bool:
        """Whether tokens attend to sub-graphs (`graph_in: decoder | both`)."""
        return self.layers[0].graph_attention is not None

    def forward(
        self, token_ids: Tensor, packing: Packing, memory: Tensor, memory_mask: Tensor, graph: SceneGraph | None,
        shared_memory: BoundMemory | None = None,
    ) -> Tensor:
        """Teacher forcing: token_ids [B, T], memory [B, N, D], memory_mask [B, N] -> next-token logits [P, W].

        packing: of the real tokens of [B, T]. Padding, about a quarter of a usual batch, is at the end and is skipped.
        """
        return self.decode(token_ids, packing, memory, memory_mask, graph, shared_memory).logits

    def with_region_attention(
        self, token_ids: Tensor, packing: Packing, memory: Tensor, memory_mask: Tensor, graph: SceneGraph,
        shared_memory: BoundMemory | None = None,
    ) -> tuple[Tensor, Tensor]:
        """The logits of `forward`, and the logarithm of the attention to regions with which they were computed.

        The attention to sub-graphs [B, T, R] is averaged over layers and heads; its logarithm is `EXCLUDED` for regions
        without a sub-graph. The decoder must attend to graphs; arguments as in `forward`.
        """
        decoded = self.decode(
            token_ids, packing, memory, memory_mask, graph, shared_memory, with_region_attention=True
        )
        return decoded.logits, decoded.region_log_attention

    def decode(
        self, token_ids: Tensor, packing: Packing, memory: Tensor, memory_mask: Tensor, graph: SceneGraph | None,
        shared_memory: BoundMemory | None = None, with_region_attention: bool = False,
        image_attention_layer: int | None = None,
    ) -> Decoded:
        """Teacher forcing as in `forward`, with the attention that is requested.

        image_attention_layer: the number of the layer whose attention to patches is returned, from 0
        """
        words = self.embedding(token_ids)
        packing = packing.aligned()
        condition = () if self.relational_memory is None else (packing.pack(self.relational_memory(words)),)
        rows = packing.pack(words if shared_memory is None else shared_memory.to_words(words))
        patch_mask = AttentionMask.of(memory_mask.unsqueeze(1), memory.dtype, may_be_empty=False)
        attentions = []
        for index, layer in enumerate(self.layers):
            rows, attention = layer(
                rows, packing, memory, patch_mask, graph, with_region_attention, index == image_attention_layer,
                condition,
            )
            attentions.append(attention)
        region_log_attention = image_attention = None
        if with_region_attention:
            by_head = torch.cat([attention.region for attention in attentions], 1)  # [B, layers * heads, T, R]
            region_log_attention = by_head.logsumexp(1) - math.log(by_head.shape[1])
        if image_attention_layer is not None:
            image_attention = attentions[image_attention_layer].image
        logits = packing.without_padding(self.word_head(self.norm(rows)))
        return Decoded(logits, words, region_log_attention, image_attention)

    def start(
        self, memory: Tensor, memory_mask: Tensor, graph: SceneGraph | None, beams: int, longest: int,
        shared_memory: BoundMemory | None = None,
    ) -> DecoderState:
        """The state before the first token, for `beams` hypotheses per study and at most `longest` steps.

        What is the same for all steps is prepared here, which waits for a GPU.
        """
        projected = [layer.image_attention.project_memory(memory) for layer in self.layers]
        graph_memories = None
        if self.attends_to_graphs and graph is not None:
            all_have_graphs = is_all_true(graph.selected.any(1))
            graph_memories = [layer.graph_attention.project(graph, all_have_graphs) for layer in self.layers]
        memory_keys, memory_values = [keys for keys, _ in projected], [values for _, values in projected]
        report_memory = None
        if self.relational_memory is not None:
            report_memory = self.relational_memory.initial(memory.new_zeros(memory.shape[0], beams, memory.shape[-1]))
        return DecoderState(
            tokens=TokenCache.for_memories(memory_keys, beams, longest), memory_keys=memory_keys,
            memory_values=memory_values, graph_memories=graph_memories,
            memory_mask=AttentionMask.for_many_uses(memory_mask.unsqueeze(1), memory_keys[0].dtype),
            shared_memory=shared_memory, report_memory=report_memory,
        )

    def step(self, token_ids: Tensor, state: DecoderState) -> Tensor:
        """The next-token logits [B * beams, W] after `token_ids` [B * beams], which are added to `state`."""
        rows = self.embedding(token_ids.unsqueeze(1), first_position=state.tokens.length)
        rows = rows.view(-1, state.tokens.beams, rows.shape[-1])  # the beams of a study share its memories
        condition = ()
        if state.report_memory is not None:
            state.report_memory = self.relational_memory.step(state.report_memory, rows)
            condition = (state.report_memory.flatten(-2),)
        if state.shared_memory is not None:
            rows = state.shared_memory.to_words(rows)
        state.tokens.advance()
        token_mask = state.tokens.mask()
        for index, layer in enumerate(self.layers):
            rows = layer.step(rows, state, index, token_mask, condition)
        return self.word_head(self.norm(rows)).flatten(0, 1)
