"""A hospital's own table: columns by option, formats, studies, splits by patient, mixed images, errors, real data."""

import csv
import json
import os
from pathlib import Path

import numpy as np
import pytest
import yaml
from PIL import Image

from data.errors import UserError
from data.prepare import main
from data.sources.patient_splits import draw_split
from data.sources.table.source import Columns, TablePlan, TableSource
from data.sources.table.values import parse_observations
from tests.support.images.dicom_files import dicom

REAL = Path(os.environ.get("SGRRG_REAL_DIR", Path(__file__).resolve().parents[5] / "shared" / "real"))
REPORT = "There is a small left pleural effusion. The heart is not enlarged."


def write_image(path: Path, seed: int = 0, size: tuple[int, int] = (60, 40)) -> Path:
    path.parent.mkdir(parents=True, exist_ok=True)
    Image.fromarray(np.random.default_rng(seed).integers(0, 256, size=size[::-1], dtype=np.uint8)).save(path)
    return path


def write_csv(path: Path, rows: list[dict]) -> Path:
    with path.open("w", newline="", encoding="utf-8") as file:
        writer = csv.DictWriter(file, list(rows[0]))
        writer.writeheader()
        writer.writerows(rows)
    return path


def prepare(tmp_path, rows, *options, table="table.csv"):
    """Prepare the rows; returns the records by id, and dataset.yaml."""
    if rows is not None:
        write_csv(tmp_path / table, rows)
    status = main(["table", "--table", str(tmp_path / table), "--images", str(tmp_path / "images"),
                   "--out", str(tmp_path / "out"), "--workers", "1", *options])
    assert status == 0
    return read(tmp_path / "out")


def read(out: Path):
    records = [json.loads(line) for line in (out / "records.jsonl").read_text().splitlines()]
    return {record["id"]: record for record in records}, yaml.safe_load((out / "dataset.yaml").read_text())


def error_of(tmp_path, capsys, rows, *options, table="table.csv"):
    if rows is not None:
        write_csv(tmp_path / table, rows)
    (tmp_path / "images").mkdir(exist_ok=True)
    assert main(["table", "--table", str(tmp_path / table), "--images", str(tmp_path / "images"),
                 "--out", str(tmp_path / "out"), *options]) == 1
    error = capsys.readouterr().err
    assert error.count("\n") == 1
    return error


def test_images_alone_are_enough(tmp_path):
    for number in range(5):
        write_image(tmp_path / f"images/{number}.png", number)
    records, description = prepare(tmp_path, [{"image": f"{number}.png"} for number in range(5)])
    assert sorted(records) == list("01234") and description["name"] == "out"
    for record in records.values():
        assert record["report"] is record["observations"] is record["graph"] is None and record["views"] == [""]
        assert record["split"] == draw_split(record["id"])
        context = ("patient", "taken", "indication", "comparison", "impression", "prior")
        assert all(record[key] is None for key in context)


def test_every_column_is_read(tmp_path):
    write_image(tmp_path / "images/a/one.png")
    write_image(tmp_path / "images/a/two.jpg")
    rows = [
        {"file": "a/two.jpg", "exam": "E1", "who": "P1", "position": "LL", "text": REPORT, "set": "valid", "hf": "1.0",
         "ptx": "", "box": ""},
        {"file": "a/one.png", "exam": "E1", "who": "P1", "position": "pa", "text": REPORT, "set": "valid", "hf": "1.0",
         "ptx": "", "box": '{"left_lung": [30, 0, 60, 20], "Nodule": [[0, 0, 6, 4], [6, 4, 12, 8]]}'},
    ]
    records, description = prepare(
        tmp_path, rows, "--image", "file", "--study", "exam", "--patient", "who", "--view", "position",
        "--report", "text", "--split", "set", "--observations", "cardiomegaly=hf", "Pneumothorax=ptx", "--boxes", "box",
        "--name", "mine",
    )
    record = records["E1"]
    assert record["views"] == ["PA", "LATERAL"] and record["split"] == "val" and record["report"] == REPORT
    assert record["observations"]["Cardiomegaly"] == 1 and record["observations"]["Pneumothorax"] is None
    assert record["observations"]["Edema"] is None
    assert record["graph"]["regions"]["left lung"]["box"] == [0.5, 0, 1, 0.5]
    assert len(record["graph"]["regions"]) == 29  # the report's graph, with the localizer's boxes of the other regions
    effusion = record["graph"]["regions"]["left costophrenic angle"]
    assert effusion["mentioned"] and effusion["abnormal"]
    assert record["finding_boxes"] == [{"finding": "Nodule", "box": [0, 0, 0.1, 0.1]},
                                       {"finding": "Nodule", "box": [0.1, 0.1, 0.2, 0.2]}]
    assert description["name"] == "mine" and description["images"] == 2


