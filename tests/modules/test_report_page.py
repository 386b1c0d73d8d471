"""report.html: one well-formed file with ten pictures, their boxes and texts, and no link to anywhere."""

import base64
import io
import re
import xml.etree.ElementTree as ElementTree

import numpy as np
import pytest
import torch
from PIL import Image

from data.dataset import StudyDataset
from data.transforms import normalise
from data.vocabulary import build_vocabularies
from models.outputs import BoxSource, GraphSource
from modules.evaluator import Evaluator
from modules.report_page import chosen_studies, grey_picture, write_report_page
from tests.modules.fake_model import FakeModel, loader_over
from tests.tiny_dataset import write_tiny_dataset

METRICS = {
    "dataset": "tiny <set>", "split": "test", "studies": 12, "graph_source": "predicted", "box_source": "localizer",
    "beam_size": 3, "protocol": "r2gen", "seed": 0, "scores": {"bleu_4": 0.25},
    "absent": {"meteor": "no Java & no jar"},
    "baselines": {"blind": {"bleu_4": 0.125}, "nearest_image": {"bleu_4": None}},
}


@pytest.fixture(scope="module")
def dataset(tmp_path_factory):
    root = write_tiny_dataset(tmp_path_factory.mktemp("data") / "tiny", train=4, val=1, test=12, image_size=32)
    vocabularies = build_vocabularies(root, "corrected", 1, 1, True)
    return StudyDataset(root, "test", vocabularies, "corrected", 32, 30, 1, "ignored")


def write_page(dataset, path, change=None, **parts):
    evaluator = Evaluator(
        vocabularies=dataset.vocabularies, protocol="r2gen", max_tokens=30, graph_source=GraphSource.PREDICTED,
        box_source=BoxSource.LOCALIZER, beam_size=1,
    )
    model = FakeModel(dataset.vocabularies, ["the heart is normal ."], **parts)
    records = evaluator.evaluate(model, loader_over(dataset), torch.device("cpu"), meteor=False).records
    positions = chosen_studies(len(records))
    shown = [records[position] for position in positions]
    if change:
        change(shown)
    write_report_page(
        path, METRICS, shown, [grey_picture(dataset[position].images[0]) for position in positions],
        dataset.vocabularies,
    )
    text = path.read_text(encoding="utf-8")
    return shown, text, ElementTree.fromstring(text.replace("<!DOCTYPE html>", ""))


def test_ten_studies_evenly_spaced():
    assert chosen_studies(3) == [0, 1, 2]
    assert chosen_studies(30) == list(range(0, 30, 3))
    assert chosen_studies(0) == []
    assert len(set(chosen_studies(299))) == 10


def test_the_page_stands_alone_and_holds_ten_pictures(dataset, tmp_path):
    shown, text, page = write_page(dataset, tmp_path / "report.html")
    assert "http" not in re.sub(r"base64,[A-Za-z0-9+/=]*", "", text)
    assert not re.search(r"<(script|link|iframe)|@import|url\(", text)
    assert all(image.get("href").startswith("data:image/png;base64,") for image in page.iter("image"))
    pictures = [base64.b64decode(image.get("href").split(",")[1]) for image in page.iter("image")]
    assert len(pictures) == 10
    for picture, position in zip(pictures, chosen_studies(12), strict=True):
        pixels = np.asarray(Image.open(io.BytesIO(picture)))
        np.testing.assert_array_equal(pixels, grey_picture(dataset[position].images[0]))
    plain = "".join(page.itertext())
    for record in shown:
        assert record.study_id in plain and record.reference in plain and record.generated in plain
    assert "0.250" in plain and "0.125" in plain and "tiny <set>" in plain and "no Java & no jar" in plain


def test_boxes_of_selected_and_mentioned_regions_are_drawn(dataset, tmp_path):
    shown, _, page = write_page(dataset, tmp_path / "report.html")
    for record, svg in zip(shown, page.iter("svg"), strict=True):
        boxes = {"predicted": [], "reference": []}
        for rectangle in svg.iter("rect"):
            x, y, width, height = (float(rectangle.get(key)) / 32 for key in ("x", "y", "width", "height"))
            boxes[rectangle.get("class")].append([x, y, x + width, y + height])
        told = record.annotation.mentioned & record.annotation.visible
        np.testing.assert_allclose(boxes["reference"], record.annotation.boxes[told], atol=1e-3)
        selected = record.prediction.region_selected
        np.testing.assert_allclose(
            np.reshape(boxes["predicted"], (-1, 4)), record.prediction.boxes[selected], atol=1e-3
        )


def test_graphs_are_compared_region_by_region(dataset, tmp_path):
    shown, _, page = write_page(dataset, tmp_path / "report.html")
    names = dataset.vocabularies.anatomy.names
    tables = list(page.iter("table"))[1:]
    for record, table in zip(shown, tables, strict=True):
        marked = {row[0][0].text: row[0][0].get("class") for row in list(table)[1:]}
        selected, told = record.prediction.region_selected, record.annotation.mentioned
        expected = {
            name: {(True, True): "agreed", (False, True): "missed", (True, False): "added"}[selected[i], told[i]]
            for i, name in enumerate(names) if selected[i] or told[i]
        }
        assert marked == expected


def test_a_model_without_graph_and_studies_without_reference_graph(dataset, tmp_path):
    def forget(records):
        records[0].annotation.graph_known = False
        records[0].annotation.mentioned[:] = False

    _, text, page = write_page(dataset, tmp_path / "report.html", change=forget)
    assert text.count("This study has no reference graph") == 1
    _, text, page = write_page(
        dataset, tmp_path / "bare.html", change=forget, with_graph=False, with_observations=False
    )
    assert not [rectangle for rectangle in page.iter("rect") if rectangle.get("class") == "predicted"]
    assert len(list(page.iter("table"))) == 10  # the scores, and nine reference graphs
    assert "Observations" not in text


def test_the_picture_is_what_the_network_saw():
    pixels = torch.arange(16, dtype=torch.float32).view(4, 4) * 17
    np.testing.assert_array_equal(grey_picture(normalise(pixels[None] / 255)[0]), pixels.numpy())
