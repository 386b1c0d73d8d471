"""Reports as readers see them."""

import pytest

from modules.evaluation.display import format_report


@pytest.mark.parametrize(("cleaned", "displayed"), [
    ("ap view of the chest . the heart is enlarged .", "AP view of the chest. The heart is enlarged."),
    ("upright pa chest radiograph , as requested .", "Upright PA chest radiograph, as requested."),
    ("ng tube and et tube in place . picc ends in the svc .", "NG tube and ET tube in place. PICC ends in the SVC."),
    ("copd . no chf . ct may help .", "COPD. No CHF. CT may help."),
    ("compression of t8 and l1 .", "Compression of T8 and L1."),
    ("pa/lateral views , post-cabg .", "PA/lateral views, post-CABG."),
])
def test_abbreviations_and_sentence_starts_are_capitals(cleaned, displayed):
    assert format_report(cleaned) == displayed


@pytest.mark.parametrize("text", [
    "The apex and the patch are part of it: 1.5 cm or less, as it is.",
    "Left IJ line ends in the SVC. No pneumothorax.",
    "",
])
def test_ordinary_words_and_formatted_reports_are_unchanged(text):
    assert format_report(text) == text


def test_formatting_twice_is_the_same_as_once():
    once = format_report("ap view . <unk> . no effusion ; see ct .")
    assert once == "AP view. <unk>. No effusion; see CT."
    assert format_report(once) == once
