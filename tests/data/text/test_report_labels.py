"""Labeling reports with the 14 observations: values and conventions."""

from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from data.ontology import observation_names
from data.text.report_labels import label_report

_REAL = Path(__file__).resolve().parents[4] / "shared" / "real" / "iu_xray"


def positives(text):
    """The observations that are present or uncertain."""
    return {name for name, value in label_report(text).items() if value}


@pytest.mark.parametrize(
    ("text", "observation"),
    [
        ("Left basilar atelectasis.", "Atelectasis"),
        ("The heart is mildly enlarged.", "Cardiomegaly"),
        ("Right upper lobe consolidation.", "Consolidation"),
        ("Pulmonary vascular congestion.", "Edema"),
        ("Interstitial edema.", "Edema"),
        ("Widening of the mediastinum.", "Enlarged Cardiomediastinum"),
        ("Displaced left rib fracture.", "Fracture"),
        ("A 9 mm nodule in the lingula.", "Lung Lesion"),
        ("Hazy opacity at the left base.", "Lung Opacity"),
        ("New infiltrate.", "Lung Opacity"),
        ("Lungs are clear.", "No Finding"),
        ("Small bilateral effusions.", "Pleural Effusion"),
        ("Pleural thickening along the lateral chest wall.", "Pleural Other"),
        ("Findings suggest pneumonia.", "Pneumonia"),
        ("Right apical pneumothorax.", "Pneumothorax"),
    ],
)
def test_each_observation(text, observation):
    assert positives(text) == {observation}


def test_devices_leave_no_finding():
    assert positives("Right PICC ends in the SVC. Lungs are clear.") == {"Support Devices", "No Finding"}


def test_values():
    labels = label_report("Possible pneumonia. No effusion. Stable cardiomegaly.")
    assert labels == {"Cardiomegaly": 1, "Pleural Effusion": 0, "Pneumonia": -1}
    assert list(labels) == sorted(labels)


@pytest.mark.parametrize(
    ("text", "value"),
    [
        ("Left effusion. No right effusion.", 1),
        ("Possible effusion. No effusion.", -1),
        ("Effusion. Possible effusion.", 1),
        ("No effusion. No effusion.", 0),
    ],
)
def test_several_mentions(text, value):
    assert label_report(text)["Pleural Effusion"] == value


@pytest.mark.parametrize(
    ("text", "holds"),
    [
        ("Normal chest.", True),
        ("No acute disease.", True),
        ("Degenerative changes of the spine.", True),
        ("Calcified granuloma in the left lung.", True),
        ("Low lung volumes.", True),
        ("Old rib fractures.", True),
        ("Possible effusion.", False),
        ("Emphysema.", False),
        ("Hiatal hernia.", False),
        ("Hyperinflated lungs.", False),
        ("", False),
        ("...", False),
        ("12 34", False),
    ],
)
def test_no_finding(text, holds):
    assert ("No Finding" in label_report(text)) is holds


def test_old_fractures_are_not_counted():
    assert "Fracture" not in positives("Healed left rib fractures.") and "Fracture" in positives("Left rib fractures.")


def test_a_text_without_words_mentions_nothing():
    assert label_report("") == label_report(" . ") == {}


def test_raw_and_cleaned_reports_have_the_same_labels():
    raw = "1. No pneumothorax or effusion. 2. Mild cardiomegaly, left atelectasis.\nDr. XXXX: pneumonia is unlikely."
    cleaned = "no pneumothorax or effusion . mild cardiomegaly left atelectasis . dr xxxx pneumonia is unlikely ."
    assert label_report(raw) == label_report(cleaned)


@given(st.text(max_size=400))
def test_any_text_gets_labels(text):
    labels = label_report(text)
    assert set(labels) <= set(observation_names()) and set(labels.values()) <= {0, 1, -1}
    assert labels.get("No Finding", 1) == 1
