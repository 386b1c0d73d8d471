"""The cross-modal memory of R2GenCMN (Chen et al., "Cross-modal memory networks for radiology report generation",
ACL 2021)."""

import torch
from torch import Tensor, nn

from models.family.shared_memory import SharedMemory


class CrossModalMemory(SharedMemory):
    """Rows [rows, D] of which the best `responding` answer a patch or word: x + response(x)."""

    def __init__(self, width: int, rows: int, heads: int, responding: int, dropout: float = 0.0):
        super().__init__(width, heads, responding, dropout)
        assert responding <= rows, f"the best {responding} of {rows} memory rows"
        self.memory = nn.Parameter(torch.empty(rows, width))

    def memory_rows(self) -> Tensor:
        return self.memory

    def fuse_patches(self, patches: Tensor, response: Tensor) -> Tensor:
        return patches + response

    def fuse_words(self, words: Tensor, response: Tensor) -> Tensor:
        return words + response
