"""A study on the page: its picture, boxes, sentences, marks and colours."""

import base64
import io
import re
import xml.etree.ElementTree as ElementTree
from dataclasses import replace

import numpy as np
import pytest
import torch
from PIL import Image

from data.dataset import StudyDataset
from data.images.transforms import normalise
from data.vocabulary_builder import build_vocabularies
from models.outputs import BoxSource, GraphSource
from modules.evaluation.evaluator import Evaluator
from modules.evaluation.pages.study_panel import COLOURS, HIGHLIGHT, Case, grey_picture, study_panel
from modules.evaluation.sentences import GeneratedSentence
from tests.support.fake_model import FakeModel, loader_over
from tests.support.tiny_dataset import write_tiny_dataset

SIGNS = {(True, True): ("agreed", "✓"), (False, True): ("missed", "−"), (True, False): ("added", "+")}


@pytest.fixture(scope="module")
def dataset(tmp_path_factory):
    root = write_tiny_dataset(tmp_path_factory.mktemp("data") / "tiny", train=4, val=1, test=6, image_size=32)
    vocabularies = build_vocabularies(root, "corrected", 1, 1, True)
    return StudyDataset(root, "test", vocabularies, "corrected", 32, 30, 1, "ignored")


@pytest.fixture(scope="module")
def records(dataset):
    return evaluate(dataset)


def evaluate(dataset, **parts):
    evaluator = Evaluator(
        vocabularies=dataset.vocabularies, protocol="r2gen", max_tokens=30, graph_source=GraphSource.PREDICTED,
        box_source=BoxSource.LOCALIZER, beam_size=1,
    )
    model = FakeModel(dataset.vocabularies, ["the heart is normal . no pneumothorax ."], **parts)
    return evaluator.evaluate(model, loader_over(dataset), torch.device("cpu"), meteor=False, resamples=0).records


def panel(dataset, record, position=0, why="for a reason"):
    text = study_panel(Case(record, grey_picture(dataset[position].images[0]), why), dataset.vocabularies)
    return ElementTree.fromstring(text)


def test_the_picture_is_what_the_network_saw(dataset, records):
    pixels = torch.arange(16, dtype=torch.float32).view(4, 4) * 17
    np.testing.assert_array_equal(grey_picture(normalise(pixels[None] / 255)[0]), pixels.numpy())
    for position, record in enumerate(records):
        (image,) = panel(dataset, record, position).iter("image")
        shown = np.asarray(Image.open(io.BytesIO(base64.b64decode(image.get("href").split(",")[1]))))
        np.testing.assert_array_equal(shown, grey_picture(dataset[position].images[0]))


def test_texts_and_the_reason_are_there(dataset, records):
    plain = "".join(panel(dataset, records[0]).itertext())
    for part in (records[0].study_id, records[0].reference, "the heart is normal .", "for a reason"):
        assert part in plain


def test_boxes_of_selected_and_mentioned_regions_are_drawn(dataset, records):
    for position, record in enumerate(records):
        boxes = {"predicted": [], "reference": []}
        for group in panel(dataset, record, position).iter("g"):
            rectangle = group.find("rect")
            x, y, width, height = (float(rectangle.get(key)) / 32 for key in ("x", "y", "width", "height"))
            boxes[group.get("class").split()[0]].append([x, y, x + width, y + height])
        told = record.annotation.mentioned & record.annotation.visible
        np.testing.assert_allclose(boxes["reference"], record.annotation.boxes[told], atol=1e-3)
        selected = record.prediction.boxes[record.prediction.region_selected]
        np.testing.assert_allclose(
            sorted(boxes["predicted"]), sorted(np.clip(selected, 0, 1).tolist()), atol=1e-3
        )


def test_sentences_name_and_share_the_colour_of_the_region_that_they_looked_at_most(dataset, records):
    names = dataset.vocabularies.anatomy.names
    looked = np.zeros((3, len(names)))
    looked[0, [4, 7, 9]] = 0.5, 0.3, 0.2
    looked[1, 7] = 1.0
    texts = ("the heart is enlarged .", "<unk> .", "no pneumothorax .")
    record = replace(records[0], reference="no effusion .", sentences=[
        GeneratedSentence(text, regions, -0.5, confidence)
        for text, regions, confidence in zip(texts, looked, (0.25, 0.5, 0.75), strict=True)
    ])
    tree = panel(dataset, record)
    first, second, third = (item for item in tree.iter("li"))
    assert first.get("class").split() == ["sentence", "looks4", "looks7", "c0"] and first.get("tabindex") == "0"
    assert second.get("class").split() == ["sentence", "looks7", "c1"]
    assert third.get("class").split() == ["sentence"]
    told = ["".join(item.itertext()) for item in (first, second, third)]
    assert f"{names[4]} 50%, {names[7]} 30%" in told[0] and names[9] not in told[0]
    assert "confidence 0.25" in told[0] and "✗ not supported" in told[0]
    assert "claims nothing" in told[1]
    assert "looked at no graph" in told[2] and "✓ supported" in told[2]
    coloured = {group.get("class") for group in tree.iter("g") if "coloured" in group.get("class")}
    assert coloured == {"predicted region4 coloured c0", "predicted region7 coloured c1"}


def test_every_region_has_a_rule_that_lifts_it_out(dataset):
    for region in range(len(dataset.vocabularies.anatomy.names)):
        assert f".looks{region}:is(:hover, :focus)) .picture .region{region} {{" in HIGHLIGHT


def test_graphs_are_compared_region_by_region(dataset, records):
    names = dataset.vocabularies.anatomy.names
    for position, record in enumerate(records):
        table = next(panel(dataset, record, position).iter("table"))
        marked = {row[0][0].text[2:]: (row[0][0].get("class"), row[0][0].text[0]) for row in list(table)[1:]}
        selected, told = record.prediction.region_selected, record.annotation.mentioned
        assert marked == {
            name: SIGNS[selected[i], told[i]] for i, name in enumerate(names) if selected[i] or told[i]
        }


def test_what_a_study_or_a_model_lacks_is_said(dataset, records):
    annotation = replace(records[0].annotation, graph_known=False, mentioned=np.zeros(29, dtype=bool))
    unknown = panel(dataset, replace(records[0], annotation=annotation))
    assert "This study has no reference graph" in "".join(unknown.itertext())
    bare = evaluate(dataset, with_graph=False, with_observations=False)[0]
    tree = panel(dataset, replace(bare, annotation=annotation, sentences=[], generated=""))
    plain = "".join(tree.itertext())
    assert "neither a predicted graph nor a reference graph" in plain and "(an empty report)" in plain
    assert "Observations" not in plain and not list(tree.iter("g"))


def luminance(colour):
    """Relative luminance of #rrggbb (WCAG 2.1)."""
    parts = [int(pair, 16) / 255 for pair in re.findall("..", colour[1:])]
    linear = [part / 12.92 if part <= 0.03928 else ((part + 0.055) / 1.055) ** 2.4 for part in parts]
    return float(np.dot(linear, [0.2126, 0.7152, 0.0722]))


@pytest.mark.parametrize("colour", COLOURS)
def test_colours_stand_out_from_a_black_picture(colour):
    assert (luminance(colour) + 0.05) / 0.05 >= 4.5
