"""Precision, recall, F1 and AUROC of many binary labels, each over the studies for which it is known.

Shapes: predicted, reference and known [studies, labels] bool, probabilities [studies, labels]. The weights of studies
have one row per draw, [draws, studies], as in `modules/evaluation/metrics/weighted.py`.

- micro: all known decisions pooled
- macro: mean over the labels with a positive reference (a label without one has no recall)
- example: mean over studies; a study without any positive, predicted or in the reference, counts 1

Precision is 0 if nothing is predicted. Micro and macro scores are undefined if no reference is positive.
"""

from collections.abc import Sequence
from dataclasses import replace

import numpy as np
from numpy.typing import NDArray

from modules.evaluation.metrics.weighted import Score, divide_or_nan, mean_score, score_from_sums

ONE_CLASS = "no label has both a positive and a negative reference"
NO_POSITIVE = "no known reference is positive"
MEASURES = ("precision", "recall", "f1")

# Labels whose counts are in memory at once.
_LABELS_AT_ONCE = 64

# Columns of the counts: true positives, predicted positives, positive references.
_TRUE_POSITIVES, _PREDICTED, _REFERENCE = range(3)


def label_counts(predicted: NDArray, reference: NDArray, known: NDArray | bool = True) -> NDArray:
    """Return true positives, predicted positives and positive references of known decisions, [studies, labels, 3]."""
    return np.stack([predicted & reference & known, predicted & known, reference & known], axis=-1).astype(np.float64)


def micro_scores(counts: NDArray) -> dict[str, Score]:
    """Return precision, recall and F1 over all decisions pooled; counts [studies, labels, 3]."""

    def pooled(sums: NDArray, column: int) -> NDArray:
        return np.where(sums[:, _REFERENCE] > 0, precision_recall_f1(sums)[column], np.nan)

    statistics = counts.sum(axis=1)
    return {
        measure: score_from_sums(statistics, lambda sums, column=column: pooled(sums, column), NO_POSITIVE)
        for column, measure in enumerate(MEASURES)
    }


def macro_scores(counts: NDArray) -> dict[str, Score]:
    """Return mean precision, recall and F1 over the labels with a positive reference; counts [studies, labels, 3]."""

    def mean(sums: NDArray, column: int) -> NDArray:
        sums = sums.reshape(len(sums), -1, 3)
        counted = sums[..., _REFERENCE] > 0
        values = np.where(counted, precision_recall_f1(sums)[column], 0)
        return divide_or_nan(values.sum(axis=-1), counted.sum(axis=-1))

    # Resamples often miss a rare label and leave it out of their mean, which is then too high.
    return {
        measure: replace(
            score_from_sums(counts, lambda sums, column=column: mean(sums, column), NO_POSITIVE), centred=True
        )
        for column, measure in enumerate(MEASURES)
    }


def macro_f1(predicted: NDArray, reference: NDArray) -> Score:
    """Return the F1 of `macro_scores` for many labels, without counts of all of them in memory at once.

    predicted, reference [studies, labels] bool.
    """
    labels = np.flatnonzero(reference.any(axis=0))

    def mean(weights: NDArray) -> NDArray:
        total, counted = np.zeros(len(weights)), np.zeros(len(weights))
        for start in range(0, len(labels), _LABELS_AT_ONCE):
            some = labels[start : start + _LABELS_AT_ONCE]
            counts = label_counts(predicted[:, some], reference[:, some])
            sums = (weights @ counts.reshape(len(counts), -1)).reshape(len(weights), -1, 3)
            has_positive = sums[..., _REFERENCE] > 0
            total += np.where(has_positive, precision_recall_f1(sums)[2], 0).sum(axis=1)
            counted += has_positive.sum(axis=1)
        return divide_or_nan(total, counted)

    return Score(mean, NO_POSITIVE, centred=True)


def example_scores(counts: NDArray, counted: NDArray | None = None) -> dict[str, Score]:
    """Return the means of the per-study precision, recall and F1.

    counts [studies, labels, 3], counted [studies] bool (None for all)
    """
    values = example_values(counts, counted)
    return {measure: mean_score(values[measure], "no study has a known label") for measure in MEASURES}


