"""Our rules behind the interface of labelers, and the labels of a study from those of its reports."""

import numpy as np

from data.ontology import observation_names
from data.text.report_labels import label_report
from modules.evaluation.metrics.labelers import RuleLabeler, by_study, called_normal_or_not, positives

REPORTS = ["There is a small left pleural effusion.", "No pneumothorax. The heart is enlarged.", "", "Possible edema."]


def test_rules_label_in_order_with_any_number_of_workers():
    many = REPORTS * 40
    alone = RuleLabeler().label(many)
    assert alone == [label_report(report) for report in many] == RuleLabeler(workers=2).label(many)
    assert RuleLabeler().name == "rules" and RuleLabeler().label([]) == []


def test_uncertain_counts_either_way():
    labels = [{"Edema": -1, "Fracture": 1, "Pneumonia": 0}, {}]
    edema, fracture = observation_names().index("Edema"), observation_names().index("Fracture")
    assert positives(labels, uncertain=True).nonzero()[1].tolist() == [edema, fracture]
    assert positives(labels, uncertain=False).nonzero()[1].tolist() == [fracture]
    assert positives([], uncertain=True).shape == (0, 14)


def test_a_study_has_the_strongest_of_its_labels_and_is_normal_if_all_reports_are():
    labels = [
        {"Edema": 0, "Fracture": -1, "No Finding": 1}, {"Edema": 1, "Fracture": 0}, {"No Finding": 1},
        {"No Finding": 1, "Support Devices": 1},
    ]
    studies = np.array([0, 0, 1, 1])
    assert by_study(called_normal_or_not(labels), studies) == [
        {"Edema": 1, "Fracture": -1, "No Finding": 0}, {"No Finding": 1, "Support Devices": 1},
    ]
    # Of a data set's labels, one that is missing is not known.
    assert by_study(labels, studies)[0] == {"Edema": 1, "Fracture": -1, "No Finding": 1}
    assert by_study([{}, {}], np.array([0, 1])) == [{}, {}]
