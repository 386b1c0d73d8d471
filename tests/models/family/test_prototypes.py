"""Prototypes: the rows of a study's observations respond, and where these observations come from."""

from dataclasses import replace

import pytest
import torch

from models.family.prototypes import Prototypes
from models.outputs import BoxSource, GraphSource
from modules.model_inputs import model_inputs
from tests.support.connected_model import generate
from tests.support.tiny_model import teacher_forced, tiny_batch, tiny_model

WIDTH = 8
SETTINGS = (
    "model.prototypes.per_observation=3", "model.prototypes.channels=12", "model.prototypes.heads=2",
    "model.prototypes.responding=4", "model.graph_in=none",
)


@pytest.fixture
def prototypes() -> Prototypes:
    torch.manual_seed(0)
    made = Prototypes(WIDTH, observations=4, per_observation=2, channels=5, heads=2, responding=3)
    torch.nn.init.normal_(made.prototypes)
    return made


def test_rows_of_the_observations_of_a_study_respond(prototypes):
    x = torch.randn(3, 5, WIDTH)
    observations = torch.tensor([[False, True, False, True], [True, False, False, False], [False] * 4])
    bound = prototypes.for_studies(observations)
    rows = prototypes.reduction(prototypes.prototypes)
    keys, values = bound.keys, bound.values
    torch.testing.assert_close(keys.flatten(1), prototypes.key(rows))
    found = bound.to_patches(x)
    for study, own in enumerate(([2, 3, 6, 7], [0, 1])):
        alone = prototypes.respond(x[study : study + 1], keys[own], values[own], None)
        torch.testing.assert_close(bound.patch_response[study], alone[0])
        torch.testing.assert_close(found[study], prototypes.patch_fusion(torch.cat([x[study], alone[0]], -1)))
    # Without an observation, the response is that of a row of zeros.
    torch.testing.assert_close(bound.patch_response[2], prototypes.output(prototypes.value.bias).expand(5, -1))


def test_patches_and_words_have_fusions_of_their_own(prototypes):
    x, bound = torch.randn(1, 5, WIDTH), prototypes.for_studies(torch.ones(1, 4, dtype=torch.bool))
    words = bound.to_words(x)
    torch.testing.assert_close(words, prototypes.word_fusion(torch.cat([x, bound.word_response], -1)))
    assert not torch.allclose(words, bound.to_patches(x))


def allowed(graph_source: GraphSource, mixing_probability: float = 0.0) -> tuple[torch.Tensor, ...]:
    """The observations whose rows respond, those predicted, and those of the reference reports, [B, K] each."""
    torch.manual_seed(0)
    model, batch = tiny_model(*SETTINGS).eval(), tiny_batch(3)
    encoded = teacher_forced(model, batch, graph_source, mixing_probability=mixing_probability).encoded
    labels = (batch.observations > 0) & batch.observations_known
    return encoded.shared_memory.allowed[:, ::3], encoded.observation_logits > 0, labels


@pytest.mark.parametrize("graph_source", [GraphSource.PREDICTED, GraphSource.NONE])
def test_predicted_observations_choose_the_rows(graph_source):
    found, predicted, labels = allowed(graph_source)
    assert torch.equal(found, predicted) and not torch.equal(predicted, labels)


def test_reference_labels_choose_the_rows_of_an_oracle_alone():
    found, _, labels = allowed(GraphSource.ORACLE)
    assert torch.equal(found, labels)


@pytest.mark.parametrize("settings", [SETTINGS, (*SETTINGS, "model.graph_in=decoder")])
def test_mixed_training_draws_studies_with_predicted_observations(settings):
    found, predicted, labels = allowed(GraphSource.MIXED, mixing_probability=0.5)
    uses_prediction = (found == predicted).all(1)
    assert ((found == labels).all(1) | uses_prediction).all() and uses_prediction.any() and not uses_prediction.all()


def test_no_label_reaches_the_model_in_other_modes():
    batch = tiny_batch(2)
    for training in (True, False):
        inputs = model_inputs(batch, GraphSource.PREDICTED, BoxSource.LOCALIZER, training=training)
        assert inputs.observations is None
    oracle = model_inputs(batch, GraphSource.ORACLE, BoxSource.LOCALIZER)
    assert torch.equal(oracle.observations, (batch.observations > 0) & batch.observations_known)


def test_reports_follow_the_observations_of_an_oracle():
    model, batch = tiny_model(*SETTINGS).eval(), tiny_batch(3)
    known = replace(batch, observations_known=torch.ones_like(batch.observations_known))
    other = replace(known, observations=1 - known.observations)
    written = [generate(model, each, GraphSource.ORACLE).scores for each in (known, other)]
    assert not torch.allclose(*written)
    predicted = [generate(model, each).scores for each in (known, other)]
    assert torch.equal(*predicted)