def example_values(counts: NDArray, counted: NDArray | None = None) -> dict[str, NDArray]:
    """Return precision, recall and F1, [studies] each; NaN if not counted. Arguments as in `example_scores`."""
    sums = counts.sum(axis=1)
    both_empty = (sums[:, _PREDICTED] == 0) & (sums[:, _REFERENCE] == 0)
    values = {
        measure: np.where(both_empty, 1.0, value)
        for measure, value in zip(MEASURES, precision_recall_f1(sums), strict=True)
    }
    if counted is None:
        return values
    return {measure: np.where(counted, value, np.nan) for measure, value in values.items()}


def precision_recall_f1(counts: NDArray) -> tuple[NDArray, NDArray, NDArray]:
    """Return precision, recall and F1 [...] of counts [..., 3]; each is 0 where its denominator is 0."""
    true_positives, predicted, reference = np.moveaxis(counts, -1, 0)
    return (
        np.nan_to_num(divide_or_nan(true_positives, predicted)),
        np.nan_to_num(divide_or_nan(true_positives, reference)),
        np.nan_to_num(divide_or_nan(2 * true_positives, predicted + reference)),
    )


def label_table(counts: NDArray, names: Sequence[str]) -> dict[str, dict[str, float | None]]:
    """Return one row per label: precision, recall, F1 and `positives`, the number of positive references.

    The measures are None for a label without positive references. counts [studies, labels, 3], one name per label.
    """
    sums = counts.sum(axis=0)
    by_label = zip(*precision_recall_f1(sums), strict=True)
    return {
        name: {
            **{
                measure: float(value) if positives > 0 else None
                for measure, value in zip(MEASURES, values, strict=True)
            },
            "positives": int(positives),
        }
        for name, values, positives in zip(names, by_label, sums[:, _REFERENCE], strict=True)
    }


def macro_auroc(probabilities: NDArray, reference: NDArray, known: NDArray, min_positives: int = 1) -> Score:
    """Return the mean area under the ROC curve over the labels with both classes among known references.

    min_positives   known positive references that a label needs to be counted

    The area is the probability that a positive study ranks above a negative one; ties count one half (Hanley and
    McNeil, Radiology 143, 1982).
    """
    rankings = []
    for label in range(reference.shape[1]):
        studies = np.flatnonzero(known[:, label])
        positive = reference[studies, label]
        if positive.sum() >= min_positives and not positive.all():
            rankings.append(_Ranking(studies, probabilities[studies, label], positive))

    def mean_area(weights: NDArray) -> NDArray:
        total, defined = np.zeros(len(weights)), np.zeros(len(weights), dtype=int)
        for ranking in rankings:
            area = ranking.area(weights)
            total += np.nan_to_num(area)
            defined += ~np.isnan(area)
        return divide_or_nan(total, defined)

    reason = ONE_CLASS if min_positives == 1 else f"no label has {min_positives} positives and a negative reference"
    return Score(mean_area, reason)


class _Ranking:
    """The studies for which one label is known, by rising probability; equal probabilities form one group."""

    def __init__(self, studies: NDArray, probabilities: NDArray, positive: NDArray):
        order = np.argsort(probabilities, kind="stable")
        ranked = probabilities[order]
        self._studies, self._positive = studies[order], positive[order]
        self._group_starts = np.flatnonzero(np.concatenate([[True], ranked[1:] != ranked[:-1]]))

    def area(self, weights: NDArray) -> NDArray:
        """Return the area under the ROC curve, [draws], for weights [draws, studies]; NaN if only one class is left."""
        weights = weights[:, self._studies]
        positives = np.add.reduceat(weights * self._positive, self._group_starts, axis=1)
        negatives = np.add.reduceat(weights * ~self._positive, self._group_starts, axis=1)
        negatives_below = np.cumsum(negatives, axis=1) - negatives
        pairs = positives.sum(axis=1) * negatives.sum(axis=1)
        return divide_or_nan((positives * (negatives_below + negatives / 2)).sum(axis=1), pairs)
