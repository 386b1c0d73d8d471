"""What the protocols do to reports, and how they describe it."""

import json
from argparse import ArgumentParser
from dataclasses import replace
from pathlib import Path

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from data.errors import UserError
from data.text.cleaning import clean
from data.text.tokenizer import Tokenizer
from modules.evaluation.predictions import Predictions
from modules.evaluation.text_protocol import CLEANINGS, add_protocol_options, clean_keeping_unknown, prepare_texts
from tests.support.tiny_dataset import write_tiny_dataset

RAW = Predictions(
    Path("x.csv"), ["a", "b"], ["The heart, is big. Rare!", "Clear."], ["<unk> heart is big", "CLEAR. ___"]
)
OURS = Predictions(
    Path("predictions.jsonl"), ["a"], ["the heart is big . rare ."], ["the <unk>"], scored_references=["the heart"],
    evaluation={"protocol": "r2gen"},
)


def prepared(predictions, *arguments):
    parser = ArgumentParser()
    add_protocol_options(parser)
    return prepare_texts(predictions, parser.parse_args([str(argument) for argument in arguments]))


def training_file(folder):
    path = folder / "training.csv"
    path.write_text("id,report\n1,The heart is big.\n2,The heart is clear. Big.\n")
    return path


def test_full_compares_complete_cleaned_references():
    texts = prepared(RAW)
    assert texts.references == texts.scored_references == ["the heart is big . rare .", "clear ."]
    assert texts.generated == ["<unk> heart is big .", "clear ."]
    assert texts.protocol == "full" and texts.applied["references"] == "complete"
    assert texts.applied["cleaning"].endswith("'corrected'")
    assert texts.frequencies.source == "references" and texts.frequencies.documents == 2


def test_r2gen_cuts_references_and_replaces_rare_words_with_training_reports(tmp_path):
    texts = prepared(
        RAW, "--protocol", "r2gen", "--max-tokens", 7, "--training-reports", training_file(tmp_path), "--min-count", 2
    )
    assert texts.scored_references == ["the heart is big . <unk>", "<unk> ."]
    assert texts.references[0] == "the heart is big . rare ."
    assert texts.protocol == texts.protocol_label == "r2gen" and texts.applied["references"] == "cut to 6 words"
    assert "fewer than 2 occurrences" in texts.applied["rare words"]
    tokenizer = Tokenizer.from_reports(["the heart is big .", "the heart is clear . big ."], 2, True)
    assert texts.scored_references == [tokenizer.protocol_reference(text, 7) for text in texts.references]
    assert texts.training == ["the heart is big .", "the heart is <unk> . big"]
    assert prepared(RAW, "--training-reports", training_file(tmp_path)).training[1] == "the heart is clear . big ."
    assert prepared(RAW).training is None


def test_r2gen_without_training_reports_says_what_it_cannot_do():
    texts = prepared(RAW, "--protocol", "r2gen", "--max-tokens", 4)
    assert texts.scored_references == ["the heart is", "clear ."]
    assert "--training-reports" in texts.applied["rare words"] and texts.protocol_label == "r2gen without <unk>"


def test_our_predictions_are_compared_as_the_evaluation_did_unless_told_otherwise():
    texts = prepared(OURS)
    assert (texts.protocol, texts.scored_references) == ("r2gen", ["the heart"])
    assert texts.applied["cleaning"].startswith("none") and "as the evaluation" in texts.applied["references"]
    assert texts.generated == ["the <unk>"]
    done = {"cleaning": "references by the rules 'mimic_cxr'", "rare words": "<unk>", "intervals": "other"}
    applied = prepared(replace(OURS, evaluation={"protocol": "r2gen", "applied": done})).applied
    assert applied["cleaning"] == done["cleaning"] and applied["rare words"] == "<unk>" and "intervals" not in applied
    assert prepared(OURS, "--protocol", "full").scored_references == OURS.references


def test_document_frequencies_of_the_training_reports(tmp_path):
    texts = prepared(RAW, "--document-frequencies", "training", "--training-reports", training_file(tmp_path))
    assert texts.frequencies.source == "training reports" and texts.frequencies.counts[("heart",)] == 2
    assert texts.applied["CIDEr's document frequencies"] == "of the 2 training reports"
    root = write_tiny_dataset(tmp_path / "tiny", train=5, val=1, test=1, image_size=8)
    texts = prepared(RAW, "--document-frequencies", "training", "--training-reports", root)
    assert texts.frequencies.documents == 5


