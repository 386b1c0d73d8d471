"""Scene graphs of reports: entries of regions, groups, arbitrary text, and real reports."""

import json
import time
from pathlib import Path

import pytest
import yaml
from hypothesis import example, given, settings
from hypothesis import strategies as st

from data.ontology import Anatomy
from data.text.lexicon import Lexicon
from data.text.report_graph import read_report, region_groups, scene_graph
from data.text.words import COLUMN_SIGN

_FILES = Path(__file__).resolve().parents[3] / "files"
_REAL = Path(__file__).resolve().parents[4] / "shared" / "real" / "iu_xray"


def test_groups_name_every_region_once():
    table = region_groups()
    outside = {"neck", "ribs", "shoulders", "chest wall", "bones"}
    assert set(table) == set(Anatomy.load().names) | outside
    assert set(table.values()) == {"lung", "heart", "mediastinal", "bone"}
    assert (table["left lung"], table["cardiac silhouette"]) == ("lung", "heart")
    assert (table["mediastinum"], table["spine"]) == ("mediastinal", "bone")


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


# Arbitrary text


_WORDS = st.sampled_from(
    "no without left right effusion edema heart lung enlarged normal . , and or but with is of in the possible "
    "cannot be excluded XXXX 1. 2.5 cm seen stable mild rib fracture overlying apex".split()
)


@settings(max_examples=200, deadline=None)
@example(f"0{COLUMN_SIGN}A")
@given(st.one_of(st.text(max_size=300), st.lists(_WORDS, max_size=60).map(" ".join)))
def test_any_text_gives_a_graph(text):
    report = read_report(text)
    graph = scene_graph(report)["regions"]
    assert len(graph) == 29
    for sentence in report:
        assert sentence.text in " ".join(text.replace(COLUMN_SIGN, " ").split())
        assert set(sentence.regions) <= set(region_groups())
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
            right += {region_groups()[region] for region in sentence.regions} == {group}
            total += 1
    assert total > 9000 and right / total >= 0.92
