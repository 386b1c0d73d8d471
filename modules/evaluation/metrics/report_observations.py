"""Do generated reports state the observations that they should? A labeler reads the texts, and its labels are compared.

`report_*` compares with the labels of the reference report, `truth_*` with labels that the data set itself has. Names
say which observations count (all 14, or the 5 that the literature scores) and which average, as in
`modules/evaluation/metrics/multilabel.py`. An uncertain mention counts as positive; with `_certain` at the end it does not, in
either text.
"""

from collections.abc import Sequence

from numpy.typing import NDArray

from data.ontology import five_observation_names, observation_names
from modules.evaluation.metrics.labelers import positives
from modules.evaluation.metrics.multilabel import (
    MEASURES,
    example_scores,
    example_values,
    label_counts,
    label_table,
    macro_scores,
    micro_scores,
)
from modules.evaluation.metrics.weighted import ScoreSet, absent

_AVERAGES = ("micro", "macro", "example")
_SETS = ("14", "5")


def _names(prefix: str, suffix: str = "") -> tuple[str, ...]:
    return tuple(
        f"{prefix}_{count}_{average}_{measure}{suffix}"
        for count in _SETS for average in _AVERAGES for measure in MEASURES
    )


REPORT_NAMES = _names("report") + _names("report", "_certain")
TRUTH_NAMES = _names("truth") + _names("truth", "_certain")
TABLES = ("observations of the reports", "observations against the data set")


def report_observation_scores(
    references: Sequence[dict[str, int]], generated: Sequence[dict[str, int]]
) -> ScoreSet:
    """Labels of N generated reports against those of their references, as labelers give them."""
    compared = ScoreSet()
    for uncertain, suffix in ((True, ""), (False, "_certain")):
        counts = label_counts(positives(generated, uncertain), positives(references, uncertain))
        compared |= _compared(counts, "report", suffix)
        if uncertain:
            compared.per_study["report_f1"] = example_values(counts)["f1"]
            compared.tables[TABLES[0]] = label_table(counts, observation_names())
    return compared


def truth_observation_scores(
    truth: NDArray | None, known: NDArray | None, generated: Sequence[dict[str, int]], certain: NDArray | None = None
) -> ScoreSet:
    """Labels of N generated reports against the data set's own, `truth` and `known` [N, 14] bool; None without any.

    certain   `truth` with uncertain observations as negative; None where it has none
    """
    if truth is None or known is None or not known.any():
        return absent(TRUTH_NAMES, "no study has a known observation")
    counts = label_counts(positives(generated, uncertain=True), truth, known)
    compared = _compared(counts, "truth", "", known)
    compared.per_study["truth_f1"] = example_values(counts, known.any(axis=1))["f1"]
    compared.tables[TABLES[1]] = label_table(counts, observation_names())
    certain_counts = label_counts(positives(generated, uncertain=False), truth if certain is None else certain, known)
    return compared | _compared(certain_counts, "truth", "_certain", known)


def _compared(counts: NDArray, prefix: str, suffix: str, known: NDArray | None = None) -> ScoreSet:
    """All averages over both sets of observations; counts [N, 14, 3], known [N, 14] bool or None for all."""
    scores = {}
    for count, names in zip(_SETS, (observation_names(), five_observation_names()), strict=True):
        columns = [observation_names().index(name) for name in names]
        chosen = counts[:, columns]
        counted = None if known is None else known[:, columns].any(axis=1)
        found = (micro_scores(chosen), macro_scores(chosen), example_scores(chosen, counted))
        for average, by_measure in zip(_AVERAGES, found, strict=True):
            scores |= {f"{prefix}_{count}_{average}_{name}{suffix}": score for name, score in by_measure.items()}
    return ScoreSet(scores)
