"""Memories that patches and words both read, before the first layer of the image encoder and of the decoder."""

from abc import ABC, abstractmethod
from dataclasses import dataclass, replace

import torch
from torch import Tensor, nn

from models.layers.top_attention import attend_to_best


class SharedMemory(nn.Module, ABC):
    """Learned rows that respond to patches and to words, read by multi-head attention to the best-matching rows.

    responding   the number of rows that respond, per row read and head
    """

    def __init__(self, width: int, heads: int, responding: int, dropout: float = 0.0):
        super().__init__()
        assert width % heads == 0, f"width {width} is not a multiple of {heads} memory heads"
        self.heads = heads
        self.responding = responding
        self.dropout = dropout
        self.query = nn.Linear(width, width)
        self.key = nn.Linear(width, width)
        self.value = nn.Linear(width, width)
        self.output = nn.Linear(width, width)

    @abstractmethod
    def memory_rows(self) -> Tensor:
        """The rows [M, D]."""

    @abstractmethod
    def fuse_patches(self, patches: Tensor, response: Tensor) -> Tensor:
        """Combine patches [B, N, D] with the response to them, of the same shape."""

    @abstractmethod
    def fuse_words(self, words: Tensor, response: Tensor) -> Tensor:
        """Combine words [B, T, D] with the response to them, of the same shape."""

    def project(self) -> tuple[Tensor, Tensor]:
        """Keys and values of the rows, [M, h, d] each."""
        rows = self.memory_rows()
        return self.key(rows).unflatten(-1, (self.heads, -1)), self.value(rows).unflatten(-1, (self.heads, -1))

    def allowed_rows(self, observations: Tensor | None) -> Tensor | None:
        """The rows that respond to each study, [B, M] bool; None: all. observations: as in `for_studies`."""
        return None

    def for_studies(self, observations: Tensor | None = None) -> "BoundMemory":
        """The memory that the studies of a batch read.

        observations [B, K] bool: those of each study; None for a model without an observation head
        """
        return BoundMemory(self, *self.project(), self.allowed_rows(observations))

    def respond(self, rows: Tensor, keys: Tensor, values: Tensor, allowed: Tensor | None) -> Tensor:
        """The response to `rows` [B, L, D], of the same shape; to studies without any row, that of a row of zeros."""
        queries = self.query(rows).unflatten(-1, (self.heads, -1))  # [B, L, h, d]
        dropout = self.dropout if self.training else 0.0
        if allowed is None:
            return self.output(attend_to_best(queries, keys, values, self.responding, dropout=dropout))
        allowed = allowed.unsqueeze(1)
        attended = attend_to_best(queries, keys, values, self.responding, allowed, dropout)
        return self.output(torch.where(allowed.any(-1, keepdim=True), attended, self.value.bias.to(attended.dtype)))


@dataclass
class BoundMemory:
    """A shared memory as the studies of a batch read it, projected once for all patches, words and decoding steps.

    keys, values      [M, h, d]
    allowed           [B, M] bool: the rows that respond to a study; None: all
    patch_response    [B, N, D], word_response [B, T, D]: the last responses, for losses
    """

    module: SharedMemory
    keys: Tensor
    values: Tensor
    allowed: Tensor | None = None
    patch_response: Tensor | None = None
    word_response: Tensor | None = None

    def select(self, studies: Tensor) -> "BoundMemory":
        """The memory as other words of these `studies` read it, which may repeat; without the last responses."""
        allowed = None if self.allowed is None else self.allowed.index_select(0, studies)
        return replace(self, allowed=allowed, patch_response=None, word_response=None)

    def to_patches(self, patches: Tensor) -> Tensor:
        """Patches [B, N, D] combined with the response to them."""
        self.patch_response = self.module.respond(patches, self.keys, self.values, self.allowed)
        return self.module.fuse_patches(patches, self.patch_response)

    def to_words(self, words: Tensor) -> Tensor:
        """Words [B, T, D] combined with the response to them."""
        self.word_response = self.module.respond(words, self.keys, self.values, self.allowed)
        return self.module.fuse_words(words, self.word_response)
