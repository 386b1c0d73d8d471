"""The statistics of the studies."""

import numpy as np
import pytest

from benchmarks.ablation.statistics import difference, estimate, format_estimate, micro_f1, share


def test_a_difference_is_paired_by_study():
    """Two arms with the same errors do not differ, even with few studies."""
    same = np.tile([[1, 0, 0], [0, 1, 1]], (2, 5, 1))
    assert difference(same, same) == (0, 0, 0)
    better = np.tile([1, 0, 0], (1, 10, 1))
    value, low, high = difference(better, same)
    assert value == pytest.approx(0.5) and 0 < low < value < high
    assert difference(better, same) == (value, low, high)


def test_an_estimate_is_the_mean_over_seeds_and_its_interval_grows_with_their_spread():
    counts = np.array([[[1, 2]] * 40, [[1, 4]] * 40])
    value, low, high = estimate(counts, share)
    assert value == pytest.approx(0.375) and (low, high) == (0.25, 0.5)  # only seeds vary
    few, many = (estimate(np.array([[[1, 1], [0, 1]] * studies]), share) for studies in (4, 400))
    assert few[0] == many[0] == 0.5 and few[2] - few[1] > 4 * (many[2] - many[1])


def test_scores_by_hand():
    assert micro_f1(np.array([3, 1, 2])) == pytest.approx(6 / 9) and micro_f1(np.zeros(3)) == 0
    assert share(np.array([[1, 4], [0, 0]])).tolist() == [0.25, 0]
    assert format_estimate((0.1234, -0.02, 0.2)) == "+0.123 (-0.020 to +0.200)"
    assert format_estimate((0.1234, 0.02, 0.2), sign="") == "0.123 (0.020 to 0.200)"
