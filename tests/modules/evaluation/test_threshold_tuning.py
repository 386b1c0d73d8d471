"""Thresholds with the best F1: of one label by brute force, of many labels only where that pays on other studies."""

from dataclasses import replace

import numpy as np
import pytest
import torch
from hypothesis import assume, given
from hypothesis import strategies as st

from data.errors import UserError
from data.loaders import evaluation_loader
from models.outputs import BoxSource
from modules.builders import build_dataset, build_evaluator, load_model
from modules.checkpoint import load_checkpoint
from modules.config import Precision
from modules.evaluation.threshold_tuning import (
    LEAST_POSITIVES,
    GraphProbabilities,
    best_threshold,
    collect_probabilities,
    fit_thresholds,
    tune_graph_thresholds,
    tune_thresholds,
)
from tests.support.tiny_run import write_tiny_run

CPU = torch.device("cpu")
# Few distinct values, so that ties are frequent.
PROBABILITIES = st.integers(0, 20).map(lambda number: number / 20)


def f1(probabilities, labels, threshold):
    predicted = probabilities > threshold
    return 2 * (predicted & labels).sum() / (predicted.sum() + labels.sum())


@given(st.lists(st.tuples(PROBABILITIES, st.booleans()), min_size=1, max_size=15), PROBABILITIES)
def test_no_threshold_is_better_and_no_equal_one_closer_to_the_default(decisions, default):
    probabilities, labels = (np.array(column) for column in zip(*decisions, strict=True))
    assume(labels.any())
    threshold = best_threshold(probabilities, labels, default)
    values = np.unique(probabilities)
    others = [default, *((values[1:] + values[:-1]) / 2), values[0] / 2]  # one for each way to divide the studies
    best = f1(probabilities, labels, threshold)
    for other in others:
        value = f1(probabilities, labels, other)
        assert value <= best + 1e-12
        if value > best - 1e-12:
            assert abs(threshold - default) <= abs(other - default) + 1e-12


def test_labels_without_enough_positives_keep_the_default():
    labels = np.zeros((20, 3), dtype=bool)
    labels[: LEAST_POSITIVES - 1, 0] = labels[:LEAST_POSITIVES, 1] = labels[:, 2] = True
    probabilities = np.where(labels, 0.3, 0.1)
    fitted = fit_thresholds(probabilities, labels, np.array([0.5, 0.5, 0.5]))
    assert fitted[0] == 0.5
    # The best threshold is 0.2 for the second label and 0.15 for the third; the one with more positives gets closer.
    assert 0.2 < fitted[1] < 0.5 and 0.15 < fitted[2] < fitted[1]


def test_tuning_that_pays_is_kept_and_other_labels_are_not_changed():
    generator = np.random.default_rng(0)
    labels = generator.random((400, 2, 3)) < 0.3
    scores = np.where(labels, 0.35, 0.1) + generator.uniform(-0.05, 0.05, labels.shape)
    scores[:, 1, 2] += 0.27  # the default separates this one well
    default = np.full((2, 3), 0.5)
    tuning = tune_thresholds(scores, labels, default)
    assert tuning.default_f1 < 0.5 and tuning.tuned_f1 > 0.95
    assert tuning.thresholds.shape == (2, 3)
    assert tuning.tuned.tolist() == [[True, True, True], [True, True, False]]
    assert tuning.thresholds[1, 2] == 0.5 and (tuning.thresholds[0] < 0.35).all()


def test_tuning_on_chance_is_dropped():
    """Probabilities that say nothing about the labels: on other studies, the default is as good."""
    generator = np.random.default_rng(1)
    labels = generator.random((40, 30)) < 0.5
    default = np.full(30, 0.0)  # everything is positive, the best that can be done
    tuning = tune_thresholds(generator.random(labels.shape), labels, default)
    assert tuning.tuned_f1 <= tuning.default_f1
    assert not tuning.tuned.any() and np.array_equal(tuning.thresholds, default)


@pytest.fixture(scope="module")
def trained(tmp_path_factory):
    """A lively model, and the loader of a training split whose second study has no graph."""
    run, _ = write_tiny_run(tmp_path_factory.mktemp("trained"), lively=True)
    checkpoint = load_checkpoint(run / "best")
    dataset = build_dataset(checkpoint.config, checkpoint.vocabularies, "train")
    return load_model(checkpoint, checkpoint.config), evaluation_loader(dataset, 3, 0, 0, 1, 0, False), checkpoint


def test_probabilities_are_those_of_predicted_graphs(trained):
    model, loader, checkpoint = trained
    predicted = collect_probabilities(model, loader, BoxSource.LOCALIZER, Precision.FP32, CPU)
    assert model.training
    evaluator = build_evaluator(checkpoint.config, checkpoint.vocabularies, 1)
    records = [record for record in evaluator.generate(model, loader, CPU) if record.annotation.graph_known]
    assert len(records) == len(predicted.regions) == len(loader.dataset) - 1
    # The model's own thresholds give its graph.
    selected = predicted.regions > model.graph.region_thresholds.numpy()
    attributes = (predicted.attributes > model.graph.attribute_thresholds.numpy()) & selected[..., None]
    assert np.array_equal(selected, np.stack([record.prediction.region_selected for record in records]))
    assert np.array_equal(attributes, np.stack([record.prediction.attributes for record in records]))
    assert attributes.any()
    assert np.array_equal(predicted.mentioned, np.stack([record.annotation.mentioned for record in records]))
    assert np.array_equal(predicted.reference, np.stack([record.annotation.attributes for record in records]))


def test_attributes_are_tuned_in_the_regions_that_are_selected():
    """A region that is mentioned in every second study, and an attribute that it has whenever it is mentioned."""
    mentioned = np.array([[True], [True], [False], [False]] * 80)
    predicted = GraphProbabilities(
        regions=np.where(mentioned, 0.8, 0.4), mentioned=mentioned,
        # Without the selection, the regions that are not mentioned would have the higher probability.
        attributes=np.where(mentioned, 0.2, 0.3)[..., None], reference=mentioned[..., None],
    )
    regions, attributes = tune_graph_thresholds(predicted, np.array([0.2]), np.array([[0.25]]))
    assert regions.tuned.all() and 0.4 < regions.thresholds[0] < 0.8 and regions.tuned_f1 == 1
    assert attributes.tuned.all() and attributes.thresholds[0, 0] < 0.2 and attributes.tuned_f1 == 1
    whole = tune_thresholds(predicted.attributes, predicted.reference, np.array([[0.25]]))
    assert whole.tuned_f1 < attributes.tuned_f1


def test_studies_without_graphs_are_no_basis(trained):
    model, loader, _ = trained
    unknown = [replace(batch, regions=replace(
        batch.regions, graph_known=torch.zeros_like(batch.regions.graph_known)
    )) for batch in loader]
    with pytest.raises(UserError, match="No study of this split has an annotated graph to tune thresholds on"):
        collect_probabilities(model, unknown, BoxSource.LOCALIZER, Precision.FP32, CPU)
