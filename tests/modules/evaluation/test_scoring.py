"""Scores of records: of perfect, degenerate and ordinary ones, with tables and curves."""

from dataclasses import replace

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from modules.evaluation.metrics.claims import is_wrong
from modules.evaluation.scoring import SCORE_NAMES, score_records
from tests.support.evaluation.fake_evaluation import evaluate, open_split
from tests.support.evaluation.fake_model import FakeModel
from tests.support.tiny_dataset import write_tiny_dataset

TEXTS = ["the heart is normal . no pneumothorax .", "the left lung is clear .", "the spine looks enlarged ."]


@pytest.fixture(scope="module")
def dataset(tmp_path_factory):
    return open_split(
        write_tiny_dataset(tmp_path_factory.mktemp("data") / "tiny", train=6, val=3, test=5, image_size=32)
    )


@pytest.fixture
def model(dataset):
    return FakeModel(dataset.vocabularies, TEXTS)


def test_scores_are_a_function_of_the_records(dataset, model):
    evaluation = evaluate(dataset, model)
    scored = score_records(evaluation.records, meteor=False, resamples=50)
    assert (scored.scores, scored.absent, scored.intervals) == (
        evaluation.scores, evaluation.absent, evaluation.intervals
    )
    perfect = []
    for record in evaluation.records:
        annotation = record.annotation
        perfect.append(replace(record, generated=record.scored_reference, prediction=replace(
            record.prediction,
            region_selected=annotation.mentioned, region_probabilities=annotation.mentioned.astype(float),
            boxes=annotation.boxes, visible=annotation.visible,
            attributes=annotation.attributes & annotation.mentioned[:, None],
            attribute_probabilities=annotation.attributes.astype(float),
            observations=annotation.observations, observation_probabilities=annotation.observations.astype(float),
        )))
    scores = score_records(perfect, meteor=False).scores
    for name in ("bleu_4", "rouge_l", "region_micro_f1", "region_auroc", "attribute_micro_f1", "attribute_auroc",
                 "box_iou", "observation_micro_f1", "observation_auroc"):
        assert scores[name] == pytest.approx(1), name
    for name in ("region_ece", "attribute_ece", "observation_ece"):
        assert scores[name] == 0, name


def test_no_records_have_no_scores():
    scored = score_records([])
    assert set(scored.scores) == set(scored.absent) == set(scored.intervals) == set(SCORE_NAMES)


def remove(record, *parts):
    """Return `record` without the named `parts`: positive labels, annotation, reference or generated report."""
    annotation = record.annotation
    if "labels" in parts:
        annotation = replace(annotation, observations=np.zeros_like(annotation.observations))
    if "annotation" in parts:
        annotation = replace(
            annotation, observations_known=np.zeros_like(annotation.observations_known), graph_known=False,
            boxes_known=False,
        )
    record = replace(record, annotation=annotation)
    if "reference" in parts:
        record = replace(record, reference="", scored_reference="")
    return replace(record, generated="") if "generated" in parts else record


@settings(deadline=None, max_examples=20)
@given(
    studies=st.lists(st.integers(0, 4), min_size=1, max_size=4),
    parts=st.sets(st.sampled_from(["labels", "annotation", "reference", "generated"])),
)
def test_degenerate_records_have_values_or_reasons(dataset, studies, parts):
    records = evaluate(dataset, FakeModel(dataset.vocabularies, TEXTS), resamples=0).records
    records = [remove(records[study], *parts) for study in studies]
    scored = score_records(records, meteor=False, resamples=20)
    assert set(scored.scores) == set(scored.intervals) == set(SCORE_NAMES)
    assert set(scored.absent) == {name for name, value in scored.scores.items() if value is None}
    assert all(scored.absent.values())
    if len(studies) == 1:
        assert set(scored.intervals.values()) == {None}
    if "labels" in parts:
        assert scored.scores["observation_micro_f1"] is None and scored.scores["truth_14_micro_f1"] is None
    if "reference" in parts:
        assert scored.scores["bleu_4"] is None and scored.scores["report_14_micro_f1"] is None
    elif "generated" in parts:
        assert scored.scores["bleu_4"] == pytest.approx(0, abs=1e-9) and scored.scores["most_frequent_share"] == 1


