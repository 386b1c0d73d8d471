"""Preparing IU X-Ray from each of its distributions, complete and incomplete."""

import re

import numpy as np
import pytest

from data.prepare import main
from data.records import read_records
from data.sources.iu_xray.source import IUXray
from tests.support.sources.iu_fixture import (
    ALL_NAMES,
    FINDINGS,
    IMAGES,
    IMPRESSION,
    LAYOUTS,
    OPEN_I,
    REAL,
    SPLITS,
    csv_table,
    label_row,
    make_pixels,
    needs_real_data,
    png_image,
    prepare_iu,
    write_archive,
    write_files,
)


@pytest.mark.parametrize(
    ("layout", "views"),
    [
        ("Open-i", "from order"),
        ("Open-i with projections", "from projections"),
        ("DICOM", "from DICOM, else from order"),
        ("Kaggle", "from projections"),
        ("R2Gen", "from order"),
    ],
)
def test_every_layout_gives_the_same_studies(tmp_path, layout, views):
    records, description = prepare_iu(write_files(tmp_path / "source", LAYOUTS[layout]), tmp_path / "out")
    assert {key: record["split"] for key, record in records.items()} == SPLITS
    assert {key: record["report"] for key, record in records.items()} == {
        key: FINDINGS[int(re.match(r"CXR(\d+)", key)[1])] for key in SPLITS
    }
    assert description["views"] == views and description["dropped"] == {} and description["warnings"] == {}
    assert description["counts"] == {"train": 2, "val": 1, "test": 1}
    expected = {
        "Open-i": ["FRONTAL", "LATERAL", "UNKNOWN"],
        "DICOM": ["PA", "LL", "PA"],
        "R2Gen": ["FRONTAL", "LATERAL"],
    }.get(layout, ["FRONTAL", "LATERAL", "FRONTAL"])
    assert records["CXR9002_IM-9202-0001"]["views"] == expected
    assert all(record["views"] == expected[:2] for key, record in records.items() if key != "CXR9002_IM-9202-0001")


@pytest.mark.parametrize("layout", ["Open-i", "Kaggle", "R2Gen"])
def test_texts_beside_the_report_and_never_a_prior(tmp_path, layout):
    records, _ = prepare_iu(write_files(tmp_path / "source", LAYOUTS[layout]), tmp_path / "out")
    record = records["CXR9001_IM-9201"]
    texts = ("Fever, invented.", IMPRESSION[9001], "None.") if layout != "R2Gen" else (None, None, None)
    assert (record["indication"], record["impression"], record["comparison"]) == texts
    assert all(each["patient"] is each["taken"] is each["prior"] is None for each in records.values())


def test_the_frontal_image_comes_first(tmp_path):
    source = IUXray([write_files(tmp_path, LAYOUTS["Open-i with projections"])], image_size=32)
    study = {plan.id: source.build(plan) for plan in source.plans()}
    for study_id, names in (
        ("CXR1_1_IM-9101", ["CXR1_1_IM-9101-4001", "CXR1_1_IM-9101-3001"]),
        ("CXR9002_IM-9202-0001", [f"CXR9002_IM-9202-0001-000{number}" for number in (1, 3, 2)]),
    ):
        for image, name in zip(study[study_id].images, names, strict=True):
            np.testing.assert_array_equal(image.pixels, make_pixels(name))


def test_packed_images_are_prepared_as_loose_ones(tmp_path):
    loose, _ = prepare_iu(write_files(tmp_path / "loose", LAYOUTS["Open-i"]), tmp_path / "from_loose")
    images = {f"NLMCXR_png/{name}.png": png_image(name) for name in reversed(ALL_NAMES)}
    reports = write_archive(tmp_path / "packed" / "NLMCXR_reports.tgz", OPEN_I)
    packed = [reports, write_archive(tmp_path / "NLMCXR_png.tgz", images)]
    before = {path: path.read_bytes() for path in packed}
    records, _ = prepare_iu(packed, tmp_path / "from_packed")
    assert records == loose
    plain = [reports, write_archive(tmp_path / "images.tar", images, "w")]
    assert prepare_iu(plain, tmp_path / "from_plain")[0] == loose
    assert {path: path.read_bytes() for path in packed} == before
    assert [path.name for path in tmp_path.iterdir() if path.name.startswith(".")] == []


def test_damaged_archive_of_images_is_named(tmp_path, capsys):
    archive = write_archive(tmp_path / "NLMCXR_png.tgz", {f"{name}.png": png_image(name) for name in ALL_NAMES * 8})
    archive.write_bytes(archive.read_bytes()[:-300])
    sources = ["--source", str(write_files(tmp_path / "xml", OPEN_I)), "--source", str(archive)]
    assert main(["iu_xray", *sources, "--out", str(tmp_path / "out"), "--workers", "1"]) == 1
    assert re.search("Cannot read the archive .*NLMCXR_png.tgz", capsys.readouterr().err)


