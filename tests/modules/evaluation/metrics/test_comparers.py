"""How numbers of other packages become scores; `packages/test_radeval_worker.py` runs the packages themselves."""

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from modules.evaluation.metrics.comparers import ComparedScore, _compared, comparer_scores, joint_comparer_scores
from modules.evaluation.metrics.packages.radeval_scores import INVERSE_MEAN


class Numbers:
    """A comparer whose scores are made of the numbers that the reports consist of."""

    name = "numbers"

    def compare(self, references, generated):
        values = np.array([float(text) for text in generated])
        pooled = ComparedScore(float(values.sum()), None, no_interval="the package pools")
        distance = ComparedScore.mean_of(values, higher_is_better=False)
        return {
            "mean": ComparedScore.mean_of(values), "distance": distance, "pooled": pooled,
            "inverse": ComparedScore(1 / values.mean(), values, INVERSE_MEAN),
        }


def test_scores_are_the_numbers_of_the_package_and_intervals_come_from_those_of_each_report():
    results = comparer_scores(Numbers(), ["a", "b"], ["1", "3"]).evaluate(2, resamples=50)
    assert results.scores == {"mean": 2, "distance": 2, "pooled": 4, "inverse": 0.5}
    assert results.intervals == {"mean": (1, 3), "distance": (1, 3), "pooled": None, "inverse": (1 / 3, 1)}
    assert results.no_interval == {"pooled": "the package pools"}
    assert results.higher_is_better == {"mean": True, "distance": False, "pooled": True, "inverse": True}
    assert results.per_study["mean"].tolist() == [1, 3] and "pooled" not in results.per_study


def test_a_printed_value_is_not_replaced_by_the_mean_of_unrounded_numbers():
    class Rounded:
        name = "rounded"

        def compare(self, references, generated):
            return {"score": ComparedScore(0.3333, np.array([0.0, 0.0, 1.0]))}

    assert comparer_scores(Rounded(), ["a"] * 3, ["x"] * 3).compute(3)[0] == {"score": 0.3333}


def test_pairs_without_a_reference_are_not_shown_to_the_package():
    part = comparer_scores(Numbers(), ["a", " ", "b"], ["1", "not a number", "2"])
    assert part.compute(3)[0]["mean"] == 1.5 and np.isnan(part.per_study["mean"][1])
    assert comparer_scores(Numbers(), ["", ""], ["x", "y"]).scores == {}


def test_a_number_that_is_missing_is_absent():
    class Failing:
        name = "failing"

        def compare(self, references, generated):
            return {"score": ComparedScore(np.nan, np.full(len(references), np.nan))}

    scores, absent = comparer_scores(Failing(), ["a"], ["x"]).compute(1)
    assert scores == {"score": None} and "counts" in absent["score"]


@given(st.lists(st.floats(0.1, 1), min_size=4, max_size=12))
@settings(max_examples=30)
def test_weights_select_one_of_several_systems(values):
    values = values[: len(values) // 2 * 2]
    half = len(values) // 2
    systems = [[str(value) for value in values[:half]], [str(value) for value in values[half:]]]
    joint = joint_comparer_scores(Numbers(), ["a"] * half, systems)
    weights = np.eye(2).repeat(half, axis=1)  # the reports of the first system, and those of the second
    means = [np.mean(values[:half]), np.mean(values[half:])]
    np.testing.assert_allclose(joint.scores["mean"].compute(weights), means)
    np.testing.assert_allclose(joint.scores["inverse"].compute(weights), 1 / np.array(means))
    np.testing.assert_allclose(joint.scores["mean"].printed, means)
    assert np.isnan(joint.scores["pooled"].compute(weights)).all()


@pytest.mark.parametrize("key, value, per_report, why", [
    ("bertscore", 0.5, [0.5], "returns 1 numbers for 2 reports"),
    ("bertscore", 0.7, [0.5, 0.5], "is 0.5000, not what it prints"),
    ("radcliq_v1", 2.0, [1.0, 3.0], "1 / mean over reports of the package's numbers is 0.5000"),
    ("bleu", 0.5, [0.5, 0.5], "n-grams of all reports"),
    ("srrbert_weighted_f1", 0.5, [0.5, 0.5], "decisions of all reports"),
    ("f1chexbert_5_example_f1", 0.5, [], "accuracies of each report"),
    ("invented", 0.5, [0.5, 0.5], "does not have this score"),
])
def test_numbers_of_another_meaning_give_no_interval(key, value, per_report, why):
    score = _compared(key, value, np.array(per_report), 2)
    assert score.value == value and score.per_report is None and why in score.no_interval


def test_four_printed_decimals_are_the_same_meaning():
    assert _compared("rouge1", 0.3333, np.array([0, 0, 1.0]), 3).per_report is not None
    assert _compared("radcliq_v1", 0.5, np.array([1.0, 3.0]), 2).level == INVERSE_MEAN
