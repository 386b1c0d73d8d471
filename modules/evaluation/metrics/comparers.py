"""Report scores by trained models of others, behind one interface.

A comparer returns, for each of its scores, one number per pair of reports; the score is their mean. Implemented for
RadGraph and for RadEval, a package that bundles many scores.
"""

from collections.abc import Sequence
from importlib import import_module
from importlib.util import find_spec
from pathlib import Path
from typing import Protocol

import numpy as np
from numpy.typing import NDArray

from data.errors import UserError, missing, reason
from modules.evaluation.metrics.weighted import ScoreSet, mean_score

_RADGRAPH_MODEL = "radgraph-xl"
RADGRAPH_NAMES = ("radgraph_simple", "radgraph_partial", "radgraph_complete")


class ReportComparer(Protocol):
    """Compares generated reports with their references.

    name   the comparer's name in results
    """

    name: str

    def compare(self, references: Sequence[str], generated: Sequence[str]) -> dict[str, NDArray]:
        """Return score name -> [pairs] float; NaN leaves a pair out of the mean."""


def comparer_scores(comparer: ReportComparer, references: Sequence[str], generated: Sequence[str]) -> ScoreSet:
    """Return the means of the comparer's numbers over all pairs; pairs with an empty reference do not count."""
    has_reference = np.array([bool(reference.strip()) for reference in references], dtype=bool)
    compared = comparer.compare(references, generated)
    values = {name: np.where(has_reference, np.asarray(each, dtype=float), np.nan) for name, each in compared.items()}
    undefined_reason = "no report that has a reference counts"
    return ScoreSet({name: mean_score(each, undefined_reason) for name, each in values.items()}, per_study=values)


class RadGraphComparer:
    """RadGraph F1 (Jain et al., 2021; Delbrouck et al., ACL Findings 2024), computed by the package radgraph.

    Agreement of entities (simple), of entities and whether they have a relation (partial), and of entities and their
    relations (complete). The package scores an empty report 0.
    """

    name = "radgraph"

    def __init__(self, folder: Path):
        """Load the model in `folder`/radgraph-xl. Raises UserError if the model or the package is missing."""
        if find_spec("radgraph") is None:
            raise UserError("RadGraph needs the package radgraph: pip install radgraph==0.1.18")
        weights = folder / _RADGRAPH_MODEL / "weights.th"
        if not weights.is_file():
            fix = f"unpack {_RADGRAPH_MODEL}.tar.gz from huggingface.co/StanfordAIMI/RRG_scorers into {weights.parent}"
            raise missing("RadGraph weights", weights, fix)
        try:
            self._f1 = import_module("radgraph").F1RadGraph(
                reward_level="all", model_type=_RADGRAPH_MODEL, model_cache_dir=str(folder)
            )
        except Exception as error:  # the package also loads an encoder, and fails in many ways without it
            raise UserError(
                f"Cannot load RadGraph from {folder} ({reason(error)}): check that its encoder is there too"
            ) from error

    def compare(self, references: Sequence[str], generated: Sequence[str]) -> dict[str, NDArray]:
        """See `ReportComparer.compare`."""
        _, by_level, *_ = self._f1(refs=list(references), hyps=list(generated))
        return {name: np.array(values, dtype=float) for name, values in zip(RADGRAPH_NAMES, by_level, strict=True)}


class RadEvalComparer:
    """Scores of the package RadEval (Xu et al., EMNLP demos 2025) that return one number per pair of reports.

    Their names are the package's with the prefix radeval_. The package looks for weights in the cache of
    huggingface_hub, and downloads them if it can.
    """

    name = "radeval"

    def __init__(self, metrics: Sequence[str]):
        """Load `metrics`, named as in the package. Raises UserError if the package, a metric or weights are missing."""
        if find_spec("radeval") is None:
            raise UserError("RadEval needs the package radeval, in a separate environment: pip install radeval==2.2.1")
        self._metrics = ", ".join(metrics)
        try:
            self._evaluate = import_module("radeval").RadEval(
                metrics=list(metrics), per_sample=True, show_progress=False
            )
        except Exception as error:  # each metric has packages and weights that can be missing in many ways
            raise UserError(
                f"RadEval cannot load {self._metrics} ({reason(error)}): check the names and the weights"
            ) from error

    def compare(self, references: Sequence[str], generated: Sequence[str]) -> dict[str, NDArray]:
        """See `ReportComparer.compare`. Raises UserError if a metric fails or does not return one number per pair."""
        try:
            results = self._evaluate(refs=list(references), hyps=list(generated))
            values = {f"radeval_{name}": np.array(each, dtype=float) for name, each in results.items()}
        except Exception as error:  # some metrics load their weights only now
            raise UserError(f"RadEval failed to compute {self._metrics} ({reason(error)})") from error
        for name, each in values.items():
            if each.shape != (len(references),):
                raise UserError(f"RadEval does not return one number per report for {name}: leave this metric out")
        return values
