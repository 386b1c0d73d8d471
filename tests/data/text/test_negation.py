"""Negation and hedging in sentences."""

import pytest

from data.text.report_graph import read_report


def polarities_of(text):
    """The findings of a text: name -> polarity."""
    return {finding.name: finding.polarity for sentence in read_report(text) for finding in sentence.findings}


@pytest.mark.parametrize(
    ("text", "expected"),
    [
        ("There is a small effusion.", {"pleural effusion": "present"}),
        ("No effusion.", {"pleural effusion": "absent"}),
        (
            "No effusion, pneumothorax, or consolidation.",
            {"pleural effusion": "absent", "pneumothorax": "absent", "consolidation": "absent"},
        ),
        (
            "Edema without effusion or pneumothorax.",
            {"edema": "present", "pleural effusion": "absent", "pneumothorax": "absent"},
        ),
        ("Negative for edema and effusion.", {"edema": "absent", "pleural effusion": "absent"}),
        ("The chest is free of edema.", {"edema": "absent"}),
        ("No opacity to suggest pneumonia.", {"lung opacity": "absent", "pneumonia": "absent"}),
        ("No evidence of large effusion.", {"pleural effusion": "absent"}),
        ("No edema but a small effusion.", {"edema": "absent", "pleural effusion": "present"}),
        ("No edema; however, effusion persists.", {"edema": "absent", "pleural effusion": "present"}),
        ("No pneumothorax with a small effusion.", {"pneumothorax": "absent", "pleural effusion": "present"}),
        ("No pneumothorax is seen, and edema is present.", {"pneumothorax": "absent", "edema": "present"}),
        ("No pneumothorax, mild edema.", {"pneumothorax": "absent", "edema": "present"}),
        ("No pneumothorax, heart is enlarged.", {"pneumothorax": "absent", "enlarged cardiac silhouette": "present"}),
        ("Pneumothorax is not seen.", {"pneumothorax": "absent"}),
        ("Effusion and edema are no longer identified.", {"pleural effusion": "absent", "edema": "absent"}),
        ("The effusion has resolved.", {"pleural effusion": "absent"}),
        ("Resolved effusion.", {"pleural effusion": "absent"}),
        ("Pneumonia has been ruled out.", {"pneumonia": "absent"}),
        ("Pneumonia is unlikely.", {"pneumonia": "absent"}),
        ("Possible pneumonia.", {"pneumonia": "uncertain"}),
        ("Findings may represent edema.", {"edema": "uncertain"}),
        ("Pneumonia cannot be excluded.", {"pneumonia": "uncertain"}),
        ("Cannot exclude pneumonia.", {"pneumonia": "uncertain"}),
        ("Atelectasis versus pneumonia.", {"atelectasis": "uncertain", "pneumonia": "uncertain"}),
        ("Edema or pneumonia.", {"edema": "uncertain", "pneumonia": "uncertain"}),
        ("Possible edema, stable effusion.", {"edema": "uncertain", "pleural effusion": "present"}),
        ("No change in the effusion.", {"pleural effusion": "present"}),
        ("The effusion has not significantly changed.", {"pleural effusion": "present"}),
        ("Effusion without significant interval change.", {"pleural effusion": "present"}),
        (
            "There are no XXXX of pneumothorax or ___ effusion.",
            {"pneumothorax": "absent", "pleural effusion": "absent"},
        ),
        ("Opacity consistent with pneumonia.", {"lung opacity": "present", "pneumonia": "present"}),
        ("If there is concern for pneumonia, repeat.", {}),
        ("No hydropneumothorax", {"hydropneumothorax": "absent"}),
    ],
)
def test_polarity(text, expected):
    assert polarities_of(text) == expected
    assert polarities_of(text.lower().replace(".", " .").replace(",", " ,")) == expected


@pytest.mark.parametrize(
    ("text", "polarity"),
    [
        ("The heart is enlarged.", "present"),
        ("Stable cardiomegaly.", "present"),
        ("Mildly enlarged cardiac silhouette.", "present"),
        ("The heart is not enlarged.", "absent"),
        ("Heart size is normal.", "absent"),
        ("Normal heart size.", "absent"),
        ("Heart size is at the upper limits of normal.", "absent"),
        ("The cardiac silhouette is within normal limits.", "absent"),
        ("Enlargement of the heart is possible.", "uncertain"),
    ],
)
def test_the_size_of_the_heart(text, polarity):
    assert polarities_of(text)["enlarged cardiac silhouette"] == polarity
