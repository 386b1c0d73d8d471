"""Scores as functions of study weights, and their bootstrap intervals.

A bootstrap interval needs the score of many resamples of the studies. A resample only decides how often each study
counts, so a score is written once, as a function of one weight per study:

    weights of 4 studies   value
    1 1 1 1                the score of all studies
    2 0 1 1                the score of a resample that draws the first study twice and the second never
    0 1 1 0                the score of the second and third study

Most scores are functions of sums over the studies (correct n-grams, predicted n-grams). The weighted sums of all
resamples are then one matrix product, [resamples, studies] @ [studies, statistics], and a thousand resamples cost
little more than one:

    accuracy = ratio_score(np.array([3, 0, 2]), np.array([4, 1, 2]))  # correct and all answers of three studies
    accuracy.compute(np.array([[1.0, 1, 1], [2, 0, 1]]))              # [5 / 7, 8 / 10]
    ScoreSet({"accuracy": accuracy}).evaluate(studies=3)              # the score 5 / 7 and its 95 % interval

Intervals are percentile bootstrap intervals (Efron and Tibshirani, An Introduction to the Bootstrap, 1993, chapter 13).
Shapes: weights [draws, studies], one row per resample; statistics [studies, statistics].
"""

from collections.abc import Callable, Iterable, Iterator, Sequence
from dataclasses import dataclass, field, replace
from typing import Any

import numpy as np
from numpy.typing import NDArray

from data.processes.worker_pool import ordered_map

# Number of resamples behind an interval, and the share of them that it covers.
RESAMPLES = 1000
COVERAGE = 0.95
# The value does not matter; a fixed one makes intervals reproducible, and resamples the same for all systems.
_SEED = 20250
# Largest number of elements in a block of weights; it bounds the memory that resampling a large split takes.
_BLOCK_SIZE = 4_000_000

_NO_STUDY = "no study counts"

Interval = tuple[float, float]


@dataclass(frozen=True)
class Score:
    """One score of all studies.

    compute           weights [draws, studies] -> values [draws]; NaN if the score is undefined for those weights
    undefined_reason  why the score is undefined, if it is
    centred           shift the values of resamples so that their mean is the score, which must be in 0..1. For scores
                      that resampling itself biases: a resample repeats studies, so fewer of its reports are distinct
    printed           the values as another package prints them, one for each system whose studies are scored together;
                      NaN if it has none. None if `compute` defines them
    no_interval       why resamples of the studies have no score; empty if they have
    higher_is_better  of a score of another package, None if unknown; `directions.py` beside it knows those of ours
    """

    compute: Callable[[NDArray], NDArray]
    undefined_reason: str = "it is undefined for these studies"
    centred: bool = False
    printed: tuple[float, ...] | None = None
    no_interval: str = ""
    higher_is_better: bool | None = None


def score_from_sums(
    statistics: NDArray, function: Callable[[NDArray], NDArray], undefined_reason: str = _NO_STUDY
) -> Score:
    """Return `function`, [draws, statistics] -> [draws], of weighted sums of `statistics` [studies, ...] as a score."""
    statistics = np.asarray(statistics, dtype=np.float64)
    statistics = statistics.reshape(len(statistics), -1)
    return Score(lambda weights: function(weights @ statistics), undefined_reason)


def ratio_score(numerators: NDArray, denominators: NDArray, undefined_reason: str = _NO_STUDY) -> Score:
    """Return the ratio of weighted sums of `numerators` and `denominators`, [studies]; undefined for denominator 0."""
    statistics = np.stack([numerators, denominators], axis=1)
    return score_from_sums(statistics, lambda sums: divide_or_nan(sums[:, 0], sums[:, 1]), undefined_reason)


def mean_score(values: NDArray, undefined_reason: str = _NO_STUDY) -> Score:
    """Return the weighted mean of `values` [studies]; studies with NaN do not count."""
    counted = ~np.isnan(values)
    return ratio_score(np.where(counted, values, 0.0), counted, undefined_reason)


def divide_or_nan(numerator: NDArray, denominator: NDArray) -> NDArray:
    """Divide element by element (with broadcasting); NaN where `denominator` is 0."""
    numerator, denominator = np.broadcast_arrays(
        np.asarray(numerator, dtype=np.float64), np.asarray(denominator, dtype=np.float64)
    )
    return np.divide(numerator, denominator, out=np.full(denominator.shape, np.nan), where=denominator != 0)


