"""Expected calibration error: by hand, by its definition, and at its limits."""

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from modules.metrics.calibration import BINS, NAMES, calibration_scores, expected_calibration_error, reliability


def error(probabilities, positive, known=None):
    known = np.ones(len(probabilities), dtype=bool) if known is None else np.array(known)
    return expected_calibration_error(reliability(np.array(probabilities), np.array(positive), known))


def test_a_case_computed_by_hand():
    # 0.70 and 0.72 share the bin (10/15, 11/15], 0.1 lies in (1/15, 2/15], 1 in the last.
    bins = reliability(np.array([0.7, 0.72, 0.1, 1.0]), np.array([1, 0, 0, 1], dtype=bool), np.ones(4, dtype=bool))
    assert [(each.count, each.frequency) for each in bins] == [(1, 0), (2, 0.5), (1, 1)]
    assert [each.probability for each in bins] == pytest.approx([0.1, 0.71, 1])
    assert (bins[1].low, bins[1].high) == pytest.approx((10 / 15, 11 / 15))
    assert expected_calibration_error(bins) == pytest.approx((0.1 + 2 * 0.21 + 0) / 4)


def test_edges_belong_to_the_bin_below_and_zero_to_the_first():
    bins = reliability(np.array([0.0, 1 / 15, 1 / 15 + 1e-9]), np.zeros(3, dtype=bool), np.ones(3, dtype=bool))
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


@given(st.lists(st.tuples(st.floats(0, 1), st.booleans(), st.booleans()), max_size=40))
def test_the_definition(decisions):
    """Against the definition, decision by decision: |mean probability - frequency| of its bin, averaged."""
    probabilities = np.array([probability for probability, _, _ in decisions], dtype=float)
    positive = np.array([yes for _, yes, _ in decisions], dtype=bool)
    known = np.array([counted for _, _, counted in decisions], dtype=bool)
    bins = reliability(probabilities, positive, known)
    assert sum(each.count for each in bins) == known.sum()
    expected = []
    for probability in probabilities[known]:
        edge = next(edge for edge in range(1, BINS + 1) if probability * BINS <= edge)
        inside = known & (probabilities * BINS <= edge) & ((probabilities * BINS > edge - 1) | (edge == 1))
        expected.append(abs(probabilities[inside].mean() - positive[inside].mean()))
    found = expected_calibration_error(bins)
    assert found == (pytest.approx(np.mean(expected)) if expected else None)
    assert found is None or 0 <= found <= 1


def test_scores_say_why_they_are_absent():
    bins = reliability(np.array([0.9]), np.array([True]), np.array([True]))
    scores, absent = calibration_scores({"region": bins, "attribute": None, "observation": []})
    assert tuple(scores) == NAMES
    assert scores == {"region_ece": pytest.approx(0.1), "attribute_ece": None, "observation_ece": None}
    assert absent == {
        "attribute_ece": "attributes are not predicted", "observation_ece": "no observation has a known reference",
    }
