"""Precision, recall, F1 and AUROC of many yes/no labels at once, each over the studies where it is known.

Shapes: N studies, K labels; predicted, reference and known [N, K] bool, probabilities [N, K].

- micro: all known decisions together
- macro: the mean over the labels with a positive reference (a label without any has no recall)
- example: the mean over studies; a study with no positive in either counts 1, as it should

Precision is 0 where nothing is predicted. Where no reference is positive, micro and macro are undefined.
"""

from collections.abc import Sequence
from dataclasses import replace

import numpy as np
from numpy.typing import NDArray

from modules.evaluation.metrics.weighted import Score, mean_of, of_sums, ratio

ONE_CLASS = "no label has both a positive and a negative reference"
NO_POSITIVE = "no known reference is positive"
MEASURES = ("precision", "recall", "f1")

# Columns of what is counted: right positives, predicted positives, positive references.
_RIGHT, _PREDICTED, _TRUE = range(3)


def label_counts(predicted: NDArray, reference: NDArray, known: NDArray | bool = True) -> NDArray:
    """[N, K, 3] float: right positives, predicted positives and positive references among known decisions."""
    return np.stack([predicted & reference & known, predicted & known, reference & known], axis=-1).astype(np.float64)


def micro_scores(counts: NDArray) -> dict[str, Score]:
    """Precision, recall and F1 over all decisions together; counts [N, K, 3]."""
    statistics = counts.sum(axis=1)
    return {
        measure: of_sums(statistics, lambda sums, at=at: np.where(sums[:, _TRUE] > 0, measures(sums)[at], np.nan),
                         NO_POSITIVE)
        for at, measure in enumerate(MEASURES)
    }


def macro_scores(counts: NDArray) -> dict[str, Score]:
    """Mean precision, recall and F1 over the labels with a positive reference; counts [N, K, 3]."""

    def mean(sums: NDArray, at: int) -> NDArray:
        sums = sums.reshape(len(sums), -1, 3)
        counted = sums[..., _TRUE] > 0
        return ratio(np.where(counted, measures(sums)[at], 0).sum(axis=-1), counted.sum(axis=-1))

    # Resamples without a rare label leave it out of their mean, which is then too high as a rule.
    return {
        measure: replace(of_sums(counts, lambda sums, at=at: mean(sums, at), NO_POSITIVE), centred=True)
        for at, measure in enumerate(MEASURES)
    }


def example_scores(counts: NDArray, counted: NDArray | None = None) -> dict[str, Score]:
    """Mean precision, recall and F1 of single studies; counts [N, K, 3], counted [N] bool: the others are left out."""
    values = example_values(counts, counted)
    return {measure: mean_of(values[measure], "no study has a known label") for measure in MEASURES}


def example_values(counts: NDArray, counted: NDArray | None = None) -> dict[str, NDArray]:
    """Precision, recall and F1 [N] of every study, NaN where it is not counted."""
    sums = counts.sum(axis=1)
    agreed = (sums[:, _PREDICTED] == 0) & (sums[:, _TRUE] == 0)
    values = {
        measure: np.where(agreed, 1.0, value) for measure, value in zip(MEASURES, measures(sums), strict=True)
    }
    if counted is None:
        return values
    return {measure: np.where(counted, value, np.nan) for measure, value in values.items()}


def measures(sums: NDArray) -> tuple[NDArray, NDArray, NDArray]:
    """Precision, recall and F1 [...] of counts [..., 3]; 0 where nothing is predicted or nothing is to be found."""
    right, predicted, true = sums[..., _RIGHT], sums[..., _PREDICTED], sums[..., _TRUE]
    found = (ratio(right, predicted), ratio(right, true), ratio(2 * right, predicted + true))
    return tuple(np.nan_to_num(measure) for measure in found)


def label_table(counts: NDArray, names: Sequence[str]) -> dict[str, dict[str, float | None]]:
    """By label: precision, recall, F1 and how many references are positive; None without any. counts [N, K, 3]."""
    sums = counts.sum(axis=0)
    found = zip(*measures(sums), strict=True)
    return {
        name: {
            **{
                measure: float(value) if true > 0 else None
                for measure, value in zip(MEASURES, values, strict=True)
            },
            "positives": int(true),
        }
        for name, values, true in zip(names, found, sums[:, _TRUE], strict=True)
    }


def macro_auroc(probabilities: NDArray, reference: NDArray, known: NDArray) -> Score:
    """The mean area under the ROC curve of the labels with both classes among known references.

    The area is the chance that a positive study ranks above a negative one, ties counting half (Hanley and McNeil,
    Radiology 143, 1982).
    """
    rankings = []
    for label in range(reference.shape[1]):
        counted = np.flatnonzero(known[:, label])
        truth = reference[counted, label]
        if truth.any() and not truth.all():
            rankings.append(_Ranking(counted, probabilities[counted, label], truth))

    def mean(weights: NDArray) -> NDArray:
        total, areas = np.zeros(len(weights)), np.zeros(len(weights), dtype=int)
        for ranking in rankings:
            area = ranking.area(weights)
            total += np.nan_to_num(area)
            areas += ~np.isnan(area)
        return ratio(total, areas)

    return Score(mean, ONE_CLASS)


class _Ranking:
    """The known studies of one label by rising probability, those of equal probability together."""

    def __init__(self, studies: NDArray, probabilities: NDArray, truth: NDArray):
        order = np.argsort(probabilities, kind="stable")
        ranked = probabilities[order]
        self._studies, self._positive = studies[order], truth[order]
        self._starts = np.flatnonzero(np.concatenate([[True], ranked[1:] != ranked[:-1]]))

    def area(self, weights: NDArray) -> NDArray:
        """[B] for weights [B, N]; NaN where they leave only one class."""
        drawn = weights[:, self._studies]
        positives = np.add.reduceat(drawn * self._positive, self._starts, axis=1)
        negatives = np.add.reduceat(drawn * ~self._positive, self._starts, axis=1)
        below = np.cumsum(negatives, axis=1) - negatives
        pairs = positives.sum(axis=1) * negatives.sum(axis=1)
        return ratio((positives * (below + negatives / 2)).sum(axis=1), pairs)
