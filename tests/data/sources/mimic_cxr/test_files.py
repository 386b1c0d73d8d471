"""The tables of MIMIC-CXR, and finding its images and reports."""

import json

import pytest
from hypothesis import given
from hypothesis import strategies as st

from data.errors import UserError
from data.sources.distributions import search_sources
from data.sources.mimic_cxr.files import (
    ImageFacts,
    ListedImage,
    Reports,
    find_image,
    parse_time,
    parse_view,
    read_metadata,
    read_r2gen_images,
    read_splits,
    read_times,
)
from tests.support.sources.mimic_fixture import write_files, write_table

IMAGE = ListedImage("aaaa-1", "99500001", "99000001", "train")


@pytest.mark.parametrize(
    ("position", "code", "procedure", "view"),
    [
        ("PA", "", "CHEST (PORTABLE AP)", "PA"),
        (" ap ", "lateral", "", "AP"),
        ("LL", "", "", "LATERAL"),
        ("AP AXIAL", "", "", "AP AXIAL"),
        ("XTABLE LATERAL", "", "", "XTABLE LATERAL"),
        ("", "postero-anterior", "", "PA"),
        ("", "antero-posterior", "CHEST (PA AND LAT)", "AP"),
        ("", "Left Lateral", "", "LATERAL"),
        ("", "", "CHEST (PORTABLE AP)", "AP"),
        ("", "", "CHEST (PA AND LAT)", ""),
        ("", "", "CHEST (LATERAL)", "LATERAL"),
        ("", "", "MAP OF A CHEST", ""),
    ],
)
def test_views(position, code, procedure, view):
    assert parse_view(position, code, procedure) == view


def test_metadata(tmp_path):
    columns = ("Rows", "Columns", "dicom_id", "PerformedProcedureStepDescription", "ViewPosition",
               "ViewCodeSequence_CodeMeaning", "StudyTime")  # fmt: skip
    rows = [(3056, 2544, "a", "", "PA", "", "3405.25"), ("3056.0", "2544.0", "b", "", "", "lateral", "1"),
            ("", "", "c", "", "", "", ""), ("0", "inf", "d", "", "AP", "", "")]  # fmt: skip
    write_table(tmp_path / "m.csv", columns, rows)
    assert dict(read_metadata(tmp_path / "m.csv")) == {
        "a": ImageFacts("PA", (2544, 3056)), "b": ImageFacts("LATERAL", (2544, 3056)), "c": ImageFacts("", None),
        "d": ImageFacts("AP", None),
    }  # fmt: skip


def test_times_of_studies(tmp_path):
    columns = ("StudyTime", "dicom_id", "StudyDate")
    rows = [("3405.25", "a", 21990102), ("213014", "b", "21990102.0"), ("0.0", "c", 21990102), ("", "d", 21990103),
            ("120000", "e", ""), ("late", "f", 21990102), ("7", "g", "2199")]  # fmt: skip
    write_table(tmp_path / "m.csv", columns, rows)
    times = dict(read_times(tmp_path / "m.csv"))
    assert times == {
        "a": "2199-01-02T00:34:05.25", "b": "2199-01-02T21:30:14", "c": "2199-01-02T00:00:00",
        "d": "2199-01-03T00:00:00",
    }  # fmt: skip
    assert sorted(times, key=times.get) == ["c", "a", "b", "d"]
    write_table(tmp_path / "other.csv", ("dicom_id",), [("a",)])
    assert dict(read_times(tmp_path / "other.csv")) == {}


@given(seconds=st.lists(st.integers(0, 86_399), min_size=2, max_size=2), dates=st.lists(st.integers(0, 3), min_size=2,
       max_size=2), fractions=st.lists(st.sampled_from(["", ".0", ".25", ".3"]), min_size=2, max_size=2))
def test_times_sort_as_text(seconds, dates, fractions):
    written = [f"{second // 3600}{second // 60 % 60:02}{second % 60:02}".lstrip("0") for second in seconds]
    moments = [
        (date, second, float(fraction or 0)) for date, second, fraction in zip(dates, seconds, fractions, strict=True)
    ]
    times = [
        parse_time(str(21990101 + date), text + fraction)
        for date, text, fraction in zip(dates, written, fractions, strict=True)
    ]
    assert (times[0] < times[1]) == (moments[0] < moments[1])


