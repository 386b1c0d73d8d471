"""Splitting reports into findings and impression."""

import pytest
from hypothesis import given
from hypothesis import strategies as st

from modules.evaluation.formats.sections import join_sections, split_sections

TEXT = st.text("ab c.,x", max_size=20).map(lambda text: " ".join(text.split()))


@pytest.mark.parametrize("text, findings, impression", [
    ("Findings: Clear lungs. Impression: Normal.", "Clear lungs.", "Normal."),
    ("Findings:Clear lungs.Impression:Normal.", "Clear lungs.", "Normal."),
    ("findings : clear lungs . impression : normal .", "clear lungs .", "normal ."),
    ("INDICATION: cough. FINDINGS: Clear. IMPRESSION: Normal.", "Clear.", "Normal."),
    ("Clear lungs. CONCLUSION: Normal.", "Clear lungs.", "Normal."),
    ("Impression: Normal. Findings: Clear.", "Clear.", "Normal."),
    ("FINDINGS: a FINDINGS: b", "a b", ""),
    ("These findings are new.", "These findings are new.", ""),
    ("", "", ""),
])
def test_a_report_is_split_at_its_headings(text, findings, impression):
    sections = split_sections(text)
    assert (sections.findings, sections.impression) == (findings, impression)
    assert sections.has_headings == (":" in text)


@given(TEXT, TEXT)
def test_joined_sections_are_split_again(findings, impression):
    sections = split_sections(join_sections(findings, impression))
    assert (sections.findings, sections.impression) == (findings, impression)
    assert sections.select("report") == join_sections(findings, impression)
    assert sections.select("findings") == findings and sections.select("impression") == impression
