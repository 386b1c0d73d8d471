"""Sections scored apart and together, and what a study that lacks one counts for."""

import pytest

from data.dataset import StudyDataset
from data.vocabulary_builder import build_vocabularies
from modules.evaluation.baselines.answers import Answers, answer, fit_answers
from modules.evaluation.baselines.names import BLIND, MOST_FREQUENT, RANDOM
from modules.evaluation.records import SectionTexts
from modules.evaluation.scoring import SCORE_NAMES
from modules.evaluation.sections.scores import SECTION_SCORES, score_sections
from modules.evaluation.validation import SplitValidator
from tests.support.evaluation.fake_evaluation import CPU, evaluate, make_evaluator
from tests.support.evaluation.fake_model import FakeModel, loader_over
from tests.support.sections.tiny_sections import add_impressions
from tests.support.tiny_dataset import write_tiny_dataset

GENERATED = "<findings> the heart is normal . <impression> small effusion ."


@pytest.fixture(scope="module")
def splits(tmp_path_factory):
    root = add_impressions(write_tiny_dataset(tmp_path_factory.mktemp("data") / "tiny", image_size=32, test=6))
    vocabularies = build_vocabularies(root, "corrected", 1, 1, True, sections="both")
    return {
        split: StudyDataset(root, split, vocabularies, "corrected", 32, 30, 1, "ignored", sections="both")
        for split in ("train", "val", "test")
    }


@pytest.fixture(scope="module")
def evaluation(splits):
    return evaluate(splits["test"], FakeModel(splits["test"].vocabularies, [GENERATED]))


def test_records_have_the_sections_that_their_reference_has(evaluation):
    both, impression, findings = evaluation.records[:3]
    assert both.generated == "the heart is normal . small effusion ."
    assert both.reference == both.scored_reference and both.reference.endswith(". no acute disease .")
    assert [sentence.section for sentence in both.sentences] == ["findings", "impression"]
    assert both.sections["impression"] == SectionTexts("no acute disease .", "no acute disease .", "small effusion .")
    assert impression.generated == "small effusion ." and impression.reference == "small effusion ."
    assert [sentence.text for sentence in impression.sentences] == ["small effusion ."]
    assert impression.sections["findings"] == SectionTexts(None, None, "the heart is normal .")
    assert findings.generated == "the heart is normal ." and "<" not in findings.reference


def test_sections_are_scored_by_themselves(evaluation):
    scores = {name: results.scores for name, results in evaluation.sections.items()}
    assert list(scores) == ["findings", "impression"]
    # Of four impressions, two are right.
    assert scores["impression"]["bleu_1"] == pytest.approx(8 / 12 * 2.718281828 ** (1 - 14 / 12))
    assert scores["impression"]["report_14_micro_f1"] == 0.5
    assert scores["findings"]["empty_references"] == 0
    low, high = evaluation.sections["impression"].intervals["bleu_1"]
    assert low < scores["impression"]["bleu_1"] < high


def test_a_cut_reference_has_the_sections_that_are_left_of_it(splits):
    model = FakeModel(splits["test"].vocabularies, [GENERATED])
    record = evaluate(splits["test"], model, max_tokens=6).records[0]
    assert record.sections["findings"].scored_reference == " ".join(record.reference.split()[:4])
    assert record.sections["impression"].scored_reference is None
    assert record.scored_reference == record.sections["findings"].scored_reference
    assert record.marked_reference == f"<findings> {record.scored_reference}"


def test_reports_without_sections_have_no_section_scores(evaluation):
    plain = [record.with_generated("x") for record in evaluation.records]
    for record in plain:
        record.sections = {}
    assert score_sections(plain) == {}


def test_baselines_answer_each_section(splits, evaluation):
    answers = fit_answers(
        (BLIND, MOST_FREQUENT, RANDOM), make_evaluator(splits["test"]), evaluation.records, splits["train"],
        splits["val"],
    )
    for name in (BLIND, MOST_FREQUENT):
        (report,) = set(answers[name].reports)
        assert report.startswith("<findings> ") and " <impression> " in report
    assert answers[MOST_FREQUENT].reports[0].endswith("<impression> no acute disease .")
    answered = answer(evaluation.records, answers[MOST_FREQUENT])
    assert answered[1].generated == "no acute disease ." and "<" not in answered[0].generated
    scores = score_sections(answered, meteor=False, resamples=0)["impression"].scores
    assert scores["bleu_1"] > 0.5


def test_an_answer_without_a_section_leaves_it_empty(evaluation):
    answers = Answers(["<impression> small effusion ."] * len(evaluation.records))
    answered = answer(evaluation.records, answers)
    assert answered[0].generated == "small effusion ." and answered[2].generated == ""
    assert answered[0].sections["findings"].generated == ""


def test_a_validation_has_the_scores_of_sections_that_are_asked_for(splits, evaluation):
    validator = SplitValidator(make_evaluator(splits["test"]), splits["train"])
    assert validator.score_names == (*SCORE_NAMES, *SECTION_SCORES)
    names = ("bleu_1", "findings_bleu_1", "impression_report_14_micro_f1")
    model = FakeModel(splits["test"].vocabularies, [GENERATED])
    validated = validator.validate(model, loader_over(splits["test"]), CPU, names)
    sections = {name: results.scores for name, results in evaluation.sections.items()}
    assert validated.scores == {
        "bleu_1": evaluation.scores["bleu_1"], "findings_bleu_1": sections["findings"]["bleu_1"],
        "impression_report_14_micro_f1": sections["impression"]["report_14_micro_f1"],
    }
    assert set(validated.blind) == set(names) and validated.blind["findings_bleu_1"] > 0
    assert validated.by_data_set == {"tiny": validated.scores}


def test_scores_of_sections_are_names_of_no_other_score():
    assert not set(SECTION_SCORES) & set(SCORE_NAMES)


def test_a_model_of_one_section_has_no_scores_of_sections(splits):
    vocabularies = build_vocabularies(splits["train"].root, "corrected", 1, 1, True)
    plain = StudyDataset(splits["train"].root, "train", vocabularies, "corrected", 32, 30, 1, "ignored")
    assert SplitValidator(make_evaluator(plain), plain).score_names == SCORE_NAMES


def test_an_absent_score_of_a_section_has_its_reason(splits, without_java):
    validator = SplitValidator(make_evaluator(splits["test"]), splits["train"])
    model = FakeModel(splits["test"].vocabularies, [GENERATED])
    validated = validator.validate(model, loader_over(splits["test"]), CPU, ["impression_meteor"])
    assert validated.scores == {"impression_meteor": None} and "Java" in validated.absent["impression_meteor"]
