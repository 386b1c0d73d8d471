"""Expected calibration error (ECE) and reliability diagrams of binary decisions.

Source: Guo, Pleiss, Sun, Weinberger, "On calibration of modern neural networks", ICML 2017, eq. 5, with 15 bins of
equal width. For binary decisions, the probability of "yes" replaces the confidence and the share of "yes" replaces the
accuracy, as in Niculescu-Mizil and Caruana, "Predicting good probabilities with supervised learning", ICML 2005.
The decisions of one study may have any number of axes.
"""

from collections.abc import Sequence
from dataclasses import asdict, dataclass, replace

import numpy as np
from numpy.typing import NDArray

from modules.evaluation.metrics.multilabel import label_counts, label_table
from modules.evaluation.metrics.weighted import ScoreSet, absent_scores, divide_or_nan, score_from_sums

NAMES = ("region_ece", "attribute_ece", "observation_ece")
BINS = 15
# Title of the curve of each kind of decision. The curve is the list of its bins, from low to high, as dictionaries.
RELIABILITY = "reliability of {kind}s"

# Columns of the sums of each bin: decisions, their probabilities, decisions whose reference is "yes".
_COUNT, _PROBABILITY, _YES = range(3)


@dataclass(frozen=True)
class Bin:
    """The decisions with a probability in (low, high]; the first bin includes 0.

    count        number of decisions
    probability  mean probability of "yes"
    frequency    share of decisions whose reference is "yes"
    """

    low: float
    high: float
    count: int
    probability: float
    frequency: float


def calibration_scores(
    kind: str, probabilities: NDArray | None, reference: NDArray, known: NDArray | None
) -> ScoreSet:
    """Return the expected calibration error, and its bins, of one `kind` of decision (region, attribute, observation).

    probabilities, reference (bool) and known (bool: decisions that count) have the same shape [studies, ...]. The score
    is absent if probabilities or known are None.
    """
    name = f"{kind}_ece"
    if probabilities is None or known is None:
        return absent_scores([name], f"{kind}s are not predicted")
    sums = bin_sums(probabilities, reference, known)
    error = score_from_sums(sums, expected_calibration_error, f"no {kind} has a known reference")
    # Smaller samples have a larger error by chance alone, and so have resamples.
    error = replace(error, centred=True)
    curve = [asdict(each) for each in reliability_bins(sums.sum(axis=0))]
    return ScoreSet({name: error}, curves={RELIABILITY.format(kind=kind): curve})


def bin_sums(probabilities: NDArray, reference: NDArray, known: NDArray) -> NDArray:
    """Return [studies, BINS, 3]: number, summed probability and number of "yes" of the known decisions, per study and
    bin.

    Raises ValueError if a known probability is outside 0..1.
    """
    chosen = probabilities[known].astype(np.float64)
    if np.any((chosen < 0) | (chosen > 1)):
        raise ValueError("probabilities must be in 0..1")
    sums = np.zeros((len(probabilities), BINS, 3))
    bins = np.clip(np.ceil(chosen * BINS).astype(int) - 1, 0, BINS - 1)
    terms = np.stack([np.ones_like(chosen), chosen, reference[known].astype(np.float64)], axis=-1)
    np.add.at(sums, (np.nonzero(known)[0], bins), terms)
    return sums


def expected_calibration_error(sums: NDArray) -> NDArray:
    """Return [...]: the mean over decisions of |frequency - probability| of their bin; NaN if there are no decisions.

    sums [..., 3 BINS]: `bin_sums`, summed over studies and flattened.
    """
    sums = sums.reshape(*sums.shape[:-1], BINS, 3)
    # Within a bin, count * |frequency - probability| is the difference of the two sums.
    gaps = np.abs(sums[..., _YES] - sums[..., _PROBABILITY])
    return divide_or_nan(gaps.sum(axis=-1), sums[..., _COUNT].sum(axis=-1))


def reliability_bins(sums: NDArray) -> list[Bin]:
    """Return the non-empty bins of `sums` [BINS, 3], from low to high."""
    return [
        Bin(number / BINS, (number + 1) / BINS, int(count), float(probability / count), float(yes / count))
        for number, (count, probability, yes) in enumerate(sums) if count
    ]


def decision_table(
    predicted: NDArray | None, probabilities: NDArray | None, reference: NDArray, known: NDArray, names: Sequence[str]
) -> dict[str, dict[str, float | None]]:
    """Return one row per label: precision, recall, F1 and positives (`multilabel.label_table`), and its own `ece`.

    predicted, reference, known [studies, labels] bool, probabilities [studies, labels], one name per label. Labels that
    are not known for any study are left out; the table is empty if nothing is predicted.
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
