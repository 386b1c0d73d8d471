"""Sentences and what they state."""

import pytest

from data.text.report_graph import read_report


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
