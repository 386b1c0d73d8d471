"""Diversity and collapse of generated reports, computed by hand and by numpy."""

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from modules.evaluation.metrics.text.diversity import NAMES, count_repeated_sentences, diversity_scores

NORMAL = {"No Finding": 1}


def scores_of(generated, references=None, reference_labels=None, generated_labels=None):
    references = references or ["a b"] * len(generated)
    labels = ([NORMAL] * len(generated) if each is None else each for each in (reference_labels, generated_labels))
    return diversity_scores(references, generated, *labels)


def test_by_hand():
    part = scores_of(["a  b", "a b\n", "c", ""], references=["x", "x y", "x y z", "x y z w"])
    scores, absent = part.compute(4)
    assert set(scores) == set(NAMES) and set(absent) == {"abnormal_as_normal"}
    assert scores["distinct_reports"] == 3 / 4 and scores["most_frequent_share"] == 2 / 4
    assert scores["generated_words_mean"] == 5 / 4
    assert scores["reference_words_std"] == pytest.approx(np.std([1, 2, 3, 4]))
    assert (scores["reference_words_q10"], scores["reference_words_q50"], scores["reference_words_q90"]) == (1, 2, 4)


def test_abnormal_studies_described_as_normal():
    references = ["edema", "fracture", "clear", "", "edema"]
    labels = [{"Edema": 1}, {"Fracture": -1}, NORMAL, {}, {"Edema": 1}]
    part = scores_of(["x"] * 5, references, labels, [NORMAL, {"Fracture": 1}, NORMAL, NORMAL, {}])
    # Three references are abnormal; an empty one does not count. An empty generated report is not labelled normal.
    assert part.compute(5)[0]["abnormal_as_normal"] == pytest.approx(1 / 3)


def test_a_collapsed_model_shows():
    scored = scores_of(["the same report"] * 30).evaluate(30, resamples=50)
    assert scored.scores["distinct_reports"] == 1 / 30 and scored.scores["most_frequent_share"] == 1
    assert scored.intervals["most_frequent_share"] == (1, 1) and scored.scores["generated_words_std"] == 0


@pytest.mark.parametrize(("text", "repeated", "sentences"), [
    ("the heart is large . no effusion . the heart is large . the heart is  large .", 2, 4),
    ("The heart is large. the heart is large!", 1, 2),
    ("a nodule of 2.5 cm . a nodule of 2.7 cm", 0, 2),
    (" . . ", 0, 0),
])
def test_sentences_repeat_word_for_word(text, repeated, sentences):
    assert count_repeated_sentences(text) == (repeated, sentences)


def test_repeated_sentences_are_a_share_of_all_sentences():
    assert scores_of(["a . a .", "b . c . b . b ."]).compute(2)[0]["repeated_sentences"] == 3 / 6
    scores, absent = scores_of(["", " "]).compute(2)
    assert scores["repeated_sentences"] is None and "sentence" in absent["repeated_sentences"]


def test_intervals_of_shares_hold_the_share_though_resamples_repeat_studies():
    scored = scores_of([f"report {number % 40}" for number in range(60)]).evaluate(60)
    for name in ("distinct_reports", "most_frequent_share"):
        low, high = scored.intervals[name]
        assert low <= scored.scores[name] <= high


@settings(deadline=None)
@given(st.lists(st.integers(0, 30), min_size=1, max_size=20))
def test_lengths_are_numpys(words):
    scores, _ = scores_of(["w " * count for count in words]).compute(len(words))
    assert scores["generated_words_mean"] == pytest.approx(np.mean(words))
    assert scores["generated_words_std"] == pytest.approx(np.std(words), abs=1e-6)
    for name, share in (("q10", 0.1), ("q50", 0.5), ("q90", 0.9)):
        assert scores[f"generated_words_{name}"] == np.quantile(words, share, method="inverted_cdf")


def test_no_study_has_no_scores():
    assert diversity_scores([], [], [], []).absent == dict.fromkeys(NAMES, "no study")
