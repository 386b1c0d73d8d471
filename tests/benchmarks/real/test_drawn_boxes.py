"""Whether a model points at drawn boxes: the answers for an invented prediction, and the command on invented images."""

import csv
import json
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from benchmarks.__main__ import main
from benchmarks.real.drawn_boxes import (
    FINDINGS,
    Answer,
    DrawnBox,
    answer_box,
    attributes_of,
    frequent_answers,
    mean_inside,
    read_drawn_boxes,
    summarise,
)
from data.errors import UserError
from modules.inference.prediction import PredictedRegion, PredictedSentence, Prediction
from tests.support.tiny_run import write_tiny_run

EFFUSION = "anatomicalfinding|yes|pleural effusion"
NODULE = "anatomicalfinding|yes|mass/nodule (not otherwise specified)"


def region(name: str, box, attributes=None, others=None) -> PredictedRegion:
    return PredictedRegion(name, box, 0.5, 1.0, bool(attributes), bool(attributes), attributes or {}, others or {})


def prediction(sentences=()) -> Prediction:
    """An image of 100 x 200 pixels; the patient's left lung is its right half."""
    regions = [
        region("left lung", (50.0, 0.0, 100.0, 200.0), {}, {EFFUSION: 0.3}),
        region("right lung", (0.0, 0.0, 50.0, 200.0)),
        region("left costophrenic angle", (80.0, 160.0, 100.0, 200.0), {EFFUSION: 0.9}),
        region("trachea", None, {}, {EFFUSION: 0.99}),
    ]
    return Prediction("x", "", list(sentences), regions, {}, (100, 200), [])


def drawn(finding="Effusion", box=(84, 170, 96, 190), patient="1") -> DrawnBox:
    return DrawnBox(Path("x.png"), patient, finding, box)


def test_the_most_probable_region_answers():
    answer = answer_box(drawn(), replace(prediction(), regions=prediction().regions[:3]), None)
    assert answer.right == {"attribute": 1, "sentence": 0, "lung": 0.5} and answer.in_graph
    assert answer.area["attribute"] == pytest.approx(0.2 * 0.2) and answer.area["lung"] == pytest.approx(0.5)
    assert answer.by_region.tolist() == [True, False, True]
    elsewhere = answer_box(drawn(box=(52, 10, 60, 20)), replace(prediction(), regions=prediction().regions[:3]), None)
    assert elsewhere.right == {"attribute": 0, "sentence": 0, "lung": 0.5}


def test_a_region_without_a_box_is_a_wrong_answer():
    answer = answer_box(drawn(), prediction(), None)
    assert answer.right["attribute"] == 0 and np.isnan(answer.area["attribute"])


def test_the_sentence_about_the_finding_points_by_its_attention():
    sentences = [
        PredictedSentence("there is no pleural effusion .", {"right lung": 1.0}, 0.9),
        PredictedSentence("there is a nodule .", {"right lung": 1.0}, 0.9),
        PredictedSentence("there is a small left pleural effusion .", {"left lung": 0.8, "right lung": 0.2}, 0.9),
    ]
    assert answer_box(drawn(), prediction(sentences), None).right["sentence"] == 1
    nodule = drawn("Nodule", (10, 10, 20, 20))
    assert answer_box(nodule, prediction(sentences), None).right["sentence"] == 1
    assert answer_box(nodule, prediction(sentences[:1]), None).right["sentence"] == 0


def test_attributes_belong_to_observations():
    assert EFFUSION in attributes_of("Effusion") and NODULE in attributes_of("Nodule") == attributes_of("Mass")
    assert "anatomicalfinding|yes|consolidation" in attributes_of("Pneumonia")
    assert all(attributes_of(finding) for finding in FINDINGS)


def test_the_mean_of_a_map_counts_cells_by_their_part_inside():
    activation = np.array([[0.0, 4.0], [0.0, 0.0]])
    expected = {(0, 0, 1, 1): 1.0, (0.5, 0, 1, 0.5): 4.0, (0.25, 0, 0.75, 0.5): 2.0, (0.4, 0.4, 0.4, 0.4): 0}
    for box, mean in expected.items():
        assert mean_inside(activation, np.array(box)) == pytest.approx(mean)


def test_the_region_of_the_highest_activation_answers():
    activation = np.zeros((10, 10))
    activation[8:, 8:] = 1.0
    answer = answer_box(drawn(), prediction(), {"Pleural Effusion": activation})
    assert answer.right["CAM"] == 1 and answer.area["CAM"] == pytest.approx(0.2 * 0.2)
    assert answer_box(drawn(), prediction(), {"Pleural Effusion": activation[::-1]}).right["CAM"] == 1  # the left lung
    assert answer_box(drawn(), prediction(), {"Pleural Effusion": activation[:, ::-1]}).right["CAM"] == 0