def test_training_reports_are_cleaned_as_the_references_of_our_predictions_were(tmp_path):
    """Uncleaned, no word before a full stop would match, and capitals would be other words."""
    arguments = "--training-reports", training_file(tmp_path)
    assert prepared(OURS, *arguments).training == ["the heart is big .", "the heart is clear . big ."]
    assert "'corrected'" in prepared(OURS, *arguments).applied["training reports"]
    path = tmp_path / "numbered.csv"
    path.write_text("id,report\n1,1. The heart.\n")
    for rules in ("corrected", "iu_xray"):
        texts = prepared(replace(OURS, evaluation=OURS.evaluation | {"cleaning": rules}), "--training-reports", path)
        assert texts.training == [clean("1. The heart.", rules)] and rules in texts.applied["training reports"]
    assert prepared(OURS, *arguments, "--cleaning", "none").training[0] == "The heart is big."
    assert "training reports" not in prepared(RAW, *arguments).applied


@pytest.mark.parametrize(("section", "writes", "expected"), [
    ("report", None, ["the heart is clear .", "big ."]),
    ("report", "impression", ["no disease .", "a mass ."]),
    ("report", "both", ["the heart is clear . no disease .", "big .", "a mass ."]),
    ("findings", "both", ["the heart is clear .", "big ."]),
    ("impression", "both", ["no disease .", "a mass ."]),
    ("impression", None, ["no disease .", "a mass ."]),
])
def test_training_reports_of_a_data_set_are_the_section_that_is_scored(tmp_path, section, writes, expected):
    root = write_tiny_dataset(tmp_path / "tiny", train=3, val=1, test=1, image_size=8)
    path = root / "records.jsonl"
    records = [json.loads(line) for line in path.read_text().splitlines()]
    texts = (("The heart is clear.", "No disease."), ("Big.", None), (None, "A mass."))
    for record, (findings, impression) in zip(records, texts, strict=False):
        record |= {"report": findings, "impression": impression}
    path.write_text("".join(json.dumps(record) + "\n" for record in records))
    evaluation = OURS.evaluation | ({} if writes is None else {"writes": writes})
    predictions = replace(OURS, evaluation=evaluation, section=section)
    assert prepared(predictions, "--training-reports", root).training == expected


def test_a_data_set_without_impressions_is_named(tmp_path):
    root = write_tiny_dataset(tmp_path / "tiny", train=3, val=1, test=1, image_size=8)
    with pytest.raises(UserError, match="has no training reports with an impression"):
        prepared(replace(OURS, section="impression"), "--training-reports", root)


def test_what_a_user_can_mend_is_said(tmp_path):
    (tmp_path / "empty.csv").write_text("id,report\n")
    for arguments, message in (
        (("--document-frequencies", "training"), "needs --training-reports"),
        (("--protocol", "r2gen", "--max-tokens", 1), "--max-tokens=1"),
        (("--protocol", "full", "--max-tokens", 60), "--max-tokens=60: applies only to r2gen"),
        (("--min-count", 2, "--training-reports", tmp_path / "empty.csv"), "--min-count=2: applies only to r2gen"),
        (("--protocol", "r2gen", "--min-count", 2), "--min-count=2: needs --training-reports"),
        (("--training-reports", tmp_path / "empty.csv"), "no training report"),
        (("--training-reports", tmp_path / "nowhere.csv"), "Cannot read"),
    ):
        with pytest.raises(UserError, match=message):
            prepared(RAW, *arguments)


@settings(deadline=None)
# Without digits: the rules of R2Gen delete "1. " inside "11. ", which joins the rest to the next word.
@given(st.text(st.sampled_from("ab .,<>\n_-"), max_size=30), st.sampled_from(CLEANINGS))
def test_cleaning_leaves_unknown_words_whole(text, rules):
    cleaned = clean_keeping_unknown(f"{text} <unk> {text}", rules)
    assert "<unk>" in cleaned.split() and "unknownword" not in cleaned


@settings(deadline=None)
@given(st.lists(st.sampled_from(["the", "heart", "<unk>", "1.5", "non-acute", "."]), max_size=12).map(" ".join))
def test_cleaning_a_clean_report_changes_nothing(text):
    once = clean_keeping_unknown(text, "corrected")
    assert clean_keeping_unknown(once, "corrected") == once