CONTEXT = ("--study", "study", "--patient", "patient", "--split", "split", "--taken", "taken")


def context_rows(tmp_path, *rows):
    """Rows of (study, patient, split, taken, prior), each with an image."""
    for name, *_ in rows:
        write_image(tmp_path / f"images/{name}.png")
    keys = ("study", "patient", "split", "taken", "prior")
    return [{"image": f"{row[0]}.png", "why": "Fever.", "said": "No change.", **dict(zip(keys, row, strict=True))}
            for row in rows]


def test_earlier_studies_and_texts_beside_the_report(tmp_path):
    rows = context_rows(
        tmp_path, ("c", "P1", "train", "2100-03-01", ""), ("a", "P1", "train", "20991231T2359", ""),
        ("b", "P1", "train", "2100-02-01T08:00:00+02:00", ""), ("d", "P1", "val", "2100-04-01", ""),
        ("e", "P2", "train", "2100-05-01", ""), ("f", "P1", "train", "", ""),
    )
    records, description = prepare(tmp_path, rows, *CONTEXT, "--indication", "why", "--impression", "said")
    assert {name: record["prior"] for name, record in records.items()} == {
        "a": None, "b": "a", "c": "b", "d": None, "e": None, "f": None,
    }
    assert records["a"]["taken"] == "2099-12-31T23:59:00" and records["b"]["taken"] == "2100-02-01T06:00:00"
    assert records["a"]["patient"] == "P1" and records["f"]["taken"] is None
    assert records["a"]["indication"] == "Fever." and records["a"]["impression"] == "No change."
    assert records["a"]["comparison"] is None and description["studies_with_prior"] == 2


@pytest.mark.parametrize(("last", "message"), [
    (("c", "P1", "val", "2100-03-01", "a"), "study c: its prior a is in the split 'train', not 'val'"),
    (("c", "P2", "train", "2100-03-01", "a"), "study c: its prior a is of another patient"),
    (("c", "P1", "train", "2099-01-01", "a"), "study c: its prior a was not taken earlier"),
])
def test_a_prior_of_another_split_patient_or_of_the_future_stops_the_preparation(tmp_path, capsys, last, message):
    rows = context_rows(tmp_path, ("a", "P1", "train", "2100-01-01", ""), last)
    assert message in error_of(tmp_path, capsys, rows, *CONTEXT, "--prior", "prior")
    assert not (tmp_path / "out").exists()


def test_a_stated_prior_is_used(tmp_path):
    rows = context_rows(tmp_path, ("a", "P1", "train", "2100-01-01", ""), ("b", "P1", "train", "2100-01-02", ""),
                        ("c", "P1", "train", "2100-01-03", "a"))
    records, _ = prepare(tmp_path, rows, *CONTEXT, "--prior", "prior")
    assert records["c"]["prior"] == "a" and records["b"]["prior"] == "a"


