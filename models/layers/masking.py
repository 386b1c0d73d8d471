"""Masked means, and the regrouping between fixed slots and packed valid rows.

Shapes: B sequences, L slots of each, P valid slots in all, S selected regions.

The sizes of packed tensors depend on the values of masks. Every such size is decided in this file, and nowhere else in
`models/`, so that a test can replace it (shapes that depend on values cannot be traced without data). For the same
reason `torch.export` sees the fullest sizes here: every slot is packed, and what is not valid becomes zeros afterwards.
"""

from dataclasses import dataclass

import torch
from torch import Tensor


def masked_mean(values: Tensor, mask: Tensor) -> Tensor:
    """The mean of `values` [B, N, C] over the rows that `mask` [B, N] keeps: [B, C]; zeros where it keeps none."""
    weights = mask.unsqueeze(-1).to(values.dtype)
    return (values * weights).sum(1) / weights.sum(1).clamp(min=1)


def packed_rows(mask: Tensor) -> tuple[Tensor, Tensor]:
    """The positions (study [S], region [S]) that `mask` [B, R] keeps, study by study."""
    if torch.compiler.is_exporting():
        positions = torch.arange(mask.numel(), device=mask.device)
        return positions // mask.shape[1], positions % mask.shape[1]
    study, region = mask.nonzero(as_tuple=True)
    return study, region


def unpack(rows: Tensor, study: Tensor, region: Tensor, mask: Tensor) -> Tensor:
    """The packed `rows` [S, ...] at their slots of `mask` [B, R], zeros elsewhere: [B, R, ...]."""
    if torch.compiler.is_exporting():
        slots = rows.unflatten(0, mask.shape)
        return slots.masked_fill(~mask.view(*mask.shape, *[1] * (rows.dim() - 1)), 0)
    slots = rows.new_zeros(*mask.shape, *rows.shape[1:])
    return slots.index_put((study, region), rows)


@dataclass(frozen=True)
class Packing:
    """Which slots of B sequences are valid, so that work on single rows can leave the padding out.

    sequence, slot   [P] each: where the packed rows stand, sequence by sequence
    mask             [B, L] bool: the same
    """

    sequence: Tensor
    slot: Tensor
    mask: Tensor

    @classmethod
    def from_mask(cls, mask: Tensor) -> "Packing":
        """The packing of the slots that `mask` [B, L] keeps."""
        return cls(*packed_rows(mask), mask)

    def pack(self, slots: Tensor) -> Tensor:
        """slots [B, L, ...] -> the valid ones [P, ...]."""
        # As `slots[self.sequence, self.slot]`, whose gradient is five times as slow: it allows for repeated positions.
        return slots.flatten(0, 1).index_select(0, self.sequence * self.mask.shape[1] + self.slot)

    def unpack(self, rows: Tensor) -> Tensor:
        """rows [P, ...] -> [B, L, ...], zeros at slots that are not valid."""
        return unpack(rows, self.sequence, self.slot, self.mask)


def largest_count(mask: Tensor) -> int:
    """How many entries the fullest row of `mask` [S, A] keeps; 0 for an empty mask."""
    if torch.compiler.is_exporting():
        return mask.shape[-1]
    return int(mask.sum(-1).max()) if mask.numel() else 0


def all_true(mask: Tensor) -> bool:
    """Whether every entry of `mask` is True."""
    return bool(mask.all())
