"""Do probabilities mean what they say? Expected calibration error and reliability of yes/no decisions.

Source: Guo, Pleiss, Sun, Weinberger, "On calibration of modern neural networks", ICML 2017, eq. 5, with 15 bins of
equal width. For yes/no decisions the probability of "yes" takes the place of the confidence and the share of "yes" that
of the accuracy, as in Niculescu-Mizil and Caruana, "Predicting good probabilities with supervised learning", ICML 2005.
Shapes: N studies; decisions of a study may have any number of axes.
"""

from collections.abc import Sequence
from dataclasses import asdict, dataclass, replace

import numpy as np
from numpy.typing import NDArray

from modules.evaluation.metrics.multilabel import label_counts, label_table
from modules.evaluation.metrics.weighted import ScoreSet, absent, of_sums, ratio

NAMES = ("region_ece", "attribute_ece", "observation_ece")
BINS = 15
# Title of the curve of each kind of decision: its bins, from low to high, as dictionaries.
RELIABILITY = "reliability of {kind}s"

# Columns of what is summed in every bin: decisions, their probabilities, those that are "yes".
_COUNT, _PROBABILITY, _YES = range(3)


@dataclass(frozen=True)
class Bin:
    """The decisions whose probability lies in (low, high]; the first bin holds 0 too.

    count        how many
    probability  their mean probability of "yes"
    frequency    the share that is "yes"
    """

    low: float
    high: float
    count: int
    probability: float
    frequency: float


def calibration_scores(
    kind: str, probabilities: NDArray | None, reference: NDArray, known: NDArray | None
) -> ScoreSet:
    """The expected calibration error of the decisions of one `kind` (region, attribute, observation), and its bins.

    probabilities, reference (bool) and known (bool: these count) of one shape [N, ...]; None without probabilities.
    """
    name = f"{kind}_ece"
    if probabilities is None or known is None:
        return absent([name], f"{kind}s are not predicted")
    sums = bin_sums(probabilities, reference, known)
    # Chance alone gives a small sample, and so a resample, a larger error.
    error = replace(of_sums(sums, expected_calibration_error, f"no {kind} has a known reference"), centred=True)
    curve = [asdict(each) for each in reliability(sums.sum(axis=0))]
    return ScoreSet({name: error}, curves={RELIABILITY.format(kind=kind): curve})


def bin_sums(probabilities: NDArray, reference: NDArray, known: NDArray) -> NDArray:
    """[N, BINS, 3]: of every study's known decisions in each bin, how many, the sum of probabilities, how many "yes".

    Raises ValueError for a known probability outside 0..1.
    """
    chosen = probabilities[known].astype(np.float64)
    if np.any((chosen < 0) | (chosen > 1)):
        raise ValueError("probabilities lie in 0..1")
    sums = np.zeros((len(probabilities), BINS, 3))
    bins = np.clip(np.ceil(chosen * BINS).astype(int) - 1, 0, BINS - 1)
    added = np.stack([np.ones_like(chosen), chosen, reference[known].astype(np.float64)], axis=-1)
    np.add.at(sums, (np.nonzero(known)[0], bins), added)
    return sums


def expected_calibration_error(sums: NDArray) -> NDArray:
    """[...]: the mean over decisions of |frequency - probability| of their bin, NaN without any; sums [..., 3 BINS]."""
    sums = sums.reshape(*sums.shape[:-1], BINS, 3)
    # In a bin, count * |frequency - probability| is the difference of the two sums.
    gaps = np.abs(sums[..., _YES] - sums[..., _PROBABILITY])
    return ratio(gaps.sum(axis=-1), sums[..., _COUNT].sum(axis=-1))


def reliability(sums: NDArray) -> list[Bin]:
    """The bins of sums [BINS, 3] that hold a decision, from low to high."""
    return [
        Bin(number / BINS, (number + 1) / BINS, int(count), float(probability / count), float(yes / count))
        for number, (count, probability, yes) in enumerate(sums) if count
    ]


def decision_table(
    predicted: NDArray | None, probabilities: NDArray | None, reference: NDArray, known: NDArray, names: Sequence[str]
) -> dict[str, dict[str, float | None]]:
    """By label: precision, recall, F1 and positives (`multilabel.label_table`), and the label's own `ece`.

    predicted, reference, known [N, K] bool, probabilities [N, K], K names. Empty where nothing is predicted; labels
    that no study knows are left out.
    """
    if predicted is None or probabilities is None:
        return {}
    table = label_table(label_counts(predicted, reference, known), names)
    for label, name in enumerate(names):
        if known[:, label].any():
            sums = bin_sums(probabilities[:, label], reference[:, label], known[:, label]).sum(axis=0)
            table[name]["ece"] = float(expected_calibration_error(sums.reshape(-1)))
        else:
            del table[name]
    return table
