"""The report decoder: words so far, patches and sub-graphs -> the next word.

Shapes: B batch, T tokens, W words, N patches, D width, h heads, d = D / h, K beams a study (rows of one study lie
together, so B * K rows of words share B memories), P real words of a batch (packed).
"""

from dataclasses import dataclass

import torch
from torch import Tensor, nn

from models.graph_attention import GraphAttention, GraphMemory
from models.layers.attention import MultiHeadAttention
from models.layers.embeddings import WordEmbedding
from models.layers.masking import Packing
from models.layers.transformer import FeedForwardBlock, SelfAttentionBlock
from models.outputs import SceneGraph


@dataclass
class DecoderState:
    """What decoding remembers: keys and values of the words so far, and of the memories, layer by layer.

    The beams of a study share one cache, in which nothing is ever moved: slot t * K + k holds the word that beam k
    wrote at position t, and `seen` says which of them belong to the words of each beam.

    self_keys, self_values       [B, h, longest * K, d] a layer, filled up to `position`
    memory_keys, memory_values   [B, h, N, d] a layer
    graph_memories               a layer; None without graph
    memory_mask                  [B, 1, N]
    seen                         [B, K, longest * K] bool
    """

    self_keys: list[Tensor]
    self_values: list[Tensor]
    memory_keys: list[Tensor]
    memory_values: list[Tensor]
    graph_memories: list[GraphMemory] | None
    memory_mask: Tensor
    seen: Tensor
    position: int = 0

    @property
    def beams(self) -> int:
        """K."""
        return self.seen.shape[1]

    def reorder(self, rows: Tensor) -> None:
        """Let row i go on from the words of row rows[i] (rows [B * K], within one study)."""
        self.seen = self.seen.flatten(0, 1)[rows].view_as(self.seen)

    def present(self) -> slice:
        """The slots of the words at `position`."""
        return slice(self.position * self.beams, (self.position + 1) * self.beams)

    def see_present(self) -> Tensor | None:
        """Let every beam see its own word at `position`: the mask [B, K, slots so far]; None for a single beam."""
        if self.beams == 1:
            return None
        present = self.present()
        self.seen[:, :, present] = torch.eye(self.beams, dtype=torch.bool, device=self.seen.device)
        return self.seen[:, :, : present.stop]


class ReportDecoderLayer(nn.Module):
    """Masked self-attention, attention over the patches, attention over the graph, feed-forward; all pre-norm."""

    def __init__(
        self, width: int, heads: int, feedforward: int, dropout: float, graph_attention: GraphAttention | None
    ):
        super().__init__()
        self.self_attention = SelfAttentionBlock(width, heads, dropout)
        self.image_norm = nn.LayerNorm(width)
        self.image_attention = MultiHeadAttention(width, heads, dropout)
        self.dropout = nn.Dropout(dropout)
        self.graph_attention = graph_attention
        self.feed_forward = FeedForwardBlock(width, feedforward, dropout)

    def forward(
        self, words: Tensor, packing: Packing, memory: Tensor, memory_mask: Tensor, graph: SceneGraph | None
    ) -> Tensor:
        """words [P, D], `packing` of [B, T] -> [P, D], every word from itself and those before."""
        words = self._attend_to_words_and_patches(words, packing, memory, memory_mask)
        graph_memory = None
        if self.graph_attention is not None and graph is not None:
            graph_memory = self.graph_attention.project(graph)
        return self._attend_to_graph_and_transform(words, graph_memory, packing)

    def region_weights(
        self, words: Tensor, packing: Packing, memory: Tensor, memory_mask: Tensor, graph: SceneGraph
    ) -> tuple[Tensor, Tensor]:
        """What `forward` returns, and how much each word looks at each sub-graph of its study [B, T, R]."""
        words = self._attend_to_words_and_patches(words, packing, memory, memory_mask)
        graph_memory = self.graph_attention.project(graph)
        weights = self.graph_attention.region_weights(packing.unpack(words), graph_memory)
        return self._attend_to_graph_and_transform(words, graph_memory, packing), weights

    def step(self, words: Tensor, state: DecoderState, layer: int, seen: Tensor | None) -> Tensor:
        """One more word a beam: words [B, K, D] -> [B, K, D]; its keys and values join `state`.

        seen: what `state.see_present` returned.
        """
        attention = self.self_attention.attention
        normed = self.self_attention.norm(words)
        keys, values, present = state.self_keys[layer], state.self_values[layer], state.present()
        keys[:, :, present], values[:, :, present] = attention.project_memory(normed)
        words = words + attention.attend(normed, keys[:, :, : present.stop], values[:, :, : present.stop], seen)
        words = self._attend_to_patches(
            words, state.memory_keys[layer], state.memory_values[layer], state.memory_mask
        )
        graph_memory = None if state.graph_memories is None else state.graph_memories[layer]
        return self._attend_to_graph_and_transform(words, graph_memory)

    def _attend_to_words_and_patches(
        self, words: Tensor, packing: Packing, memory: Tensor, memory_mask: Tensor
    ) -> Tensor:
        words = self.self_attention(words, causal=True, packing=packing)
        return self._attend_to_patches(words, *self.image_attention.project_memory(memory), memory_mask, packing)

    def _attend_to_patches(
        self, words: Tensor, keys: Tensor, values: Tensor, mask: Tensor, packing: Packing | None = None
    ) -> Tensor:
        attended = self.image_attention.attend(self.image_norm(words), keys, values, mask, packing=packing)
        return words + self.dropout(attended)

    def _attend_to_graph_and_transform(
        self, words: Tensor, graph_memory: GraphMemory | None, packing: Packing | None = None
    ) -> Tensor:
        if graph_memory is not None:
            words = self.graph_attention(words, graph_memory, packing)
        return self.feed_forward(words)


