"""Baseline reports, compared with slow and obvious implementations."""

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from pycocoevalcap.bleu.bleu import Bleu

from modules.evaluation.baselines.reports import best_constant_report, most_frequent_report, random_reports

TEXT = st.lists(st.sampled_from("abc"), min_size=0, max_size=8).map(" ".join)


def package_bleu(candidate, references):
    return Bleu(4).compute_score(
        {study: [text] for study, text in enumerate(references)},
        {study: [candidate] for study in range(len(references))}, verbose=0,
    )[0][3]


@settings(deadline=None)
@given(candidates=st.lists(TEXT, min_size=1, max_size=6), references=st.lists(TEXT, min_size=1, max_size=5))
def test_the_best_report_is_that_of_trying_them_all(candidates, references):
    scores = [package_bleu(candidate, references) for candidate in candidates]
    report, score = best_constant_report(candidates, references)
    assert score == pytest.approx(max(scores), rel=1e-9)
    assert package_bleu(report, references) == pytest.approx(max(scores), rel=1e-9)


def test_the_first_of_equally_good_reports_wins():
    assert best_constant_report(["b a", "a b", "a b"], ["a", "b"])[0] == "b a"
    assert best_constant_report(["x", "a b c d", "a b c d e"], ["a b c d e"])[0] == "a b c d e"


def test_the_most_frequent_and_random_reports():
    assert most_frequent_report(["a", "b", "c", "b", "c"]) == "b"
    reports = [f"report {number}" for number in range(5)]
    drawn = random_reports(reports, 400)
    assert drawn == random_reports(reports, 400) and len(drawn) == 400
    for report in reports:
        assert 50 < drawn.count(report) < 110
