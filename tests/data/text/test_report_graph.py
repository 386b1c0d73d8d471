"""What sentences of reports say: findings, their regions and polarity, and the scene graph of a report."""

import json
import time
from pathlib import Path

import pytest
import yaml
from hypothesis import given, settings
from hypothesis import strategies as st

from data.ontology import Anatomy
from data.text.lexicon import Lexicon
from data.text.report_graph import groups, read_report, scene_graph

_FILES = Path(__file__).resolve().parents[3] / "files"
_REAL = Path(__file__).resolve().parents[4] / "shared" / "real" / "iu_xray"


def found(text):
    """Name of a finding -> its polarity, of all sentences."""
    return {finding.name: finding.polarity for sentence in read_report(text) for finding in sentence.findings}


def only(text, name):
    """The one finding `name` of the text."""
    (finding,) = [each for sentence in read_report(text) for each in sentence.findings if each.name == name]
    return finding


def regions(text):
    """All regions that the text is about."""
    return {region for sentence in read_report(text) for region in sentence.regions}


# Polarity


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
    assert found(text) == expected
    assert found(text.lower().replace(".", " .").replace(",", " ,")) == expected


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
    assert found(text)["enlarged cardiac silhouette"] == polarity


@pytest.mark.parametrize(
    ("text", "polarity"),
    [
        ("No effusion, mild edema.", "present"),
        ("Possible edema. No effusion.", "uncertain"),
        ("No effusion or edema.", "absent"),
        ("The lungs are clear.", "absent"),
        ("PA and lateral views.", None),
    ],
)
def test_the_polarity_of_sentences_is_their_strongest(text, polarity):
    assert read_report(text)[0].polarity == polarity


# Where


@pytest.mark.parametrize(
    ("text", "expected"),
    [
        ("Left effusion.", {"left lung", "left costophrenic angle"}),
        ("Right lower lobe opacity.", {"right lung", "right lower lung zone"}),
        ("An opacity in the lingula.", {"left lung", "left mid lung zone"}),
        ("Retrocardiac consolidation.", {"left lung", "left lower lung zone"}),
        ("Bibasilar opacities.", {"left lung", "right lung", "left lower lung zone", "right lower lung zone"}),
        (
            "Opacity in the right apex, left base.",
            {"left lung", "right lung", "right apical zone", "left lower lung zone"},
        ),
        (
            "Consolidation in the left upper and lower lobes.",
            {"left lung", "left upper lung zone", "left lower lung zone"},
        ),
        (
            "The right upper, mid, and lower lung zones are clear.",
            {"right lung", "right upper lung zone", "right mid lung zone", "right lower lung zone"},
        ),
        (
            "Opacities in the left upper and right lower lobe.",
            {"left lung", "right lung", "left upper lung zone", "right lower lung zone"},
        ),
        ("No pneumothorax.", {"left lung", "right lung", "left apical zone", "right apical zone"}),
        ("Cardiomegaly.", {"cardiac silhouette"}),
        ("Nodular opacity overlying the heart.", {"left lung", "right lung"}),
        ("Elevated right hemidiaphragm.", {"right hemidiaphragm"}),
        ("The trachea is midline.", {"trachea"}),
        ("Tortuous aorta.", {"mediastinum"}),
        ("Calcified aortic knob.", {"aortic arch", "mediastinum"}),
        ("Prominent left hilum.", {"left hilar structures"}),
        ("Old left rib fracture.", {"ribs"}),
        ("Fracture of the right clavicle.", {"right clavicle"}),
        ("Degenerative changes of the thoracic spine.", {"spine"}),
        ("Degenerative changes of the shoulders.", {"shoulders"}),
        ("Stable mediastinal contours.", {"mediastinum"}),
        ("Soft tissues are unremarkable.", {"chest wall"}),
        ("PA and lateral views were obtained.", set()),
    ],
)
def test_regions(text, expected):
    assert regions(text) == expected


def test_places_go_to_the_finding_next_to_them():
    text = "Left basilar atelectasis and a right apical nodule."
    assert only(text, "atelectasis").regions == ("left lower lung zone", "left lung")
    assert only(text, "nodule").regions == ("right apical zone", "right lung")


def test_what_is_explained_lies_where_the_explanation_does():
    assert only("Left basilar opacity, pneumonia.", "pneumonia").regions == ("left lower lung zone", "left lung")
    assert "left lower lung zone" not in only("Left basilar opacity, no pneumonia.", "pneumonia").regions


def test_cues():
    finding = only("Moderate chronic left effusion, unchanged.", "pleural effusion")
    assert (finding.severity, finding.temporal, finding.comparison) == ("moderate", "chronic", "no change")
    assert only("Worsening edema.", "edema").comparison == "worsened"
    assert only("Improved edema.", "edema").comparison == "improved"


def test_severity_and_side_stay_with_their_finding():
    first, second = read_report("Small left effusion and large right effusion.")[0].findings
    assert (first.side, first.severity, second.side, second.severity) == ("left", "mild", "right", "severe")


