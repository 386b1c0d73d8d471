"""Do probabilities mean what they say? Expected calibration error and reliability of yes/no decisions.

Source: Guo, Pleiss, Sun, Weinberger, "On calibration of modern neural networks", ICML 2017, eq. 5, with 15 bins of
equal width. For yes/no decisions the probability of "yes" takes the place of the confidence and the share of "yes" that
of the accuracy, as in Niculescu-Mizil and Caruana, "Predicting good probabilities with supervised learning", ICML 2005.
"""

from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

NAMES = ("region_ece", "attribute_ece", "observation_ece")
BINS = 15


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


def reliability(probabilities: NDArray | None, positive: NDArray, known: NDArray) -> list[Bin] | None:
    """The bins that hold a decision, from low to high; decisions of `known` alone. All arrays of one shape.

    None without probabilities, where the model decides nothing.
    """
    if probabilities is None:
        return None
    probabilities, positive = probabilities[known].astype(np.float64), positive[known].astype(np.float64)
    if np.any((probabilities < 0) | (probabilities > 1)):
        raise ValueError("probabilities lie in 0..1")
    positions = np.clip(np.ceil(probabilities * BINS).astype(int) - 1, 0, BINS - 1)
    bins = []
    for position in np.unique(positions):
        inside = positions == position
        bins.append(
            Bin(
                low=position / BINS, high=(position + 1) / BINS, count=int(inside.sum()),
                probability=float(probabilities[inside].mean()), frequency=float(positive[inside].mean()),
            )
        )
    return bins


def expected_calibration_error(bins: list[Bin]) -> float | None:
    """The mean over decisions of |frequency - probability| of their bin, 0..1; None without a decision."""
    decisions = sum(each.count for each in bins)
    if not decisions:
        return None
    return sum(each.count * abs(each.frequency - each.probability) for each in bins) / decisions


def calibration_scores(bins: dict[str, list[Bin] | None]) -> tuple[dict[str, float | None], dict[str, str]]:
    """The expected calibration error of `region`, `attribute` and `observation` decisions, and why one is absent.

    bins   by kind of decision (the names without `_ece`): its `reliability`
    """
    scores: dict[str, float | None] = {}
    absent: dict[str, str] = {}
    for name in NAMES:
        kind = name.removesuffix("_ece")
        scores[name] = expected_calibration_error(bins[kind] or [])
        if bins[kind] is None:
            absent[name] = f"{kind}s are not predicted"
        elif scores[name] is None:
            absent[name] = f"no {kind} has a known reference"
    return scores, absent
