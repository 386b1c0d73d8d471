"""Scores as functions of how often each study counts.

A score of N studies is a function of N weights: all one gives the score itself, the counts of a resample give the score
of that resample, and weights that are zero for some studies give the score of the others. Most scores are a function of
weighted sums of what each study brings (counts of n-grams, of right labels), so that a thousand resamples cost about as
much as a product of two matrices.

Intervals are percentile bootstrap intervals (Efron and Tibshirani, An Introduction to the Bootstrap, 1993, chapter 13).
"""

from collections.abc import Callable, Iterable, Iterator, Sequence
from dataclasses import dataclass, field, replace
from typing import Any

import numpy as np
from numpy.typing import NDArray

# Of the studies, for one interval.
RESAMPLES = 1000
COVERAGE = 0.95
# Any number does: it makes two computations of an interval equal.
_SEED = 20250
# Numbers in a block of weights: bounds the memory that resamples of a large split take.
_BLOCK = 4_000_000

Interval = tuple[float, float]


@dataclass(frozen=True)
class Score:
    """One score of N studies.

    of         weights [B, N] -> values [B], NaN where the score is undefined for those weights
    undefined  why it is, where it is
    centred    0..1; a resample repeats and lacks studies and by that alone moves the score (repeated reports are not
               distinct): the values of resamples are shifted, so that their mean is the score
    """

    of: Callable[[NDArray], NDArray]
    undefined: str = "it is undefined for these studies"
    centred: bool = False


def of_sums(statistics: NDArray, function: Callable[[NDArray], NDArray], undefined: str = "no study counts") -> Score:
    """The score that is `function` (sums [B, S] -> [B]) of the weighted sums of `statistics` [N, S] or [N]."""
    statistics = np.asarray(statistics, dtype=np.float64)
    statistics = statistics.reshape(len(statistics), -1)
    return Score(lambda weights: function(weights @ statistics), undefined)


def mean_of(values: NDArray, undefined: str = "no study counts") -> Score:
    """The weighted mean of `values` [N] over the studies where they are not NaN."""
    counted = ~np.isnan(values)
    statistics = np.stack([np.where(counted, values, 0.0), counted], axis=1)
    return of_sums(statistics, lambda sums: ratio(sums[:, 0], sums[:, 1]), undefined)


def ratio(part: NDArray, whole: NDArray) -> NDArray:
    """`part` / `whole` element by element, NaN where `whole` is 0."""
    part, whole = np.broadcast_arrays(np.asarray(part, dtype=np.float64), np.asarray(whole, dtype=np.float64))
    return np.divide(part, whole, out=np.full(whole.shape, np.nan), where=whole != 0)


@dataclass
class Scored:
    """What scoring N studies gives.

    scores     name -> value; None where it could not be computed
    absent     name -> why it is None
    intervals  name -> bootstrap 95 % interval; None where there is none; empty where none was asked for
    resampled  name -> [B] float, the score in each of the resamples that its interval is of; those with an interval.
               Two systems on the same studies have the same resamples
    per_study  bleu_4, rouge_l, report_f1 (observations of the generated report), ... -> [N] float, NaN where a study
               has no such score: what best and worst cases are chosen by
    tables     title -> row -> column -> value: scores by observation, by region and by attribute; None as above
    curves     title -> what a plot shows (`modules/evaluation/metrics/calibration.py`, `modules/evaluation/metrics/selective.py`)
    """

    scores: dict[str, float | None]
    absent: dict[str, str]
    intervals: dict[str, Interval | None] = field(default_factory=dict)
    resampled: dict[str, NDArray] = field(default_factory=dict, compare=False)
    per_study: dict[str, NDArray] = field(default_factory=dict)
    tables: dict[str, dict[str, dict[str, float | None]]] = field(default_factory=dict)
    curves: dict[str, Any] = field(default_factory=dict)


