"""Multi-head attention: equal to torch's, masked, and zero for queries without memory."""

import pytest
import torch
import torch.nn.functional as F
from torch import nn

from models.layers.attention import MultiHeadAttention
from models.layers.packing import Packing


@pytest.fixture
def attention() -> MultiHeadAttention:
    torch.manual_seed(0)
    return MultiHeadAttention(12, 3)


def as_torch_attention(attention: MultiHeadAttention) -> nn.MultiheadAttention:
    """torch's own module with the same weights."""
    reference = nn.MultiheadAttention(12, 3, batch_first=True)
    with torch.no_grad():
        parts = (attention.query, attention.key, attention.value)
        reference.in_proj_weight.copy_(torch.cat([part.weight for part in parts]))
        reference.in_proj_bias.copy_(torch.cat([part.bias for part in parts]))
        reference.out_proj.weight.copy_(attention.output.weight)
        reference.out_proj.bias.copy_(attention.output.bias)
    return reference


def test_equals_the_attention_of_torch(attention):
    queries, memory = torch.randn(2, 4, 12), torch.randn(2, 5, 12)
    mask = torch.rand(2, 4, 5) < 0.6
    mask[..., 0] = True
    blind = (~mask).repeat_interleave(3, 0)  # torch expects True = excluded, one mask per head
    expected, _ = as_torch_attention(attention)(queries, memory, memory, attn_mask=blind)
    torch.testing.assert_close(attention(queries, memory, mask), expected)
    expected, _ = as_torch_attention(attention)(queries, memory, memory)
    torch.testing.assert_close(attention(queries, memory), expected)


def test_masked_memory_changes_nothing(attention):
    queries, memory = torch.randn(2, 4, 12), torch.randn(2, 5, 12)
    mask = torch.tensor([[True, True, False, True, False], [False, True, True, True, True]]).unsqueeze(1)
    garbage = torch.where(mask.transpose(1, 2), memory, 1e4)
    assert torch.equal(attention(queries, memory, mask), attention(queries, garbage, mask))
    assert not torch.allclose(attention(queries, memory), attention(queries, garbage))


def test_query_without_any_memory_gets_zeros_and_finite_gradients(attention):
    queries, memory = torch.randn(2, 4, 12, requires_grad=True), torch.randn(2, 5, 12, requires_grad=True)
    mask = torch.ones(2, 4, 5, dtype=torch.bool)
    mask[0, 1] = False
    mask[1] = False
    answers = attention(queries, memory, mask)
    assert (answers[0, 1] == 0).all() and (answers[1] == 0).all()
    assert (answers[0, [0, 2, 3]] != 0).all()
    answers.sum().backward()
    assert torch.isfinite(queries.grad).all() and torch.isfinite(memory.grad).all()
    assert (memory.grad[1] == 0).all()


def test_causal_attention_never_looks_ahead(attention):
    rows = torch.randn(1, 6, 12)
    changed = rows.clone()
    changed[:, 4:] += 1
    before, after = attention(rows, rows, causal=True), attention(changed, changed, causal=True)
    torch.testing.assert_close(before[:, :4], after[:, :4])
    assert not torch.allclose(before[:, 4:], after[:, 4:])
    triangle = torch.ones(6, 6, dtype=torch.bool).tril()
    torch.testing.assert_close(before, attention(rows, rows, triangle))


def test_projected_memory_serves_many_queries(attention):
    queries, memory, mask = torch.randn(2, 4, 12), torch.randn(2, 5, 12), torch.rand(2, 1, 5) < 0.7
    keys, values = attention.project_memory(memory)
    assert keys.shape == values.shape == (2, 3, 5, 4)
    one_by_one = [attention.attend(queries[:, i : i + 1], keys, values, mask) for i in range(4)]
    torch.testing.assert_close(torch.cat(one_by_one, 1), attention(queries, memory, mask))


def test_further_leading_axes_are_batches(attention):
    queries, memory, mask = torch.randn(2, 3, 4, 12), torch.randn(2, 3, 5, 12), torch.rand(2, 3, 1, 5) < 0.5
    flat = attention(queries.flatten(0, 1), memory.flatten(0, 1), mask.flatten(0, 1))
    torch.testing.assert_close(attention(queries, memory, mask), flat.view(2, 3, 4, 12))


def test_no_batch_at_all_is_no_error(attention):
    empty = torch.zeros(0, 4, 12)
    assert attention(empty, empty, torch.zeros(0, 1, 4, dtype=torch.bool)).shape == (0, 4, 12)


def test_dropout_acts_in_training_alone():
    torch.manual_seed(0)
    attention = MultiHeadAttention(12, 3, dropout=0.5)
    rows = torch.randn(2, 6, 12)
    assert not torch.allclose(attention(rows, rows), attention(rows, rows))
    attention.eval()
    assert torch.equal(attention(rows, rows), attention(rows, rows))


def test_width_must_be_a_multiple_of_heads():
    with pytest.raises(AssertionError, match="width 10 is not a multiple of 3 heads"):
        MultiHeadAttention(10, 3)


def test_packed_rows_attend_as_padded_ones(attention):
    valid = torch.tensor([[True, True, True, False], [True, False, False, False], [True, True, False, False]])
    packing, rows = Packing.from_mask(valid), torch.randn(3, 4, 12)
    expected = attention(rows, rows, valid.unsqueeze(1))
    found = attention(packing.pack(rows), packing.pack(rows), valid.unsqueeze(1), layout=packing)
    torch.testing.assert_close(found, packing.pack(expected))
    causal = attention(packing.pack(rows), packing.pack(rows), causal=True, layout=packing)
    torch.testing.assert_close(causal, packing.pack(attention(rows, rows, causal=True)))


def test_packed_query_without_any_memory_gets_zeros(attention):
    packing = Packing.from_mask(torch.tensor([[True, False], [True, True]]))
    keys, values = attention.project_memory(torch.randn(2, 3, 12))
    mask = torch.tensor([[[True, True, True]], [[False, False, False]]])
    answer = attention.attend(torch.randn(3, 12), keys, values, mask, layout=packing)
    assert (answer[1:] == 0).all() and (answer[0] != 0).any()


def test_bf16_on_the_cpu_equals_the_attention_of_the_rounded_projections(attention):
    queries, memory = torch.randn(2, 3, 12), torch.randn(2, 5, 12)
    keys, values = (projected.bfloat16() for projected in attention.project_memory(memory))
    with torch.autocast("cpu", dtype=torch.bfloat16):
        projected = attention.query(queries).unflatten(-1, (attention.heads, -1)).transpose(-3, -2)
        attended = F.scaled_dot_product_attention(projected.double(), keys.double(), values.double())
        expected = attention.output(attended.to(torch.bfloat16).transpose(-3, -2).flatten(-2))
        torch.testing.assert_close(attention.attend(queries, keys, values), expected, atol=0.004, rtol=0)
