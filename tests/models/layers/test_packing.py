"""Padded and packed rows, and the sizes that follow from masks."""

import hypothesis.strategies as st
import pytest
import torch
from hypothesis import given

from models.layers import packing as packing_module
from models.layers.packing import PADDED, Packing, is_all_true, largest_count

masks = st.integers(0, 4).flatmap(
    lambda columns: st.lists(st.lists(st.booleans(), min_size=columns, max_size=columns), max_size=4).map(
        lambda rows: torch.tensor(rows, dtype=torch.bool).view(len(rows), columns)
    )
)


@given(masks)
def test_packed_rows_go_back_to_their_slots(mask):
    values = torch.arange(1.0, mask.numel() + 1).view(mask.shape)
    packing = Packing.from_mask(mask)
    assert len(packing.sequence) == len(packing.slot) == int(mask.sum())
    assert (packing.sequence.diff() >= 0).all()
    assert torch.equal(packing.unpack(values[packing.sequence, packing.slot]), values * mask)
    rows = torch.stack([values, -values], -1)
    assert torch.equal(packing.unpack(rows[packing.sequence, packing.slot]), rows * mask.unsqueeze(-1))


@given(masks)
def test_packing_keeps_valid_slots_in_order(mask):
    values = torch.arange(1.0, mask.numel() + 1).view(mask.shape)
    packing = Packing.from_mask(mask)
    assert torch.equal(packing.pack(values), values[mask])
    assert torch.equal(packing.unpack(packing.pack(values)), values * mask)


@given(masks)
def test_one_value_per_sequence_is_packed_for_each_of_its_rows(mask):
    values = torch.arange(1.0, len(mask) + 1).view(-1, 1)
    packing = Packing.from_mask(mask)
    assert torch.equal(packing.pack(values), values.squeeze(1)[packing.sequence])


def test_gradients_reach_the_packed_rows():
    mask = torch.tensor([[True, False], [True, True]])
    rows = torch.randn(3, 2, requires_grad=True)
    Packing.from_mask(mask).unpack(rows).sum().backward()
    assert torch.equal(rows.grad, torch.ones(3, 2))


def test_the_padded_layout_changes_nothing():
    rows = torch.randn(2, 3)
    assert PADDED.pack(rows) is rows and PADDED.unpack(rows) is rows


@given(masks)
def test_static_sizes_keep_every_slot_and_zero_the_invalid_ones(mask):
    values = torch.arange(1.0, mask.numel() + 1).view(mask.shape)
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(packing_module, "sizes_are_static", lambda: True)
        packing = Packing.from_mask(mask)
        rows = packing.pack(values)
        assert rows.shape == (mask.numel(),)
        assert torch.equal(packing.unpack(rows), values * mask)
        assert largest_count(mask) == mask.shape[-1] and not is_all_true(mask)


@given(masks)
def test_counts_of_masks(mask):
    assert largest_count(mask) == max((sum(row) for row in mask.tolist()), default=0)
    assert is_all_true(mask) == all(all(row) for row in mask.tolist())


@given(masks, st.integers(1, 5))
def test_aligned_rows_end_with_padding_that_goes_nowhere(mask, multiple):
    values = torch.arange(1.0, mask.numel() + 1).view(mask.shape)
    exact = Packing.from_mask(mask)
    with pytest.MonkeyPatch.context() as patch, torch.autocast("cpu", dtype=torch.bfloat16):
        patch.setattr(packing_module, "ROW_MULTIPLE", multiple)
        aligned = exact.aligned()
    rows = aligned.pack(values)
    assert len(rows) % multiple == 0 or len(rows) == mask.numel()
    assert len(rows) - len(exact.sequence) < multiple
    assert torch.equal(aligned.without_padding(rows), exact.pack(values))
    assert torch.equal(rows, values[aligned.sequence, aligned.slot])
    assert torch.equal(aligned.unpack(rows), values * mask)


def test_padding_gets_no_gradient():
    packing = Packing.from_mask(torch.tensor([[True, False, False]]))
    with torch.autocast("cpu", dtype=torch.bfloat16):
        aligned = packing.aligned()
    rows = torch.randn(3, 2, requires_grad=True)
    aligned.unpack(rows).sum().backward()
    assert torch.equal(rows.grad, torch.tensor([[1.0, 1.0], [0.0, 0.0], [0.0, 0.0]]))


def test_rows_are_aligned_for_low_precision_only():
    packing = Packing.from_mask(torch.tensor([[True, False]]))
    assert packing.aligned() is packing