@dataclass
class ScoreResults:
    """The values of scores over studies.

    scores     name -> value; None if it cannot be computed
    absent     name -> why the value is None
    intervals  name -> 95 % bootstrap interval, or None if it cannot be computed; empty if no intervals were requested
    resampled  name -> [draws] float, the score of each resample; only scores with an interval. Two systems on the same
               studies have the same resamples
    per_study  name (bleu_4, rouge_l, report_f1, ...) -> [studies] float, the score of each study alone, NaN if it has
               none; selects the best and worst cases
    tables     title -> row -> column -> value or None: scores by observation, by region and by attribute
    curves     title -> data of a plot (see `modules/evaluation/metrics/calibration.py` and `selective.py` beside it)
    no_interval       name -> why resampling cannot give an interval
    higher_is_better  name -> bool, or None if unknown; scores of other packages only
    """

    scores: dict[str, float | None]
    absent: dict[str, str]
    intervals: dict[str, Interval | None] = field(default_factory=dict)
    resampled: dict[str, NDArray] = field(default_factory=dict, compare=False)
    per_study: dict[str, NDArray] = field(default_factory=dict)
    tables: dict[str, dict[str, dict[str, float | None]]] = field(default_factory=dict)
    curves: dict[str, Any] = field(default_factory=dict)
    no_interval: dict[str, str] = field(default_factory=dict)
    higher_is_better: dict[str, bool | None] = field(default_factory=dict)


@dataclass
class ScoreSet:
    """Named scores of the same studies, before they are computed.

    scores  name -> score
    absent  name -> why this score cannot be computed for any weights
    per_study, tables, curves  as in `ScoreResults`
    """

    scores: dict[str, Score] = field(default_factory=dict)
    absent: dict[str, str] = field(default_factory=dict)
    per_study: dict[str, NDArray] = field(default_factory=dict)
    tables: dict[str, dict[str, dict[str, float | None]]] = field(default_factory=dict)
    curves: dict[str, Any] = field(default_factory=dict)

    def __or__(self, other: "ScoreSet") -> "ScoreSet":
        """Return the union of both sets; a name may be in one of them only."""
        parts = {name: getattr(self, name) | getattr(other, name) for name in vars(self)}
        return ScoreSet(**parts)

    def expand_to_all(self, included: NDArray) -> "ScoreSet":
        """Turn scores of the studies `included` [studies] bool into scores of all studies; the other studies never
        count.

        A score is undefined for weights that are 0 for all included studies.
        """
        if included.all():
            return self

        def expand(score: Score) -> Score:
            def compute(weights: NDArray) -> NDArray:
                weights = weights[:, included]
                return np.where(weights.any(axis=1), score.compute(weights), np.nan)

            return replace(score, compute=compute)

        per_study = {name: np.full(len(included), np.nan) for name in self.per_study}
        for name, values in self.per_study.items():
            per_study[name][included] = values
        scores = {name: expand(score) for name, score in self.scores.items()}
        return replace(self, scores=scores, per_study=per_study)

    def compute(self, studies: int) -> tuple[dict[str, float | None], dict[str, str]]:
        """Return the scores over all `studies` (None if absent), and the reason of each absent one."""
        all_once = np.ones((1, studies))
        values: dict[str, float | None] = {}
        absent = dict(self.absent)
        for name, score in self.scores.items():
            value = float(score.compute(all_once)[0] if score.printed is None else score.printed[0])
            values[name] = None if np.isnan(value) else value
            if np.isnan(value):
                absent[name] = score.undefined_reason
        return values | dict.fromkeys(self.absent), absent

    def select(self, names: Iterable[str]) -> "ScoreSet":
        """Return the set with the scores `names` only, as far as it has them, and everything else."""
        names = frozenset(names)
        scores, absent = ({name: part[name] for name in part if name in names} for part in (self.scores, self.absent))
        return replace(self, scores=scores, absent=absent)

    def evaluate(
        self, studies: int, resamples: int = RESAMPLES, units: NDArray | None = None, workers: int = 1
    ) -> ScoreResults:
        """Return the scores over all `studies` and their intervals; no intervals if `resamples` is 0.

        units     [studies] int, 0, 1, ...: studies with the same number are drawn together (images of one patient);
                  None to draw each study by itself
        workers   processes that compute the resamples; the intervals do not depend on their number
        """
        scores, absent = self.compute(studies)
        intervals: dict[str, Interval | None] = {}
        resampled: dict[str, NDArray] = {}
        if resamples:
            intervals = dict.fromkeys(scores)
            units = np.arange(studies) if units is None else units
            for name, values in self._resample(scores, resamples, units, workers):
                # Shifting can move the values of a centred score out of its range.
                bounded = np.clip(values, 0, 1) if self.scores[name].centred else values
                intervals[name] = percentile_interval(bounded)
                if intervals[name] is not None:
                    resampled[name] = values
        return ScoreResults(
            scores, absent, intervals, resampled, self.per_study, self.tables, self.curves,
            no_interval={name: score.no_interval for name, score in self.scores.items() if score.no_interval},
            higher_is_better={
                name: score.higher_is_better for name, score in self.scores.items() if score.printed is not None
            },
        )

    def _resample(
        self, all_scores: dict[str, float | None], resamples: int, units: NDArray, workers: int
    ) -> Iterator[tuple[str, NDArray]]:
        """Yield the name and the [resamples] values of each score that is not absent; nothing for fewer than two units.

        all_scores   the scores over all studies
        """
        if len(np.unique(units)) < 2:
            return
        names = [
            name for name, score in self.scores.items() if all_scores[name] is not None and not score.no_interval
        ]
        # All blocks are drawn before workers are forked, which then share them. Counts of draws fit into 16 bits.
        resampled_scores = _ResampledScores(
            self.scores, [weights.astype(np.uint16) for weights in resample_weights(units, resamples)]
        )
        values: dict[str, list[NDArray]] = {name: [] for name in names}
        jobs = [(block, name) for block in range(len(resampled_scores.blocks)) for name in names]
        for (_, name), part in zip(jobs, ordered_map(resampled_scores, jobs, workers), strict=True):
            values[name].append(part)
        for name, parts in values.items():
            resampled = np.concatenate(parts)
            if self.scores[name].centred:
                resampled = resampled + all_scores[name] - np.nanmean(resampled)
            yield name, resampled


