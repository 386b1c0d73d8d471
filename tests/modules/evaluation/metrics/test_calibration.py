"""Expected calibration error: computed by hand, by its definition, and in edge cases."""

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from modules.evaluation.metrics.calibration import BINS, bin_sums, calibration_scores, decision_table, reliability_bins


def bins_of(probabilities, positive, known=None):
    known = np.ones(len(probabilities), dtype=bool) if known is None else np.array(known)
    return reliability_bins(bin_sums(np.array(probabilities), np.array(positive, dtype=bool), known).sum(axis=0))


def error(probabilities, positive, known=None):
    known = np.ones(len(probabilities), dtype=bool) if known is None else np.array(known)
    scores = calibration_scores("region", np.array(probabilities), np.array(positive, dtype=bool), known)
    return scores.compute(len(probabilities))[0]["region_ece"]


def test_a_case_computed_by_hand():
    # 0.70 and 0.72 share the bin (10/15, 11/15]; 0.1 is in (1/15, 2/15], 1 in the last bin.
    case = [0.7, 0.72, 0.1, 1.0], [1, 0, 0, 1]
    bins = bins_of(*case)
    assert [(each.count, each.frequency) for each in bins] == [(1, 0), (2, 0.5), (1, 1)]
    assert [each.probability for each in bins] == pytest.approx([0.1, 0.71, 1])
    assert (bins[1].low, bins[1].high) == pytest.approx((10 / 15, 11 / 15))
    assert error(*case) == pytest.approx((0.1 + 2 * 0.21 + 0) / 4)


def test_edges_belong_to_the_bin_below_and_zero_to_the_first():
    bins = bins_of([0.0, 1 / 15, 1 / 15 + 1e-9], [0, 0, 0])
    assert [(each.low, each.count) for each in bins] == [(0, 2), (1 / 15, 1)]


def test_certain_answers():
    assert error([1.0, 0.0], [True, False]) == 0
    assert error([1.0, 0.0], [False, True]) == 1


def test_unknown_labels_do_not_count():
    assert error([0.9, 0.2], [True, True], [True, False]) == pytest.approx(0.1)
    assert error([0.9, 0.2], [True, True], [False, False]) is None


def test_probabilities_outside_are_refused():
    with pytest.raises(ValueError, match="0..1"):
        error([1.2], [True])


def test_a_calibrated_and_an_overconfident_forecast():
    generator = np.random.default_rng(0)
    probabilities = generator.random(20000)
    positive = generator.random(20000) < probabilities
    assert error(probabilities, positive) < 0.02
    assert error(np.round(probabilities), positive) == pytest.approx(0.25, abs=0.02)


@given(st.lists(st.tuples(st.floats(0, 1), st.booleans(), st.booleans()), min_size=1, max_size=40))
def test_the_definition(decisions):
    """The definition, decision by decision: the mean of |mean probability - frequency| of its bin."""
    probabilities = np.array([probability for probability, _, _ in decisions], dtype=float)
    positive = np.array([yes for _, yes, _ in decisions], dtype=bool)
    known = np.array([counted for _, _, counted in decisions], dtype=bool)
    assert sum(each.count for each in bins_of(probabilities, positive, known)) == known.sum()
    expected = []
    for probability in probabilities[known]:
        edge = next(edge for edge in range(1, BINS + 1) if probability * BINS <= edge)
        inside = known & (probabilities * BINS <= edge) & ((probabilities * BINS > edge - 1) | (edge == 1))
        expected.append(abs(probabilities[inside].mean() - positive[inside].mean()))
    value = error(probabilities, positive, known)
    assert value == (pytest.approx(np.mean(expected)) if expected else None)
    assert value is None or 0 <= value <= 1


def test_scores_say_why_they_are_absent():
    nothing = np.zeros((2, 3), dtype=bool)
    assert calibration_scores("attribute", None, nothing, None).compute(2)[1] == {
        "attribute_ece": "attributes are not predicted"
    }
    assert calibration_scores("region", nothing.astype(float), nothing, nothing).compute(2)[1] == {
        "region_ece": "no region has a known reference"
    }


def test_a_resample_scores_like_the_studies_repeated():
    generator = np.random.default_rng(0)
    probabilities, reference = generator.random((5, 4)), generator.random((5, 4)) < 0.5
    known = generator.random((5, 4)) < 0.8
    times = np.array([2, 0, 1, 0, 2])
    score = calibration_scores("region", probabilities, reference, known).scores["region_ece"]
    repeated = np.repeat(np.arange(5), times)
    assert score.compute(times[None].astype(float))[0] == pytest.approx(
        error(probabilities[repeated], reference[repeated], known[repeated])
    )


def test_a_table_of_labels():
    predicted = np.array([[1, 0, 1], [0, 0, 1], [1, 1, 1]], dtype=bool)
    probabilities = np.array([[0.9, 0.1, 0.8], [0.1, 0.3, 0.9], [0.9, 0.6, 0.9]])
    reference = np.array([[1, 0, 0], [1, 1, 0], [0, 1, 0]], dtype=bool)
    known = np.array([[1, 1, 0], [1, 1, 0], [1, 0, 0]], dtype=bool)
    table = decision_table(predicted, probabilities, reference, known, ["a", "b", "c"])
    assert list(table) == ["a", "b"]  # "c" is not known for any study
    assert table["a"] == pytest.approx({
        # Two probabilities of 0.9, of which one is right, and one of 0.1 for a positive.
        "precision": 0.5, "recall": 0.5, "f1": 0.5, "positives": 2, "ece": (2 * 0.4 + 0.9) / 3,
    })
    assert table["b"] == pytest.approx({
        "precision": 0, "recall": 0, "f1": 0, "positives": 1, "ece": (0.1 + 0.7) / 2,
    })
    assert decision_table(None, None, reference, known, ["a", "b", "c"]) == {}