def test_a_time_in_another_form(tmp_path, capsys):
    rows = context_rows(tmp_path, ("a", "P1", "train", "May 2100", ""))
    assert "row 1: 'May 2100' is not a time: write 2180-05-06" in error_of(tmp_path, capsys, rows, *CONTEXT)


def test_boxes_without_a_report_are_an_incomplete_graph(tmp_path):
    write_image(tmp_path / "images/1.png")
    boxes = '[{"region": "left lung", "xyxy": [0.5, 0, 1, 0.5]}, {"region": "spine", "xyxy": [0.1, 0, 0.2, 1]}]'
    options = ("--boxes", "boxes", "--box-units", "fractions", "--regions", "left lung", "cardiac silhouette")
    records, _ = prepare(tmp_path, [{"image": "1.png", "boxes": boxes}], *options)
    assert records["1"]["graph"] == {"box_source": "annotated", "complete": False,
                                     "regions": {"left lung": {"box": [0.5, 0, 1, 0.5]}}}
    assert "finding_boxes" not in records["1"]


def test_observations_are_read_from_the_report_by_default(tmp_path):
    write_image(tmp_path / "images/1.png")
    write_image(tmp_path / "images/2.png")
    rows = [{"image": "1.png", "report": REPORT}, {"image": "2.png", "report": "nan"}]
    records, description = prepare(tmp_path, rows, "--report", "report")
    assert records["1"]["observations"]["Pleural Effusion"] == 1 and records["1"]["observations"]["Cardiomegaly"] == 0
    assert records["2"]["report"] is records["2"]["observations"] is records["2"]["graph"] is None
    assert description["labels"] == "our labeler"


def test_lists_of_findings(tmp_path):
    for number in range(3):
        write_image(tmp_path / f"images/{number}.png")
    rows = [{"image": "0.png", "found": "Mass|Effusion"}, {"image": "1.png", "found": "No Finding"},
            {"image": "2.png", "found": ""}]
    records, _ = prepare(tmp_path, rows, "--observations", "Pleural Effusion=found:effusion", "Lung Lesion=found:Mass",
                         "Lung Lesion=found:Nodule")
    labels = [records[name]["observations"] for name in "012"]
    assert labels[0]["Pleural Effusion"] == labels[0]["Lung Lesion"] == 1
    assert labels[1]["Pleural Effusion"] == labels[1]["Lung Lesion"] == 0 and labels[2] is None


def test_dicom_and_pictures_are_mixed_and_found_by_name(tmp_path):
    (tmp_path / "images/deep/below").mkdir(parents=True)
    (tmp_path / "images/deep/below/1.2.3.dcm").write_bytes(dicom(ViewPosition="AP"))
    write_image(tmp_path / "images/other/4.png")
    records, _ = prepare(tmp_path, [{"image": "1.2.3"}, {"image": "4"}])
    assert [record["views"] for record in records.values()] == [["AP"], [""]]


def test_missing_and_damaged_images_are_counted(tmp_path):
    for number in range(2):
        write_image(tmp_path / f"images/{number}.png")
    (tmp_path / "images/2.png").write_bytes(b"no image")
    write_image(tmp_path / "images/a/twice.png")
    write_image(tmp_path / "images/b/twice.png")
    rows = [{"image": name, "study": study} for name, study in
            [("0.png", "s0"), ("gone.png", "s0"), ("1.png", "s1"), ("2.png", "s1"), ("2.png", "s2"), ("gone.png", "s3"),
             ("twice.png", "s4"), ("../table.csv", "s5"), ("", "s6")]]
    records, description = prepare(tmp_path, rows, "--study", "study")
    assert {name: len(record["images"]) for name, record in records.items()} == {"s0": 1, "s1": 1}
    assert description["dropped"] == {"image damaged": 1, "no image": 4}
    assert description["warnings"] == {"image damaged": 1, "image missing": 1}
    assert "images that do not exist: 4" in description["distributions"]


