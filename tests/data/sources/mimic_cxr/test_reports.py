"""Splitting reports into sections; all texts are made up."""

import pytest
from hypothesis import given
from hypothesis import strategies as st

from data.sources.mimic_cxr.reports import extract_indication, extract_section, read_sections, section_name
from tests.support.sources.mimic_fixture import report_text


def names(text: str) -> list[str]:
    return [section.name for section in read_sections(text)]


def test_usual_layout():
    text = report_text("The lungs are clear. " * 9, "Nothing acute.")
    assert names(text) == ["preamble", "examination", "indication", "comparison", "findings", "impression"]
    assert read_sections(text)[0].text == "FINAL REPORT"
    assert extract_section(text, "findings") == ("The lungs are clear. " * 9).strip()
    assert extract_section(text, "impression") == "Nothing acute."
    assert extract_section(text, "both").endswith("clear.\n\nNothing acute.")


def test_wrapped_lines_are_joined_and_paragraphs_stay_apart():
    text = "\n FINDINGS: One sentence\n goes on.  \n \n Another   paragraph.\n"
    assert extract_section(text, "findings") == "One sentence goes on.\n\nAnother paragraph."


def test_missing_section_is_empty():
    text = report_text(None, "Fine.")
    assert (extract_section(text, "findings"), extract_section(text, "both")) == ("", "Fine.")


@pytest.mark.parametrize("header", ["FINDINGS AND IMPRESSION", "FINDINGS/IMPRESSION", "CONCLUSION", "IMPRESSON"])
def test_combined_header_is_an_impression(header):
    text = f" FINAL REPORT\n {header}: All is well.\n"
    assert (extract_section(text, "impression"), extract_section(text, "findings")) == ("All is well.", "")


@pytest.mark.parametrize(
    ("header", "name"),
    [("COMPARISONS", "comparison"), ("CLINICAL HISTORY", "history"), ("REASON FOR EXAM", "indication"),
     ("REASON FOR EXAMINATION", "indication"), ("FINDINS", "findings"), ("FINDING", "findings"),
     ("COMPARISION", "comparison"), ("PORTABLE CHEST", "findings"), ("PA AND LATERAL VIEWS OF THE CHEST", "findings"),
     ("CHEST, TWO VIEWS", "findings"), ("ADDENDUM", "addendum"), ("TECHNIQUE", "technique"), ("WET READ", "wet read"),
     ("EXAMINATION", "examination")],
)  # fmt: skip
def test_names_are_normalised(header, name):
    assert section_name(header) == name


@pytest.mark.parametrize(("sections", "indication"), [
    ("\n INDICATION:  Cough\n and fever.\n\n FINDINGS: Clear.\n", "Cough and fever."),
    ("\n REASON FOR EXAM: Fall.\n HISTORY: Old.\n FINDINGS: Clear.\n", "Fall."),
    ("\n CLINICAL HISTORY: Smoker.\n FINDINGS: Clear.\n", "Smoker."),
    ("\n FINDINGS: Clear.\n", ""),
])  # fmt: skip
def test_indication(sections, indication):
    assert extract_indication(sections) == indication


def test_last_of_several_findings_counts():
    text = "\n FINDINGS: Of the first film.\n COMPARISON: None.\n FINDINGS: Of the second film.\n"
    assert extract_section(text, "findings") == "Of the second film."


def test_view_title_above_findings_is_no_section():
    text = "\n CHEST, TWO VIEWS:\n FINDINGS: Clear.\n"
    assert names(text) == ["preamble", "findings"]
    assert extract_section(text, "findings") == "Clear."


def test_view_title_alone_holds_the_findings():
    assert extract_section("\n PORTABLE CHEST:  Clear lungs.\n", "findings") == "Clear lungs."


def test_addendum_above_the_report():
    text = "ADDENDUM  Changed.\n\n________________________________\n FINAL REPORT\n FINDINGS: Clear.\n"
    assert extract_section(text, "findings") == "Clear."


def test_without_findings_and_impression_the_last_paragraph_stands_alone():
    sections = read_sections("\n TECHNIQUE: One view.\n \n The lungs are clear.\n \n And the heart.\n")
    assert [(section.name, section.text) for section in sections[1:]] == [
        ("technique", "One view."), ("last_paragraph", "The lungs are clear.\n \n And the heart."),
    ]  # fmt: skip


def test_without_headers():
    sections = read_sections("Something.\n\nThe rest.")
    assert [(section.name, section.text) for section in sections] == [
        ("full report", "Something."), ("last_paragraph", "The rest."),
    ]  # fmt: skip
    assert extract_section("", "both") == ""


@pytest.mark.parametrize("line", ["FINDINGS: at the first column", "  FINDINGS are in small print:", " Findings: so"])
def test_what_looks_like_a_header_only(line):
    assert "findings" not in names(f" FINAL REPORT\n{line}\n")


def test_line_ends_of_windows():
    text = report_text("Clear lungs.")
    assert extract_section(text.replace("\n", "\r\n"), "both") == extract_section(text, "both")


@given(st.text(alphabet="AFINDGSMPRESO abc:\n/,-_."))
def test_any_text_has_sections_and_nothing_is_invented(text):
    letters = "".join(text.split())
    for section in read_sections(text):
        assert "".join(section.text.split()) in letters
    assert "".join(extract_section(text, "findings").split()) in letters
