"""A study on the page: its image, boxes, sentences, marks and colours."""

import base64
import io
import re
import xml.etree.ElementTree as ElementTree
from dataclasses import replace

import numpy as np
import pytest
from PIL import Image

from modules.evaluation.display import format_report
from modules.evaluation.pages.study_panel import COLOURS, HIGHLIGHT, Case, study_panel
from modules.evaluation.sentences import GeneratedSentence
from tests.support.evaluation.fake_evaluation import evaluate, open_split
from tests.support.evaluation.fake_model import FakeModel
from tests.support.tiny_dataset import write_tiny_dataset

SIGNS = {(True, True): ("agreed", "✓"), (False, True): ("missed", "−"), (True, False): ("added", "+")}


@pytest.fixture(scope="module")
def dataset(tmp_path_factory):
    root = tmp_path_factory.mktemp("data") / "tiny"
    return open_split(write_tiny_dataset(root, train=4, val=1, test=6, image_size=32))


@pytest.fixture(scope="module")
def records(dataset):
    return records_of(dataset)


def records_of(dataset, **parts):
    model = FakeModel(dataset.vocabularies, ["the heart is normal . no pneumothorax ."], **parts)
    return evaluate(dataset, model, resamples=0).records


def panel(dataset, record, position=0, reason="for a reason"):
    text = study_panel(Case(record, dataset[position].images[0].numpy(), reason), dataset.vocabularies)
    return ElementTree.fromstring(text)


def test_the_picture_is_what_the_network_saw(dataset, records):
    for position, record in enumerate(records):
        (image,) = panel(dataset, record, position).iter("image")
        embedded = np.asarray(Image.open(io.BytesIO(base64.b64decode(image.get("href").split(",")[1]))))
        np.testing.assert_array_equal(embedded, dataset[position].images[0].numpy())


def test_texts_and_the_reason_are_there(dataset, records):
    plain = "".join(panel(dataset, records[0]).itertext())
    for part in (records[0].study_id, format_report(records[0].reference), "The heart is normal.", "for a reason"):
        assert part in plain


def test_reports_have_capitals(dataset, records):
    sentence = GeneratedSentence("ap view of the chest .", np.zeros(len(dataset.vocabularies.anatomy.names)), -0.5, 0.5)
    record = replace(records[0], reference="no chf . et tube in place .", sentences=[sentence])
    plain = "".join(panel(dataset, record).itertext())
    assert "AP view of the chest." in plain and "No CHF. ET tube in place." in plain
    empty = replace(record, generated="pa view .", sentences=[])
    assert "PA view." in "".join(panel(dataset, empty).itertext())


def test_boxes_of_selected_and_mentioned_regions_are_drawn(dataset, records):
    for position, record in enumerate(records):
        boxes = {"predicted": [], "reference": []}
        for group in panel(dataset, record, position).iter("g"):
            rectangle = group.find("rect")
            x, y, width, height = (float(rectangle.get(key)) / 32 for key in ("x", "y", "width", "height"))
            boxes[group.get("class").split()[0]].append([x, y, x + width, y + height])
        mentioned = record.annotation.mentioned & record.annotation.visible
        np.testing.assert_allclose(boxes["reference"], record.annotation.boxes[mentioned], atol=1e-3)
        selected = record.prediction.boxes[record.prediction.region_selected]
        np.testing.assert_allclose(
            sorted(boxes["predicted"]), sorted(np.clip(selected, 0, 1).tolist()), atol=1e-3
        )


def test_sentences_name_and_share_the_colour_of_the_region_that_they_looked_at_most(dataset, records):
    names = dataset.vocabularies.anatomy.names
    shares = np.zeros((3, len(names)))
    shares[0, [4, 7, 9]] = 0.5, 0.3, 0.2
    shares[1, 7] = 1.0
    texts = ("the heart is enlarged .", "<unk> .", "no pneumothorax .")
    record = replace(records[0], reference="no effusion .", sentences=[
        GeneratedSentence(text, regions, -0.5, confidence)
        for text, regions, confidence in zip(texts, shares, (0.25, 0.5, 0.75), strict=True)
    ])
    tree = panel(dataset, record)
    first, second, third = (item for item in tree.iter("li"))
    assert first.get("class").split() == ["sentence", "looks4", "looks7", "c0"] and first.get("tabindex") == "0"
    assert second.get("class").split() == ["sentence", "looks7", "c1"]
    assert third.get("class").split() == ["sentence"]
    lines = ["".join(item.itertext()) for item in (first, second, third)]
    assert f"{names[4]} 50%, {names[7]} 30%" in lines[0] and names[9] not in lines[0]
    assert "confidence 0.25" in lines[0] and "✗ not supported" in lines[0]
    assert "makes no claim" in lines[1]
    assert "attends to no region" in lines[2] and "✓ supported" in lines[2]
    coloured = {group.get("class") for group in tree.iter("g") if "coloured" in group.get("class")}
    assert coloured == {"predicted region4 coloured c0", "predicted region7 coloured c1"}


def test_every_region_has_a_rule_that_lifts_it_out(dataset):
    for region in range(len(dataset.vocabularies.anatomy.names)):
        assert f".looks{region}:is(:hover, :focus)) .image .region{region} {{" in HIGHLIGHT


def test_graphs_are_compared_region_by_region(dataset, records):
    names = dataset.vocabularies.anatomy.names
    for position, record in enumerate(records):
        table = next(panel(dataset, record, position).iter("table"))
        marked = {row[0][0].text[2:]: (row[0][0].get("class"), row[0][0].text[0]) for row in list(table)[1:]}
        selected, mentioned = record.prediction.region_selected, record.annotation.mentioned
        assert marked == {
            name: SIGNS[selected[i], mentioned[i]] for i, name in enumerate(names) if selected[i] or mentioned[i]
        }


def test_what_a_study_or_a_model_lacks_is_said(dataset, records):
    annotation = replace(records[0].annotation, graph_known=False, mentioned=np.zeros(29, dtype=bool))
    unknown = panel(dataset, replace(records[0], annotation=annotation))
    assert "This study has no reference graph" in "".join(unknown.itertext())
    bare = records_of(dataset, with_graph=False, with_observations=False)[0]
    tree = panel(dataset, replace(bare, annotation=annotation, sentences=[], generated=""))
    plain = "".join(tree.itertext())
    assert "neither a predicted graph nor a reference graph" in plain and "(empty report)" in plain
    assert "Observations" not in plain and not list(tree.iter("g"))


def luminance(colour):
    """Relative luminance of #rrggbb (WCAG 2.1)."""
    parts = [int(pair, 16) / 255 for pair in re.findall("..", colour[1:])]
    linear = [part / 12.92 if part <= 0.03928 else ((part + 0.055) / 1.055) ** 2.4 for part in parts]
    return float(np.dot(linear, [0.2126, 0.7152, 0.0722]))


@pytest.mark.parametrize("colour", COLOURS)
def test_colours_stand_out_from_a_black_picture(colour):
    assert (luminance(colour) + 0.05) / 0.05 >= 4.5