@pytest.mark.parametrize("kind", ["jsonl", "json", "parquet", "tsv", "csv with semicolons"])
def test_other_formats_give_the_same(tmp_path, kind):
    for number in range(3):
        write_image(tmp_path / f"images/{number}.png", number)
    rows = [{"image": f"{number}.png", "patient": number, "edema": (1, 0, None)[number]} for number in range(3)]
    options = ("--patient", "patient", "--observations", "Edema=edema", "--name", "same")
    texts = [{key: "" if value is None else value for key, value in row.items()} for row in rows]
    expected, _ = prepare(tmp_path, texts, *options)
    table = tmp_path / f"table.{kind.split()[0]}"
    if kind == "jsonl":
        table.write_text("".join(json.dumps(row) + "\n" for row in rows))
    elif kind == "json":
        table.write_text(json.dumps(rows))
    elif kind == "parquet":
        pytest.importorskip("pyarrow", reason="needs pyarrow")
        import pandas

        pandas.DataFrame(rows).to_parquet(table)
    else:
        separator = "\t" if kind == "tsv" else ";"
        lines = [list(rows[0]), *([str("" if value is None else value) for value in row.values()] for row in rows)]
        table.write_text("".join(separator.join(line) + "\n" for line in lines))
    (tmp_path / "out").rename(tmp_path / "first")
    records, _ = prepare(tmp_path, None, *options, table=table.name)
    assert records == expected


def test_splits_are_drawn_by_patient(tmp_path):
    write_image(tmp_path / "images/1.png")
    rows = [{"image": "1.png", "exam": f"{patient}-{exam}", "patient": str(patient)}
            for patient in range(200) for exam in range(2)]
    source = TableSource(write_csv(tmp_path / "table.csv", rows), tmp_path / "images",
                         Columns(study="exam", patient="patient"))
    by_patient = {}
    for plan in source.plans():
        by_patient.setdefault(plan.id.split("-")[0], set()).add(plan.split)
    assert all(len(splits) == 1 for splits in by_patient.values())
    counts = [sum(splits == {name} for splits in by_patient.values()) for name in ("train", "val", "test")]
    assert 130 < counts[0] < 185 and min(counts) > 5


def test_patients_in_several_splits_and_blank_splits_are_said(tmp_path):
    write_image(tmp_path / "images/1.png")
    rows = [{"image": "1.png", "exam": str(number), "patient": "p", "split": split}
            for number, split in enumerate(["train", "test", ""])]
    records, description = prepare(tmp_path, rows, "--study", "exam", "--patient", "patient", "--split", "split")
    assert description["dropped"] == {"no split": 1} and len(records) == 2
    assert "warning: 1 patients are in several splits" in description["distributions"]


@pytest.mark.parametrize(("row", "options", "message"), [
    ({"image": "1.png"}, ["--report", "text"], "table.csv has no column 'text': correct the table"),
    ({"image": "1.png", "s": "holdout"}, ["--split", "s"], "row 1: unknown split 'holdout'"),
    ({"image": "1.png", "e": "maybe"}, ["--observations", "Edema=e"], "row 1: e=maybe is not a label: write 1, 0, -1"),
    ({"image": "1.png", "e": "1"}, ["--observations", "Odema=e"], "unknown observation 'Odema'; did you mean 'Edema'"),
    ({"image": "1.png", "e": "1"}, ["--observations", "Edema"], "--observations=Edema: write NAME=COLUMN"),
    ({"image": "1.png", "b": "[1, 2]"}, ["--boxes", "b"], "row 1: its boxes are not of the form"),
    ({"image": "1.png", "b": '{"spine": [3, 1, 2, 4]}'}, ["--boxes", "b"], "row 1: its boxes are not of the form"),
    ({"image": "1.png"}, ["--regions", "neck"], "--regions: unknown region 'neck'"),
    ({"image": ""}, [], "No study of out can be used"),
])
def test_mistakes_are_named_in_one_line(tmp_path, capsys, row, options, message):
    rows = [row] if row["image"] else [row | {"image": "gone.png"}]
    assert message in error_of(tmp_path, capsys, rows, *options)


