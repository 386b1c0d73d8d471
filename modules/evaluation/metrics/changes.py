"""Scores of how regions have changed since the patient's previous study.

Shapes: R regions; a change is an index of `data.ontology.CHANGES`, -1 if there is none or it is unknown.
"""

from collections.abc import Sequence

import numpy as np
from numpy.typing import NDArray

from data.ontology import CHANGES, UNCHANGED, Anatomy
from data.text.report_graph import read_report, scene_graph
from data.text.sentence_regions import word_comparisons
from modules.evaluation.metrics.multilabel import label_counts, macro_scores
from modules.evaluation.metrics.weighted import ScoreSet, absent_scores, ratio_score

HEAD_NAMES = ("change_macro_f1", "change_macro_f1_unchanged")
REPORT_NAMES = (
    "comparison_accuracy", "comparison_accuracy_unchanged", "comparison_accuracy_frequent", "invented_comparisons",
)
NAMES = HEAD_NAMES + REPORT_NAMES
TABLE = "changes by region"

_UNCHANGED = CHANGES.index(UNCHANGED)


def read_changes(report: str) -> NDArray:
    """Return the change that a report states of each region, [R] long."""
    names = Anatomy.load().names
    regions = scene_graph(read_report(report))["regions"]
    changes = (regions.get(name, {}).get("change") for name in names)
    return np.array([-1 if change is None else CHANGES.index(change) for change in changes])


def change_scores(predicted: NDArray | None, reference: NDArray, prior_shown: NDArray) -> ScoreSet:
    """Return F1 of the predicted changes, mean over the changes that occur, that of always saying "no change"
    (`change_macro_f1_unchanged`), and a table by region.

    Regions whose change is unknown, or not predicted, do not count, nor do studies whose prior was not shown to the
    model: a baseline, which answers for all studies, is compared with it on the same ones.

    The table has, of each region, the number of `changes` that count, the `accuracy` of the predicted ones, and
    `accuracy_unchanged`, that of always saying "no change".

    predicted, reference [studies, R]; prior_shown [studies] bool
    """
    if predicted is None:
        return absent_scores(HEAD_NAMES, "changes are not predicted")
    if not prior_shown.any():
        return absent_scores(HEAD_NAMES, "no prior was shown")
    counted = (reference >= 0) & (predicted >= 0) & prior_shown[:, None]
    if not counted.any():
        return absent_scores(HEAD_NAMES, "no predicted change is annotated")
    answers = {"change_macro_f1": predicted, "change_macro_f1_unchanged": np.full_like(predicted, _UNCHANGED)}
    return ScoreSet(
        {name: macro_scores(_counts_by_change(answer, reference, counted))["f1"] for name, answer in answers.items()},
        tables={TABLE: _accuracy_table(predicted, reference, counted)},
    )


def _counts_by_change(predicted: NDArray, reference: NDArray, counted: NDArray) -> NDArray:
    """Return the `label_counts` of every study and change, [studies, changes, counts]."""
    return np.stack([
        label_counts(predicted == change, reference == change, counted).sum(1) for change in range(len(CHANGES))
    ], 1)


def _accuracy_table(
    predicted: NDArray, reference: NDArray, counted: NDArray
) -> dict[str, dict[str, float | None]]:
    """Return a row for each region, as in `change_scores`; without changes, accuracies are None."""
    changes = counted.sum(0)
    right, unchanged = ((same & counted).sum(0) for same in (predicted == reference, reference == _UNCHANGED))
    return {
        name: {
            "accuracy": float(right[region] / changes[region]) if changes[region] else None,
            "accuracy_unchanged": float(unchanged[region] / changes[region]) if changes[region] else None,
            "changes": int(changes[region]),
        }
        for region, name in enumerate(Anatomy.load().names)
    }


def comparison_scores(
    reports: Sequence[str], reference: NDArray, prior_shown: NDArray, has_report: NDArray
) -> ScoreSet:
    """Return the scores of the comparisons in generated reports.

    comparison_accuracy             share of the changes that reports state of regions whose change is known that are
                                    right, in studies with a known change
    comparison_accuracy_unchanged   the same if each of these statements were "no change"
    comparison_accuracy_frequent    the same if each were the most frequent known change of the region in these studies:
                                    no answer that ignores the images can be better
    invented_comparisons            share of the reports that compare with an earlier study, be it in general, of those
                                    of studies whose prior was not shown to the model

    reference [studies, R]; prior_shown, has_report [studies] bool.
    """
    stated = np.stack([read_changes(report) for report in reports])
    compared = (stated >= 0) & (reference >= 0)
    counts, reason = compared.sum(1), "no report states a change that is annotated"
    unseen = has_report & ~prior_shown
    compares = np.array([word_comparisons(report).any() for report in reports])
    return ScoreSet({
        "comparison_accuracy": ratio_score((compared & (stated == reference)).sum(1), counts, reason),
        "comparison_accuracy_unchanged": ratio_score((compared & (reference == _UNCHANGED)).sum(1), counts, reason),
        "comparison_accuracy_frequent": ratio_score(
            (compared & (reference == _most_frequent_changes(reference, compared))).sum(1), counts, reason
        ),
        "invented_comparisons": ratio_score(
            (compares & unseen).astype(float), unseen.astype(float), "every prior was shown"
        ),
    })


def _most_frequent_changes(reference: NDArray, counted: NDArray) -> NDArray:
    """Return the change of each region that is most frequent where it is `counted`, [R]."""
    return np.stack([((reference == change) & counted).sum(0) for change in range(len(CHANGES))]).argmax(0)
