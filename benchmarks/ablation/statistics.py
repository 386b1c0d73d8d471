"""The statistics of the studies: scores that are ratios of counts, and their intervals.

Counts are [seeds, units, k], of the runs of one arm; a unit is what is resampled: a test study, or a patient with all
of their studies. Every arm of a comparison was tested on the same units, so each resample of units is used for both.
"""

from collections.abc import Callable

import numpy as np
from numpy.typing import NDArray

RESAMPLES = 2000

# Sums of counts [..., k] -> scores [...].
Score = Callable[[NDArray], NDArray]
# A value and the limits of its 95 % interval.
Estimate = tuple[float, float, float]


def micro_f1(counts: NDArray) -> NDArray:
    """Return the F1 [...] of counts [..., 3]: in both, in the first only, in the second only; 0 if all are 0."""
    both, generated, simulated = np.moveaxis(counts, -1, 0).astype(np.float64)
    return 2 * both / np.maximum(2 * both + generated + simulated, 1e-12)


def share(counts: NDArray) -> NDArray:
    """Return the first count divided by the second, [...] of counts [..., 2]; 0 if the second is 0."""
    part, whole = np.moveaxis(counts, -1, 0).astype(np.float64)
    return part / np.maximum(whole, 1e-12)


def estimate(counts: NDArray, score: Score = micro_f1) -> Estimate:
    """Return the mean score over the seeds with its 95 % interval over resampled units and seeds."""
    generator = np.random.default_rng(0)
    weights = _draw_units(counts.shape[1], generator)
    low, high = np.percentile(_resample(counts, score, weights, generator), (2.5, 97.5))
    return float(score(counts.sum(1)).mean()), float(low), float(high)


def difference(first: NDArray, second: NDArray, score: Score = micro_f1) -> Estimate:
    """Return the mean score of `first` minus that of `second`, with its 95 % interval; seeds are drawn separately."""
    generator = np.random.default_rng(0)
    weights = _draw_units(first.shape[1], generator)
    differences = _resample(first, score, weights, generator) - _resample(second, score, weights, generator)
    low, high = np.percentile(differences, (2.5, 97.5))
    return float(score(first.sum(1)).mean() - score(second.sum(1)).mean()), float(low), float(high)


def format_estimate(estimate: Estimate, sign: str = "+") -> str:
    """Format a value and its interval for a table: "+0.058 (+0.030 to +0.087)"."""
    value, low, high = (format(number, f"{sign}.3f") for number in estimate)
    return f"{value} ({low} to {high})"


def _draw_units(units: int, generator: np.random.Generator) -> NDArray:
    """Return how often each unit occurs in each resample, [resamples, units]."""
    return generator.multinomial(units, np.full(units, 1 / units), size=RESAMPLES)


def _resample(counts: NDArray, score: Score, weights: NDArray, generator: np.random.Generator) -> NDArray:
    """Return the score [resamples] of units with `weights` [resamples, units], averaged over resampled seeds."""
    by_seed = score(np.einsum("bn,snc->sbc", weights, counts))  # [seeds, resamples]
    seeds = generator.integers(len(counts), size=(len(counts), len(weights)))
    return np.take_along_axis(by_seed, seeds, 0).mean(0)
