"""Report scores by other packages, behind one interface.

A comparer returns, for each of its scores, the number that its package prints for all pairs of reports and, if the
package has them, the numbers of each report that it is made of: intervals come from resampling those. Implemented for
RadEval, a package that bundles many scores, RadGraph F1 among them.
"""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Protocol

import numpy as np
from numpy.typing import NDArray

from data.errors import missing
from modules.evaluation.metrics.packages.radeval_process import RadEvalProcess, check_package
from modules.evaluation.metrics.packages.radeval_scores import (
    CORPUS,
    INVERSE_MEAN,
    MEAN,
    PackageScore,
    describe_score,
)
from modules.evaluation.metrics.weighted import Score, ScoreSet, divide_or_nan

_RADGRAPH_MODEL = "radgraph-xl"
RADGRAPH_NAMES = ("radgraph_simple", "radgraph_partial", "radgraph_complete")
# The package prints four decimals; a larger difference to its own numbers of each report is another meaning.
_PRINTED_DIFFERENCE = 1e-4
_NO_PAIR = "no report that has a reference counts"


@dataclass(frozen=True)
class ComparedScore:
    """A score of pairs of reports, as another package computes it.

    value             for all pairs together; NaN if the package has none
    per_report        [pairs] the numbers that `value` is made of, NaN leaves a pair out; None if there are none
    level             how: MEAN, or INVERSE_MEAN (1 / mean); CORPUS without `per_report`
    higher_is_better  None if unknown
    no_interval       why there is no `per_report`
    """

    value: float
    per_report: NDArray | None
    level: str = MEAN
    higher_is_better: bool | None = True
    no_interval: str = ""

    @classmethod
    def mean_of(cls, values: NDArray, higher_is_better: bool = True) -> "ComparedScore":
        """Return the mean of `values` [pairs], without NaN."""
        values = np.asarray(values, dtype=float)
        value = float(np.nanmean(values)) if not np.isnan(values).all() else np.nan
        return cls(value, values, higher_is_better=higher_is_better)


class ReportComparer(Protocol):
    """Compares generated reports with their references.

    name   the comparer's name in results
    """

    name: str

    def compare(self, references: Sequence[str], generated: Sequence[str]) -> dict[str, ComparedScore]:
        """Return the scores of the pairs by name. No reference is empty."""


def comparer_scores(comparer: ReportComparer, references: Sequence[str], generated: Sequence[str]) -> ScoreSet:
    """Return the comparer's scores of all pairs; pairs with an empty reference do not count."""
    return joint_comparer_scores(comparer, references, [generated])


def joint_comparer_scores(
    comparer: ReportComparer, references: Sequence[str], generated: Sequence[Sequence[str]]
) -> ScoreSet:
    """Return the comparer's scores of several systems with the same references.

    generated   by system, its reports

    The studies of the result are the reports of the first system, then those of the second, and so on: weights select
    the system that counts. A system is compared in a call of its own, as its package's score may not be a mean.
    """
    included = np.array([bool(reference.strip()) for reference in references], dtype=bool)
    indices = included.nonzero()[0]
    compared = [
        comparer.compare([references[index] for index in indices], [reports[index] for index in indices])
        if len(indices) else {} for reports in generated
    ]
    scores, per_study = {}, {}
    for name in dict.fromkeys(name for each in compared for name in each):
        of_systems = [each[name] for each in compared]
        score, values = _join(of_systems, included)
        scores[name] = score
        if values is not None:
            per_study[name] = values
    return ScoreSet(scores, per_study=per_study)


