"""The baselines, compared with slow and obvious implementations."""

from dataclasses import fields

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from pycocoevalcap.bleu.bleu import Bleu
from sklearn.metrics import f1_score

from models.outputs import GraphSource
from modules.evaluation.baselines import (
    BLIND,
    MOST_FREQUENT,
    NAMES,
    NEAREST_IMAGE,
    RANDOM,
    TrainingSummary,
    best_constant_report,
    blind_prediction,
    most_frequent_report,
    nearest_studies,
    patch_features,
    random_reports,
    score_baselines,
    summarise,
)
from modules.evaluation.metrics import selective
from tests.support.evaluation.fake_evaluation import CPU, evaluate, make_evaluator, open_split
from tests.support.evaluation.fake_model import FakeModel, loader_over
from tests.support.tiny_dataset import write_tiny_dataset

TEXT = st.lists(st.sampled_from("abc"), min_size=0, max_size=8).map(" ".join)


@pytest.fixture(scope="module")
def splits(tmp_path_factory):
    root = write_tiny_dataset(tmp_path_factory.mktemp("data") / "tiny", train=9, val=4, test=5, image_size=32, seed=3)
    training = open_split(root, "train")
    return {split: open_split(root, split, training.vocabularies) for split in ("train", "val", "test")}


@pytest.fixture(scope="module")
def model(splits):
    return FakeModel(splits["train"].vocabularies, ["the heart is normal ."])


def package_bleu(candidate, references):
    return Bleu(4).compute_score(
        {study: [text] for study, text in enumerate(references)},
        {study: [candidate] for study in range(len(references))}, verbose=0,
    )[0][3]


@settings(deadline=None)
@given(candidates=st.lists(TEXT, min_size=1, max_size=6), references=st.lists(TEXT, min_size=1, max_size=5))
def test_the_best_report_is_that_of_trying_them_all(candidates, references):
    scores = [package_bleu(candidate, references) for candidate in candidates]
    report, score = best_constant_report(candidates, references)
    assert score == pytest.approx(max(scores), rel=1e-9)
    assert package_bleu(report, references) == pytest.approx(max(scores), rel=1e-9)


def test_the_first_of_equally_good_reports_wins():
    assert best_constant_report(["b a", "a b", "a b"], ["a", "b"])[0] == "b a"
    assert best_constant_report(["x", "a b c d", "a b c d e"], ["a b c d e"])[0] == "a b c d e"


def test_summary_counts_what_is_annotated(splits, model):
    training = splits["train"]
    summary = summarise(model, loader_over(training), CPU)
    samples = [training[index] for index in range(len(training))]
    with_boxes = [sample for sample in samples if sample.regions.boxes_known]
    graphs = [sample for sample in samples if sample.regions.graph_known]
    assert 0 < len(with_boxes) < len(graphs) < len(samples)
    assert summary.references == [sample.reference for sample in samples]
    assert summary.graph_count == len(graphs)
    np.testing.assert_array_equal(
        summary.mention_counts, sum(sample.regions.mentioned.int() for sample in graphs).numpy()
    )
    np.testing.assert_array_equal(
        summary.attribute_counts,
        sum((sample.regions.attributes & sample.regions.mentioned[:, None]).int() for sample in graphs).numpy(),
    )
    np.testing.assert_array_equal(
        summary.label_counts, sum(sample.observations_known.int() for sample in samples).numpy()
    )
    np.testing.assert_array_equal(
        summary.observation_counts, sum(sample.observations * sample.observations_known for sample in samples).numpy()
    )
    boxes = blind_prediction(summary).boxes
    for region in range(len(boxes)):
        visible = [sample.regions.boxes[region] for sample in with_boxes if sample.regions.visible[region]]
        expected = torch.stack(visible).mean(0).numpy() if visible else np.zeros(4)
        np.testing.assert_allclose(boxes[region], expected, atol=1e-6)


def summary_of(mentioned, observations, known):
    """A summary of studies with mentioned [studies, R], observations and known [studies, K] as their only labels."""
    mentioned, observations, known = (np.array(table, dtype=bool) for table in (mentioned, observations, known))
    regions = mentioned.shape[1]
    return TrainingSummary(
        references=[], features=np.zeros((0, 1)), box_sums=np.zeros((regions, 4)), box_counts=np.zeros(regions, int),
        graph_count=len(mentioned), mention_counts=mentioned.sum(0), attribute_counts=np.zeros((regions, 1), int),
        observation_counts=(observations & known).sum(0), label_counts=known.sum(0),
    )


TABLE = st.lists(st.lists(st.booleans(), min_size=4, max_size=4), min_size=5, max_size=5)


