"""The discriminative map, the foreground row, and the attention that is compared with the map."""

from dataclasses import replace

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

from models.family.discriminative_map import DiscriminativeMap, aggregate_attention, class_activation_map, stretch
from modules.training.loss_terms import AttentionConsistencyLoss
from tests.support.tiny_model import losses_of, teacher_forced, tiny_batch, tiny_config, tiny_model, tiny_vocabularies

CHANNELS = 6


@pytest.fixture
def inputs() -> tuple[torch.Tensor, ...]:
    """Patches, mask, logits and class weights of two studies; the second has a masked patch."""
    generator = torch.Generator().manual_seed(0)
    patches = torch.rand(2, 5, CHANNELS, generator=generator)
    mask = torch.ones(2, 5, dtype=torch.bool)
    mask[1, 4] = False
    logits = torch.tensor([[1.0, -1.0, 0.0], [-1.0, 2.0, -3.0]])
    return patches, mask, logits, torch.randn(3, CHANNELS, generator=generator)


def test_map_is_the_largest_activation_of_a_predicted_class(inputs):
    patches, mask, logits, weights = inputs
    found = class_activation_map(*inputs)
    first = torch.maximum((patches[0] @ weights[0]).relu(), (patches[0] @ weights[2]).relu())
    torch.testing.assert_close(found[0], (first - first.min()) / (first.max() - first.min()))
    second = (patches[1, :4] @ weights[1]).relu()
    torch.testing.assert_close(found[1, :4], (second - second.min()) / (second.max() - second.min()))
    assert found[1, 4] == 0


def test_map_is_zero_without_a_predicted_class(inputs):
    patches, mask, logits, weights = inputs
    assert not class_activation_map(patches, mask, logits - 5, weights).any()


def test_foreground_is_the_weighted_sum_and_gets_no_gradient_through_the_map(inputs):
    patches, mask, logits, weights = (tensor.clone() for tensor in inputs)
    for tensor in (patches, logits, weights):
        tensor.requires_grad_()
    made = DiscriminativeMap(CHANNELS)
    mapped = made(patches, mask, logits, weights)
    expected = made.foreground_norm((mapped.map.unsqueeze(-1) * patches).sum(1, keepdim=True))
    torch.testing.assert_close(mapped.foreground, expected)
    assert mapped.tokens is patches and not mapped.map.requires_grad
    mapped.foreground.square().sum().backward()
    assert patches.grad.abs().sum() > 0 and logits.grad is None and weights.grad is None


def test_background_is_subtracted_from_every_patch(inputs):
    patches, mask, *rest = inputs
    made = DiscriminativeMap(CHANNELS, subtract_background=True)
    mapped = made(patches, mask, *rest)
    outside = ((1 - mapped.map) * mask).unsqueeze(-1)
    background = made.background_norm((outside * patches).sum(1, keepdim=True))
    torch.testing.assert_close(mapped.tokens, patches - background)


@given(st.lists(st.lists(st.floats(-5, 5, width=32), min_size=4, max_size=4), min_size=1, max_size=3))
def test_stretched_values_range_from_zero_to_one(rows):
    values = torch.tensor(rows)
    mask = torch.tensor([True, True, True, False]).expand_as(values)
    found = stretch(values, mask)
    assert (found[:, 3] == 0).all() and ((found >= 0) & (found <= 1)).all()
    for row, original in zip(found, values[:, :3], strict=True):
        distinct = float(original.max() - original.min()) > 1e-6
        assert row[:3].min() == 0 and row.max() == (1 if distinct else pytest.approx(row.max()))


def test_the_most_similar_words_are_aggregated():
    words = torch.eye(4).unsqueeze(0)
    query = torch.tensor([[0.9, 0.5, 0.3, 0.8]])
    attention = torch.tensor([[[0.5, 0.5, 0.0], [0.0, 0.0, 1.0], [0.1, 0.8, 0.1], [0.2, 0.2, 0.6]]])
    is_word, mask = torch.tensor([[True, True, True, False]]), torch.ones(1, 3, dtype=torch.bool)
    similarity = query[0] / query.norm()
    # A half of three words rounds up to two: the first and the second.
    expected = torch.maximum(similarity[0] * attention[0, 0], similarity[1] * attention[0, 1])
    found = aggregate_attention(words, is_word, query, attention, mask, 0.5)
    torch.testing.assert_close(found, stretch(expected.unsqueeze(0), mask))
    # At least one word counts, however small the share.
    one = aggregate_attention(words, is_word, query, attention, mask, 0.01)
    torch.testing.assert_close(one, stretch(similarity[0] * attention[:, 0], mask))


SETTINGS = ("model.discriminative_map=true", "loss.attention_consistency=0.5")


def test_studies_without_positive_observation_are_left_out():
    model, batch, config = tiny_model(*SETTINGS), tiny_batch(2), tiny_config(*SETTINGS)
    observations = torch.zeros_like(batch.observations)
    none = losses_of(model, replace(batch, observations=observations), config=config)
    assert none.terms["attention_consistency"] == 0
    none.terms["attention_consistency"].backward()
    first = observations.clone()
    first[0, 3] = 1
    known = torch.ones_like(batch.observations_known)
    one = losses_of(model, replace(batch, observations=first, observations_known=known), config=config)
    encoded = teacher_forced(model, batch, image_attention_layer=1)
    aggregated = aggregate_attention(
        encoded.words, encoded.packing.mask, encoded.encoded.foreground, encoded.image_attention,
        encoded.encoded.memory_mask, 0.25,
    )
    expected = (aggregated - encoded.encoded.discriminative_map)[0].square().mean()
    torch.testing.assert_close(one.terms["attention_consistency"], expected)


def test_missing_views_do_not_count():
    batch = replace(tiny_batch(2, views=2), view_mask=torch.tensor([[True, False], [True, True]]))
    batch.observations[:] = 1
    batch.observations_known[:] = True
    term = AttentionConsistencyLoss(tiny_vocabularies().attributes.slots(), 0.4)
    assert term.count(batch) == 3


def test_predictions_make_the_map_also_where_annotations_are_at_hand():
    model, batch = tiny_model(*SETTINGS).eval(), tiny_batch(2)
    changed = replace(batch, observations=1 - batch.observations)
    found = [teacher_forced(model, each).encoded.discriminative_map for each in (batch, changed)]
    assert torch.equal(*found) and found[0].any()


def test_the_decoder_does_not_see_the_foreground_row():
    model, batch = tiny_model(*SETTINGS), tiny_batch(2)
    encoded = teacher_forced(model, batch).encoded
    assert encoded.memory.shape[1] == encoded.memory_mask.shape[1] == encoded.discriminative_map.shape[1]
    assert encoded.foreground.shape == (2, 16)
