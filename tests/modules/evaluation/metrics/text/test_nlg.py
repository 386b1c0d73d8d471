"""Language scores against values computed by hand, and against pycocoevalcap for any texts and any weights."""

import math

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from pycocoevalcap.bleu.bleu import Bleu
from pycocoevalcap.cider.cider import Cider
from pycocoevalcap.rouge.rouge import Rouge

from modules.evaluation.metrics.text import nlg
from modules.evaluation.metrics.text.cider import DocumentFrequencies
from modules.evaluation.metrics.text.nlg import nlg_scores


def evaluate(references, hypotheses, **settings):
    """Return the scores by name, and the reasons of absent ones."""
    return nlg_scores(references, hypotheses, **settings).compute(len(references))


def scores_of(references, hypotheses):
    return evaluate(references, hypotheses, meteor=False)[0]


def test_bleu_and_rouge_by_hand():
    # 3 of 4 unigrams, 2 of 3 bigrams, 1 of 2 3-grams and no 4-gram match.
    scores = scores_of(["a b c d"], ["a b c e"])
    assert scores["bleu_1"] == pytest.approx(3 / 4)
    assert scores["bleu_2"] == pytest.approx(math.sqrt(3 / 4 * 2 / 3))
    assert scores["bleu_3"] == pytest.approx((3 / 4 * 2 / 3 * 1 / 2) ** (1 / 3))
    assert scores["bleu_4"] == pytest.approx(0, abs=1e-3)
    # The longest common subsequence has 3 words: precision and recall are 3/4, so F is 3/4 for any beta.
    assert scores["rouge_l"] == pytest.approx(3 / 4)


def test_short_texts_pay_the_brevity_penalty_of_the_corpus():
    # 4 words, all correct, for 8 reference words in the corpus.
    scores = scores_of(["a b c d", "e f g h"], ["a b", "e f"])
    assert scores["bleu_1"] == pytest.approx(math.exp(1 - 8 / 4))


def test_rouge_weighs_recall_with_beta_1_2():
    scores = scores_of(["a b c d"], ["a b"])
    precision, recall, beta = 1, 1 / 2, 1.2
    assert scores["rouge_l"] == pytest.approx((1 + beta**2) * precision * recall / (recall + beta**2 * precision))


def test_cider_is_ten_for_equal_texts_and_the_mean_over_studies():
    assert scores_of(["a b c d e", "f g h i j"], ["a b c d e", "f g h i j"])["cider"] == pytest.approx(10)
    assert scores_of(["a b c d e", "f g h i j"], ["a b c d e", "k l m n o"])["cider"] == pytest.approx(5)


def test_white_space_parts_words_and_nothing_else():
    scores = scores_of(["a b", "a b", "a b", "a b"], ["a  b", "a b\n", "c", "d"])
    assert scores["bleu_1"] == pytest.approx(4 / 6 * math.exp(1 - 8 / 6))


def test_absent_scores_have_a_reason(monkeypatch, tmp_path):
    scores, absent = evaluate(["a b"], ["a b"], meteor=False)
    assert scores["meteor"] is None and scores["cider"] is None
    assert set(absent) == {"meteor", "cider"}
    monkeypatch.setenv("PATH", str(tmp_path))
    scores, absent = evaluate(["a b", "c"], ["a b", "d"])
    assert scores["meteor"] is None and "Java" in absent["meteor"]
    assert scores["cider"] is not None


def test_a_failing_meteor_costs_only_meteor(monkeypatch):
    def fail(*_, **__):
        raise nlg.MeteorError("METEOR failed")

    monkeypatch.setattr(nlg, "meteor_statistics", fail)
    scores, absent = evaluate(["a b", "c"], ["a b", "d"])
    assert absent == {"meteor": "METEOR failed"}
    assert scores["bleu_1"] == pytest.approx(2 / 3)


def test_empty_texts_and_no_studies():
    scores, absent = evaluate(["a b", "c"], ["", ""], meteor=False)
    assert scores["bleu_4"] == pytest.approx(0, abs=1e-6) and scores["rouge_l"] == 0 and scores["cider"] == 0
    scores, absent = evaluate([], [])
    assert set(scores) == set(absent) == set(nlg.NAMES)
    scores, absent = evaluate(["", ""], ["", ""], meteor=False)
    assert absent == dict.fromkeys(nlg.NAMES, "every reference is empty")


