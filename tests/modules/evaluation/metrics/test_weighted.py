"""Scores as functions of study weights: sums, resamples and intervals."""

from dataclasses import replace

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from modules.evaluation.metrics.weighted import (
    Score,
    ScoreSet,
    absent_scores,
    divide_or_nan,
    mean_score,
    merge_scores,
    percentile_interval,
    ratio_score,
    resample_weights,
    score_from_sums,
)


def mean_score_set(values):
    return ScoreSet({"mean": mean_score(np.array(values, dtype=float))})


def test_scores_follow_their_weights():
    score = score_from_sums(np.array([[1, 2], [3, 4]]), lambda sums: divide_or_nan(sums[:, 0], sums[:, 1]))
    assert score.compute(np.array([[1.0, 1.0], [2.0, 0.0], [0.0, 3.0]])) == pytest.approx([4 / 6, 1 / 2, 3 / 4])
    assert np.isnan(score.compute(np.zeros((1, 2)))[0])
    accuracy = ratio_score(np.array([3, 0, 2]), np.array([4, 1, 2]))
    assert accuracy.compute(np.array([[1.0, 1.0, 1.0], [2.0, 0.0, 1.0]])) == pytest.approx([5 / 7, 8 / 10])
    assert mean_score(np.array([1.0, np.nan, 4.0])).compute(np.ones((1, 3))) == pytest.approx([2.5])


def test_studies_that_are_left_out_never_count():
    part = ScoreSet({"sum": Score(lambda weights: weights.sum(axis=1))}, per_study={"f1": np.array([0.5, 1.0])})
    included = np.array([True, False, True])
    expanded = part.expand_to_all(included)
    values = expanded.scores["sum"].compute(np.array([[1.0, 1.0, 1.0], [0.0, 3.0, 0.0], [0.0, 1.0, 2.0]]))
    np.testing.assert_equal(values, [2, np.nan, 2])  # no included study counts in the second row: undefined, not 0
    np.testing.assert_equal(expanded.per_study["f1"], [0.5, np.nan, 1.0])
    assert part.expand_to_all(np.array([True, True])) is part


def test_an_undefined_score_is_absent_with_its_reason():
    scores = ScoreSet({"part": ratio_score(np.zeros(3), np.zeros(3), "all is zero")})
    scored = (scores | absent_scores(("other",), "never tried")).evaluate(3, resamples=20)
    assert scored.scores == scored.intervals == {"part": None, "other": None}
    assert scored.absent == {"part": "all is zero", "other": "never tried"}


def test_resamples_have_as_many_studies_and_do_not_depend_on_blocks(monkeypatch):
    units = np.arange(50)
    one_block = np.concatenate(list(resample_weights(units, 30)))
    assert one_block.shape == (30, 50) and (one_block.sum(axis=1) == 50).all()
    assert len(np.unique(one_block, axis=0)) == 30
    monkeypatch.setattr("modules.evaluation.metrics.weighted._BLOCK_SIZE", 120)
    blocks = list(resample_weights(units, 30))
    assert len(blocks) == 15
    np.testing.assert_array_equal(np.concatenate(blocks), one_block)


def test_the_images_of_a_study_are_drawn_together():
    units = np.array([0, 0, 1, 2, 2, 2])
    weights = np.concatenate(list(resample_weights(units, 40)))
    for unit in range(3):
        columns = weights[:, units == unit]
        assert (columns == columns[:, :1]).all()
    assert (weights[:, [0, 2, 3]].sum(axis=1) == 3).all()


def test_an_interval_is_that_of_the_normal_approximation_for_a_mean():
    values = np.random.default_rng(0).normal(5, 2, size=400)
    low, high = mean_score_set(values).evaluate(400, resamples=2000).intervals["mean"]
    error = values.std() / 20
    assert low == pytest.approx(values.mean() - 1.96 * error, abs=0.15 * error)
    assert high == pytest.approx(values.mean() + 1.96 * error, abs=0.15 * error)


