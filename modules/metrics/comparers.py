"""Scores of a report against its reference by models that others trained: one interface for all of them.

A comparer gives every pair of reports a number, by the name of the score; scores are their means. RadGraph is one.
"""

from collections.abc import Sequence
from importlib import import_module
from importlib.util import find_spec
from pathlib import Path
from typing import Protocol

import numpy as np
from numpy.typing import NDArray

from data.errors import UserError
from modules.metrics.weighted import ScoreSet, mean_of

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
            reason = str(error).splitlines()[0] if str(error) else type(error).__name__
            raise UserError(f"RadGraph cannot be loaded from {folder} ({reason}): is its encoder there too?") from error

    def compare(self, references: Sequence[str], generated: Sequence[str]) -> dict[str, NDArray]:
        """As `ReportComparer.compare`."""
        _, by_level, *_ = self._f1(refs=list(references), hyps=list(generated))
        return {name: np.array(values, dtype=float) for name, values in zip(RADGRAPH_NAMES, by_level, strict=True)}
