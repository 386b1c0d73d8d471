"""Which changes of validation scores break a guard."""

import pytest

from modules.training.rewards.guards import Guards

GUARDS = Guards(("bleu_4", "triple_f1"), largest_drop=0.1, least_distinct=0.5, length_factor=1.5, most_repeated=0.05)
START = {
    "bleu_4": 0.2, "triple_f1": 0.5, "distinct_reports": 0.8, "generated_words_mean": 40.0, "repeated_sentences": 0.02,
}


def test_the_scores_that_are_compared():
    assert set(GUARDS.names) == set(START)


@pytest.mark.parametrize("changed", [
    {}, {"bleu_4": 0.181}, {"bleu_4": 0.9}, {"distinct_reports": 0.41}, {"distinct_reports": 1.0},
    {"generated_words_mean": 59.0}, {"generated_words_mean": 27.0}, {"repeated_sentences": 0.069},
    {"repeated_sentences": 0.0}, {"bleu_4": None},
])
def test_small_changes_and_gains_are_allowed(changed):
    assert GUARDS.broken(START, START | changed) == []


@pytest.mark.parametrize(("changed", "clause"), [
    ({"bleu_4": 0.179}, "bleu_4 fell from 0.2 to 0.179, below 0.18"),
    ({"distinct_reports": 0.39}, "distinct_reports fell from 0.8 to 0.39, below 0.4"),
    ({"generated_words_mean": 61.0}, "generated_words_mean rose from 40 to 61, above 60"),
    ({"generated_words_mean": 26.0}, "generated_words_mean fell from 40 to 26, below 26.67"),
    ({"repeated_sentences": 0.08}, "repeated_sentences rose from 0.02 to 0.08, above 0.07"),
])
def test_a_broken_guard_says_what_changed(changed, clause):
    assert GUARDS.broken(START, START | changed) == [clause]


def test_every_broken_guard_is_listed():
    assert len(GUARDS.broken(START, START | {"bleu_4": 0.0, "triple_f1": 0.0, "repeated_sentences": 1.0})) == 3


def test_a_score_that_was_absent_at_the_start_has_no_limit():
    assert GUARDS.broken({}, START | {"bleu_4": 0.0, "repeated_sentences": 1.0}) == []
