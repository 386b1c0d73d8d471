"""Labels of generated reports against those of references and of the data set, computed by hand."""

import numpy as np
import pytest

from data.ontology import five_observation_names, observation_names
from modules.evaluation.metrics.report_observations import (
    REPORT_NAMES,
    TABLES,
    TRUTH_NAMES,
    report_observation_scores,
    truth_observation_scores,
)

REFERENCES = [{"Edema": 1, "Fracture": 1}, {"Edema": -1}, {"No Finding": 1}]
GENERATED = [{"Edema": 1, "Pneumonia": -1}, {"Edema": 1}, {"No Finding": 1, "Edema": 0}]


def test_by_hand():
    part = report_observation_scores(REFERENCES, GENERATED)
    scores, absent = part.compute(3)
    assert set(scores) == set(REPORT_NAMES) and not absent
    # Uncertain counts as positive: Edema (twice) and No Finding are correct, Pneumonia is wrong, Fracture is missed.
    assert scores["report_14_micro_precision"] == scores["report_14_micro_recall"] == pytest.approx(3 / 4)
    assert scores["report_14_macro_f1"] == pytest.approx((1 + 0 + 1) / 3)  # Edema, Fracture, No Finding
    assert scores["report_14_example_f1"] == pytest.approx((1 / 2 + 1 + 1) / 3)
    # Edema is the only one of the five; the last study has none of them in either report.
    assert scores["report_5_micro_f1"] == scores["report_5_macro_f1"] == scores["report_5_example_f1"] == 1
    # Uncertain counts as negative: Edema of study 1 becomes wrong, Pneumonia is no longer predicted.
    assert scores["report_14_micro_precision_certain"] == pytest.approx(2 / 3)
    assert scores["report_14_micro_recall_certain"] == pytest.approx(2 / 3)
    assert scores["report_5_example_f1_certain"] == pytest.approx((1 + 0 + 1) / 3)
    assert part.per_study["report_f1"] == pytest.approx([1 / 2, 1, 1])
    table = part.tables[TABLES[0]]
    assert tuple(table) == observation_names() and "Edema" in five_observation_names()
    assert table["Edema"] == {"precision": 1.0, "recall": 1.0, "f1": 1.0, "positives": 2}
    assert table["Pneumonia"] == {"precision": None, "recall": None, "f1": None, "positives": 0}


def test_against_the_data_set_only_known_labels_count():
    truth, known = np.zeros((3, 14), dtype=bool), np.zeros((3, 14), dtype=bool)
    edema, fracture = observation_names().index("Edema"), observation_names().index("Fracture")
    truth[:2, edema] = known[:2, edema] = known[0, fracture] = truth[0, fracture] = True
    part = truth_observation_scores(truth, known, GENERATED)
    scores, _ = part.compute(3)
    assert set(scores) == set(TRUTH_NAMES)
    assert scores["truth_14_micro_precision"] == 1 and scores["truth_14_micro_recall"] == pytest.approx(2 / 3)
    assert scores["truth_14_example_recall"] == pytest.approx((1 / 2 + 1) / 2)  # the last study has no known label
    assert part.per_study["truth_f1"][:2] == pytest.approx([2 / 3, 1]) and np.isnan(part.per_study["truth_f1"][2])
    assert part.tables[TABLES[1]]["Fracture"]["recall"] == 0


def test_doubt_of_the_data_set_and_of_the_text_count_as_negative_too():
    edema, pneumonia = observation_names().index("Edema"), observation_names().index("Pneumonia")
    truth, known = np.zeros((3, 14), dtype=bool), np.ones((3, 14), dtype=bool)
    truth[:2, edema] = truth[0, pneumonia] = True
    certain = truth.copy()
    certain[1, edema] = False
    part = truth_observation_scores(truth, known, GENERATED, certain)
    scores, _ = part.compute(3)
    # Uncertain as positive: Edema (twice) and Pneumonia are correct, No Finding is wrong. As negative: one Edema is
    # correct, the other one and No Finding are wrong.
    assert scores["truth_14_micro_precision"] == pytest.approx(3 / 4) and scores["truth_14_micro_recall"] == 1
    assert scores["truth_14_micro_precision_certain"] == pytest.approx(1 / 3)
    assert scores["truth_14_micro_recall_certain"] == 1 / 2  # the text calls Pneumonia only possible
    all_certain, _ = truth_observation_scores(truth, known, GENERATED).compute(3)
    assert all_certain["truth_14_micro_recall_certain"] == pytest.approx(2 / 3)


def test_without_any_known_label_there_is_a_reason():
    nothing = np.zeros((3, 14), dtype=bool)
    for truth, known in ((None, None), (nothing, nothing)):
        scores, absent = truth_observation_scores(truth, known, GENERATED).compute(3)
        assert set(scores.values()) == {None}
        assert absent == dict.fromkeys(TRUTH_NAMES, "no study has a known observation")


def test_no_positive_label_is_absent_and_not_zero():
    scores, absent = report_observation_scores([{}, {"Edema": 0}], [{"Edema": 1}, {}]).compute(2)
    assert scores["report_14_micro_f1"] is None and "positive" in absent["report_14_micro_f1"]
    assert scores["report_14_example_f1"] == 0.5  # defined for single studies: one has a wrong finding
