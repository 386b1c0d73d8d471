"""The cross-modal prototypes of XProNet (Wang et al., "Cross-modal prototype driven network for radiology report
generation", ECCV 2022)."""

import torch
from torch import Tensor, nn

from models.family.shared_memory import SharedMemory
from models.rows import Rows


class Prototypes(SharedMemory):
    """Learned rows for each observation, of which those of a study's observations respond: Linear([x; response(x)]).

    observations      K
    per_observation   rows of an observation; they are consecutive
    channels          of a row, before it is projected to the model's width
    """

    rows = {"prototypes": Rows.OBSERVATIONS}

    def __init__(
        self, width: int, observations: int, per_observation: int, channels: int, heads: int, responding: int,
        dropout: float = 0.0,
    ):
        super().__init__(width, heads, responding, dropout)
        self.per_observation = per_observation
        self.prototypes = nn.Parameter(torch.empty(observations * per_observation, channels))
        self.reduction = nn.Linear(channels, width)
        self.patch_fusion = nn.Linear(2 * width, width)
        self.word_fusion = nn.Linear(2 * width, width)

    def memory_rows(self) -> Tensor:
        return self.reduction(self.prototypes)

    def allowed_rows(self, observations: Tensor | None) -> Tensor:
        return observations.repeat_interleave(self.per_observation, 1)

    def fuse_patches(self, patches: Tensor, response: Tensor) -> Tensor:
        return self.patch_fusion(torch.cat([patches, response.to(patches.dtype)], -1))

    def fuse_words(self, words: Tensor, response: Tensor) -> Tensor:
        return self.word_fusion(torch.cat([words, response.to(words.dtype)], -1))