@dataclass
class ScoreSet:
    """Scores of the same studies by name, and why others are absent; the rest as in `Scored`."""

    scores: dict[str, Score] = field(default_factory=dict)
    absent: dict[str, str] = field(default_factory=dict)
    per_study: dict[str, NDArray] = field(default_factory=dict)
    tables: dict[str, dict[str, dict[str, float | None]]] = field(default_factory=dict)
    curves: dict[str, Any] = field(default_factory=dict)

    def __or__(self, other: "ScoreSet") -> "ScoreSet":
        """Both together; names must differ."""
        parts = {name: getattr(self, name) | getattr(other, name) for name in vars(self)}
        return ScoreSet(**parts)

    def among(self, kept: NDArray) -> "ScoreSet":
        """These scores, which are of the studies `kept` [N] bool, as scores of all N: the others never count."""
        if kept.all():
            return self

        def of(score: Score) -> Callable[[NDArray], NDArray]:
            return lambda weights: np.where(weights[:, kept].any(axis=1), score.of(weights[:, kept]), np.nan)

        per_study = {name: np.full(len(kept), np.nan) for name in self.per_study}
        for name, values in self.per_study.items():
            per_study[name][kept] = values
        scores = {name: replace(score, of=of(score)) for name, score in self.scores.items()}
        return replace(self, scores=scores, per_study=per_study)

    def values(self, studies: int) -> tuple[dict[str, float | None], dict[str, str]]:
        """The scores over all `studies`, None for absent ones, and why those are absent."""
        everything = np.ones((1, studies))
        values: dict[str, float | None] = {}
        absent = dict(self.absent)
        for name, score in self.scores.items():
            value = float(score.of(everything)[0])
            values[name] = None if np.isnan(value) else value
            if np.isnan(value):
                absent[name] = score.undefined
        return values | dict.fromkeys(self.absent), absent

    def scored(self, studies: int, resamples: int = RESAMPLES, units: NDArray | None = None) -> Scored:
        """Everything about the `studies`; without intervals for `resamples` 0.

        units   [N] int, which studies are drawn together (the images of one patient): 0, 1, ...; None for each alone
        """
        scores, absent = self.values(studies)
        intervals: dict[str, Interval | None] = {}
        resampled: dict[str, NDArray] = {}
        if resamples:
            intervals = dict.fromkeys(scores)
            for name, values in self._resampled(scores, resamples, np.arange(studies) if units is None else units):
                # Shifted values can leave the range of a centred score.
                bounded = np.clip(values, 0, 1) if self.scores[name].centred else values
                intervals[name] = percentile_interval(bounded)
                if intervals[name] is not None:
                    resampled[name] = values
        return Scored(scores, absent, intervals, resampled, self.per_study, self.tables, self.curves)

    def _resampled(
        self, whole: dict[str, float | None], resamples: int, units: NDArray
    ) -> Iterator[tuple[str, NDArray]]:
        """Name and [resamples] values of every score that is not absent; none with fewer than two units to draw from.

        whole   the scores over all studies
        """
        if len(np.unique(units)) < 2:
            return
        values = {name: [] for name in self.scores if whole[name] is not None}
        for weights in resample_weights(units, resamples):
            for name, parts in values.items():
                parts.append(self.scores[name].of(weights))
        for name, parts in values.items():
            resampled = np.concatenate(parts)
            if self.scores[name].centred:
                resampled = resampled + whole[name] - np.nanmean(resampled)
            yield name, resampled


def merged(parts: Iterable[ScoreSet]) -> ScoreSet:
    """All `parts` together."""
    whole = ScoreSet()
    for part in parts:
        whole |= part
    return whole


def absent(names: Sequence[str], reason: str) -> ScoreSet:
    """None of `names` can be computed, for `reason`."""
    return ScoreSet(absent=dict.fromkeys(names, reason))


def resample_weights(units: NDArray, resamples: int, seed: int = _SEED) -> Iterator[NDArray]:
    """Blocks [B, N] of weights, `resamples` rows together: how often each study was drawn, units drawn as a whole.

    units [N] int, the unit of every study, numbered from 0. The rows do not depend on how they are put into blocks.
    """
    generator = np.random.default_rng(seed)
    count = int(units.max()) + 1
    rows = max(1, _BLOCK // len(units))
    for start in range(0, resamples, rows):
        drawn = [
            np.bincount(generator.integers(count, size=count), minlength=count)
            for _ in range(min(rows, resamples - start))
        ]
        yield np.stack(drawn).astype(np.float64)[:, units]


def percentile_interval(values: NDArray, coverage: float = COVERAGE) -> Interval | None:
    """The middle `coverage` of the `values` that are not NaN.

    None where those are fewer than 1 - `coverage` of all, that is fewer than 5 of 100 resamples.
    """
    defined = values[~np.isnan(values)]
    if len(defined) < (1 - coverage) * len(values) or not len(defined):
        return None
    low, high = np.quantile(defined, [(1 - coverage) / 2, (1 + coverage) / 2])
    return float(low), float(high)
