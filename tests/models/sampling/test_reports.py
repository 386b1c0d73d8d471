"""Sampled reports against uncached decoding, and their log-probabilities against the frequencies of samples."""

import pytest
import torch
from torch import Tensor

from models.outputs import BoxSource, GraphSource
from models.sampling.reports import report_log_probabilities, sample_reports
from modules.model_inputs import model_inputs
from tests.support.context.tiny_batch_context import with_context
from tests.support.tiny_model import LONGEST, teacher_forced, tiny_batch, tiny_model, tiny_vocabularies

MODELS = {
    "graph in the decoder": (), "graph in both": ("model.graph_in=both",), "no graph": ("model.graph_in=none",),
    "memory of the report": ("model.decoder.norms=memory", "model.decoder.memory_heads=2"),
    "memory of words and patches": (
        "model.cross_modal_memory.rows=6", "model.cross_modal_memory.heads=2", "model.cross_modal_memory.responding=3",
    ),
    "foreground row": ("model.discriminative_map=true",),
    "indication and previous study": ("model.context=[indication,prior]",),
    "prototypes of observations": (
        "model.prototypes.per_observation=2", "model.prototypes.heads=2", "model.prototypes.responding=3",
        "model.prototypes.channels=8",
    ),
}
SOURCES = (GraphSource.PREDICTED, BoxSource.LOCALIZER)


def sampled(model, batch, samples=3, seed=0, max_tokens=LONGEST, **options) -> Tensor:
    generator = torch.Generator().manual_seed(seed)
    return sample_reports(model, model_inputs(batch, *SOURCES), *SOURCES, samples, max_tokens, generator, **options)


def generated(model, batch, **options) -> Tensor:
    inputs = model_inputs(batch, *SOURCES)
    return model.generate(inputs, *SOURCES, beam_size=1, max_tokens=LONGEST, **options).token_ids


@pytest.mark.parametrize("settings", MODELS.values(), ids=MODELS)
def test_the_greedy_report_is_that_of_greedy_decoding(settings):
    model, batch = tiny_model(*settings).eval(), with_context(tiny_batch(3, views=2))
    with torch.no_grad():
        greedy = generated(model, batch)
    reports = sampled(model, batch, samples=2, with_greedy=True)
    assert reports.shape[:2] == (3, 3)
    assert torch.equal(reports[:, 0], greedy[:, : reports.shape[2]])
    assert (greedy[:, reports.shape[2] :] == model.pad_id).all()


def test_samples_follow_from_the_generator_and_differ():
    model, batch = tiny_model().eval(), tiny_batch(2)
    first, again, other = (sampled(model, batch, samples=12, seed=seed) for seed in (1, 1, 2))
    assert torch.equal(first, again) and not torch.equal(first, other)
    assert all(len(reports.unique(dim=0)) > 1 for reports in first)
    global_state = torch.get_rng_state()
    sampled(model, batch)
    assert torch.equal(torch.get_rng_state(), global_state)


@pytest.mark.parametrize("settings", MODELS.values(), ids=MODELS)
def test_log_probabilities_are_those_of_teacher_forcing_each_report_alone(settings):
    model, batch = tiny_model(*settings).eval(), with_context(tiny_batch(3, views=2))
    reports = sampled(model, batch)
    encoded = model.encode(model_inputs(batch, *SOURCES), *SOURCES)
    studies = torch.tensor([2, 0])
    log_probs = report_log_probabilities(model, encoded, studies, reports[studies])
    assert log_probs.shape == (2, 3) and log_probs.requires_grad
    penalised = [model.bos_id, model.pad_id]
    for row, study in enumerate(studies.tolist()):
        for report in range(3):
            ids = reports[study, report].tolist()
            ids = ids[: ids.index(model.eos_id) + 1] if model.eos_id in ids else ids
            batch.token_ids = torch.tensor([[model.bos_id, *ids]]).repeat(3, 1)
            batch.token_mask = torch.ones_like(batch.token_ids, dtype=torch.bool)
            logits = teacher_forced(model, batch, *SOURCES).word_logits[study].clone()
            logits[:, penalised] = -torch.inf
            expected = logits.log_softmax(-1).gather(1, torch.tensor(ids).unsqueeze(1)).sum()
            assert log_probs[row, report].item() == pytest.approx(expected.item(), abs=1e-4)


def test_reports_are_drawn_with_their_probabilities():
    model, batch = tiny_model(seed=3).eval(), tiny_batch(1)
    unknown = tiny_vocabularies().tokenizer.unk_id
    reports = sampled(model, batch, samples=4000, max_tokens=2, excluded_ids=(unknown,))  # a single token each
    encoded = model.encode(model_inputs(batch, *SOURCES), *SOURCES)
    every_token = torch.arange(model.decoder.word_head.out_features).view(1, -1, 1)
    probabilities = report_log_probabilities(model, encoded, torch.tensor([0]), every_token, (unknown,)).exp()[0]
    assert probabilities.sum().item() == pytest.approx(1, abs=1e-5)
    assert not probabilities[[model.bos_id, model.pad_id, unknown]].any()
    frequencies = torch.bincount(reports.flatten(), minlength=len(probabilities)) / 4000
    assert (frequencies - probabilities).abs().max() < 0.03


def test_the_gradient_reaches_the_trunk():
    model, batch = tiny_model().train(), tiny_batch(2)
    reports = sampled(model, batch, samples=2)
    encoded = model.encode(model_inputs(batch, *SOURCES, training=True), *SOURCES)
    report_log_probabilities(model, encoded, torch.arange(2), reports).sum().backward()
    assert all(parameter.grad.any() for parameter in model.patch_encoder.parameters())
