"""Error over coverage: computed by hand, with ties, and properties that hold for any answers."""

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from modules.evaluation.metrics.selective import ERROR_BY_COVERAGE, NAMES, RankedAnswers, sentence_scores


def risk_curve(confidences, wrong):
    return RankedAnswers(confidences, wrong).risk_curve(np.ones(len(wrong)))


def scores_of(confidences, wrong):
    scores = sentence_scores(np.array(confidences), np.array(wrong, dtype=bool), np.arange(len(wrong)))
    return scores.compute(len(wrong))


def test_a_case_computed_by_hand():
    scores, absent = scores_of([0.9, 0.1, 0.8, 0.5, 0.3], [0, 1, 0, 1, 1])
    assert tuple(scores) == NAMES and not absent
    # By confidence: correct, correct, wrong, wrong, wrong.
    assert scores == pytest.approx({
        "sentence_error_at_100": 3 / 5, "sentence_error_at_80": 2 / 4, "sentence_error_at_60": 1 / 3,
        "sentence_error_at_40": 0, "sentence_error_at_20": 0,
        "sentence_error_area": (0 + 0 + 1 / 3 + 2 / 4 + 3 / 5) / 5,
    })


def test_coverage_is_rounded_up_to_whole_sentences():
    scores, _ = scores_of([0.9, 0.8, 0.7], [0, 1, 1])
    assert scores["sentence_error_at_20"] == 0  # one of three
    assert scores["sentence_error_at_40"] == 1 / 2
    assert scores["sentence_error_at_60"] == 1 / 2
    assert scores["sentence_error_at_80"] == pytest.approx(2 / 3)


def test_equal_confidence_says_nothing():
    curve = risk_curve(np.full(4, 0.5), np.array([1, 0, 0, 0], dtype=bool))
    np.testing.assert_allclose(curve, 0.25)


def test_without_sentences_there_are_no_scores():
    scores, absent = scores_of([], [])
    assert set(scores) == set(absent) == set(NAMES) and set(scores.values()) == {None}


def test_the_curve_for_plots():
    confidences, wrong = np.array([0.9, 0.1, 0.8, 0.5]), np.array([0, 1, 0, 1], dtype=bool)
    curve = sentence_scores(confidences, wrong, np.arange(4)).curves[ERROR_BY_COVERAGE]
    assert (curve["sentences"], curve["wrong"]) == (4, 2)
    assert curve["by_coverage"] == [0.0] * 50 + [1 / 3] * 25 + [0.5] * 25


@given(st.lists(st.tuples(st.sampled_from([0.1, 0.5, 0.9]), st.booleans(), st.integers(0, 3)), min_size=1, max_size=20),
       st.lists(st.integers(0, 3), min_size=4, max_size=4))
def test_a_resample_scores_like_the_studies_repeated(sentences, times):
    """Study weights 2 and 0, for example: the first study's sentences twice, and none of the second's."""
    confidences, wrong, studies = map(np.array, zip(*sentences, strict=True))
    weighted = sentence_scores(confidences, wrong, studies)
    repeats = np.repeat(np.arange(len(studies)), np.array(times)[studies])
    for name in NAMES:
        value = weighted.scores[name].compute(np.array([times], dtype=float))[0]
        if len(repeats):
            repeated = sentence_scores(confidences[repeats], wrong[repeats], studies[repeats])
            assert value == pytest.approx(repeated.scores[name].compute(np.ones((1, 4)))[0])
        else:
            assert np.isnan(value)


ANSWERS = st.lists(st.tuples(st.sampled_from([0.1, 0.2, 0.5, 0.9]), st.booleans()), min_size=1, max_size=30)


@given(ANSWERS, st.randoms(use_true_random=False))
def test_the_order_of_answers_does_not_matter(answers, random):
    curve = risk_curve(*map(np.array, zip(*answers, strict=True)))
    assert curve[-1] == pytest.approx(np.mean([wrong for _, wrong in answers]))
    assert np.all((curve >= -1e-12) & (curve <= 1 + 1e-12))
    random.shuffle(answers)
    np.testing.assert_allclose(risk_curve(*map(np.array, zip(*answers, strict=True))), curve)


@given(st.lists(st.booleans(), min_size=1, max_size=30))
def test_knowing_what_is_wrong_is_best_and_being_sure_of_it_is_worst(wrong):
    wrong = np.array(wrong)
    best, worst = risk_curve(1.0 - wrong, wrong), risk_curve(wrong.astype(float), wrong)
    assert np.all(np.diff(best) >= -1e-12) and np.all(np.diff(worst) <= 1e-12)
    assert best.mean() <= wrong.mean() + 1e-12 and worst.mean() >= wrong.mean() - 1e-12