def _join(of_systems: Sequence[ComparedScore], included: NDArray) -> tuple[Score, NDArray | None]:
    """The score of several systems, and its numbers of all their reports, if there are any.

    included [reports] bool: the reports that were compared
    """
    first = of_systems[0]
    printed = tuple(each.value for each in of_systems)
    without = next((each for each in of_systems if each.per_report is None), None)
    if without is not None:
        undefined = Score(
            lambda weights: np.full(len(weights), np.nan), _NO_PAIR, printed=printed,
            no_interval=without.no_interval, higher_is_better=first.higher_is_better,
        )
        return undefined, None
    values = np.full((len(of_systems), len(included)), np.nan)
    values[:, included] = [each.per_report for each in of_systems]
    values = values.reshape(-1)
    counted = ~np.isnan(values)
    sums = np.stack([np.where(counted, values, 0.0), counted.astype(float)], axis=1)  # [systems * reports, 2]

    def compute(weights: NDArray) -> NDArray:
        total, count = (weights @ sums).T
        return divide_or_nan(count, total) if first.level == INVERSE_MEAN else divide_or_nan(total, count)

    return Score(compute, _NO_PAIR, printed=printed, higher_is_better=first.higher_is_better), values


class RadEvalComparer:
    """Scores of the package RadEval (Xu et al., EMNLP demos 2025).

    Their names are the package's with a prefix. The package looks for weights in the caches of huggingface_hub and of
    the user, and downloads them if it can.

    version   of the package
    """

    name = "RadEval"

    def __init__(
        self, metrics: Mapping[str, Mapping[str, Any]], python: Path, prefix: str = "radeval_", name: str = "RadEval"
    ):
        """Load `metrics`, named as in the package, with their options, by the `python` of an environment that has it.

        Raises UserError if the package, a metric, an option or weights are missing.
        """
        self._prefix = prefix
        self._process = RadEvalProcess(metrics, python, name)
        self.version = self._process.version

    def compare(self, references: Sequence[str], generated: Sequence[str]) -> dict[str, ComparedScore]:
        """See `ReportComparer.compare`. Raises UserError if a metric fails."""
        scores = {}
        for key, result in self._process.compute(references, generated).items():
            value, per_report = result["value"], np.array(result["per_report"], dtype=float)
            scores[self._prefix + key] = _compared(key, np.nan if value is None else value, per_report, len(references))
            if key == "radcliq_v1":  # the package prints 1 / mean; its numbers of each report are RadCliQ-v1 itself
                distance = ComparedScore.mean_of(per_report, higher_is_better=False)
                scores[f"{self._prefix}{key}_distance"] = distance
        return scores

    def close(self) -> None:
        """End the process that has the metrics."""
        self._process.close()


def _compared(key: str, value: float, per_report: NDArray, pairs: int) -> ComparedScore:
    """The package's `value` and numbers of each report, as far as the value is made of them."""
    known: PackageScore = describe_score(key)
    if known.level == CORPUS:
        return ComparedScore(value, None, CORPUS, known.higher_is_better, known.no_interval)
    if len(per_report) != pairs:
        why = f"the package returns {len(per_report)} numbers for {pairs} reports"
        return ComparedScore(value, None, known.level, known.higher_is_better, why)
    mean = ComparedScore.mean_of(per_report).value
    expected = 1 / mean if known.level == INVERSE_MEAN else mean
    if not np.isnan(value) and not abs(expected - value) <= _PRINTED_DIFFERENCE * max(1.0, abs(value)):
        why = f"the {known.level} of the package's numbers is {expected:.4f}, not what it prints"
        return ComparedScore(value, None, known.level, known.higher_is_better, why)
    return ComparedScore(value, per_report, known.level, known.higher_is_better)


def load_radgraph(folder: Path, python: Path) -> RadEvalComparer:
    """Return RadGraph F1 (Jain et al., 2021; Delbrouck et al., ACL Findings 2024) with the model in `folder`.

    Agreement of entities (simple), of entities and whether they have a relation (partial), and of entities and their
    relations (complete), computed by the RadGraph in RadEval, which runs with current versions of transformers. An
    empty report scores 0.

    Raises UserError if the model or the package is missing.
    """
    check_package(python, "RadGraph")
    weights = folder / _RADGRAPH_MODEL / "weights.th"
    if not weights.is_file():
        fix = f"unpack {_RADGRAPH_MODEL}.tar.gz from huggingface.co/StanfordAIMI/RRG_scorers into {weights.parent}"
        raise missing("RadGraph weights", weights, fix)
    return RadEvalComparer({"radgraph": {"model_cache_dir": str(folder.resolve())}}, python, "", "RadGraph")
