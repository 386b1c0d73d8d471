"""Scores as functions of weights: sums, resamples and intervals."""

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from modules.evaluation.metrics.weighted import (
    Score,
    ScoreSet,
    absent,
    mean_of,
    merged,
    of_sums,
    percentile_interval,
    ratio,
    resample_weights,
)


def mean_score(values):
    return ScoreSet({"mean": mean_of(np.array(values, dtype=float))})


def test_scores_follow_their_weights():
    score = of_sums(np.array([[1, 2], [3, 4]]), lambda sums: ratio(sums[:, 0], sums[:, 1]))
    assert score.of(np.array([[1.0, 1.0], [2.0, 0.0], [0.0, 3.0]])) == pytest.approx([4 / 6, 1 / 2, 3 / 4])
    assert np.isnan(score.of(np.zeros((1, 2)))[0])
    assert mean_of(np.array([1.0, np.nan, 4.0])).of(np.ones((1, 3))) == pytest.approx([2.5])


def test_studies_that_are_left_out_never_count():
    part = ScoreSet({"sum": Score(lambda weights: weights.sum(axis=1))}, per_study={"f1": np.array([0.5, 1.0])})
    kept = np.array([True, False, True])
    whole = part.among(kept)
    found = whole.scores["sum"].of(np.array([[1.0, 1.0, 1.0], [0.0, 3.0, 0.0], [0.0, 1.0, 2.0]]))
    np.testing.assert_equal(found, [2, np.nan, 2])  # nothing counts in the second: not 0, but undefined
    np.testing.assert_equal(whole.per_study["f1"], [0.5, np.nan, 1.0])
    assert part.among(np.array([True, True])) is part


def test_an_undefined_score_is_absent_with_its_reason():
    scores = ScoreSet({"part": of_sums(np.zeros((3, 1)), lambda sums: ratio(sums[:, 0], sums[:, 0]), "all is zero")})
    scored = (scores | absent(("other",), "never tried")).scored(3, resamples=20)
    assert scored.scores == scored.intervals == {"part": None, "other": None}
    assert scored.absent == {"part": "all is zero", "other": "never tried"}


def test_resamples_have_as_many_studies_and_do_not_depend_on_blocks(monkeypatch):
    units = np.arange(50)
    whole = np.concatenate(list(resample_weights(units, 30)))
    assert whole.shape == (30, 50) and (whole.sum(axis=1) == 50).all() and len(np.unique(whole, axis=0)) == 30
    monkeypatch.setattr("modules.evaluation.metrics.weighted._BLOCK", 120)
    blocks = list(resample_weights(units, 30))
    assert len(blocks) == 15
    np.testing.assert_array_equal(np.concatenate(blocks), whole)


def test_the_images_of_a_study_are_drawn_together():
    units = np.array([0, 0, 1, 2, 2, 2])
    weights = np.concatenate(list(resample_weights(units, 40)))
    for unit in range(3):
        columns = weights[:, units == unit]
        assert (columns == columns[:, :1]).all()
    assert (weights[:, [0, 2, 3]].sum(axis=1) == 3).all()


def test_an_interval_is_that_of_the_normal_approximation_for_a_mean():
    values = np.random.default_rng(0).normal(5, 2, size=400)
    low, high = mean_score(values).scored(400, resamples=2000).intervals["mean"]
    error = values.std() / 20
    assert low == pytest.approx(values.mean() - 1.96 * error, abs=0.15 * error)
    assert high == pytest.approx(values.mean() + 1.96 * error, abs=0.15 * error)


def test_an_interval_is_the_same_twice_and_none_is_made_up():
    values = np.arange(20.0)
    assert mean_score(values).scored(20) == mean_score(values).scored(20)
    assert mean_score(values).scored(20, resamples=0).intervals == {}
    assert mean_score([3]).scored(1).intervals == {"mean": None}
    one_unit = mean_score([1, 2]).scored(2, units=np.array([0, 0]))
    assert one_unit.scores == {"mean": 1.5} and one_unit.intervals == {"mean": None}


def test_undefined_resamples_are_left_out_until_too_few_are_left():
    values = np.linspace(0, 1, 101)
    assert percentile_interval(values) == pytest.approx((0.025, 0.975))
    assert percentile_interval(np.where(values < 0.5, values, np.nan)) == pytest.approx((0.01225, 0.47775))
    assert percentile_interval(np.where(values < 0.04, values, np.nan)) is None
    assert percentile_interval(np.full(3, np.nan)) is None


def test_a_centred_score_has_its_value_in_the_middle():
    counts = Score(lambda weights: (weights > 0).mean(axis=1), centred=True)
    scored = ScoreSet({"drawn": counts}).scored(200)
    low, high = scored.intervals["drawn"]
    assert scored.scores["drawn"] == 1 and 0.9 < low < high == 1


def test_systems_on_the_same_studies_have_the_same_resamples():
    values = np.random.default_rng(1).normal(size=50)
    one, other = mean_score(values).scored(50), mean_score(values + 0.25).scored(50)
    assert len(one.resampled["mean"]) == 1000
    np.testing.assert_allclose(other.resampled["mean"] - one.resampled["mean"], 0.25)
    assert percentile_interval(one.resampled["mean"]) == one.intervals["mean"]
    assert mean_score(values).scored(50, resamples=0).resampled == mean_score([1]).scored(1).resampled == {}


def test_sets_are_put_together():
    parts = [mean_score([1, 2]), ScoreSet(absent={"other": "why"}, per_study={"x": np.ones(2)}, tables={"t": {}})]
    whole = merged(parts)
    assert set(whole.scores) == {"mean"} and whole.absent == {"other": "why"}
    assert set(whole.per_study) == {"x"} and set(whole.tables) == {"t"}


@settings(deadline=None)
@given(st.lists(st.floats(-5, 5), min_size=2, max_size=12))
def test_an_interval_of_a_mean_lies_within_the_values(values):
    low, high = mean_score(values).scored(len(values), resamples=50).intervals["mean"]
    assert min(values) - 1e-9 <= low <= high <= max(values) + 1e-9
