"""Which generated sentences a reference report supports."""

import pytest
from hypothesis import given
from hypothesis import strategies as st

from modules.evaluation.metrics.claims import Claim, extract_claims, is_supported, is_wrong

REFERENCE = (
    "there is a small left pleural effusion . the heart is normal in size . the right lung is clear . "
    "possible consolidation in the left lower lung zone ."
)


@pytest.mark.parametrize("sentence, wrong", [
    ("a small left pleural effusion is seen .", False),
    ("there is a small right pleural effusion .", True),      # the other side
    ("there is a large left pleural effusion .", True),       # another severity
    ("there is no pleural effusion .", True),                 # denies a finding of the reference
    ("consolidation in the left lower lung zone .", False),   # certainty does not matter
    ("consolidation in the left upper lung zone .", True),    # elsewhere
    ("no pneumothorax .", False),                             # not mentioned means absent
    ("the heart is enlarged .", True),
    ("the cardiac silhouette is normal .", False),
    ("the lungs are clear .", True),                          # the left one is not
    ("the right lung is clear .", False),
    ("there is a pneumothorax .", True),                      # without a side it is still an observation
    ("comparison is made with the prior examination .", None),
    ("<unk> <unk> .", None),
    ("", None),
])
def test_sentences_against_a_reference(sentence, wrong):
    assert is_wrong(sentence, REFERENCE) is wrong


def test_an_empty_reference_supports_denials_alone():
    assert is_wrong("no pleural effusion .", "") is False
    assert is_wrong("small left pleural effusion .", "") is True


def test_claims_of_a_sentence():
    assert extract_claims("small left pleural effusion .") >= {
        Claim("left costophrenic angle", "anatomicalfinding|pleural effusion", True),
        Claim("left costophrenic angle", "severity|mild", True),
        Claim(None, "Pleural Effusion", True),
    }
    assert Claim("cardiac silhouette", "nlp|abnormal", False) in extract_claims("the heart is normal .")
    # Clear zones do not imply a clear lung.
    zones = extract_claims("the left upper and mid lung zones are clear .")
    assert Claim("left mid lung zone", "nlp|abnormal", False) in zones
    assert not [claim for claim in zones if claim.region == "left lung"]


SENTENCES = [
    "no pneumothorax .", "small left effusion .", "large right effusion .", "the lungs are clear .",
    "the heart is enlarged .", "the heart is normal .", "the right upper and mid lung zones are clear .",
    "the clavicles are intact .", "possible pneumonia .", "right apical pneumothorax .", "stable examination .",
]


@given(st.lists(st.sampled_from(SENTENCES), min_size=1, max_size=6))
def test_no_sentence_of_a_report_is_wrong_about_it(sentences):
    report = " ".join(sentences)
    assert not any(is_wrong(sentence, report) for sentence in sentences)


@given(st.lists(st.sampled_from(SENTENCES), max_size=5), st.lists(st.sampled_from(SENTENCES), max_size=5))
def test_saying_less_never_makes_an_affirmed_claim_right(few, more):
    small, large = extract_claims(" ".join(few)), extract_claims(" ".join([*few, *more]))
    for claim in extract_claims(" ".join(SENTENCES)):
        if claim.affirmed and is_supported(claim, small):
            assert is_supported(claim, large)
