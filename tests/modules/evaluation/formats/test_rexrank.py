"""ReXrank's JSON."""

import json

import pytest

from data.errors import UserError
from modules.evaluation.formats.rexrank import (
    generated_report,
    is_rexrank,
    read_indication,
    read_studies,
    reference_sections,
    write_context,
    write_studies,
)

STUDY = {"image_path": ["a/0.png"], "section_findings": " Clear. ", "section_impression": None}


def test_studies_are_read_with_missing_values_as_null_and_written_again(tmp_path):
    path = tmp_path / "in.json"
    path.write_text('{"s1": {"image_path": ["0.png"], "section_findings": NaN, "context": "Age: 60"}}')
    studies = read_studies(path)
    assert studies == {"s1": {"image_path": ["0.png"], "section_findings": None, "context": "Age: 60"}}
    write_studies(tmp_path / "out.json", studies)
    assert read_studies(tmp_path / "out.json") == studies and "NaN" not in (tmp_path / "out.json").read_text()


def test_sections_have_their_current_and_their_earlier_names():
    sections = reference_sections(STUDY, "s")
    assert (sections.findings, sections.impression) == ("Clear.", "")
    assert reference_sections({"findings": "a", "impression": "b"}, "s").select("report") == "Findings: a Impression: b"
    assert reference_sections({}, "s").select("report") == ""


@pytest.mark.parametrize("content", [[], {}, {"a": 1}, {"a": {"b": 1}}, {"a": STUDY, "b": 3}, None])
def test_other_json_is_refused(tmp_path, content):
    path = tmp_path / "in.json"
    path.write_text(json.dumps(content))
    assert not is_rexrank(content)
    with pytest.raises(UserError, match="is not ReXrank's JSON"):
        read_studies(path)


def test_what_is_missing_is_named():
    with pytest.raises(UserError, match="study s1 has no 'model_prediction': write the reports with"):
        generated_report(STUDY, "in.json: study s1")
    with pytest.raises(UserError, match="'model_prediction' is not text"):
        generated_report({"model_prediction": ["a"]}, "s")
    with pytest.raises(UserError, match="'section_impression' is not text"):
        reference_sections({"section_impression": 3}, "s")


@pytest.mark.parametrize("context, indication", [
    ("Age:60-70.\nGender:F.\nIndication: Cough, fever.\nComparison: None.", "Cough, fever."),
    ("Age:82.0.Gender:M.Indication:Shortness of breath.Comparison: 2010.", "Shortness of breath."),
    ("Age:82.0.Gender:F.Indication:nanComparison: None.", None), ("Indication: None.", None),
    ("INDICATION : rule out pneumonia", "rule out pneumonia"), ("Age: 60", None), ("", None), (None, None),
])
def test_the_indication_is_read_from_the_context(context, indication):
    assert read_indication({"context": context}, "s") == indication


def test_a_written_context_is_read_again_and_one_that_is_no_text_is_named():
    for indication in ("Chronic cough.", None):
        assert read_indication({"context": write_context(indication)}, "s") == indication
    assert read_indication({}, "s") is None
    with pytest.raises(UserError, match="study s: 'context' is not text"):
        read_indication({"context": ["cough"]}, "study s")
