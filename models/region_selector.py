"""The region selector: does the report mention this region? One logit for each of the 29."""

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from models.layers.top_attention import attend_to_best
from models.rows import Rows


class RegionMemory(nn.Module):
    """A learned memory [slots, C], read by multi-head attention over the best-matching slots only.

    top   the number of slots per head that the softmax runs over
    """

    def __init__(self, channels: int, slots: int, heads: int, top: int):
        super().__init__()
        assert channels % heads == 0, f"{channels} channels are not a multiple of {heads} memory heads"
        assert top <= slots, f"the best {top} of {slots} memory slots"
        self.heads = heads
        self.top = top
        self.slots = nn.Parameter(torch.empty(slots, channels))
        self.project = nn.Linear(channels, channels)
        self.query = nn.Linear(channels, channels)
        self.key = nn.Linear(channels, channels)
        self.value = nn.Linear(channels, channels)
        self.output = nn.Linear(channels, channels)

    def forward(self, feature: Tensor) -> Tensor:
        """feature [B, C] -> [B, C]."""
        memory = self.project(self.slots)
        queries = self.query(feature).unflatten(-1, (self.heads, -1))  # [B, h, d]
        keys = self.key(memory).unflatten(-1, (self.heads, -1))  # [M, h, d], one row per slot
        values = self.value(memory).unflatten(-1, (self.heads, -1))
        return self.output(attend_to_best(queries, keys, values, self.top))


class RegionSelector(nn.Module):
    """Linear(mean patch) = g; with a memory GELU(Linear([g; memory(g)])) and dropout; then Linear to R logits."""

    rows = {"head.weight": Rows.REGIONS, "head.bias": Rows.REGIONS}

    def __init__(self, channels: int, regions: int, dropout: float = 0.0, memory: RegionMemory | None = None):
        super().__init__()
        self.project = nn.Linear(channels, channels)
        self.memory = memory
        self.fuse = nn.Linear(2 * channels, channels) if memory is not None else None
        self.dropout = nn.Dropout(dropout)
        self.head = nn.Linear(channels, regions)

    def forward(self, mean_patch: Tensor) -> Tensor:
        """mean_patch [B, C] -> logits [B, R]."""
        feature = self.project(mean_patch)
        if self.memory is not None:
            fused = self.fuse(torch.cat([feature, self.memory(feature)], -1))
            feature = self.dropout(F.gelu(fused))
        return self.head(feature)
