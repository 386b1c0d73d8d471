"""Scores of predicted changes, and of what generated reports say about them."""

import numpy as np
import pytest

from data.ontology import CHANGES, Anatomy
from modules.evaluation.metrics.changes import change_scores, comparison_scores, read_changes

NAMES = Anatomy.load().names
NEW, WORSENED, IMPROVED, UNCHANGED, RESOLVED = range(len(CHANGES))
BOTH_SHOWN = np.ones(2, dtype=bool)


def regions(**changes):
    """[R] with the changes of regions by name, with underscores for spaces; -1 elsewhere."""
    found = np.full(len(NAMES), -1)
    for name, change in changes.items():
        found[NAMES.index(name.replace("_", " "))] = change
    return found


def values(scores, studies):
    return scores.evaluate(studies, resamples=0).scores


def test_reports_are_read_by_region():
    found = read_changes("new left pleural effusion . the heart is stable .")
    assert found[NAMES.index("left costophrenic angle")] == NEW
    assert found[NAMES.index("cardiac silhouette")] == UNCHANGED and found[NAMES.index("right lung")] == -1


def test_f1_is_the_mean_over_the_changes_that_occur():
    reference = np.stack([regions(spine=NEW, carina=NEW, trachea=UNCHANGED), regions(spine=UNCHANGED)])
    predicted = np.stack([regions(spine=NEW, carina=UNCHANGED, trachea=UNCHANGED), regions(svc=NEW)])
    scores = values(change_scores(predicted, reference, BOTH_SHOWN), 2)
    assert scores["change_macro_f1"] == pytest.approx((2 / 3 + 2 / 3) / 2)  # the second study has no common region
    assert scores["change_macro_f1_unchanged"] == pytest.approx((0 + 2 / 4) / 2)  # one of three


def test_the_table_has_the_share_of_right_changes_by_region_beside_that_of_no_change():
    reference = np.stack([regions(spine=NEW, carina=UNCHANGED), regions(spine=UNCHANGED)])
    predicted = np.stack([regions(spine=NEW, carina=NEW, svc=NEW), regions(spine=RESOLVED)])
    table = change_scores(predicted, reference, BOTH_SHOWN).tables["changes by region"]
    assert list(table) == list(NAMES)
    assert table["spine"] == {"accuracy": 0.5, "accuracy_unchanged": 0.5, "changes": 2}
    assert table["carina"] == {"accuracy": 0.0, "accuracy_unchanged": 1.0, "changes": 1}
    assert table["svc"] == {"accuracy": None, "accuracy_unchanged": None, "changes": 0}


def test_changes_of_studies_whose_prior_was_not_shown_do_not_count():
    """A baseline, which answers for every study, is scored on those that a model can answer for."""
    reference = np.stack([regions(spine=NEW), regions(spine=RESOLVED)])
    predicted = np.stack([regions(spine=NEW), regions(spine=NEW)])
    shown = np.array([True, False])
    scored = change_scores(predicted, reference, shown)
    assert values(scored, 2) == {"change_macro_f1": 1.0, "change_macro_f1_unchanged": 0.0}
    assert scored.tables["changes by region"]["spine"]["changes"] == 1
    assert "no prior was shown" in change_scores(predicted, reference, ~BOTH_SHOWN).absent["change_macro_f1"]


def test_what_is_not_predicted_or_annotated_has_no_score():
    known, shown = regions(spine=NEW)[None], BOTH_SHOWN[:1]
    assert "changes are not predicted" in change_scores(None, known, shown).absent["change_macro_f1"]
    assert "annotated" in change_scores(known, regions()[None], shown).absent["change_macro_f1"]


def test_the_most_frequent_change_of_each_region_is_the_best_answer_without_images():
    reports = ["stable left pleural effusion . the heart is stable ."] * 3
    changes = [(NEW, UNCHANGED), (NEW, WORSENED), (RESOLVED, WORSENED)]
    reference = np.stack([
        regions(left_costophrenic_angle=angle, cardiac_silhouette=heart) for angle, heart in changes
    ])
    shown = np.ones(3, dtype=bool)
    scores = values(comparison_scores(reports, reference, shown, shown), 3)
    assert scores["comparison_accuracy_frequent"] == pytest.approx(4 / 6)  # the angle is new, the heart worse
    assert scores["comparison_accuracy_unchanged"] == pytest.approx(1 / 6)


def test_general_remarks_that_compare_are_invented_too():
    reports = ["the lungs are clear . comparison is made with the prior study .", "no prior study is available ."]
    unknown, unseen = np.stack([regions(), regions()]), ~BOTH_SHOWN
    scores = values(comparison_scores(reports, unknown, unseen, BOTH_SHOWN), 2)
    assert scores["invented_comparisons"] == 0.5


def test_comparisons_are_right_wrong_or_invented():
    reports = [
        "worsened left pleural effusion .",                       # right in both regions
        "the left effusion is unchanged . new scoliosis .",       # wrong, and of a region whose change is not known
        "new right pleural effusion .",                           # no prior shown
        "the lungs are clear .",                                  # no prior shown, nothing invented
        "",                                                       # a study without a report
    ]
    truth = regions(left_costophrenic_angle=WORSENED, left_lung=WORSENED)
    reference = np.stack([truth, truth, regions(), regions(), regions()])
    shown, has_report = np.array([1, 1, 0, 0, 0], dtype=bool), np.array([1, 1, 1, 1, 0], dtype=bool)
    scores = values(comparison_scores(reports, reference, shown, has_report), 5)
    assert scores == {
        "comparison_accuracy": 0.5, "comparison_accuracy_unchanged": 0.0, "comparison_accuracy_frequent": 1.0,
        "invented_comparisons": 0.5,
    }
    unchanged = np.where(reference >= 0, UNCHANGED, -1)
    scores = values(comparison_scores(reports, unchanged, np.ones(5, dtype=bool), has_report), 5)
    assert scores["comparison_accuracy_unchanged"] == 1.0 and "invented_comparisons" not in {
        name for name, value in scores.items() if value is not None
    }
