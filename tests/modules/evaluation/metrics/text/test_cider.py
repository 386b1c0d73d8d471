"""CIDEr-D against pycocoevalcap, and by hand for document frequencies of other reports."""

import math

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from pycocoevalcap.cider.cider import Cider

from modules.evaluation.metrics.text.cider import DocumentFrequencies, cider_scores, count_ngrams

TEXT = st.lists(st.sampled_from("abcde"), max_size=9).map(" ".join)


@settings(deadline=None)
@given(st.lists(st.tuples(TEXT, TEXT), min_size=2, max_size=7))
def test_scores_are_those_of_the_package(pairs):
    references, hypotheses = zip(*pairs, strict=True)
    if not any(references):
        return
    expected_mean, expected = Cider().compute_score(
        {study: [text] for study, text in enumerate(references)},
        {study: [text] for study, text in enumerate(hypotheses)},
    )
    values = cider_scores(references, hypotheses, DocumentFrequencies.from_reports(references, "references"))
    np.testing.assert_allclose(values, expected, atol=1e-9)
    assert values.mean() == pytest.approx(expected_mean, abs=1e-9)


def test_document_frequencies_by_hand():
    frequencies = DocumentFrequencies.from_reports(["a b", "a", "c", "a a"], "training reports")
    assert (frequencies.source, frequencies.documents) == ("training reports", 4)
    assert frequencies.counts[("a",)] == 3 and frequencies.counts[("a", "b")] == 1
    # Unigrams: weight log(4/3) for a, log 4 for b and for d, which is in no training report; "a b" and "a d" share a.
    # They share no bigram.
    common, rare = math.log(4 / 3), math.log(4)
    cosine = common**2 / (common**2 + rare**2)
    assert cider_scores(["a b"], ["a d"], frequencies) == pytest.approx([10 * cosine / 4])


def test_a_longer_text_pays_for_its_length():
    frequencies = DocumentFrequencies.from_reports(["a b", "c"], "references")
    same, longer = cider_scores(["a b", "a b"], ["a b", "a b c c"], frequencies)
    assert same == pytest.approx(10 * 2 / 4)  # the texts have no 3-grams or 4-grams
    # Two more words cost exp(-4/72). The shared a, b and "a b" are among three unigrams and three bigrams of equal
    # weight, except that c occurs twice, which doubles its weight.
    assert longer == pytest.approx(10 / 4 * math.exp(-4 / 72) * (2 / math.sqrt(2 * 6) + 1 / math.sqrt(3)))


def test_runs_of_words():
    assert count_ngrams("a b a") == {("a",): 2, ("b",): 1, ("a", "b"): 1, ("b", "a"): 1, ("a", "b", "a"): 1}