def test_missing_and_damaged_images_are_left_out_and_counted(tmp_path, capsys):
    layout = dict(LAYOUTS["Open-i"])
    del layout["png/CXR1_1_IM-9101-3001.png"]
    layout["png/CXR9001_IM-9201-2001.png"] = b"\x89PNG\r\n"
    for name in IMAGES[9002]:
        del layout[f"png/{name}.png"]
    layout |= {f"png/{name}.png": b"" for name in IMAGES[9006]}
    records, description = prepare_iu(write_files(tmp_path / "source", layout), tmp_path / "out")
    assert {key: record["views"] for key, record in records.items()} == {
        "CXR1_1_IM-9101": ["LATERAL"],
        "CXR9001_IM-9201": ["FRONTAL"],
    }
    assert description["dropped"] == {"images damaged": 1, "no image": 1}
    assert description["warnings"] == {"image damaged": 1, "image missing": 1}
    output = capsys.readouterr().out
    assert "differs: test: 0 instead of 590" in output and "differs: reports: 7 instead of 3955" in output
    assert not any(text in output for text in FINDINGS.values())


def test_the_graph_is_the_texts_with_boxes_where_there_is_a_frontal_image(tmp_path):
    layout = dict(LAYOUTS["Open-i"])
    del layout["png/CXR9001_IM-9201-1001.png"]
    records, _ = prepare_iu(write_files(tmp_path / "source", layout), tmp_path / "out")
    whole, lateral = records["CXR1_1_IM-9101"]["graph"], records["CXR9001_IM-9201"]["graph"]
    assert whole["box_source"] == "localizer" and len(whole["regions"]) == 29
    assert all(region["box"] for region in whole["regions"].values())
    assert [name for name, region in whole["regions"].items() if region["mentioned"]] == ["cardiac silhouette"]
    assert lateral["regions"]["left lung"]["mentioned"]
    assert not any(region["box"] for region in lateral["regions"].values())


def test_labels_come_from_findings_and_impression_together(tmp_path):
    records, _ = prepare_iu(write_files(tmp_path / "source", LAYOUTS["Kaggle"]), tmp_path / "out")
    # One section calls the heart large, the other names the diagnosis.
    assert records["CXR1_1_IM-9101"]["observations"]["Cardiomegaly"] == 1
    assert records["CXR9001_IM-9201"]["observations"]["Pleural Effusion"] == 1


def test_shipped_labels_stand_in_where_the_impression_is_not_at_hand(tmp_path):
    records, _ = prepare_iu(write_files(tmp_path / "source", LAYOUTS["R2Gen"]), tmp_path / "out")
    assert records["CXR9001_IM-9201"]["observations"] == {"Fracture": 1}
    assert "Fracture" not in records["CXR9006_IM-9206"]["observations"]


@pytest.mark.parametrize(
    ("column", "of_9001", "of_9002"),
    [
        ("id", "CXR9001_IM-9201", "CXR9002_IM-9202"),
        ("Report Impression", f"{FINDINGS[9001]} {IMPRESSION[9001]}", FINDINGS[9002]),
        ("Reports", FINDINGS[9001], FINDINGS[9002]),
    ],
    ids=["id", "findings and impression", "findings"],
)
def test_given_labels_replace_our_own(tmp_path, column, of_9001, of_9002):
    rows = [label_row(column, of_9001, Edema="-1"), label_row(column, of_9002, Edema="1")]
    write_files(tmp_path, {"labels.csv": csv_table(rows)})
    records, description = prepare_iu(
        write_files(tmp_path / "source", LAYOUTS["Open-i"]), tmp_path / "out", "--labels", str(tmp_path / "labels.csv")
    )
    assert {key: record["observations"] for key, record in records.items()} == {
        "CXR1_1_IM-9101": None,
        "CXR9001_IM-9201": {"Edema": -1},
        "CXR9002_IM-9202-0001": {"Edema": 1},
        "CXR9006_IM-9206": None,
    }
    assert description["labels"] != "our labeler"


def test_a_second_run_changes_nothing(tmp_path, capsys):
    source, out = write_files(tmp_path / "source", LAYOUTS["Kaggle"]), tmp_path / "out"
    prepare_iu(source, out)
    before = {path: path.read_bytes() for path in out.rglob("*") if path.is_file()}
    prepare_iu(source, out)
    assert "holds this data set already" in capsys.readouterr().out
    assert {path: path.read_bytes() for path in out.rglob("*") if path.is_file()} == before


def test_sources_without_images_end_with_one_line(tmp_path, capsys):
    command = ["iu_xray", "--source", str(write_files(tmp_path / "source", OPEN_I)), "--out", str(tmp_path / "out")]
    assert main(command) == 1
    error = capsys.readouterr().err
    assert "no images of IU X-Ray" in error and error.count("\n") == 1
    assert not (tmp_path / "out").exists()


@needs_real_data
@pytest.mark.parametrize("sources", [[REAL / "r2gen_sample"], [REAL / "r2gen_sample", REAL / "NLMCXR_reports.tgz"]])
def test_real_images_are_prepared(tmp_path, sources):
    records, description = prepare_iu(sources, tmp_path / "out")
    assert description["counts"] == {"train": 4, "val": 0, "test": 0} and description["images"] == 7
    assert records["CXR25_IM-1024"]["views"] == ["FRONTAL"]
    assert records["CXR7_IM-2263"]["views"] == ["FRONTAL", "LATERAL"]
    assert len(read_records(tmp_path / "out", "train")) == 4
    assert all(record["observations"] is not None for record in records.values())