def test_an_interval_is_the_same_twice_and_none_is_made_up():
    values = np.arange(20.0)
    assert mean_score_set(values).evaluate(20) == mean_score_set(values).evaluate(20)
    assert mean_score_set(values).evaluate(20, resamples=0).intervals == {}
    assert mean_score_set([3]).evaluate(1).intervals == {"mean": None}
    one_unit = mean_score_set([1, 2]).evaluate(2, units=np.array([0, 0]))
    assert one_unit.scores == {"mean": 1.5} and one_unit.intervals == {"mean": None}


def test_undefined_resamples_are_left_out_until_too_few_are_left():
    values = np.linspace(0, 1, 101)
    assert percentile_interval(values) == pytest.approx((0.025, 0.975))
    assert percentile_interval(np.where(values < 0.5, values, np.nan)) == pytest.approx((0.01225, 0.47775))
    assert percentile_interval(np.where(values < 0.04, values, np.nan)) is None
    assert percentile_interval(np.full(3, np.nan)) is None


def test_a_centred_score_has_its_value_in_the_middle():
    counts = Score(lambda weights: (weights > 0).mean(axis=1), centred=True)
    scored = ScoreSet({"drawn": counts}).evaluate(200)
    low, high = scored.intervals["drawn"]
    assert scored.scores["drawn"] == 1 and 0.9 < low < high == 1


def test_systems_on_the_same_studies_have_the_same_resamples():
    values = np.random.default_rng(1).normal(size=50)
    one, other = mean_score_set(values).evaluate(50), mean_score_set(values + 0.25).evaluate(50)
    assert len(one.resampled["mean"]) == 1000
    np.testing.assert_allclose(other.resampled["mean"] - one.resampled["mean"], 0.25)
    assert percentile_interval(one.resampled["mean"]) == one.intervals["mean"]
    assert mean_score_set(values).evaluate(50, resamples=0).resampled == mean_score_set([1]).evaluate(1).resampled == {}


def test_sets_are_put_together():
    parts = [mean_score_set([1, 2]), ScoreSet(absent={"other": "why"}, per_study={"x": np.ones(2)}, tables={"t": {}})]
    merged = merge_scores(parts)
    assert set(merged.scores) == {"mean"} and merged.absent == {"other": "why"}
    assert set(merged.per_study) == {"x"} and set(merged.tables) == {"t"}


@settings(deadline=None)
@given(st.lists(st.floats(-5, 5), min_size=2, max_size=12))
def test_an_interval_of_a_mean_lies_within_the_values(values):
    low, high = mean_score_set(values).evaluate(len(values), resamples=50).intervals["mean"]
    assert min(values) - 1e-9 <= low <= high <= max(values) + 1e-9


def test_a_selection_keeps_the_named_scores_and_everything_else():
    values = np.arange(4.0)
    scores = ScoreSet({"a": mean_score(values), "b": mean_score(values)}, {"c": "why", "d": "why"}, {"a": values})
    selected = scores.select(["a", "d", "unknown"])
    assert set(selected.scores) == {"a"} and selected.absent == {"d": "why"} and set(selected.per_study) == {"a"}


@given(st.integers(2, 40), st.integers(1, 30), st.sampled_from([40, 90, 4_000_000]), st.integers(0, 2**32 - 1))
@settings(deadline=None, max_examples=8)
def test_intervals_do_not_depend_on_the_workers(studies, resamples, block_size, seed):
    generator = np.random.default_rng(seed)
    units = generator.integers(0, max(1, studies // 2), studies)
    units = np.unique(units, return_inverse=True)[1]
    scores = ScoreSet({
        "mean": mean_score(generator.random(studies)),
        "ratio": ratio_score(generator.random(studies), generator.random(studies)),
        "centred": replace(mean_score(generator.random(studies)), centred=True),
    })
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr("modules.evaluation.metrics.weighted._BLOCK_SIZE", block_size)
        alone, shared = (scores.evaluate(studies, resamples, units, workers) for workers in (1, 2))
    assert alone == shared
    for name, values in alone.resampled.items():
        np.testing.assert_array_equal(values, shared.resampled[name])
