"""The rule labeler, and merging the labels of a study's reports."""

import numpy as np

from data.ontology import observation_names
from data.text.report_labels import label_report
from modules.evaluation.metrics.labelers import (
    RuleLabeler,
    fill_missing_no_finding,
    merge_labels_by_study,
    positive_mask,
)

REPORTS = ["There is a small left pleural effusion.", "No pneumothorax. The heart is enlarged.", "", "Possible edema."]


def test_rules_label_in_order_with_any_number_of_workers():
    many = REPORTS * 40
    alone = RuleLabeler().label(many)
    assert alone == [label_report(report) for report in many] == RuleLabeler(workers=2).label(many)
    assert RuleLabeler().name == "rules" and RuleLabeler().label([]) == []


def test_uncertain_counts_either_way():
    labels = [{"Edema": -1, "Fracture": 1, "Pneumonia": 0}, {}]
    edema, fracture = observation_names().index("Edema"), observation_names().index("Fracture")
    assert positive_mask(labels, uncertain=True).nonzero()[1].tolist() == [edema, fracture]
    assert positive_mask(labels, uncertain=False).nonzero()[1].tolist() == [fracture]
    assert positive_mask([], uncertain=True).shape == (0, 14)


def test_a_study_has_the_strongest_of_its_labels_and_is_normal_if_all_reports_are():
    labels = [
        {"Edema": 0, "Fracture": -1, "No Finding": 1}, {"Edema": 1, "Fracture": 0}, {"No Finding": 1},
        {"No Finding": 1, "Support Devices": 1},
    ]
    studies = np.array([0, 0, 1, 1])
    assert merge_labels_by_study(fill_missing_no_finding(labels), studies) == [
        {"Edema": 1, "Fracture": -1, "No Finding": 0}, {"No Finding": 1, "Support Devices": 1},
    ]
    # In a data set's labels, a missing label is unknown and does not count as 0.
    assert merge_labels_by_study(labels, studies)[0] == {"Edema": 1, "Fracture": -1, "No Finding": 1}
    assert merge_labels_by_study([{}, {}], np.array([0, 1])) == [{}, {}]
