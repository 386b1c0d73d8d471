"""Scores of a report against its reference by models that others trained: one interface for all of them.

A comparer gives every pair of reports a number, by the name of the score; scores are their means. RadGraph is one, and
the umbrella package RadEval with all its scores another.
"""

from collections.abc import Sequence
from importlib import import_module
from importlib.util import find_spec
from pathlib import Path
from typing import Protocol

import numpy as np
from numpy.typing import NDArray

from data.errors import UserError
from modules.evaluation.metrics.weighted import ScoreSet, mean_of

_RADGRAPH_MODEL = "radgraph-xl"
RADGRAPH_NAMES = ("radgraph_simple", "radgraph_partial", "radgraph_complete")


class ReportComparer(Protocol):
    """Compares every generated report with its reference.

    name   how results call it
    """

    name: str

    def compare(self, references: Sequence[str], generated: Sequence[str]) -> dict[str, NDArray]:
        """Name of a score -> [N] float, a number for each pair; NaN leaves a pair out of the mean."""


def comparer_scores(comparer: ReportComparer, references: Sequence[str], generated: Sequence[str]) -> ScoreSet:
    """The means of the comparer's numbers over N pairs, those without a reference left out."""
    told = np.array([bool(reference.strip()) for reference in references], dtype=bool)
    compared = comparer.compare(references, generated)
    values = {name: np.where(told, np.asarray(each, dtype=float), np.nan) for name, each in compared.items()}
    undefined = "no report that has a reference counts"
    return ScoreSet({name: mean_of(each, undefined) for name, each in values.items()}, per_study=values)


class RadGraphComparer:
    """RadGraph F1 (Jain et al., 2021; Delbrouck et al., ACL Findings 2024) by the package radgraph.

    Agreement of the entities alone (simple), with whether each has a relation (partial), and with the relations
    themselves (complete). The package gives 0 to an empty report.
    """

    name = "radgraph"

    def __init__(self, folder: Path):
        """`folder` holds the unpacked model `radgraph-xl`. Raises UserError where that or the package is missing."""
        if find_spec("radgraph") is None:
            raise UserError("RadGraph needs the package radgraph: pip install radgraph==0.1.18")
        weights = folder / _RADGRAPH_MODEL / "weights.th"
        if not weights.is_file():
            raise UserError(
                f"RadGraph needs {weights}, which is not there: unpack {_RADGRAPH_MODEL}.tar.gz of "
                f"huggingface.co/StanfordAIMI/RRG_scorers into {weights.parent}"
            )
        try:
            self._f1 = import_module("radgraph").F1RadGraph(
                reward_level="all", model_type=_RADGRAPH_MODEL, model_cache_dir=str(folder)
            )
        except Exception as error:  # the package loads an encoder as well, and fails in many ways without it
            raise UserError(
                f"RadGraph cannot be loaded from {folder} ({_first_line(error)}): is its encoder there too?"
            ) from error

    def compare(self, references: Sequence[str], generated: Sequence[str]) -> dict[str, NDArray]:
        """As `ReportComparer.compare`."""
        _, by_level, *_ = self._f1(refs=list(references), hyps=list(generated))
        return {name: np.array(values, dtype=float) for name, values in zip(RADGRAPH_NAMES, by_level, strict=True)}


class RadEvalComparer:
    """Scores of the umbrella package RadEval (Xu et al., EMNLP demos 2025) that give a number to each pair of reports.

    They are called radeval_ and what the package calls them. Weights are the package's own affair: it looks for them in
    the cache of huggingface_hub, and fetches them where it may.
    """

    name = "radeval"

    def __init__(self, metrics: Sequence[str]):
        """`metrics` by the package's names. Raises UserError where the package, a metric or its weights are missing."""
        if find_spec("radeval") is None:
            raise UserError("RadEval needs the package radeval, in its own environment: pip install radeval==2.2.1")
        self._metrics = ", ".join(metrics)
        try:
            self._evaluate = import_module("radeval").RadEval(
                metrics=list(metrics), per_sample=True, show_progress=False
            )
        except Exception as error:  # each metric has packages and weights of its own, and ways to fail without them
            raise UserError(
                f"RadEval cannot load {self._metrics} ({_first_line(error)}): are the name and the weights right?"
            ) from error

    def compare(self, references: Sequence[str], generated: Sequence[str]) -> dict[str, NDArray]:
        """As `ReportComparer.compare`. Raises UserError where the package fails or has no number for each pair."""
        try:
            found = self._evaluate(refs=list(references), hyps=list(generated))
            values = {f"radeval_{name}": np.array(each, dtype=float) for name, each in found.items()}
        except Exception as error:  # some load their weights only now
            raise UserError(f"RadEval failed at {self._metrics} ({_first_line(error)})") from error
        for name, each in values.items():
            if each.shape != (len(references),):
                raise UserError(f"RadEval has no number for each report as {name}: leave that metric out")
        return values


def _first_line(error: Exception) -> str:
    """What `error` says, fit for one line."""
    return str(error).splitlines()[0] if str(error) else type(error).__name__