def test_groups_name_every_region_once():
    table = groups()
    outside = {"neck", "ribs", "shoulders", "chest wall", "bones"}
    assert set(table) == set(Anatomy.load().names) | outside
    assert set(table.values()) == {"lung", "heart", "mediastinal", "bone"}
    assert (table["left lung"], table["cardiac silhouette"]) == ("lung", "heart")
    assert (table["mediastinum"], table["spine"]) == ("mediastinal", "bone")


# Graphs


def test_scene_graph():
    graph = scene_graph(read_report("Heart size is normal. Mild left effusion. No right effusion."))["regions"]
    assert list(graph) == list(Anatomy.load().names)
    assert graph["left lung"] == {
        "box": None,
        "mentioned": True,
        "abnormal": True,
        "attributes": [
            "anatomicalfinding|yes|pleural effusion",
            "severity|yes|mild",
            "laterality|yes|left",
            "nlp|yes|abnormal",
        ],
        "phrases": ["Mild left effusion."],
    }
    assert graph["right lung"]["attributes"] == ["anatomicalfinding|no|pleural effusion", "nlp|yes|normal"]
    assert graph["cardiac silhouette"]["attributes"] == [
        "anatomicalfinding|no|enlarged cardiac silhouette",
        "nlp|yes|normal",
    ]
    assert graph["spine"] == {"box": None, "mentioned": False, "abnormal": False, "attributes": [], "phrases": []}


def test_the_last_mention_wins_and_one_abnormal_mention_is_enough():
    graph = scene_graph(read_report("Left effusion. No left effusion."))["regions"]["left lung"]
    assert "anatomicalfinding|no|pleural effusion" in graph["attributes"] and graph["abnormal"]


def test_hedged_findings_are_affirmed_with_a_hedge():
    attributes = scene_graph(read_report("Possible left pneumonia."))["regions"]["left lung"]["attributes"]
    assert {"disease|yes|pneumonia", "severity|yes|hedge", "nlp|yes|abnormal"} <= set(attributes)


def test_a_one_sided_finding_of_unknown_side_is_in_neither_lung():
    sentence = read_report("There is a calcified granuloma.")[0]
    assert set(sentence.regions) == {"left lung", "right lung"}
    graph = scene_graph([sentence])["regions"]
    assert not graph["left lung"]["mentioned"] and not graph["right lung"]["attributes"]
    assert scene_graph(read_report("No nodule."))["regions"]["left lung"]["mentioned"]


def test_attributes_are_those_of_the_vocabulary():
    categories = yaml.safe_load((_FILES / "attributes.yaml").read_text(encoding="utf-8"))["categories"]
    for kind in Lexicon.load().findings.values():
        if kind.attribute is not None:
            category, label = kind.attribute.split("|")
            assert label in categories[category], kind.name


# Whatever the text


_WORDS = st.sampled_from(
    "no without left right effusion edema heart lung enlarged normal . , and or but with is of in the possible "
    "cannot be excluded XXXX 1. 2.5 cm seen stable mild rib fracture overlying apex".split()
)


@settings(max_examples=200, deadline=None)
@given(st.one_of(st.text(max_size=300), st.lists(_WORDS, max_size=60).map(" ".join)))
def test_any_text_gives_a_graph(text):
    report = read_report(text)
    graph = scene_graph(report)["regions"]
    assert len(graph) == 29
    for sentence in report:
        assert sentence.text in " ".join(text.split()) and set(sentence.regions) <= set(groups())
    for region in graph.values():
        assert region["mentioned"] or not region["attributes"]
        assert all(len(attribute.split("|")) == 3 for attribute in region["attributes"])
        assert region["abnormal"] or "nlp|yes|abnormal" not in region["attributes"]


@pytest.mark.parametrize(
    "unit",
    [
        "no effusion, ",
        "left and right ",
        "overlying the heart is enlarged ",
        "(",
        "\n",
        "\n ",
        "a:",
        "1. ",
        "..",
        "Dr. ",
        "no evidence of ",
        "e.",
        "x",
        "not ",
    ],
)
def test_time_is_linear_in_length(unit):
    started = time.perf_counter()
    read_report(unit * (100_000 // len(unit)))
    assert time.perf_counter() - started < 10


# Real reports


@pytest.mark.skipif(not _REAL.is_dir(), reason="needs ../shared/real/iu_xray beside the checkout")
def test_sentences_of_real_reports_are_assigned_to_the_groups_that_people_assigned_them_to():
    right = total = 0
    studies = json.loads((_REAL / "region_sentences_train.json").read_text(encoding="utf-8"))
    for group, text in (item for study in studies for item in study["report"].items() if item[0] != "others"):
        for sentence in read_report(text):
            right += {groups()[region] for region in sentence.regions} == {group}
            total += 1
    assert total > 9000 and right / total >= 0.92
