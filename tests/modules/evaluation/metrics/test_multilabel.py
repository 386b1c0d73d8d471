"""Averages over known decisions only, computed by hand and by scikit-learn, for equal and for arbitrary weights."""

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from hypothesis.extra.numpy import arrays
from sklearn.metrics import precision_recall_fscore_support, roc_auc_score

from modules.evaluation.metrics.multilabel import (
    MEASURES,
    example_scores,
    label_counts,
    label_table,
    macro_auroc,
    macro_f1,
    macro_scores,
    micro_scores,
)

TABLE = arrays(bool, (6, 3))
WEIGHTS = arrays(int, 6, elements=st.integers(0, 3))


def values(scores, weights):
    """Return precision, recall and F1 for weights [N]; None if undefined."""
    measured = [float(scores[measure].compute(np.array(weights, dtype=float)[None])[0]) for measure in MEASURES]
    return tuple(None if np.isnan(value) else value for value in measured)


def test_by_hand():
    predicted = np.array([[1, 0], [1, 1], [0, 1]], dtype=bool)
    reference = np.array([[1, 0], [0, 1], [1, 0]], dtype=bool)
    known = np.array([[1, 1], [1, 1], [1, 0]], dtype=bool)
    counts = label_counts(predicted, reference, known)
    # Label 0: one true positive, one false positive, one missed. Label 1, known for two studies: one true positive.
    assert values(micro_scores(counts), [1, 1, 1]) == pytest.approx((2 / 3, 2 / 3, 2 / 3))
    assert values(macro_scores(counts), [1, 1, 1]) == pytest.approx((0.75, 0.75, 0.75))
    # Studies: all correct; one of two predictions correct; the positive label missed.
    assert values(example_scores(counts), [1, 1, 1]) == pytest.approx((1 / 2, 2 / 3, (1 + 2 / 3) / 3))
    assert values(example_scores(counts, np.array([True, False, False])), [1, 1, 1]) == (1, 1, 1)
    assert label_table(counts, ["a", "b"]) == {
        "a": {"precision": 0.5, "recall": 0.5, "f1": 0.5, "positives": 2},
        "b": {"precision": 1.0, "recall": 1.0, "f1": 1.0, "positives": 1},
    }


@given(arrays(bool, (4, 150)), arrays(bool, (4, 150)), arrays(int, 4, elements=st.integers(0, 3)))
def test_macro_f1_of_many_labels_is_that_of_their_counts(predicted, reference, weights):
    weights = weights[None].astype(float)
    expected = macro_scores(label_counts(predicted, reference))["f1"]
    np.testing.assert_allclose(macro_f1(predicted, reference).compute(weights), expected.compute(weights))


def test_nothing_to_find_is_no_zero():
    nothing, something = np.zeros((2, 2), dtype=bool), np.array([[1, 0], [0, 0]], dtype=bool)
    for predicted in (nothing, something):
        counts = label_counts(predicted, nothing)
        assert values(micro_scores(counts), [1, 1]) == values(macro_scores(counts), [1, 1]) == (None, None, None)
    assert values(example_scores(label_counts(nothing, nothing)), [1, 1]) == (1, 1, 1)
    assert values(example_scores(label_counts(something, nothing)), [1, 1]) == (0.5, 0.5, 0.5)
    assert values(micro_scores(label_counts(nothing, something)), [1, 1]) == (0, 0, 0)
    assert label_table(label_counts(something, nothing), ["a", "b"])["a"]["f1"] is None


def test_a_label_without_positives_does_not_lower_the_mean():
    predicted = np.array([[1, 1], [0, 0]], dtype=bool)
    reference = np.array([[1, 0], [0, 0]], dtype=bool)
    assert values(macro_scores(label_counts(predicted, reference)), [1, 1]) == (1, 1, 1)


@settings(deadline=None)
@given(predicted=TABLE, reference=TABLE, weights=WEIGHTS)
def test_weights_repeat_studies_as_scikit_learn_sees_them(predicted, reference, weights):
    counts = label_counts(predicted, reference)
    guesses, truth = np.repeat(predicted, weights, axis=0), np.repeat(reference, weights, axis=0)
    has_positive = truth.any(axis=0)
    if not has_positive.any():
        assert values(micro_scores(counts), weights) == values(macro_scores(counts), weights) == (None, None, None)
        return
    for average, function, labels in (("micro", micro_scores, slice(None)), ("macro", macro_scores, has_positive)):
        expected = precision_recall_fscore_support(
            truth[:, labels].astype(int), guesses[:, labels].astype(int), average=average, zero_division=0,
            labels=range(truth[:, labels].shape[1]),
        )[:3]
        if truth[:, labels].shape[1] > 1:  # scikit-learn treats a single column as binary labels
            assert values(function(counts), weights) == pytest.approx(expected)


@settings(deadline=None)
@given(predicted=TABLE, reference=TABLE, known=TABLE, other=TABLE, weights=WEIGHTS)
def test_unknown_decisions_change_nothing(predicted, reference, known, other, weights):
    probabilities = np.linspace(0, 1, predicted.size).reshape(predicted.shape)
    shifted = np.where(known, probabilities, probabilities[::-1])
    other_reference, other_prediction = np.where(known, reference, other), np.where(known, predicted, other)
    rows = weights[None].astype(float)
    np.testing.assert_array_equal(
        macro_auroc(probabilities, reference, known).compute(rows),
        macro_auroc(shifted, other_reference, known).compute(rows),
    )
    np.testing.assert_array_equal(
        label_counts(predicted, reference, known), label_counts(other_prediction, other_reference, known)
    )


def test_auroc_by_hand():
    # Label 0: positives 0.9 and 0.3, negatives 0.5 and 0.1, so three of four pairs are in order. Label 1: one class.
    probabilities = np.array([[0.9, 0.5], [0.5, 0.5], [0.3, 0.5], [0.1, 0.5]])
    reference = np.array([[1, 1], [0, 1], [1, 1], [0, 1]], dtype=bool)
    known = np.ones_like(reference)
    equal_weights = np.ones((1, 4))
    assert macro_auroc(probabilities, reference, known).compute(equal_weights) == pytest.approx([3 / 4])
    assert np.isnan(macro_auroc(probabilities[:, 1:], reference[:, 1:], known[:, 1:]).compute(equal_weights)[0])


@settings(deadline=None)
@given(
    probabilities=arrays(float, (6, 3), elements=st.sampled_from([0.1, 0.2, 0.3, 0.9])), reference=TABLE, known=TABLE,
    weights=WEIGHTS,
)
def test_auroc_is_scikit_learns(probabilities, reference, known, weights):
    areas = []
    for label in range(3):
        counted = known[:, label] & (weights > 0)
        truth = reference[counted, label]
        if truth.any() and not truth.all():
            areas.append(roc_auc_score(truth, probabilities[counted, label], sample_weight=weights[counted]))
    area = macro_auroc(probabilities, reference, known).compute(weights[None].astype(float))[0]
    assert area == pytest.approx(np.mean(areas)) if areas else np.isnan(area)
