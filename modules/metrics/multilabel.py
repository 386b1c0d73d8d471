"""Precision, recall, F1 and AUROC of many yes/no labels at once, each over the studies where it is known.

Shapes: N studies, K labels. F1 by scikit-learn's conventions: micro pools all known decisions, macro is the mean over
the labels with a known study, and 0/0 counts 0.
"""

from collections.abc import Sequence

import numpy as np
from numpy.typing import NDArray
from sklearn.metrics import precision_recall_fscore_support, roc_auc_score

from modules.metrics.calibration import expected_calibration_error, reliability

ONE_CLASS = "no label has both a positive and a negative reference"


def micro_scores(predicted: NDArray, reference: NDArray, known: NDArray) -> tuple[float, float, float]:
    """Precision, recall and F1 over all known decisions together; all arrays bool, of one shape, `known` not empty."""
    return _binary(reference[known], predicted[known])


def macro_scores(predicted: NDArray, reference: NDArray, known: NDArray) -> tuple[float, float, float]:
    """Precision, recall and F1 [N, K] by label, then the mean over the labels known in some study."""
    by_label = [
        _binary(reference[known[:, label], label], predicted[known[:, label], label])
        for label in np.flatnonzero(known.any(axis=0))
    ]
    precision, recall, f1 = np.mean(by_label, axis=0)
    return float(precision), float(recall), float(f1)


def macro_auroc(probabilities: NDArray, reference: NDArray, known: NDArray) -> float | None:
    """AUROC [N, K] by label, then the mean over the labels with both classes in known studies; None without any."""
    by_label = []
    for label in range(reference.shape[1]):
        counted = known[:, label]
        truth = reference[counted, label]
        if truth.any() and not truth.all():
            by_label.append(roc_auc_score(truth, probabilities[counted, label]))
    return float(np.mean(by_label)) if by_label else None


def label_table(
    predicted: NDArray | None, probabilities: NDArray | None, reference: NDArray, known: NDArray, names: Sequence[str]
) -> dict[str, dict[str, float]]:
    """name -> precision, recall, f1, support (positives), known (studies) and ece, for the labels known in some study.

    All arrays [N, K], K names; ece is the label's own expected calibration error (`modules/metrics/calibration.py`).
    Empty where nothing is predicted.
    """
    table: dict[str, dict[str, float]] = {}
    if predicted is None or probabilities is None:
        return table
    for label in np.flatnonzero(known.any(axis=0)):
        counted = known[:, label]
        precision, recall, f1 = _binary(reference[counted, label], predicted[counted, label])
        bins = reliability(probabilities[:, label], reference[:, label], counted)
        table[names[label]] = {
            "precision": precision, "recall": recall, "f1": f1, "support": int(reference[counted, label].sum()),
            "known": int(counted.sum()), "ece": expected_calibration_error(bins),
        }
    return table


def _binary(reference: NDArray, predicted: NDArray) -> tuple[float, float, float]:
    precision, recall, f1, _ = precision_recall_fscore_support(
        reference, predicted, average="binary", pos_label=True, zero_division=0
    )
    return float(precision), float(recall), float(f1)