def test_splits_have_our_names_and_ids_no_prefix(tmp_path):
    rows = [("aaaa-1.dcm", "s99500001", "p99000001", "train"), ("b", 99500002, 99000001, "validate")]
    write_table(tmp_path / "s.csv.gz", ("dicom_id", "study_id", "subject_id", "split"), rows)
    assert list(read_splits(tmp_path / "s.csv.gz")) == [IMAGE, ListedImage("b", "99500002", "99000001", "val")]


@pytest.mark.parametrize(
    ("row", "message"),
    [
        (("../x", "1", "1", "train"), "'../x' is not a dicom_id"),
        (("", "1", "1", "train"), "'' is not a dicom_id"),
        (("a", "1/2", "1", "train"), "'1/2' is not a study_id"),
        (("a", "1", "", "train"), "'' is not a subject_id"),
        (("a", "1", "1", "holdout"), "image a: unknown split 'holdout'; choose one of train, val, test"),
    ],
)
def test_ids_that_are_none_are_refused(tmp_path, row, message):
    with pytest.raises(UserError, match=f"t.csv: {message}"):
        ListedImage.from_row(tmp_path / "t.csv", *row)


@given(st.lists(st.text(max_size=12), min_size=4, max_size=4))
def test_no_id_leads_out_of_its_folder(tmp_path_factory, row):
    try:
        image = ListedImage.from_row(tmp_path_factory.getbasetemp() / "t.csv", *row)
    except UserError:
        return
    assert not any(mark in part for part in (image.id, image.study, image.subject) for mark in "/\\.\0")


def test_r2gen_list(tmp_path):
    sample = {"id": "aaaa-1", "study_id": 99500001, "subject_id": 99000001, "report": "Clear.", "split": "train",
              "image_path": ["p99/p99000001/s99500001/aaaa-1.jpg"]}  # fmt: skip
    path = tmp_path / "annotation.json"
    path.write_text(json.dumps({"train": [sample], "val": [], "test": []}), encoding="utf-8")
    assert list(read_r2gen_images(path)) == [ListedImage("aaaa-1", "99500001", "99000001", "train", report="Clear.")]
    path.write_text(json.dumps({"train": [sample | {"study_id": ""}], "val": [], "test": []}), encoding="utf-8")
    with pytest.raises(UserError, match="annotation.json: '' is not a study_id"):
        list(read_r2gen_images(path))


def test_jpeg_is_preferred_to_dicom(tmp_path):
    name = "p99/p99000001/s99500001/aaaa-1"
    assert find_image((tmp_path,), IMAGE) is None
    write_files(tmp_path / "dcm", {f"{name}.dcm": b""}, None)
    assert find_image((tmp_path / "dcm", tmp_path / "jpg"), IMAGE) == tmp_path / f"dcm/{name}.dcm"
    write_files(tmp_path / "jpg", {f"{name}.jpg": b""}, None)
    assert find_image((tmp_path / "dcm", tmp_path / "jpg"), IMAGE) == tmp_path / f"jpg/{name}.jpg"


@pytest.mark.parametrize("zipped", [True, False])
def test_reports_zipped_or_as_files(tmp_path, zipped):
    files = {"files/p99/p99000001/s99500001.txt": b"Caf\xe9", "files/p99/p99000001/index.html": b""}
    write_files(tmp_path, files, tmp_path / "mimic-cxr-reports.zip" if zipped else None)
    reports = Reports.find(search_sources([tmp_path]))
    members = reports.members()
    assert list(members) == (["99500001"] if zipped else [])
    assert reports.read(IMAGE, members.get("99500001")) == "Caf\N{REPLACEMENT CHARACTER}"
    absent = ListedImage("b", "99500002", "99000001", "train")
    assert reports.read(absent, members.get("99500002")) is None


def test_damaged_report_is_refused_by_name(tmp_path):
    archive = tmp_path / "mimic-cxr-reports.zip"
    write_files(tmp_path, {"files/p99/p99000001/s99500001.txt": b"text " * 99}, archive)
    reports = Reports.find(search_sources([tmp_path]))
    members = reports.members()
    archive.write_bytes(archive.read_bytes()[:60])
    with pytest.raises(UserError, match="Cannot read files/p99/p99000001/s99500001.txt in .*mimic-cxr-reports.zip"):
        reports.read(IMAGE, members["99500001"])
