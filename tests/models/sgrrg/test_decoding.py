"""SGRRG: what must not matter, and decoding against an uncached search."""

from dataclasses import replace

import pytest
import torch
from torch import Tensor

from data.batch import Batch
from models.outputs import BoxSource, GraphSource
from models.sgrrg import SGRRG
from modules.model_inputs import model_inputs

# What must not matter
from tests.support.connected_model import CONNECTIONS, SENTENCE_ATTENTIONS, connected, generate
from tests.support.reference_search import greedy, leading_search, score_of
from tests.support.tiny_model import (
    LONGEST,
    losses_of,
    studies_of,
    teacher_forced,
    tiny_batch,
    tiny_model,
    tiny_vocabularies,
    with_regions,
)


def test_padding_tokens_change_nothing():
    model, batch = tiny_model().eval(), tiny_batch(3)
    garbage = replace(batch, token_ids=batch.token_ids.masked_fill(~batch.token_mask, 7))
    before, after = teacher_forced(model, batch), teacher_forced(model, garbage)
    kept = batch.token_mask[:, :-1]
    assert torch.equal(before.word_logits[kept], after.word_logits[kept])
    for name, term in losses_of(model, batch).terms.items():
        assert torch.equal(term, losses_of(model, garbage).terms[name]), name


@pytest.mark.parametrize("graph_in", ["decoder", "both"])
@pytest.mark.parametrize(("encode", "sentence_attention"), CONNECTIONS)
def test_regions_without_subgraph_change_nothing(encode, sentence_attention, graph_in):
    model, batch = connected(encode, sentence_attention, f"model.graph_in={graph_in}").eval(), tiny_batch(3)
    regions = batch.regions
    unselected = ~(regions.visible & regions.mentioned)
    slots = tiny_vocabularies().attributes.slots()
    garbage = with_regions(
        batch,
        boxes=torch.where(regions.visible.unsqueeze(-1), regions.boxes, torch.tensor([0.2, 0.1, 0.7, 0.9])),
        attributes=regions.attributes | (unselected.unsqueeze(-1) & slots),
        abnormal=regions.abnormal | unselected,
    )
    before, after = teacher_forced(model, batch), teacher_forced(model, garbage)
    assert torch.equal(before.word_logits, after.word_logits)
    assert torch.equal(before.encoded.graph.embeddings, after.encoded.graph.embeddings)
    for name, term in losses_of(model, batch).terms.items():
        assert torch.equal(term, losses_of(model, garbage).terms[name]), name


@pytest.mark.parametrize("graph_source", [GraphSource.ORACLE, GraphSource.PREDICTED])
@pytest.mark.parametrize(("encode", "sentence_attention"), CONNECTIONS)
def test_two_studies_equal_one_and_one(encode, sentence_attention, graph_source):
    model = connected(encode, sentence_attention, "model.graph_in=both").eval()
    batch = tiny_batch(3, seed=4)
    together = teacher_forced(model, batch, graph_source)
    written = generate(model, batch, graph_source)
    assert together.encoded.graph.selected.any(1).all()
    for study in range(3):
        one = studies_of(batch, [study])
        alone = teacher_forced(model, one, graph_source)
        torch.testing.assert_close(alone.word_logits[0], together.word_logits[study], atol=1e-4, rtol=1e-4)
        torch.testing.assert_close(
            alone.encoded.graph.embeddings[0], together.encoded.graph.embeddings[study], atol=1e-5, rtol=1e-4
        )
        assert torch.equal(generate(model, one, graph_source).token_ids[0], written.token_ids[study])


def test_missing_second_view_changes_nothing():
    model, batch = tiny_model().eval(), tiny_batch(2, views=2)
    one_view = replace(batch, images=batch.images[:, :1], view_mask=batch.view_mask[:, :1])
    missing = replace(batch, view_mask=torch.tensor([[True, False], [True, False]]))
    expected, found = teacher_forced(model, one_view), teacher_forced(model, missing)
    torch.testing.assert_close(found.word_logits, expected.word_logits, atol=1e-5, rtol=1e-4)
    torch.testing.assert_close(found.encoded.region_logits, expected.encoded.region_logits, atol=1e-5, rtol=1e-4)
    assert torch.equal(generate(model, missing).token_ids, generate(model, one_view).token_ids)
    second_seen = teacher_forced(model, batch)
    assert not torch.allclose(second_seen.word_logits, expected.word_logits, atol=1e-3)
    assert torch.equal(second_seen.encoded.boxes, expected.encoded.boxes)  # regions belong to the frontal view


# Decoding


def teacher_forced_logits(model: SGRRG, batch: Batch, study: int):
    """Next-token logits of one study after a list of tokens, recomputed from the start."""
    one = studies_of(batch, [study])
    inputs = model_inputs(one, GraphSource.PREDICTED, BoxSource.LOCALIZER)

    def logits(words: list[int]) -> Tensor:
        token_ids = torch.tensor([[model.bos_id, *words, model.pad_id]])
        with torch.no_grad():
            real = torch.ones_like(token_ids, dtype=torch.bool)
            return model(inputs, token_ids, real, GraphSource.PREDICTED, BoxSource.LOCALIZER).word_logits[0, -1]

    return logits


@pytest.mark.parametrize("distinct", [True, False])
@pytest.mark.parametrize("sentence_attention", SENTENCE_ATTENTIONS)
def test_decoding_equals_an_uncached_search(sentence_attention, distinct):
    vocabularies = tiny_vocabularies(distinct)
    model = tiny_model(f"model.sentence_attention={sentence_attention}", seed=3, vocabularies=vocabularies).eval()
    batch = tiny_batch(2, seed=5, vocabularies=vocabularies)
    forbidden = {model.bos_id, model.pad_id} - {model.eos_id}
    best, first = generate(model, batch, beam_size=3), generate(model, batch, beam_size=1)
    for study in range(2):
        logits = teacher_forced_logits(model, batch, study)
        expected, log_probs = leading_search(logits, 3, LONGEST - 1, model.eos_id, forbidden)
        score = score_of((expected, log_probs))
        assert best.token_ids[study, : len(expected)].tolist() == expected
        assert (best.token_ids[study, len(expected) :] == model.pad_id).all()
        assert best.scores[study].item() == pytest.approx(score, abs=1e-4)
        plain = greedy(logits, LONGEST - 1, model.eos_id, forbidden)
        assert first.token_ids[study, : len(plain)].tolist() == plain
        assert (first.token_ids[study, len(plain) :] == model.pad_id).all()


def test_sampling_follows_its_generator():
    model, batch = tiny_model().eval(), tiny_batch(3)

    def draw(seed: int) -> Tensor:
        return generate(model, batch, sampled=True, generator=torch.Generator().manual_seed(seed)).token_ids

    assert torch.equal(draw(0), draw(0)) and not torch.equal(draw(0), draw(1))
    assert draw(0).shape == (3, LONGEST - 1)
