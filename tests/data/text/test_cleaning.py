"""Report cleaning: the family's rules, including their quirks, and the corrected ones."""

import json
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from data.errors import UserError
from data.text.cleaning import clean

REAL = Path(__file__).resolve().parents[4] / "shared" / "real" / "iu_xray"


@pytest.mark.skipif(not (REAL / "cleaned_train.json").is_file(), reason="needs ../shared/real/iu_xray")
@pytest.mark.parametrize("rules", ["iu_xray", "mimic_cxr"])
def test_family_rules_agree_with_every_published_result(rules):
    expected = json.loads((REAL / "cleaned_train.json").read_text(encoding="utf-8"))
    studies = json.loads((REAL / "annotation.json").read_text(encoding="utf-8"))["train"]
    assert len(studies) == len(expected) == 2069
    wrong = [study["id"] for study in studies if clean(study["report"], rules) != expected[study["id"]][rules]]
    assert wrong == []


@pytest.mark.skipif(not (REAL / "annotation.json").is_file(), reason="needs ../shared/real/iu_xray")
def test_corrected_rules_leave_no_oddity_in_real_reports():
    studies_by_split = json.loads((REAL / "annotation.json").read_text(encoding="utf-8"))
    for study in (study for studies in studies_by_split.values() for study in studies):
        words = clean(study["report"], "corrected").split(" ")
        assert "xxxx" not in " ".join(words), study["id"]
        assert not any(first == second == "." for first, second in zip(words, words[1:], strict=False)), study["id"]
        assert all(word == "." or not set(word) & set(",/;:()") for word in words), study["id"]


@pytest.mark.parametrize("rules", ["iu_xray", "mimic_cxr"])
@pytest.mark.parametrize(
    ("text", "cleaned"),
    [
        ("The Heart is normal. No effusion.", "the heart is normal . no effusion ."),
        ("Fluid and/or collapse.", "fluid andor collapse ."),
        ("1. Clear lungs. 2. Large heart.", "clear lungs . large heart ."),
        ("Seen on film 21. Stable.", "seen on film 2stable ."),
        ("Clear lungs 2. Large heart 6. Thin bones.", "clear lungs . large heart 6 . thin bones ."),
        ("Measures 1.5 cm.", "measures 15 cm ."),
        ("A < B = C @ [D] x-ray #7 ~ |", "a  b  c  d x-ray #7 ~ | ."),
        ("Clear. . Normal.", "clear .  . normal ."),
        ("XXXX is seen.", "xxxx is seen ."),
        ("Patient's \"tube\" \\ here.", "patients tube  here ."),
        ("", " ."),
    ],
)
def test_family_quirks(rules, text, cleaned):
    assert clean(text, rules) == cleaned


def test_only_the_mimic_rules_join_lines_and_placeholders():
    assert clean("No acute\nprocess  at ___ today.", "mimic_cxr") == "no acute process at  today ."
    assert clean("No acute\nprocess  here.", "iu_xray") == "no acute\nprocess  here ."


@pytest.mark.parametrize(
    ("text", "cleaned"),
    [
        ("The heart is normal. No effusion.", "the heart is normal . no effusion ."),
        ("Fluid and/or collapse.", "fluid and or collapse ."),
        ("1. Clear lungs. 2. Large heart.", "clear lungs . large heart ."),
        ("1) Clear lungs\n2) Large heart", "clear lungs large heart ."),
        ("Seen on film 21. Stable.", "seen on film 21 . stable ."),
        ("A nodule of 1.5 cm. The tip is 3.5. Stable.", "a nodule of 1.5 cm . the tip is 3.5 . stable ."),
        ("Clear.. . Normal", "clear . normal ."),
        ("Clear.The heart is large", "clear . the heart is large ."),
        ("Clear.2. Large heart: 3) thin bones", "clear . large heart thin bones ."),
        ("Is it fluid? Maybe! Better; much better.", "is it fluid . maybe . better . much better ."),
        ("No acute\nprocess.\n\nHeart\n\nnormal", "no acute process . heart . normal ."),
        ("XXXX sided ___ line, x-XXXX of Dr. Roe vs. prior", "sided line x of dr roe vs prior ."),
        ("Patient's \"tube\" - a well-placed one -- stays", "patients tube a well-placed one stays ."),
        ("lungs,heart(normal)", "lungs heart normal ."),
        (" . ? ", ""),
        ("", ""),
    ],
)
def test_corrected_rules(text, cleaned):
    assert clean(text, "corrected") == cleaned


@given(st.text(alphabet=st.sampled_from("aB1 25.,;?/()'-_xX\n:"), max_size=60) | st.text(max_size=60))
def test_corrected_rules_are_settled_after_one_pass(text):
    once = clean(text, "corrected")
    assert clean(once, "corrected") == once
    assert once == " ".join(once.split())
    assert not once or once.endswith(" .")


def test_unknown_rules_are_refused():
    with pytest.raises(UserError, match=r"data\.cleaning=iu: choose one of iu_xray, mimic_cxr, corrected"):
        clean("Clear.", "iu")
