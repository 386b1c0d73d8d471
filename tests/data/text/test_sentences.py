"""Splitting reports into sentences."""

import pytest

from data.text.sentences import split_sentences


@pytest.mark.parametrize(
    ("text", "lines"),
    [
        ("Lungs clear. Heart normal.", ["Lungs clear.", "Heart normal."]),
        ("Lungs clear.Heart normal", ["Lungs clear.", "Heart normal"]),
        ("lungs clear . heart normal .", ["lungs clear .", "heart normal ."]),
        ("A 1.5 cm nodule. No 2.0 x 3.1 cm mass.", ["A 1.5 cm nodule.", "No 2.0 x 3.1 cm mass."]),
        ("Seen by Dr. XXXX, e.g. a scar vs. a nodule. Next.", ["Seen by Dr. XXXX, e.g. a scar vs. a nodule.", "Next."]),
        ("1. No edema. 2. Clear lungs.", ["No edema.", "Clear lungs."]),
        ("1) No edema\n\n2) Clear lungs", ["No edema", "Clear lungs"]),
        ("The lungs are\nclear. ", ["The lungs are clear."]),
        ("___ . XXXX. .. ?! 12. (3)", ["XXXX."]),
        ("Edema; effusion! Mass?", ["Edema;", "effusion!", "Mass?"]),
        ("FINDINGS: Lungs clear.\nIMPRESSION: Normal.", ["Lungs clear.", "Normal."]),
        ("INDICATION: rule out edema. Cough.\nFINDINGS: Clear.", ["Clear."]),
        ("COMPARISON: Edema was seen.\n\nHeart: normal.", ["Heart: normal."]),
        ("Hx: edema. Cough. FINDINGS: Clear.", ["Clear."]),
        ("Reason for exam - edema\nFindings - Clear", ["Clear"]),
        ("COMPARISON: Edema. Then more.\nIMPRESSION: Clear.", ["Clear."]),
        ("• No edema\n• Clear lungs", ["No edema", "Clear lungs"]),
        ("No edema\nClear lungs", ["No edema", "Clear lungs"]),
        ("Right\nPICC", ["Right PICC"]),
        ("Edema? No.", ["Edema? No."]),
        ("Small effusion on the rt. side.", ["Small effusion on the rt. side."]),
        ("Lungs\tclear", ["Lungs clear"]),
        ("FINDINGS:\nHeart: normal size.", ["Heart: normal size."]),
        ("", []),
        (" \n .", []),
    ],
)
def test_sentences(text, lines):
    assert [line for line, _ in split_sentences(text)] == lines


def test_long_text_without_punctuation_is_read_in_pieces():
    pieces = list(split_sentences("mild edema and " * 200))
    assert len(pieces) > 1 and sum(len(words) for _, words in pieces) == 600
    assert max(len(words) for _, words in pieces) <= 100
