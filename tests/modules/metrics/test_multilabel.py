"""Micro and macro scores over known decisions only."""

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from hypothesis.extra.numpy import arrays
from sklearn.metrics import precision_recall_fscore_support

from modules.metrics.multilabel import label_table, macro_auroc, macro_scores, micro_scores

TABLE = arrays(bool, (6, 3))


def test_by_hand():
    predicted = np.array([[1, 0], [1, 1], [0, 1]], dtype=bool)
    reference = np.array([[1, 0], [0, 1], [1, 0]], dtype=bool)
    known = np.array([[1, 1], [1, 1], [1, 0]], dtype=bool)
    # label 0: one right, one too many, one missed; label 1 (two known studies): one right
    assert micro_scores(predicted, reference, known) == pytest.approx((2 / 3, 2 / 3, 2 / 3))
    assert macro_scores(predicted, reference, known) == pytest.approx((0.75, 0.75, 0.75))


def test_nothing_predicted_and_nothing_true_counts_zero():
    none = np.zeros((2, 1), dtype=bool)
    assert macro_scores(none, none, ~none) == (0, 0, 0)


@given(predicted=TABLE, reference=TABLE)
def test_all_known_is_scikit_learn(predicted, reference):
    known = np.ones_like(predicted)
    for average, function in (("micro", micro_scores), ("macro", macro_scores)):
        expected = precision_recall_fscore_support(reference, predicted, average=average, zero_division=0)[:3]
        assert function(predicted, reference, known) == pytest.approx(expected)


@given(predicted=TABLE, reference=TABLE, known=TABLE, other=TABLE, shift=st.floats(-1, 1))
def test_unknown_decisions_change_nothing(predicted, reference, known, other, shift):
    probabilities = np.linspace(0, 1, predicted.size).reshape(predicted.shape)
    shifted = np.where(known, probabilities, probabilities + shift)
    other_reference, other_prediction = np.where(known, reference, other), np.where(known, predicted, other)
    assert macro_auroc(probabilities, reference, known) == macro_auroc(shifted, other_reference, known)
    if known.any():
        for function in (micro_scores, macro_scores):
            assert function(predicted, reference, known) == function(other_prediction, other_reference, known)


def test_auroc_by_hand():
    # label 0: positives .9 and .3, negatives .5 and .1: three of four pairs in order; label 1 has one class only
    probabilities = np.array([[0.9, 0.5], [0.5, 0.5], [0.3, 0.5], [0.1, 0.5]])
    reference = np.array([[1, 1], [0, 1], [1, 1], [0, 1]], dtype=bool)
    known = np.ones_like(reference)
    assert macro_auroc(probabilities, reference, known) == pytest.approx(3 / 4)
    assert macro_auroc(probabilities[:, 1:], reference[:, 1:], known[:, 1:]) is None


def test_a_table_of_labels():
    predicted = np.array([[1, 0, 1], [0, 0, 1], [1, 1, 1]], dtype=bool)
    probabilities = np.array([[0.9, 0.1, 0.8], [0.1, 0.3, 0.9], [0.9, 0.6, 0.9]])
    reference = np.array([[1, 0, 0], [1, 1, 0], [0, 1, 0]], dtype=bool)
    known = np.array([[1, 1, 0], [1, 1, 0], [1, 0, 0]], dtype=bool)
    table = label_table(predicted, probabilities, reference, known, ["a", "b", "c"])
    assert list(table) == ["a", "b"]  # "c" is known nowhere
    assert table["a"] == pytest.approx({
        # Two answers of 0.9, one right; one of 0.1 for a positive.
        "precision": 0.5, "recall": 0.5, "f1": 0.5, "support": 2, "known": 3, "ece": (2 * 0.4 + 0.9) / 3,
    })
    assert table["b"] == pytest.approx({
        "precision": 0, "recall": 0, "f1": 0, "support": 1, "known": 2, "ece": (0.1 + 0.7) / 2,
    })
    assert label_table(None, None, reference, known, ["a", "b", "c"]) == {}
