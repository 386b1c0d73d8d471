"""What a sampler draws, and what it leaves as it was."""

from dataclasses import dataclass, field, replace

import numpy as np
import pytest
import torch

from models.outputs import BoxSource, GraphSource
from modules.config import Precision
from modules.training.rewards.sampling import ReportSampler
from tests.support.tiny_model import LONGEST, tiny_batch, tiny_model, tiny_vocabularies


@dataclass
class RecordingScorer:
    """Keeps what is submitted."""

    names: tuple[str, ...] = ("quality",)
    submitted: list = field(default_factory=list)

    def submit(self, references, observations, observations_known, reports):
        self.submitted.append((references, observations, observations_known, reports))
        return len(self.submitted)


def sampler(samples=4, with_greedy=False, **changes) -> ReportSampler:
    settings = {
        "scorer": RecordingScorer(), "tokenizer": tiny_vocabularies().tokenizer, "samples": samples,
        "with_greedy": with_greedy, "max_tokens": LONGEST, "graph_source": GraphSource.PREDICTED,
        "box_source": BoxSource.LOCALIZER, "precision": Precision.FP32, "excluded_ids": (), "seed": 0,
    }
    return ReportSampler(**settings | changes)


def stored_batch(studies):
    """A batch as the loader returns it, with images of one channel."""
    batch = tiny_batch(studies)
    images = torch.randint(0, 256, (studies, 1, 32, 32), generator=torch.Generator().manual_seed(0), dtype=torch.uint8)
    return replace(batch, images=images)


def draw(model, batches, step=0, **settings):
    return sampler(**settings).draw(model, batches, step, torch.contiguous_format)


@pytest.fixture(scope="module")
def model():
    return tiny_model("model.dropout=0.3")


def test_samples_depend_on_seed_step_and_micro_batch_alone(model):
    batch = stored_batch(2)
    first, second = draw(model, [batch, batch])
    torch.rand(3)
    again = draw(model, [batch, batch])
    assert torch.equal(again[0].token_ids, first.token_ids) and torch.equal(again[1].token_ids, second.token_ids)
    others = [second.texts, *(draw(model, [batch], **change)[0].texts for change in ({"step": 1}, {"seed": 1}))]
    assert all(texts != first.texts for texts in others)


def test_drawing_leaves_modes_gradients_and_the_global_generator_as_they_were(model):
    model.train()
    model.patch_encoder.eval()
    modes, state = [module.training for module in model.modules()], torch.get_rng_state()
    draw(model, [stored_batch(2)])
    assert [module.training for module in model.modules()] == modes
    assert torch.equal(torch.get_rng_state(), state)
    assert all(parameter.grad is None for parameter in model.parameters())


def test_samples_are_drawn_without_dropout(model):
    one = draw(model.train(), [stored_batch(2)])[0]
    other = draw(model.eval(), [stored_batch(2)])[0]
    assert torch.equal(one.token_ids, other.token_ids)


@pytest.mark.parametrize("with_greedy", [False, True])
def test_studies_without_a_reference_are_left_out(model, with_greedy):
    batch = stored_batch(3)
    batch.references[1] = ""
    drawing = sampler(with_greedy=with_greedy)
    (drawn,) = drawing.draw(model, [batch], 0, torch.contiguous_format)
    assert drawn.studies.tolist() == [0, 2] and drawn.token_ids.shape[:2] == (2, 4)
    references, observations, known, reports = drawing.scorer.submitted[0]
    assert references == [batch.references[0], batch.references[2]]
    assert [len(texts) for texts in reports] == [4 + with_greedy] * 2
    assert drawn.texts == [texts[int(with_greedy) :] for texts in reports]
    np.testing.assert_array_equal(observations, batch.observations[[0, 2]].numpy() > 0)
    np.testing.assert_array_equal(known, batch.observations_known[[0, 2]].numpy())
    tokenizer = tiny_vocabularies().tokenizer
    assert drawn.texts[1][3] == tokenizer.decode(drawn.token_ids[1, 3])


def test_a_batch_without_references_has_no_samples(model):
    batch = stored_batch(2)
    batch.references = ["", ""]
    drawing = sampler()
    (drawn,) = drawing.draw(model, [batch], 0, torch.contiguous_format)
    assert drawn.pending is None and not len(drawn.studies) and drawing.scorer.submitted == []


def test_excluded_words_are_not_drawn(model):
    excluded = tuple(range(1, 10))
    drawn = draw(model, [stored_batch(3)], excluded_ids=excluded)[0]
    assert not set(drawn.token_ids.flatten().tolist()) & set(excluded)
