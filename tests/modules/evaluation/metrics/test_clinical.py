"""Observation scores, computed by hand over known labels only."""

import numpy as np
import pytest
from sklearn.metrics import roc_auc_score

from modules.evaluation.metrics.clinical import NAMES, frequent_observation_scores, observation_scores
from modules.evaluation.metrics.multilabel import NO_POSITIVE, ONE_CLASS


def test_by_hand():
    probabilities = np.array([[0.9, 0.2], [0.8, 0.7], [0.3, 0.6]])
    reference = np.array([[1, 0], [0, 1], [1, 0]], dtype=bool)
    known = np.array([[1, 1], [1, 1], [1, 0]], dtype=bool)
    scores, absent = observation_scores(probabilities > 0.5, probabilities, reference, known).compute(3)
    assert not absent
    for name in ("precision", "recall", "f1"):
        assert scores[f"observation_micro_{name}"] == pytest.approx(2 / 3)  # two correct, one wrong, one missed
        assert scores[f"observation_macro_{name}"] == pytest.approx((1 / 2 + 1) / 2)
    assert scores["observation_auroc"] == pytest.approx((1 / 2 + 1) / 2)


def test_absence_is_explained():
    nothing = np.zeros((2, 3), dtype=bool)
    for part in (
        observation_scores(None, None, nothing, ~nothing),
        observation_scores(nothing, nothing.astype(float), nothing, nothing),
    ):
        scores, absent = part.compute(2)
        assert set(absent) == set(NAMES)
        assert set(scores.values()) == {None}
    scores, absent = observation_scores(nothing, nothing.astype(float), nothing, ~nothing).compute(2)
    assert absent == dict.fromkeys(NAMES, NO_POSITIVE) | {"observation_auroc": ONE_CLASS}
    assert set(scores.values()) == {None}


def test_auroc_of_frequent_observations_is_the_mean_of_scikit_learns():
    generator = np.random.default_rng(0)
    probabilities = generator.random((60, 4))
    reference, known = generator.random((60, 4)) < 0.4, generator.random((60, 4)) < 0.8
    reference[:, 3] = False
    reference[:9, 3], known[:, 3] = True, True  # nine positives are too few
    scores, absent = frequent_observation_scores(probabilities, reference, known).compute(60)
    expected = [
        roc_auc_score(reference[known[:, label], label], probabilities[known[:, label], label]) for label in range(3)
    ]
    assert scores["observation_auroc_frequent"] == pytest.approx(np.mean(expected)) and not absent
    few = reference & (np.cumsum(reference & known, axis=0) <= 9)
    assert frequent_observation_scores(probabilities, few, known).compute(60)[1] == {
        "observation_auroc_frequent": "no label has 10 positives and a negative reference"
    }
    assert frequent_observation_scores(None, reference, known).compute(60)[1] == {
        "observation_auroc_frequent": "observations are not predicted"
    }