def answered(finding, patient, by_region, attribute=1.0) -> Answer:
    right = {"attribute": attribute, "sentence": 0.0, "lung": 0.5}
    return Answer(drawn(finding, patient=patient), right, dict.fromkeys(right, 0.25), True, np.array(by_region))


def test_the_frequent_region_is_chosen_on_other_patients():
    answers = [
        answered("Effusion", "1", [True, False]), answered("Effusion", "1", [True, False]),
        answered("Effusion", "2", [False, True]), answered("Mass", "3", [True, True]),
    ]
    found = frequent_answers(answers)
    assert found[:3].tolist() == [0, 0, 0] and np.isnan(found[3])


def test_the_table_has_all_findings_and_intervals():
    answers = [answered("Effusion", str(number), [number % 2 == 0, True], number % 2) for number in range(20)]
    answers += [answered("Mass", "x", [True, True])]
    table = summarise(answers)
    assert list(table) == ["Effusion", "Mass", "all"] and table["all"]["boxes"] == 21
    effusion = table["Effusion"]["answers"]
    assert effusion["attribute"]["right"] == 0.5 and effusion["frequent"]["right"] == 1
    low, high = effusion["attribute"]["interval"]
    assert 0.2 < low < 0.5 < high < 0.8
    assert effusion["CAM"] == {"right": None, "interval": None} and table["all"]["area"]["CAM"] is None
    assert table["Effusion"]["area"]["attribute"] == 0.25


@pytest.fixture
def films(tmp_path):
    folder = tmp_path / "real" / "nih_cxr14"
    (folder / "images").mkdir(parents=True)
    rows = []
    for number in range(4):
        Image.fromarray(np.random.default_rng(number).integers(0, 256, (40, 48), dtype=np.uint8)).save(
            folder / "images" / f"{number}.png")
        boxes = [{"finding": finding, "xyxy": [5, 5, 20, 25]} for finding in ("Effusion", "Mass", "Hernia")[number:]]
        rows.append({"image": f"{number}.png", "patient": number, "boxes": json.dumps(boxes)})
    with (folder / "labels.csv").open("w", newline="") as file:
        writer = csv.DictWriter(file, list(rows[0]))
        writer.writeheader()
        writer.writerows(rows)
    return tmp_path / "real"


def test_the_command_prints_and_writes_the_table(films, tmp_path, capsys):
    run, _ = write_tiny_run(tmp_path, lively=True)
    out = tmp_path / "drawn.json"
    assert main(["drawn_boxes", "--checkpoint", str(run), "--data", str(films), "--out", str(out)]) == 0
    printed = capsys.readouterr().out
    assert "2 images, 3 boxes" in printed and "mean area" in printed
    table = json.loads(out.read_text())["findings"]
    assert {finding: row["boxes"] for finding, row in table.items()} == {"Effusion": 1, "Mass": 2, "all": 3}
    assert all(table["all"]["answers"][name]["right"] is not None for name in ("attribute", "sentence", "lung", "CAM"))
    assert main(["drawn_boxes", "--checkpoint", str(run), "--data", str(films), "--limit", "1"]) == 0
    assert "1 images, 2 boxes" in capsys.readouterr().out


def test_models_without_graph_are_refused(films, tmp_path, capsys):
    run, _ = write_tiny_run(tmp_path, "model.graph_in=none", "model.localizer=false", "eval.box_source=atlas")
    assert main(["drawn_boxes", "--checkpoint", str(run), "--data", str(films)]) == 1
    assert "no scene graph" in capsys.readouterr().err


@pytest.mark.parametrize(("content", "message"), [
    (None, "No table of ChestX-ray14"), ("image,patient,boxes\n1.png,1,[]\n", "has no drawn boxes"),
    ("image,patient,boxes\n1.png,1,x\n", "lists {finding, xyxy}"),
    ('image,patient,boxes\n1.png,1,"[{""finding"": ""Mass""}]"\n', "lists {finding, xyxy}"),
])  # fmt: skip
def test_unusable_tables_are_named(tmp_path, content, message):
    if content is not None:
        (tmp_path / "labels.csv").write_text(content)
    with pytest.raises(UserError, match=message):
        read_drawn_boxes(tmp_path)


REAL = Path(__file__).resolve().parents[4] / "shared" / "real" / "nih_cxr14"


@pytest.mark.skipif(not REAL.is_dir(), reason="the real X-rays are missing (../shared/real/nih_cxr14)")
def test_real_boxes_are_read():
    boxes = read_drawn_boxes(REAL)
    assert len(boxes) == 805 and {each.finding for each in boxes} == set(FINDINGS)
    assert all(each.box[0] < each.box[2] <= 321 and each.image.is_file() for each in boxes)
