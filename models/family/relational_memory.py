"""The relational memory and memory-driven conditional norms of R2Gen (Chen et al., "Generating radiology reports via
memory-driven transformer", EMNLP 2020). Shapes as in `models/outputs.py`."""

from collections.abc import Callable

import torch
from torch import Tensor, nn

from models.layers.attention import MultiHeadAttention


class RelationalMemory(nn.Module):
    """A memory of a report, `slots` rows of width D, that every word advances: it records what has been written.

    It starts with the first unit vectors. With x the embedding of a word with its position and M the memory before:

        Z  = M + attention(M; keys and values M and x)
        Z  = Z + ReLU(L2 ReLU(L1 Z))
        G  = W x + U tanh(M), an input gate and a forget gate
        M' = sigmoid(G_input) tanh(Z) + sigmoid(G_forget) M
    """

    def __init__(self, width: int, slots: int, heads: int, dropout: float = 0.0):
        super().__init__()
        self.slots = slots
        self.attention = MultiHeadAttention(width, heads, dropout)
        self.transform = nn.Sequential(nn.Linear(width, width), nn.ReLU(), nn.Linear(width, width), nn.ReLU())
        self.word_gates = nn.Linear(width, 2 * width)
        self.memory_gates = nn.Linear(width, 2 * width)

    def initial(self, words: Tensor) -> Tensor:
        """The memory before the first of `words` [..., D]: [..., slots, D]."""
        unit_vectors = torch.eye(self.slots, words.shape[-1], dtype=words.dtype, device=words.device)
        return unit_vectors.expand(*words.shape[:-1], -1, -1)

    def forward(self, words: Tensor) -> Tensor:
        """The memory after each word, its rows joined: words [B, T, D] -> [B, T, slots * D]."""
        projected = self._project(words)
        memory = self.initial(words[:, 0])
        after = []
        for position in range(words.shape[1]):
            memory = self._advance(memory, *(each[:, position] for each in projected))
            after.append(memory.flatten(-2))
        return torch.stack(after, 1)

    def step(self, memory: Tensor, words: Tensor) -> Tensor:
        """The memory [..., slots, D] after one more word, words [..., D]."""
        return self._advance(memory, *self._project(words))

    def _project(self, words: Tensor) -> tuple[Tensor, Tensor, Tensor]:
        """Keys and values [..., h, 1, d] and gates [..., 1, 2 D] of words [..., D]."""
        rows = words.unsqueeze(-2)
        return *self.attention.project_memory(rows), self.word_gates(rows)

    def _advance(self, memory: Tensor, word_keys: Tensor, word_values: Tensor, word_gates: Tensor) -> Tensor:
        keys, values = self.attention.project_memory(memory)
        keys, values = torch.cat([keys, word_keys], -2), torch.cat([values, word_values], -2)
        new = memory + self.attention.attend(memory, keys, values)
        new = new + self.transform(new)
        input_gate, forget_gate = torch.sigmoid(word_gates + self.memory_gates(torch.tanh(memory))).chunk(2, -1)
        return input_gate * torch.tanh(new) + forget_gate * memory


class ConditionalNorm(nn.Module):
    """A norm whose scale and shift depend on a condition: (g + MLP(condition)) norm(x) + b + MLP(condition).

    norm   width -> norm; takes `elementwise_affine`
    """

    def __init__(self, width: int, condition_width: int, norm: Callable[..., nn.Module] = nn.LayerNorm):
        super().__init__()
        self.norm = norm(width, elementwise_affine=False)
        self.weight = nn.Parameter(torch.ones(width))
        self.bias = nn.Parameter(torch.zeros(width))
        self.weight_change = _mlp(condition_width, width)
        self.bias_change = _mlp(condition_width, width)

    def forward(self, rows: Tensor, condition: Tensor) -> Tensor:
        """rows [..., D], condition [..., condition_width] -> [..., D]."""
        weight, bias = self.weight + self.weight_change(condition), self.bias + self.bias_change(condition)
        return weight * self.norm(rows) + bias


def _mlp(inputs: int, width: int) -> nn.Sequential:
    return nn.Sequential(nn.Linear(inputs, width), nn.ReLU(), nn.Linear(width, width))
