"""The texts of the studies, on made-up and on real files."""

import json

import pytest

from data.errors import UserError
from data.sources.iu_xray.files import find_files
from data.sources.iu_xray.reports import read_open_i, read_projections
from data.sources.iu_xray.source import IUXray
from data.sources.iu_xray.texts import read_splits, read_texts
from data.sources.r2gen import read_annotation
from tests.support.sources.iu_fixture import (
    ALL_NAMES,
    IMAGES,
    REAL,
    needs_real_data,
    png_image,
    report_xml,
    write_files,
)


def test_sources_without_texts_are_named(tmp_path):
    write_files(tmp_path, {f"{name}.png": png_image(name) for name in ALL_NAMES})
    with pytest.raises(UserError, match="The sources have no reports of IU X-Ray"):
        IUXray([tmp_path])


def r2gen_samples():
    """Two samples of R2Gen's annotation file."""
    ids = ("CXR9001_IM-9201", "CXR9002_IM-9202-0001")
    return [{"id": study_id, "report": "Clear.", "image_path": [f"{study_id}\\0.png"]} for study_id in ids]


def test_annotation_of_another_data_set_is_refused(tmp_path):
    samples = [{"id": "aaaa-bbbb", "report": "x", "image_path": ["p99/x.jpg"]}]
    write_files(tmp_path, {"annotation.json": json.dumps({"train": samples}).encode()})
    with pytest.raises(UserError, match="'aaaa-bbbb' is not a study of IU X-Ray"):
        IUXray([tmp_path])


@pytest.mark.parametrize("missing", [None, float("nan"), "nan", "  "])
def test_samples_without_a_report_are_left_out_and_listed(tmp_path, missing):
    first, second = r2gen_samples()
    document = {"train": [first | {"report": missing}, second]}
    write_files(tmp_path, {"annotation.json": json.dumps(document).encode()})
    source = IUXray([tmp_path])
    assert [text.id for text in source.texts.studies] == [second["id"]]
    assert source.texts.damaged == [f"annotation.json: {first['id']} has an empty report, left out"]
    described = source.describe()
    assert described["damaged_reports"] == 1 and source.texts.damaged[0] in described["distributions"]


def test_reports_that_are_no_studies_are_refused(tmp_path):
    write_files(tmp_path, {"9003.xml": report_xml(9003, IMAGES[9003], FINDINGS=None)})
    with pytest.raises(UserError, match="has no studies of IU X-Ray"):
        IUXray([tmp_path])


def select_by_rule_of_r2gen(reports_by_number):
    """Return id -> findings of the studies that R2Gen's rule selects: at least two images, and FINDINGS."""
    return {
        report.images[0].rpartition("-")[0]: report.findings
        for report in reports_by_number.values()
        if len(report.images) >= 2 and report.findings
    }


@needs_real_data
def test_real_annotation_is_regenerated_from_the_xml_alone():
    found = read_open_i(REAL / "NLMCXR_reports.tgz")
    assert len(found.by_number) == 3955 and found.damaged == []
    texts = read_texts(find_files([REAL / "NLMCXR_reports.tgz"]))
    assert texts.found == texts.expected == {"reports": 3955}
    samples = read_annotation(REAL / "annotation.json")
    assert {study.id: (study.split, study.findings, study.copies) for study in texts.studies} == {
        sample.id: (
            sample.split,
            " ".join(sample.report.split()),
            tuple(path.removesuffix(".png") for path in sample.images),
        )
        for sample in samples
    }
    splits = [study.split for study in texts.studies]
    assert [splits.count(split) for split in ("train", "val", "test")] == [2069, 296, 590]
    assert select_by_rule_of_r2gen(found.by_number) == {study.id: study.findings for study in texts.studies}


@needs_real_data
def test_real_split_table_is_the_annotations():
    assert dict(read_splits()) == {sample.id: sample.split for sample in read_annotation(REAL / "annotation.json")}


@needs_real_data
def test_real_tables_of_kaggle_hold_the_same_texts(tmp_path):
    for name in ("indiana_reports.csv", "indiana_projections.csv"):
        (tmp_path / name).symlink_to(REAL / name)
    texts = read_texts(find_files([tmp_path]))
    assert texts.found == texts.expected == {"reports": 3851}
    from_xml = read_texts(find_files([REAL / "NLMCXR_reports.tgz"]))
    assert [(study.id, study.split, study.findings, study.impression) for study in texts.studies] == [
        (study.id, study.split, study.findings, study.impression) for study in from_xml.studies
    ]
    views = read_projections(REAL / "indiana_projections.csv")
    assert len(views) == 7466 and list(views.values()).count("FRONTAL") == 3818