@settings(deadline=None)
@given(mentioned=TABLE, observations=TABLE, known=TABLE)
def test_thresholds_are_the_best_on_the_training_split(mentioned, observations, known):
    prediction = blind_prediction(summary_of(mentioned, observations, known))
    mentioned, observations, known = (np.array(table) for table in (mentioned, observations, known))

    def micro_f1(selected, reference, counted):
        return f1_score(reference[counted], np.broadcast_to(selected, reference.shape)[counted], zero_division=0)

    everything = np.ones_like(mentioned)
    cases = [(prediction.region_probabilities, prediction.region_selected, mentioned, everything)]
    if known.any():
        cases.append((prediction.observation_probabilities, prediction.observations, observations, known))
    else:
        assert prediction.observations is None
    for priors, selected, reference, counted in cases:
        for threshold in [*priors, 2.0]:
            best = micro_f1(selected, reference, counted)
            assert best >= micro_f1(priors >= threshold, reference, counted) - 1e-12
        assert not selected[priors == 0].any()


def test_parts_without_annotation_are_not_predicted():
    nothing = np.zeros((0, 3), dtype=bool)
    prediction = blind_prediction(summary_of(nothing, nothing, nothing))
    assert all(getattr(prediction, field.name) is None for field in fields(prediction))


def test_the_nearest_image_has_the_highest_cosine():
    training = np.eye(3, dtype=np.float32)
    features = np.array([[0.1, 0.9, 0.2], [0.5, 0.5, 0.0], [0.0, 0.1, 0.99]] * 200, dtype=np.float32)
    assert nearest_studies(features, training).tolist() == [1, 0, 2] * 200  # the first of equals


def test_features_are_mean_patches_of_unit_length(splits, model):
    features = patch_features(model, loader_over(splits["test"], batch_size=3), CPU)
    image = splits["test"][4].images[:1, 0]
    patches = torch.nn.functional.avg_pool2d(image, 8).flatten()
    expected = torch.stack([patches.mean(), (patches**2).mean(), torch.tensor(1.0)])
    np.testing.assert_allclose(features[4], expected / expected.norm(), rtol=1e-5)


def test_the_most_frequent_and_random_reports():
    assert most_frequent_report(["a", "b", "c", "b", "c"]) == "b"
    reports = [f"report {number}" for number in range(5)]
    drawn = random_reports(reports, 400)
    assert drawn == random_reports(reports, 400) and len(drawn) == 400
    for report in reports:
        assert 50 < drawn.count(report) < 110


def test_all_baselines_are_scored_like_the_model(splits, model):
    test = splits["test"]
    evaluation = evaluate(test, model)
    validation = [splits["val"][index].reference for index in range(4)]
    scored = score_baselines(
        model, make_evaluator(test), evaluation.records, loader_over(test), loader_over(splits["train"]), validation,
        CPU, meteor=False,
    )
    scores, absent = ({name: getattr(each, part) for name, each in scored.items()} for part in ("scores", "absent"))
    low, high = scored[RANDOM].intervals["bleu_1"]
    assert low <= scores[RANDOM]["bleu_1"] <= high
    assert set(scores) == set(absent) == set(NAMES)
    for name in NAMES:
        assert set(scores[name]) == set(evaluation.scores)
    for name in (BLIND, MOST_FREQUENT):
        assert scores[name]["distinct_reports"] == 1 / 5
    assert scores[RANDOM]["distinct_reports"] > 1 / 5 and scores[RANDOM]["region_micro_f1"] is None
    for name in ("region_auroc", "attribute_auroc", "observation_auroc"):
        assert scores[BLIND][name] == pytest.approx(0.5)
    assert 0.4 < scores[BLIND]["box_iou"] < 1
    # A baseline has no confidence in its sentences.
    may_be_absent = {"meteor", "grounding_generated_iou", "grounding_generated_pointing", *selective.NAMES}
    assert set(absent[BLIND]) <= may_be_absent
    assert "box_iou" in absent[NEAREST_IMAGE] and scores[NEAREST_IMAGE]["bleu_1"] > 0
    assert set(absent[NEAREST_IMAGE]) == {name for name, value in scores[NEAREST_IMAGE].items() if value is None}


def test_the_nearest_image_to_a_training_image_is_itself(splits, model):
    training = splits["train"]
    evaluator = make_evaluator(training, graph_source=GraphSource.NONE)
    records = evaluator.evaluate(model, loader_over(training), CPU, meteor=False).records
    scored = score_baselines(
        model, evaluator, records, loader_over(training), loader_over(training), ["a"], CPU, meteor=False
    )
    assert scored[NEAREST_IMAGE].scores["bleu_4"] == pytest.approx(1)
