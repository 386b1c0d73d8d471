"""Two layouts of the rows of padded sequences: padded [B, L, ...], or packed [P, ...] without the padding.

Projections and feed-forward layers treat every row alone, so they can skip padding; attention needs padded sequences.
A layer takes its rows in some layout and moves between the two with the layout's `pack` and `unpack`:

    rows = layout.pack(padded)      # [B, L, ...] -> rows
    padded = layout.unpack(rows)    # rows -> [B, L, ...]

`Packing` drops the padding. `PADDED` leaves rows as they are, so that a layer has one code path for both.

Every shape and every branch of `models/` that depends on the values of a mask is decided in this file. `torch.export`
has shapes without values: it packs every slot, valid or not, and otherwise runs the same code.
"""

from dataclasses import dataclass
from functools import cached_property
from typing import Protocol

import torch
from torch import Tensor

# Rows of `Packing.aligned` are a multiple of this.
ROW_MULTIPLE = 64


class Layout(Protocol):
    """How a layer's rows are laid out."""

    def pack(self, padded: Tensor) -> Tensor:
        """[B, L, ...] -> rows; an axis of size 1 in place of L is broadcast."""

    def unpack(self, rows: Tensor) -> Tensor:
        """Rows -> [B, L, ...]."""


class PaddedLayout:
    """Rows stay padded: both functions return their argument."""

    def pack(self, padded: Tensor) -> Tensor:
        return padded

    def unpack(self, rows: Tensor) -> Tensor:
        return rows


PADDED = PaddedLayout()


@dataclass(frozen=True)
class Packing:
    """Rows are the valid slots of B sequences, sequence by sequence.

    mask      [B, L] bool: the valid slots
    sequence  [P] long: the sequence of each row
    slot      [P] long: its slot in that sequence
    padding   how many of the last rows are invalid slots: 0, except for `aligned`
    """

    mask: Tensor
    sequence: Tensor
    slot: Tensor
    padding: int = 0

    @classmethod
    def from_mask(cls, mask: Tensor, rows: int | None = None) -> "Packing":
        """The packing of the slots that `mask` [B, L] keeps.

        rows: how many these are, if it is known. If not, counting them waits for the GPU.
        """
        if sizes_are_static():
            slots = torch.arange(mask.numel(), device=mask.device)
            return cls(mask, slots // mask.shape[1], slots % mask.shape[1])
        if rows is None:
            return cls(mask, *mask.nonzero(as_tuple=True))
        return cls(mask, *torch.nonzero_static(mask, size=rows).unbind(1))

    def aligned(self) -> "Packing":
        """This packing with invalid slots as further rows, so that their number is a multiple of `ROW_MULTIPLE`.

        For the products of autocast on a CPU only, anywhere else it is the same packing: oneDNN compiles a kernel for
        every new shape of a low-precision product, which takes ten times as long as the product.
        """
        device = self.mask.device.type
        if sizes_are_static() or device != "cpu" or not torch.is_autocast_enabled(device):
            return self
        rows = len(self.sequence)
        padding = min(-rows % ROW_MULTIPLE, self.mask.numel() - rows)
        if padding == 0:
            return self
        sequence, slot = torch.nonzero_static(~self.mask, size=padding).unbind(1)
        return Packing(self.mask, torch.cat([self.sequence, sequence]), torch.cat([self.slot, slot]), padding)

    def without_padding(self, rows: Tensor) -> Tensor:
        """The rows of valid slots."""
        return rows[: len(rows) - self.padding] if self.padding else rows

    def pack(self, padded: Tensor) -> Tensor:
        """[B, L, ...] -> the valid rows [P, ...]; an axis of size 1 in place of L is broadcast."""
        padded = padded.expand(*self.mask.shape, *padded.shape[2:])
        # The same as `padded[self.sequence, self.slot]`, whose backward is five times slower: it allows repetitions.
        return padded.flatten(0, 1).index_select(0, self._place)

    def unpack(self, rows: Tensor) -> Tensor:
        """The rows [P, ...] in their slots, zeros elsewhere: [B, L, ...]."""
        if not sizes_are_static():
            slots = rows.new_zeros(self.mask.numel(), *rows.shape[1:])
            place, rows = self.without_padding(self._place), self.without_padding(rows)
            return slots.index_copy_(0, place, rows).unflatten(0, self.mask.shape)
        slots = rows.unflatten(0, self.mask.shape)
        return slots.masked_fill(~self.mask.view(*self.mask.shape, *[1] * (rows.dim() - 1)), 0)

    @cached_property
    def _place(self) -> Tensor:
        """[P] long: the slot of each row, counted over all sequences."""
        return self.sequence * self.mask.shape[1] + self.slot


def sizes_are_static() -> bool:
    """Whether sizes must follow from shapes alone, because masks have no values while a model is exported."""
    return torch.compiler.is_exporting()


def largest_count(mask: Tensor) -> int:
    """The number of True entries in the fullest row of `mask` [S, A]; 0 for an empty mask."""
    if sizes_are_static():
        return mask.shape[-1]
    return int(mask.sum(-1).max()) if mask.numel() else 0


def is_all_true(mask: Tensor) -> bool:
    """Whether every entry of `mask` is True; False while its values are unknown."""
    return not sizes_are_static() and bool(mask.all())