class _ResampledScores:
    """Computes (block, name): the values [draws] of a score for a block of resamples.

    blocks   arrays [draws, studies] of weights. They are the same for any number of workers: how rows are grouped can
             change the last bit of a sum
    """

    def __init__(self, scores: dict[str, Score], blocks: list[NDArray]):
        self.blocks = blocks
        self._scores = scores
        self._block, self._weights = -1, np.empty((0, 0))

    def __call__(self, job: tuple[int, str]) -> NDArray:
        block, name = job
        if block != self._block:
            self._block, self._weights = block, self.blocks[block].astype(np.float64)
        return self._scores[name].compute(self._weights)


def merge_scores(parts: Iterable[ScoreSet]) -> ScoreSet:
    """Return the union of all `parts`."""
    merged = ScoreSet()
    for part in parts:
        merged |= part
    return merged


def absent_scores(names: Sequence[str], reason: str) -> ScoreSet:
    """Return a set in which all `names` are absent because of `reason`."""
    return ScoreSet(absent=dict.fromkeys(names, reason))


def resample_weights(units: NDArray, resamples: int, seed: int = _SEED) -> Iterator[NDArray]:
    """Yield blocks of weights [draws, studies], `resamples` rows in all: how often each resample draws each study.

    units [studies] int: the sampling unit of every study, numbered from 0; a unit is drawn with all its studies. The
    rows do not depend on the block size.
    """
    generator = np.random.default_rng(seed)
    count = int(units.max()) + 1
    rows = max(1, _BLOCK_SIZE // len(units))
    for start in range(0, resamples, rows):
        draws = [
            np.bincount(generator.integers(count, size=count), minlength=count)
            for _ in range(min(rows, resamples - start))
        ]
        yield np.stack(draws).astype(np.float64)[:, units]


def percentile_interval(values: NDArray, coverage: float = COVERAGE) -> Interval | None:
    """Return the central interval that covers the share `coverage` of `values`, ignoring NaN.

    None if less than 1 - `coverage` of the values are defined (fewer than 5 of 100 resamples), or none.
    """
    defined = values[~np.isnan(values)]
    if len(defined) < (1 - coverage) * len(values) or not len(defined):
        return None
    low, high = np.quantile(defined, [(1 - coverage) / 2, (1 + coverage) / 2])
    return float(low), float(high)
