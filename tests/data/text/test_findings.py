"""Sentences and what they state."""

import pytest

from data.text.report_graph import read_report


def test_a_sentence_has_the_attributes_of_findings_that_it_does_not_locate():
    assert "other|yes|surgical clips" in read_report("Surgical clips.")[0].attributes
    assert "anatomicalfinding|yes|mass/nodule (not otherwise specified)" in read_report("A nodule.")[0].attributes


@pytest.mark.parametrize(
    ("text", "polarity"),
    [
        ("No effusion, mild edema.", "present"),
        ("Possible edema. No effusion.", "uncertain"),
        ("No effusion or edema.", "absent"),
        ("The lungs are clear.", "absent"),
        ("PA and lateral views.", None),
    ],
)
def test_the_polarity_of_sentences_is_their_strongest(text, polarity):
    assert read_report(text)[0].polarity == polarity