@pytest.mark.parametrize(("name", "content", "message"), [
    ("table.xlsx", "x", "is not a table in one of the formats"),
    ("table.jsonl", '{"image": "1.png"}\n[1]\n', "table.jsonl line 2 is not a JSON object"),
    ("table.jsonl", "{", "table.jsonl line 1 is not JSON"),
    ("table.json", '{"image": "1.png"}', "table.json is not a list of JSON objects"),
    ("table.jsonl", '{"picture": "1.png"}\n', "has no column 'image': it has picture"),
])
def test_other_files_are_named_in_one_line(tmp_path, capsys, name, content, message):
    (tmp_path / name).write_text(content)
    assert message in error_of(tmp_path, capsys, None, table=name)


def test_an_unnamed_row_and_a_missing_folder(tmp_path):
    table = write_csv(tmp_path / "table.csv", [{"image": "", "note": "x"}])
    with pytest.raises(UserError, match="No folder of images at"):
        TableSource(table, tmp_path / "images", Columns())
    (tmp_path / "images").mkdir()
    with pytest.raises(UserError, match="row 1 names neither an image nor a study"):
        TableSource(table, tmp_path / "images", Columns())


def test_an_interrupted_preparation_is_resumed_only_with_the_same_options(tmp_path, capsys):
    write_image(tmp_path / "images/1.png")
    prepare(tmp_path, [{"image": "1.png", "view": "PA"}])
    assert "different settings (options.view)" in error_of(tmp_path, capsys, None, "--view", "view")


# Real data


@pytest.mark.skipif(not (REAL / "nih_cxr14").is_dir(), reason="needs ../shared/real/nih_cxr14 beside the checkout")
def test_real_chest_xray14_is_read(tmp_path):
    folder = REAL / "nih_cxr14"
    lists = {"Pleural Effusion": "Effusion", "Lung Lesion": "Mass", "Cardiomegaly": "Cardiomegaly"}
    observations = parse_observations([*(f"{name}=findings:{each}" for name, each in lists.items()),
                                       "Lung Lesion=findings:Nodule"])
    columns = Columns(patient="patient", view="view", split="split", observations=observations, boxes="boxes")
    source = TableSource(folder / "labels.csv", folder / "images", columns)
    plans = list(source.plans())
    assert [sum(plan.split == split for plan in plans) for split in ("train", "val", "test")] == [1976, 307, 0]
    assert all(isinstance(plan, TablePlan) and plan.images[0].path is not None for plan in plans)
    assert sum(len(plan.images[0].boxes) for plan in plans) == 805
    assert not any("several splits" in line for line in source.describe()["distributions"])
    boxed = next(plan for plan in plans if plan.images[0].boxes)
    study = source.build(boxed)
    assert study.report is None and study.graph is None and study.images[0].view in ("PA", "AP")
    assert all(0 <= corner <= 1 for entry in study.finding_boxes for corner in entry["box"])


@pytest.mark.skipif(not (REAL / "jsrt").is_dir(), reason="needs ../shared/real/jsrt beside the checkout")
def test_real_jsrt_is_read(tmp_path):
    folder = REAL / "jsrt"
    regions = ("right lung", "left lung", "cardiac silhouette")
    columns = Columns(split="split", boxes="boxes", regions=regions)
    source = TableSource(folder / "annotations.json", folder / "images", columns, "jsrt")
    plans = list(source.plans())
    assert len(plans) == 197 and all(plan.images[0].path is not None for plan in plans)
    study = source.build(plans[0])
    assert set(study.graph["regions"]) == set(regions) and study.finding_boxes == ()
    right, left = (study.graph["regions"][name]["box"] for name in regions[:2])
    assert right[2] < left[0] and study.graph["complete"] is False