class ReportDecoder(nn.Module):
    """Word embedding, decoder layers, LayerNorm, Linear to the words (not tied to the embedding).

    graph_attentions: one a layer for `graph_in: decoder | both`, else None. longest: tokens a report may have.
    """

    def __init__(
        self, words: int, width: int, heads: int, feedforward: int, layers: int, longest: int, dropout: float = 0.0,
        graph_attentions: list[GraphAttention] | None = None,
    ):
        super().__init__()
        self.embedding = WordEmbedding(words, width, longest, dropout)
        self.layers = nn.ModuleList(
            ReportDecoderLayer(width, heads, feedforward, dropout, graph_attentions[i] if graph_attentions else None)
            for i in range(layers)
        )
        self.norm = nn.LayerNorm(width)
        self.word_head = nn.Linear(width, words)

    def forward(
        self, token_ids: Tensor, token_mask: Tensor, memory: Tensor, memory_mask: Tensor, graph: SceneGraph | None
    ) -> Tensor:
        """Teacher forcing: token_ids [B, T], memory [B, N, D], memory_mask [B, N] -> next-word logits [B, T, W].

        token_mask [B, T] bool: the real words. Those alone are worked on, a quarter less than all in a usual batch.
        Padding stands at the end, where no word before it looks; its logits mean nothing.
        """
        packing = Packing.from_mask(token_mask)
        words = packing.pack(self.embedding(token_ids))
        for layer in self.layers:
            words = layer(words, packing, memory, memory_mask.unsqueeze(1), graph)
        return self.word_head(packing.unpack(self.norm(words)))

    def with_region_attention(
        self, token_ids: Tensor, token_mask: Tensor, memory: Tensor, memory_mask: Tensor, graph: SceneGraph
    ) -> tuple[Tensor, Tensor]:
        """What `forward` returns, and where the decoder looks for each next word: its weight on each region [B, T, R].

        The mean over layers and heads of the attention to sub-graphs; adds up to 1 for real words of studies with a
        sub-graph, 0 for all others. The decoder must attend to graphs; arguments as in `forward`.
        """
        packing = Packing.from_mask(token_mask)
        words = packing.pack(self.embedding(token_ids))
        weights = []
        for layer in self.layers:
            words, looked = layer.region_weights(words, packing, memory, memory_mask.unsqueeze(1), graph)
            weights.append(looked)
        logits = self.word_head(packing.unpack(self.norm(words)))
        return logits, torch.stack(weights).mean(0) * token_mask.unsqueeze(-1)

    @property
    def attends_to_graphs(self) -> bool:
        """Whether its words look at sub-graphs (`graph_in: decoder | both`)."""
        return self.layers[0].graph_attention is not None

    def start(
        self, memory: Tensor, memory_mask: Tensor, graph: SceneGraph | None, beams: int, longest: int
    ) -> DecoderState:
        """The state before the first word, for `beams` rows a study and at most `longest` steps."""
        studies, slots = memory.shape[0], longest * beams
        self_keys, self_values, memory_keys, memory_values, graph_memories = [], [], [], [], []
        for layer in self.layers:
            keys, values = layer.image_attention.project_memory(memory)
            memory_keys.append(keys)
            memory_values.append(values)
            cache_shape = (studies, keys.shape[1], slots, keys.shape[3])
            self_keys.append(keys.new_zeros(cache_shape))
            self_values.append(keys.new_zeros(cache_shape))
            if layer.graph_attention is not None and graph is not None:
                graph_memories.append(layer.graph_attention.project(graph))
        return DecoderState(
            self_keys, self_values, memory_keys, memory_values, graph_memories or None, memory_mask.unsqueeze(1),
            seen=memory_mask.new_zeros(studies, beams, slots),
        )

    def step(self, token_ids: Tensor, state: DecoderState) -> Tensor:
        """The next-word logits [B * K, W] after the tokens `token_ids` [B * K]; `state` moves on by one word."""
        words = self.embedding(token_ids.unsqueeze(1), first_position=state.position)
        words = words.view(-1, state.beams, words.shape[-1])  # the beams of a study ask its memories together
        seen = state.see_present()
        for index, layer in enumerate(self.layers):
            words = layer.step(words, state, index, seen)
        state.position += 1
        return self.word_head(self.norm(words)).flatten(0, 1)