def test_lists_of_different_length_are_refused():
    with pytest.raises(ValueError, match="2 references for 1"):
        nlg_scores(["a", "b"], ["a"])


TEXT = st.lists(st.sampled_from("abcd"), max_size=9).map(" ".join)


def package_scores(references, hypotheses):
    """Return BLEU-1..4, ROUGE-L and CIDEr, computed by the package."""
    truths = {study: [text] for study, text in enumerate(references)}
    generated = {study: [text] for study, text in enumerate(hypotheses)}
    bleu, _ = Bleu(4).compute_score(truths, generated, verbose=0)
    scores = {f"bleu_{length}": value for length, value in enumerate(bleu, start=1)}
    return scores | {
        "rouge_l": Rouge().compute_score(truths, generated)[0], "cider": Cider().compute_score(truths, generated)[0],
    }


@settings(deadline=None)
@given(st.lists(st.tuples(TEXT, TEXT), min_size=2, max_size=6), st.lists(st.integers(0, 3), min_size=6, max_size=6))
def test_scores_of_any_texts_are_the_packages(pairs, weights):
    references, hypotheses = zip(*pairs, strict=True)
    if not any(references):
        return
    score_set = nlg_scores(references, hypotheses, meteor=False)
    scores, absent = score_set.compute(len(pairs))
    for name, expected in package_scores(references, hypotheses).items():
        if name not in absent:
            assert scores[name] == pytest.approx(expected, abs=1e-9)
    # Weights repeat studies. CIDEr is not compared: it keeps the document frequencies of all studies.
    weights = weights[: len(pairs)]
    drawn = np.repeat(np.arange(len(pairs)), weights)
    if any(references[study] for study in drawn):
        expected = package_scores([references[study] for study in drawn], [hypotheses[study] for study in drawn])
        for name in ("bleu_1", "bleu_2", "bleu_3", "bleu_4", "rouge_l"):
            value = score_set.scores[name].compute(np.array([weights], dtype=float))[0]
            assert value == pytest.approx(expected[name], abs=1e-9)


def test_cider_with_document_frequencies_of_other_reports():
    frequencies = DocumentFrequencies.from_reports(["a b", "a", "c", "a a"], "training reports")
    scores, absent = evaluate(["a b"], ["a b"], meteor=False, frequencies=frequencies)
    assert scores["cider"] == pytest.approx(5) and "cider" not in absent  # the texts have no 3-grams or 4-grams
    frequencies = DocumentFrequencies.from_reports(["a"], "training reports")
    _, absent = evaluate(["a b"], ["a b"], meteor=False, frequencies=frequencies)
    assert "training reports" in absent["cider"]
    _, absent = evaluate(["a b", "a b"], ["a", "b"], meteor=False)
    assert "all references have the same words" in absent["cider"]


def test_only_the_named_scores_are_computed(monkeypatch):
    monkeypatch.setattr(nlg, "meteor_statistics", lambda *_, **__: pytest.fail("METEOR was computed"))
    monkeypatch.setattr(nlg.Rouge, "calc_score", lambda *_: pytest.fail("ROUGE-L was computed"))
    scores = nlg_scores(["a b", "c"], ["a b", "d"], names=["bleu_4", "cider"])
    assert set(scores.scores) == {"bleu_1", "bleu_2", "bleu_3", "bleu_4", "cider"} and not scores.absent


def test_the_scores_do_not_depend_on_the_workers():
    generator = np.random.default_rng(0)
    references, hypotheses = ([" ".join(generator.choice(list("abcde"), 9)) for _ in range(150)] for _ in range(2))
    alone, shared = (nlg_scores(references, hypotheses, meteor=False, workers=workers) for workers in (1, 3))
    assert alone.compute(150) == shared.compute(150)
    for name, values in alone.per_study.items():
        np.testing.assert_array_equal(values, shared.per_study[name])
