"""Does the model write different reports for different images, or has it collapsed to a few, or to the normal one?"""

from collections.abc import Sequence

import numpy as np
from numpy.typing import NDArray

from modules.evaluation.metrics.weighted import Score, ScoreSet, absent, of_sums, ratio

_LENGTHS = ("mean", "std", "q10", "q50", "q90")
_QUANTILES = (0.1, 0.5, 0.9)
NAMES = (
    "distinct_reports", "most_frequent_share", "abnormal_as_normal",
    *(f"{text}_words_{name}" for text in ("generated", "reference") for name in _LENGTHS),
)


def diversity_scores(
    references: Sequence[str],
    generated: Sequence[str],
    reference_labels: Sequence[dict[str, int]],
    generated_labels: Sequence[dict[str, int]],
) -> ScoreSet:
    """How N generated reports differ from each other, how long they and the references are, and `abnormal_as_normal`.

    distinct_reports      different reports / reports
    most_frequent_share   of the report that is written most often
    abnormal_as_normal    share of studies whose reference report is not labelled No Finding (and is not empty) for
                          which the generated one is
    """
    if not generated:
        return absent(NAMES, "no study")
    copies = _Copies([" ".join(text.split()) for text in generated])
    scores = {
        "distinct_reports": Score(copies.distinct, centred=True),
        "most_frequent_share": Score(copies.most_frequent, centred=True),
        "abnormal_as_normal": _abnormal_as_normal(references, reference_labels, generated_labels),
    }
    for name, texts in (("generated", generated), ("reference", references)):
        lengths = _lengths([len(text.split()) for text in texts])
        scores |= {f"{name}_words_{measure}": score for measure, score in lengths.items()}
    return ScoreSet(scores)


class _Copies:
    """Which of the texts are the same."""

    def __init__(self, texts: Sequence[str]):
        _, numbers = np.unique(np.array(texts, dtype=object).astype(str), return_inverse=True)
        self._order = np.argsort(numbers, kind="stable")
        self._starts = np.searchsorted(numbers[self._order], np.arange(numbers.max() + 1))

    def _written(self, weights: NDArray) -> NDArray:
        """[B, D]: how often each of the D different texts is written."""
        return np.add.reduceat(weights[:, self._order], self._starts, axis=1)

    def distinct(self, weights: NDArray) -> NDArray:
        """[B]: different texts / texts."""
        return ratio((self._written(weights) > 0).sum(axis=1), weights.sum(axis=1))

    def most_frequent(self, weights: NDArray) -> NDArray:
        """[B]: the share of the most frequent text."""
        return ratio(self._written(weights).max(axis=1), weights.sum(axis=1))


def _abnormal_as_normal(
    references: Sequence[str], reference_labels: Sequence[dict[str, int]], generated_labels: Sequence[dict[str, int]]
) -> Score:
    abnormal = np.array([
        bool(text.strip()) and labels.get("No Finding") != 1
        for text, labels in zip(references, reference_labels, strict=True)
    ])
    called_normal = np.array([labels.get("No Finding") == 1 for labels in generated_labels])
    statistics = np.stack([abnormal & called_normal, abnormal], axis=1)
    return of_sums(
        statistics, lambda sums: ratio(sums[:, 0], sums[:, 1]), "no reference report is labelled abnormal"
    )


def _lengths(words: Sequence[int]) -> dict[str, Score]:
    """Mean, standard deviation and quantiles (the least number that so many reports do not exceed) of words."""
    numbers = np.array(words, dtype=np.float64)
    moments = np.stack([np.ones_like(numbers), numbers, numbers**2], axis=1)
    order = np.argsort(numbers, kind="stable")
    ranked = numbers[order]

    def deviation(sums: NDArray) -> NDArray:
        variance = ratio(sums[:, 2], sums[:, 0]) - ratio(sums[:, 1], sums[:, 0]) ** 2
        return np.sqrt(np.maximum(variance, 0))

    def quantile(weights: NDArray, share: float) -> NDArray:
        reached = np.cumsum(weights[:, order], axis=1)
        # A share of a sum of weights may miss the sum of a share of them by rounding.
        return ranked[(reached >= share * reached[:, -1:] - 1e-9).argmax(axis=1)]

    scores = {
        "mean": of_sums(moments, lambda sums: ratio(sums[:, 1], sums[:, 0])), "std": of_sums(moments, deviation),
    }
    for name, share in zip(_LENGTHS[2:], _QUANTILES, strict=True):
        scores[name] = Score(lambda weights, share=share: quantile(weights, share))
    return scores
