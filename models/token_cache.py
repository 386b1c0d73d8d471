"""The keys and values of the tokens written so far, for decoding token by token with several beams."""

from dataclasses import dataclass

import torch
from torch import Tensor

from models.layers.masking import AttentionMask


@dataclass
class TokenCache:
    """Keys and values of written tokens, per decoder layer; the beams of a study share one cache.

    Invariant: slot `t * beams + k` belongs to the token that beam k wrote at position t, and is never moved or changed
    afterwards. `visible` says which slots are the tokens of each hypothesis: one slot per position before `length`, and
    none from there on. Reordering hypotheses therefore permutes rows of `visible` and copies no keys or values.

    keys, values   one [B, h, L, d] per layer, L = longest * beams slots
    visible        [B, beams, L] bool
    length         positions written so far
    """

    keys: list[Tensor]
    values: list[Tensor]
    visible: Tensor
    length: int = 0

    @classmethod
    def for_memories(cls, memories: list[Tensor], beams: int, longest: int) -> "TokenCache":
        """An empty cache for at most `longest` tokens, with one layer per tensor [B, h, N, d] of `memories`."""
        studies, heads, _, channels = memories[0].shape
        shape = (studies, heads, longest * beams, channels)
        return cls(
            keys=[memory.new_zeros(shape) for memory in memories],
            values=[memory.new_zeros(shape) for memory in memories],
            visible=torch.zeros(studies, beams, longest * beams, dtype=torch.bool, device=memories[0].device),
        )

    @property
    def beams(self) -> int:
        """Hypotheses per study."""
        return self.visible.shape[1]

    def advance(self) -> None:
        """Open the slots of the next position; each beam sees its own."""
        self.length += 1
        if self.beams > 1:  # a single beam sees every slot, and needs no mask
            self.visible[:, :, self._newest] = torch.eye(self.beams, dtype=torch.bool, device=self.visible.device)

    def append(self, layer: int, keys: Tensor, values: Tensor) -> tuple[Tensor, Tensor]:
        """Store `keys` and `values` [B, h, beams, d] of the newest position.

        Returns those of all positions so far, [B, h, length * beams, d] each.
        """
        self.keys[layer][:, :, self._newest] = keys
        self.values[layer][:, :, self._newest] = values
        filled = self._newest.stop
        return self.keys[layer][:, :, :filled], self.values[layer][:, :, :filled]

    def mask(self) -> AttentionMask | None:
        """The slots that each beam attends to, [B, beams, length * beams]; None for a single beam: all of them."""
        if self.beams == 1:
            return None
        return AttentionMask.of(self.visible[:, :, : self._newest.stop], self.keys[0].dtype, may_be_empty=False)

    def reorder(self, rows: Tensor) -> None:
        """Row i continues hypothesis rows[i]; rows [B * beams] stay within their study."""
        self.visible = self.visible.flatten(0, 1)[rows].view_as(self.visible)

    @property
    def _newest(self) -> slice:
        """The slots of the newest position."""
        return slice((self.length - 1) * self.beams, self.length * self.beams)
