"""Diversity of the generated reports: a collapsed model writes a few reports, or only normal ones, for all images."""

import re
from collections.abc import Sequence

import numpy as np
from numpy.typing import NDArray

from modules.evaluation.metrics.weighted import (
    Score,
    ScoreSet,
    absent_scores,
    divide_or_nan,
    ratio_score,
    score_from_sums,
)

_LENGTH_STATISTICS = ("mean", "std", "q10", "q50", "q90")
_QUANTILES = (0.1, 0.5, 0.9)
NAMES = (
    "distinct_reports", "most_frequent_share", "repeated_sentences", "abnormal_as_normal",
    *(f"{text}_words_{name}" for text in ("generated", "reference") for name in _LENGTH_STATISTICS),
)

# A full stop before a digit is a decimal point.
_SENTENCE_END = re.compile(r"\.(?!\d)|[;!?]")


def diversity_scores(
    references: Sequence[str],
    generated: Sequence[str],
    reference_labels: Sequence[dict[str, int]],
    generated_labels: Sequence[dict[str, int]],
) -> ScoreSet:
    """Return how much the generated reports differ, the lengths of both texts in words, and `abnormal_as_normal`.

    distinct_reports      number of distinct reports / number of reports
    most_frequent_share   share of the report that is generated most often
    repeated_sentences    share of the generated sentences that their report has had before
    abnormal_as_normal    among studies whose reference is neither empty nor labelled No Finding, the share whose
                          generated report is labelled No Finding
    """
    if not generated:
        return absent_scores(NAMES, "no study")
    duplicates = _Duplicates([" ".join(text.split()) for text in generated])
    scores = {
        "distinct_reports": Score(duplicates.distinct_share, centred=True),
        "most_frequent_share": Score(duplicates.most_frequent_share, centred=True),
        "repeated_sentences": _repeated_sentences(generated),
        "abnormal_as_normal": _abnormal_as_normal(references, reference_labels, generated_labels),
    }
    for name, texts in (("generated", generated), ("reference", references)):
        lengths = _length_scores([len(text.split()) for text in texts])
        scores |= {f"{name}_words_{statistic}": score for statistic, score in lengths.items()}
    return ScoreSet(scores)


def count_repeated_sentences(text: str) -> tuple[int, int]:
    """Return how many sentences of `text` it has had before, word for word, and how many it has."""
    sentences = [" ".join(sentence.split()) for sentence in _SENTENCE_END.split(text.lower())]
    sentences = [sentence for sentence in sentences if sentence]
    return len(sentences) - len(set(sentences)), len(sentences)


class _Duplicates:
    """Groups texts by equality, to count the distinct ones for any weights."""

    def __init__(self, texts: Sequence[str]):
        _, groups = np.unique(np.array(texts, dtype=object).astype(str), return_inverse=True)
        self._order = np.argsort(groups, kind="stable")
        self._group_starts = np.searchsorted(groups[self._order], np.arange(groups.max() + 1))

    def distinct_share(self, weights: NDArray) -> NDArray:
        """Return [draws]: number of distinct texts / number of texts."""
        return divide_or_nan((self._group_counts(weights) > 0).sum(axis=1), weights.sum(axis=1))

    def most_frequent_share(self, weights: NDArray) -> NDArray:
        """Return [draws]: the share of the most frequent text."""
        return divide_or_nan(self._group_counts(weights).max(axis=1), weights.sum(axis=1))

    def _group_counts(self, weights: NDArray) -> NDArray:
        """Return [draws, texts]: the number of copies of each distinct text."""
        return np.add.reduceat(weights[:, self._order], self._group_starts, axis=1)


def _repeated_sentences(generated: Sequence[str]) -> Score:
    repeated, sentences = np.array([count_repeated_sentences(text) for text in generated]).T
    return ratio_score(repeated, sentences, "no generated report has a sentence")


def _abnormal_as_normal(
    references: Sequence[str], reference_labels: Sequence[dict[str, int]], generated_labels: Sequence[dict[str, int]]
) -> Score:
    abnormal = np.array([
        bool(text.strip()) and labels.get("No Finding") != 1
        for text, labels in zip(references, reference_labels, strict=True)
    ])
    called_normal = np.array([labels.get("No Finding") == 1 for labels in generated_labels])
    return ratio_score(abnormal & called_normal, abnormal, "no reference report is labelled abnormal")


def _length_scores(word_counts: Sequence[int]) -> dict[str, Score]:
    """Return mean, standard deviation and quantiles of `word_counts`.

    A quantile q is the smallest count that at least a share q of the texts does not exceed.
    """
    lengths = np.array(word_counts, dtype=np.float64)
    moments = np.stack([np.ones_like(lengths), lengths, lengths**2], axis=1)
    order = np.argsort(lengths, kind="stable")
    sorted_lengths = lengths[order]

    def mean(sums: NDArray) -> NDArray:
        return divide_or_nan(sums[:, 1], sums[:, 0])

    def deviation(sums: NDArray) -> NDArray:
        variance = divide_or_nan(sums[:, 2], sums[:, 0]) - mean(sums) ** 2
        return np.sqrt(np.maximum(variance, 0))

    def quantile(weights: NDArray, share: float) -> NDArray:
        cumulative = np.cumsum(weights[:, order], axis=1)
        # The tolerance allows for rounding of share * sum.
        return sorted_lengths[(cumulative >= share * cumulative[:, -1:] - 1e-9).argmax(axis=1)]

    scores = {"mean": score_from_sums(moments, mean), "std": score_from_sums(moments, deviation)}
    for name, share in zip(_LENGTH_STATISTICS[2:], _QUANTILES, strict=True):
        scores[name] = Score(lambda weights, share=share: quantile(weights, share))
    return scores
