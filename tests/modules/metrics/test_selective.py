"""Error over coverage: by hand, ties, and what holds for any answers."""

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from modules.metrics.selective import NAMES, risk_curve, sentence_scores


def test_a_case_computed_by_hand():
    scores, absent = sentence_scores(np.array([0.9, 0.1, 0.8, 0.5, 0.3]), np.array([0, 1, 0, 1, 1], dtype=bool))
    assert tuple(scores) == NAMES and not absent
    # sorted: right, right, wrong, wrong, wrong
    assert scores == pytest.approx({
        "sentence_error_at_100": 3 / 5, "sentence_error_at_80": 2 / 4, "sentence_error_at_60": 1 / 3,
        "sentence_error_at_40": 0, "sentence_error_at_20": 0,
        "sentence_error_area": (0 + 0 + 1 / 3 + 2 / 4 + 3 / 5) / 5,
    })


def test_coverage_is_rounded_up_to_whole_sentences():
    scores, _ = sentence_scores(np.array([0.9, 0.8, 0.7]), np.array([0, 1, 1], dtype=bool))
    assert scores["sentence_error_at_20"] == 0  # one of three
    assert scores["sentence_error_at_40"] == 1 / 2
    assert scores["sentence_error_at_60"] == 1 / 2
    assert scores["sentence_error_at_80"] == pytest.approx(2 / 3)


def test_equal_confidence_says_nothing():
    curve = risk_curve(np.full(4, 0.5), np.array([1, 0, 0, 0], dtype=bool))
    np.testing.assert_allclose(curve, 0.25)


def test_without_sentences_there_are_no_scores():
    scores, absent = sentence_scores(np.zeros(0), np.zeros(0, dtype=bool))
    assert set(scores) == set(absent) == set(NAMES) and set(scores.values()) == {None}


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