def test_a_study_without_a_reference_is_in_no_score_that_compares_with_it(dataset, model):
    records = evaluate(dataset, model, resamples=0).records
    unreferenced = [remove(replace(records[0], generated="edema ."), "reference", "annotation")]
    whole, more = (score_records(each, meteor=False, resamples=0) for each in (records, records + unreferenced))
    for name in SCORE_NAMES:
        if not name.startswith(("distinct", "most", "generated_", "reference_", "empty")):
            assert more.scores[name] == whole.scores[name], name
    assert whole.scores["empty_references"] == 0 and more.scores["empty_references"] == 1
    assert np.isnan(more.per_study["report_f1"][-1]) and np.isnan(more.per_study["bleu_4"][-1])


def test_tables_and_curves_show_what_the_scores_summarise(dataset):
    text = "the heart looks enlarged . the left lung shows a small effusion . no pneumothorax ."
    evaluation = evaluate(dataset, FakeModel(dataset.vocabularies, [text]))
    records = evaluation.records
    regions = evaluation.tables["regions in the graph"]
    assert tuple(regions) == dataset.vocabularies.anatomy.names
    for region, row in enumerate(regions.values()):
        selected = np.array([record.prediction.region_selected[region] for record in records])
        mentioned = np.array([record.annotation.mentioned[region] for record in records])
        assert row["positives"] == mentioned.sum()
        if mentioned.any():
            assert row["precision"] == pytest.approx((selected & mentioned).sum() / max(selected.sum(), 1))
            assert row["recall"] == pytest.approx((selected & mentioned).sum() / mentioned.sum())
    f1 = [row["f1"] for row in regions.values() if row["f1"] is not None]
    assert np.mean(f1) == pytest.approx(evaluation.scores["region_macro_f1"])
    known = np.stack([record.annotation.observations_known for record in records])
    positive = np.stack([record.annotation.observations for record in records]) & known
    observations = evaluation.tables["observations read off the image"]
    assert sum(row["positives"] for row in observations.values()) == positive.sum()

    slots = int(sum(
        (record.prediction.attribute_probabilities[record.annotation.mentioned] > 0).sum() for record in records
    ))
    counts = {
        kind: sum(each["count"] for each in evaluation.curves[f"reliability of {kind}s"])
        for kind in ("region", "attribute", "observation")
    }
    assert counts == {"region": 29 * len(records), "attribute": slots, "observation": known.sum()} and slots
    errors = evaluation.curves["errors of sentences by coverage"]
    judged = [is_wrong(sentence.text, record.reference) for record in records for sentence in record.sentences]
    assert (errors["sentences"], errors["wrong"]) == (len(judged) - judged.count(None), judged.count(True))
    assert 0 < errors["wrong"] < errors["sentences"] and len(errors["by_coverage"]) == 100
    assert evaluation.scores["sentence_error_at_100"] == pytest.approx(errors["wrong"] / errors["sentences"])


def test_without_parts_and_sentences_tables_and_curves_are_empty(dataset):
    model = FakeModel(dataset.vocabularies, [""], with_graph=False, with_observations=False)
    evaluation = evaluate(dataset, model)
    assert evaluation.tables["regions in the graph"] == evaluation.tables["observations read off the image"] == {}
    assert evaluation.curves == {}
    assert "claims" in evaluation.absent["sentence_error_area"]


def test_studies_without_a_report_count_in_no_score_of_texts(dataset, model):
    records = evaluate(dataset, model).records
    unreported = [replace(record, reference="", scored_reference="", generated="", sentences=[], has_report=False)
                  for record in records]
    some = score_records([*records, *unreported], meteor=False, resamples=20)
    alone = score_records(records, meteor=False, resamples=0)
    for name in ("bleu_1", "rouge_l", "triple_f1", "report_14_micro_f1", "truth_14_micro_f1", "distinct_reports",
                 "generated_words_mean", "empty_references"):
        assert some.scores[name] == pytest.approx(alone.scores[name]), name
    assert some.scores["box_iou"] == pytest.approx(alone.scores["box_iou"])
    assert np.isnan(some.per_study["bleu_4"][len(records):]).all()
    none = score_records(unreported, meteor=False, resamples=0)
    assert none.absent["bleu_4"] == none.absent["distinct_reports"] == "no study has a report"
    assert none.scores["box_iou"] == pytest.approx(alone.scores["box_iou"])
