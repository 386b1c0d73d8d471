"""Masked means and the way between fixed slots and packed rows."""

import hypothesis.strategies as st
import torch
from hypothesis import given

from models.layers.masking import Packing, all_true, largest_count, masked_mean, packed_rows, unpack

masks = st.integers(0, 4).flatmap(
    lambda columns: st.lists(st.lists(st.booleans(), min_size=columns, max_size=columns), max_size=4).map(
        lambda rows: torch.tensor(rows, dtype=torch.bool).view(len(rows), columns)
    )
)


def test_mean_of_the_kept_rows():
    values = torch.tensor([[[1.0, 2.0], [3.0, 4.0], [100.0, 100.0]], [[5.0, 6.0], [7.0, 8.0], [9.0, 10.0]]])
    mask = torch.tensor([[True, True, False], [False, False, False]])
    assert masked_mean(values, mask).tolist() == [[2.0, 3.0], [0.0, 0.0]]


@given(masks)
def test_packed_rows_go_back_to_their_slots(mask):
    values = torch.arange(1.0, mask.numel() + 1).view(mask.shape)
    study, region = packed_rows(mask)
    assert len(study) == len(region) == int(mask.sum())
    assert (study.diff() >= 0).all()
    assert torch.equal(unpack(values[study, region], study, region, mask), values * mask)
    rows = torch.stack([values, -values], -1)
    assert torch.equal(unpack(rows[study, region], study, region, mask), rows * mask.unsqueeze(-1))


@given(masks)
def test_packing_keeps_valid_slots_in_order(mask):
    values = torch.arange(1.0, mask.numel() + 1).view(mask.shape)
    packing = Packing.from_mask(mask)
    assert torch.equal(packing.pack(values), values[mask])
    assert torch.equal(packing.unpack(packing.pack(values)), values * mask)


def test_gradients_reach_the_packed_rows():
    mask = torch.tensor([[True, False], [True, True]])
    rows = torch.randn(3, 2, requires_grad=True)
    unpack(rows, *packed_rows(mask), mask).sum().backward()
    assert torch.equal(rows.grad, torch.ones(3, 2))


@given(masks)
def test_counts_of_masks(mask):
    assert largest_count(mask) == max((sum(row) for row in mask.tolist()), default=0)
    assert all_true(mask) == all(all(row) for row in mask.tolist())
