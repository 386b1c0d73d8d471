import pytest

from data.sections.marked_text import (
    cleaned_report,
    map_sections,
    mark_sections,
    plain_text,
    split_sections,
    untrained_words,
)


def record(report, impression) -> dict:
    return {"report": report, "impression": impression}


@pytest.mark.parametrize(("report", "impression", "sections", "expected"), [
    ("Lungs are clear.", "No change.", "findings", "lungs are clear ."),
    ("Lungs are clear.", "No change.", "impression", "no change ."),
    ("Lungs are clear.", "No change.", "both", "<findings> lungs are clear . <impression> no change ."),
    ("Lungs are clear.", None, "both", "<findings> lungs are clear ."),
    (None, "No change.", "both", "<impression> no change ."),
    ("", "No change.", "both", "<impression> no change ."),
    ("Lungs are clear.", None, "impression", None),
    (None, "No change.", "findings", None),
    (None, None, "both", None),
    ("", "", "both", ""),
])
def test_a_report_is_the_sections_that_are_asked_for(report, impression, sections, expected):
    assert cleaned_report(record(report, impression), sections, "corrected") == expected


def test_a_record_of_a_version_without_impressions_has_none():
    assert cleaned_report({"report": "Clear."}, "both", "corrected") == "<findings> clear ."


@pytest.mark.parametrize("cleaning", ["corrected", "iu_xray", "mimic_cxr"])
def test_no_report_has_markers_of_its_own(cleaning):
    text = cleaned_report(record("<impression> clear. <findings>", "<findings> normal."), "both", cleaning)
    assert text.split().count("<findings>") == text.split().count("<impression>") == 1


def test_sections_are_split_where_their_markers_are():
    assert split_sections("<findings> a b . <impression> c .") == {"findings": "a b .", "impression": "c ."}
    assert split_sections("<impression> c .") == {"impression": "c ."}
    assert split_sections("a b .") == {}


def test_odd_generated_texts_are_split_too():
    assert split_sections("a . <impression> c .") == {"findings": "a .", "impression": "c ."}
    assert split_sections("<findings> a . <impression> b . <findings> c .") == {
        "findings": "a . c .", "impression": "b ."
    }
    assert split_sections("<findings> <impression>") == {}


def test_splitting_and_marking_are_inverse():
    text = "<findings> a b . <impression> c ."
    assert mark_sections(split_sections(text)) == text


def test_plain_text_has_no_markers_and_only_the_sections_that_are_named():
    text = "<findings> a . <impression> c ."
    assert plain_text(text) == "a . c ."
    assert plain_text(text, ["impression"]) == "c ."
    assert plain_text("<findings> <impression>") == ""
    assert plain_text("a  b <unk> .") == "a  b <unk> ."
    assert plain_text("a b .") == "a b ."


def test_a_choice_among_marked_reports_is_made_for_each_section():
    reports = ["<findings> long text . <impression> b .", "<findings> a .", "<impression> quite a long text ."]

    def last(section, texts):
        return max(texts)

    assert map_sections(reports, last) == "<findings> long text . <impression> quite a long text ."
    assert map_sections(["b", "c", "a"], lambda section, texts: f"{min(texts)}{section}") == "a"


def test_what_an_absent_section_would_teach_is_not_learned():
    assert untrained_words("<findings> a . <impression> b .".split()) == [False] * 7
    assert untrained_words("<findings> a .".split()) == [False, False, False, True]
    assert untrained_words("<impression> b .".split()) == [True, False, False, False]
    assert untrained_words([]) == [True]
