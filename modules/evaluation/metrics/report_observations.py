"""Scores of the observations that generated reports state, as a labeler extracts them.

`report_*` compares with the labels of the reference report, `truth_*` with the labels of the data set itself. Names say
which observations count (all 14, or the 5 that the literature scores) and how they are averaged (see
`modules/evaluation/metrics/multilabel.py`). An uncertain mention counts as positive; with the suffix `_certain` it
counts as negative, in both texts.
"""

from collections.abc import Sequence

from numpy.typing import NDArray

from data.ontology import five_observation_names, observation_names
from modules.evaluation.metrics.labelers import positive_mask
from modules.evaluation.metrics.multilabel import (
    MEASURES,
    example_scores,
    example_values,
    label_counts,
    label_table,
    macro_scores,
    micro_scores,
)
from modules.evaluation.metrics.weighted import ScoreSet, absent_scores

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
    """Compare the labels of generated reports with those of their references (labels as from `ReportLabeler`)."""
    scores = ScoreSet()
    for uncertain, suffix in ((True, ""), (False, "_certain")):
        counts = label_counts(positive_mask(generated, uncertain), positive_mask(references, uncertain))
        scores |= _all_averages(counts, "report", suffix)
        if uncertain:
            scores.per_study["report_f1"] = example_values(counts)["f1"]
            scores.tables[TABLES[0]] = label_table(counts, observation_names())
    return scores


def truth_observation_scores(
    truth: NDArray | None, known: NDArray | None, generated: Sequence[dict[str, int]], certain: NDArray | None = None
) -> ScoreSet:
    """Compare the labels of generated reports with the data set's labels.

    truth     [studies, 14] bool, the data set's labels; None if it has none
    known     [studies, 14] bool: the data set has this label; None if it has none
    certain   `truth` with uncertain observations as negative; None if no label is uncertain
    """
    if truth is None or known is None or not known.any():
        return absent_scores(TRUTH_NAMES, "no study has a known observation")
    counts = label_counts(positive_mask(generated, uncertain=True), truth, known)
    scores = _all_averages(counts, "truth", "", known)
    scores.per_study["truth_f1"] = example_values(counts, known.any(axis=1))["f1"]
    scores.tables[TABLES[1]] = label_table(counts, observation_names())
    certain_truth = truth if certain is None else certain
    certain_counts = label_counts(positive_mask(generated, uncertain=False), certain_truth, known)
    return scores | _all_averages(certain_counts, "truth", "_certain", known)


def _all_averages(counts: NDArray, prefix: str, suffix: str, known: NDArray | None = None) -> ScoreSet:
    """Return all averages over both sets of observations.

    counts [studies, 14, 3], known [studies, 14] bool (None for all)
    """
    scores = {}
    for count, names in zip(_SETS, (observation_names(), five_observation_names()), strict=True):
        columns = [observation_names().index(name) for name in names]
        selected = counts[:, columns]
        counted = None if known is None else known[:, columns].any(axis=1)
        averages = (micro_scores(selected), macro_scores(selected), example_scores(selected, counted))
        for average, by_measure in zip(_AVERAGES, averages, strict=True):
            scores |= {f"{prefix}_{count}_{average}_{name}{suffix}": score for name, score in by_measure.items()}
    return ScoreSet(scores)
