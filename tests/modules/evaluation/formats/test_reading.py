"""The same reports from the files of different programs, and what is said about them."""

import json
from pathlib import Path

import pytest

from data.errors import UserError
from modules.evaluation.formats.reading import FormatOptions, read_reports

REXRANK = {
    "s1": {"section_findings": "Clear lungs.", "section_impression": "Normal.",
           "model_prediction": "Findings:Clear.Impression:Healthy."},
    "s2": {"section_findings": "Effusion.", "section_impression": None, "model_prediction": "Large effusion."},
}


def write(path: Path, content) -> Path:
    path.write_text(content if isinstance(content, str) else json.dumps(content))
    return path


def texts(read) -> list[tuple]:
    return [(row["id"], row["reference"], row["generated"]) for row in read.rows]


def test_rexrank_complete_and_by_section(tmp_path):
    path = write(tmp_path / "pred.json", REXRANK)
    complete = read_reports(path, FormatOptions())
    assert texts(complete) == [
        ("s1", "Findings: Clear lungs. Impression: Normal.", "Findings:Clear.Impression:Healthy."),
        ("s2", "Findings: Effusion.", "Large effusion."),
    ]
    assert complete.taken.startswith("ReXrank's JSON: reference from section_findings and section_impression, as")
    findings = read_reports(path, FormatOptions(section="findings"))
    assert texts(findings) == [("s1", "Clear lungs.", "Clear."), ("s2", "Effusion.", "Large effusion.")]
    assert "reference from section_findings, generated from model_prediction cut to its findings (1 of 2 have" \
        in findings.taken
    impression = read_reports(path, FormatOptions(section="impression"))
    assert texts(impression) == [("s1", "Normal.", "Healthy."), ("s2", "", "")]


def test_two_csv_files_are_joined_by_id(tmp_path):
    references = write(tmp_path / "gt.csv", "study_id,report\n2,b\n1,a\n")
    generated = write(tmp_path / "pred.csv", "study_id,report\n1,x\n2,y\n")
    read = read_reports(generated, FormatOptions(references=references))
    assert texts(read) == [("1", "a", "x"), ("2", "b", "y")]
    assert read.taken == (
        f"CSV: id from 'study_id', generated from 'report'; CSV: id from 'study_id', reference from 'report' of "
        f"{references}"
    )


def test_references_may_be_in_another_format(tmp_path):
    references = write(tmp_path / "test.json", {
        name: {key: value for key, value in study.items() if key != "model_prediction"}
        for name, study in REXRANK.items()
    })
    generated = write(tmp_path / "pred.jsonl", '{"study_id": "s2", "pred": "x"}\n{"study_id": "s1", "pred": "y"}\n')
    read = read_reports(generated, FormatOptions(references=references, section="findings"))
    assert texts(read) == [("s2", "Effusion.", "x"), ("s1", "Clear lungs.", "y")]


def test_columns_are_chosen_and_more_of_them_are_kept(tmp_path):
    path = write(tmp_path / "a.csv", "nr,truth,system,patient\n1,a,b,p\n")
    read = read_reports(path, FormatOptions({"id": "nr", "reference": "truth", "generated": "system"}))
    assert texts(read) == [("1", "a", "b")] and read.rows[0]["patient"] == "p"
    assert read.taken == "CSV: id from 'nr', reference from 'truth', generated from 'system'"


def test_sections_in_columns_of_their_own(tmp_path):
    path = write(tmp_path / "a.csv", "id,f,i,pred\n1,Clear.,Normal.,Findings: x Impression: y\n2,Mass.,,z\n")
    columns = {"reference_findings": "f", "reference_impression": "i"}
    read = read_reports(path, FormatOptions(columns))
    assert [row["reference"] for row in read.rows] == ["Findings: Clear. Impression: Normal.", "Findings: Mass."]
    read = read_reports(path, FormatOptions(columns, section="impression"))
    assert texts(read) == [("1", "Normal.", "y"), ("2", "", "")]
    assert "reference_findings from 'f'" in read.taken


def test_a_section_of_our_own_file_drops_the_protocols_cut_of_the_whole(tmp_path):
    path = write(tmp_path / "predictions.jsonl", json.dumps(
        {"id": "a", "reference": "Findings: b Impression: c", "generated": "d", "scored_reference": "b c"}) + "\n")
    assert read_reports(path, FormatOptions()).rows[0]["scored_reference"] == "b c"
    (row,) = read_reports(path, FormatOptions(section="findings")).rows
    assert row == {"id": "a", "reference": "b", "generated": "d"}


@pytest.mark.parametrize("content, options, message", [
    ("study_id,report\n1,a\n", {}, "give the references with --references FILE"),
    ("id,text\n1,a\n", {}, "no column 'reference': it needs id, reference, generated; name it with --columns"),
    ("name,reference,generated\n1,a,b\n", {}, "no column 'id'"),
    ("id,reference,generated\n1,a,b\n", {"columns": {"id": "nr"}}, "--columns id: unknown column 'nr'"),
    ("study_id,report\n3,a\n", {"references": "gt.csv"}, "not about the same studies, only one of them has 1"),
    ("study_id,report\n1,a\n", {"references": "twice.csv"}, "two references with one id"),
    ("study_id,report\n1,a\n", {"references": "nowhere.csv"}, "Cannot read"),
    ("study_id,other\n1,a\n", {"references": "gt.csv"}, "no column 'generated': it needs id, generated; name it"),
])
def test_what_is_wrong_is_one_line(tmp_path, content, options, message):
    write(tmp_path / "gt.csv", "study_id,report\n1,a\n")
    write(tmp_path / "twice.csv", "study_id,report\n1,a\n1,b\n")
    if "references" in options:
        options = {"references": tmp_path / options["references"]}
    with pytest.raises(UserError) as raised:
        read_reports(write(tmp_path / "a.csv", content), FormatOptions(**options))
    assert message in str(raised.value) and "\n" not in str(raised.value)
