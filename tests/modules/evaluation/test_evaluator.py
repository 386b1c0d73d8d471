"""The evaluator: what the model sees, what becomes of its outputs, and that the rest of the run is unchanged."""

import itertools
import json
import multiprocessing
import shutil

import numpy as np
import pytest
import torch
import torch.distributed as dist

from data.loaders import evaluation_loader
from models.outputs import BoxSource, GraphSource
from modules.evaluation.evaluator import in_study_order, inference, progress
from modules.evaluation.metrics.graph import box_iou
from modules.evaluation.scoring import SCORE_NAMES
from modules.training.validation import EvaluationStopped
from tests.support.evaluation.fake_evaluation import CPU, evaluate, make_evaluator, open_split
from tests.support.evaluation.fake_model import FakeModel, loader_over
from tests.support.tiny_dataset import write_tiny_dataset

TEXTS = ["the heart is normal . no pneumothorax .", "the left lung is clear .", "the spine looks enlarged ."]


@pytest.fixture(scope="module")
def root(tmp_path_factory):
    return write_tiny_dataset(tmp_path_factory.mktemp("data") / "tiny", train=6, val=3, test=5, image_size=32)


@pytest.fixture(scope="module")
def dataset(root):
    return open_split(root)


@pytest.fixture
def model(dataset):
    return FakeModel(dataset.vocabularies, TEXTS)


def test_all_scores_are_there_and_records_are_in_order(dataset, model):
    evaluation = evaluate(dataset, model)
    assert set(evaluation.scores) == set(SCORE_NAMES)
    # The generated reports describe no finding in a region with a box, and no observation has 10 positive studies.
    without = {
        "meteor", "grounding_generated_iou", "grounding_generated_pointing", "observation_auroc_frequent",
        # No study has a known change.
        "change_macro_f1", "change_macro_f1_unchanged", "comparison_accuracy", "comparison_accuracy_unchanged",
        "comparison_accuracy_frequent",
    }
    assert set(evaluation.absent) == without == {name for name, value in evaluation.scores.items() if value is None}
    assert set(evaluation.intervals) == set(SCORE_NAMES)
    for name, interval in evaluation.intervals.items():
        assert (interval is None) == (name in without)
        assert interval is None or interval[0] <= evaluation.scores[name] <= interval[1]
    for values in evaluation.per_study.values():
        assert values.shape == (5,)
    assert [record.study_id for record in evaluation.records] == [f"test{number}" for number in range(5)]
    for record, sample in zip(evaluation.records, (dataset[index] for index in range(5)), strict=True):
        assert record.generated in TEXTS
        assert record.reference == sample.reference
        np.testing.assert_array_equal(record.annotation.mentioned, sample.regions.mentioned.numpy())
        np.testing.assert_array_equal(record.annotation.observations_known, sample.observations_known.numpy())


def test_predicted_mode_shows_the_model_nothing_of_the_report(dataset, model):
    evaluate(dataset, model)
    assert len(model.seen) == 3
    for inputs in model.seen:
        assert inputs.annotation is None and inputs.detector_boxes is None and inputs.detector_visible is None
    evaluate(dataset, model, graph_source=GraphSource.NONE)
    assert model.seen[-1].annotation is None


def test_oracle_mode_shows_the_annotated_graph_but_scores_the_models_own_regions(dataset, model):
    oracle = evaluate(dataset, model, graph_source=GraphSource.ORACLE)
    assert model.seen[0].annotation is not None
    assert oracle.scores["region_micro_f1"] < 1
    without = evaluate(dataset, model, graph_source=GraphSource.NONE)
    assert oracle.scores["region_micro_f1"] == without.scores["region_micro_f1"]
    # Attributes are those of annotated regions.
    for record in oracle.records:
        assert not record.prediction.attributes[~record.annotation.mentioned].any()
        assert record.prediction.attributes[record.annotation.mentioned].any()


def test_predicted_regions_and_attributes_are_those_of_the_graph(dataset, model):
    evaluation = evaluate(dataset, model)
    slots = dataset.vocabularies.attributes.slots().numpy()
    for record in evaluation.records:
        prediction = record.prediction
        # The fake graph selects regions with a logit above 1, which is stricter than its threshold of 0.2.
        expected = (prediction.region_probabilities > torch.tensor(1.0).sigmoid().item()) & prediction.visible
        np.testing.assert_array_equal(prediction.region_selected, expected)
        assert not prediction.attributes[~expected].any()
        np.testing.assert_array_equal(
            prediction.attributes, (prediction.attribute_probabilities > 0.5) & expected[:, None]
        )
        assert not prediction.attribute_probabilities[~slots].any()


def test_without_a_graph_regions_are_chosen_by_the_thresholds(dataset, model):
    model.graph.region_thresholds = torch.linspace(0.3, 0.7, len(dataset.vocabularies.anatomy.regions))
    evaluation = evaluate(dataset, model, graph_source=GraphSource.NONE, visible_threshold=0.6)
    for record in evaluation.records:
        prediction = record.prediction
        expected = (prediction.region_probabilities > model.graph.region_thresholds.numpy()) & (
            prediction.visible_probabilities > 0.6
        )
        np.testing.assert_array_equal(prediction.region_selected, expected)
        assert prediction.attributes is None
    assert evaluation.absent["attribute_micro_f1"] == "attributes are not predicted"


def test_a_model_without_parts_has_no_scores_for_them(dataset):
    evaluation = evaluate(dataset, FakeModel(dataset.vocabularies, TEXTS, with_graph=False, with_observations=False))
    absent = {name for name, value in evaluation.scores.items() if value is None}
    assert absent == set(evaluation.absent)
    assert {"region_micro_f1", "attribute_auroc", "box_iou", "observation_micro_f1"} <= absent
    assert evaluation.scores["bleu_1"] > 0


def test_boxes_are_those_of_the_box_source(dataset, model):
    atlas = dataset.vocabularies.anatomy.boxes.numpy()
    evaluation = evaluate(dataset, model, box_source=BoxSource.ATLAS)
    overlaps = []
    for record in evaluation.records:
        np.testing.assert_array_equal(record.prediction.boxes, atlas)
        overlaps += box_iou(atlas, record.annotation.boxes)[record.annotation.visible].tolist()
    assert evaluation.scores["box_iou"] == pytest.approx(np.mean(overlaps))
    evaluation = evaluate(dataset, model, box_source=BoxSource.ORACLE_BOXES)
    assert model.seen[-1].detector_boxes is not None
    assert evaluation.scores["box_iou"] is None


def test_boxes_of_a_file_are_scored_as_given(root, model, tmp_path):
    lines = [json.dumps({"id": f"test{number}", "boxes": {"spine": [0, 0, 1, 0.5]}}) for number in range(5)]
    (tmp_path / "boxes.jsonl").write_text("\n".join(lines))
    dataset = open_split(root, boxes_file=tmp_path / "boxes.jsonl")
    evaluation = evaluate(dataset, model, box_source=BoxSource.FILE)
    spine = dataset.vocabularies.anatomy.index("spine")
    overlaps = []
    for record in evaluation.records:
        assert record.prediction.visible.nonzero()[0].tolist() == [spine]
        spine_iou = box_iou(np.array([0, 0, 1, 0.5]), record.annotation.boxes[spine])
        overlaps += [spine_iou if region == spine else 0 for region in record.annotation.visible.nonzero()[0]]
    assert evaluation.scores["box_iou"] == pytest.approx(np.mean(overlaps)) and np.mean(overlaps) > 0


def test_protocols(dataset, model):
    cut = evaluate(dataset, model, max_tokens=6)
    full = evaluate(dataset, model, max_tokens=6, protocol="full")
    vocabulary = set(dataset.vocabularies.tokenizer.words)
    for short, long in zip(cut.records, full.records, strict=True):
        words = [word if word in vocabulary else "<unk>" for word in long.reference.split()[:5]]
        assert short.scored_reference == " ".join(words)
        assert long.scored_reference == long.reference == short.reference


def test_only_under_r2gen_a_report_may_have_unknown_words(dataset):
    model = FakeModel(dataset.vocabularies, ["the heart quux is normal ."])
    reports = {protocol: evaluate(dataset, model, protocol=protocol).records for protocol in ("r2gen", "full")}
    assert {record.generated for record in reports["r2gen"]} == {"the heart <unk> is normal ."}
    assert {record.generated for record in reports["full"]} == {"the heart is normal ."}


@pytest.mark.parametrize("training", [True, False])
def test_modes_gradients_and_random_states_are_left_alone(dataset, model, training):
    model.train(training)
    model.frozen.eval()
    before = torch.get_rng_state()
    evaluate(dataset, model)
    assert model.modes == [False] * 3
    assert model.training is training and not model.frozen.training and model.patch_encoder.training is training
    assert torch.equal(before, torch.get_rng_state())
    assert torch.is_grad_enabled() and not torch.is_inference_mode_enabled()


def test_modes_are_restored_after_an_error(model):
    model.train()
    model.frozen.eval()
    with pytest.raises(RuntimeError), inference(model):
        raise RuntimeError
    assert model.training and not model.frozen.training


@pytest.mark.parametrize("calls", [0, 2, 3])
def test_stopping_between_batches_and_after_the_last(dataset, model, calls):
    model.train()
    answers = itertools.chain([False] * calls, itertools.repeat(True))
    with pytest.raises(EvaluationStopped):
        make_evaluator(dataset).generate(model, loader_over(dataset), CPU, should_stop=lambda: next(answers))
    assert len(model.seen) == calls
    assert model.training


def test_study_order_is_restored():
    studies = list(range(11))
    for processes in (1, 2, 3, 12):
        assert in_study_order([studies[rank::processes] for rank in range(processes)]) == studies


def test_progress_passes_everything_on_and_speaks_now_and_then(monkeypatch, capsys):
    clock = itertools.count(0, 20)
    monkeypatch.setattr("modules.evaluation.evaluator.time.monotonic", lambda: next(clock))
    assert list(progress([1, 2, 3, 4], "evaluating")) == [1, 2, 3, 4]
    assert capsys.readouterr().err.splitlines() == ["evaluating: 1 of 4 batches", "evaluating: 3 of 4 batches"]


def generate_share(rank, root, rendezvous, answers):
    """Run one of two processes: generate the shard of `rank`, then again, where rank 1 asks to stop."""
    torch.set_num_threads(1)
    dist.init_process_group("gloo", init_method=rendezvous, rank=rank, world_size=2)
    dataset = open_split(root)
    model, evaluator = FakeModel(dataset.vocabularies, TEXTS), make_evaluator(dataset)
    records = evaluator.generate(model, loader_over(dataset, 2, rank, 2), CPU)
    reports = records and [(record.study_id, record.generated) for record in records]
    try:
        evaluator.generate(model, loader_over(dataset, 2, rank, 2), CPU, should_stop=lambda: rank == 1)
        stopped = False
    except EvaluationStopped:
        stopped = True
    answers.put((rank, reports, stopped))
    dist.destroy_process_group()


def test_two_processes_share_the_studies_and_agree_on_stops(root, dataset, model, tmp_path):
    context = multiprocessing.get_context("spawn")
    answers = context.Queue()
    arguments = (root, f"file://{tmp_path / 'rendezvous'}", answers)
    processes = [context.Process(target=generate_share, args=(rank, *arguments)) for rank in range(2)]
    for process in processes:
        process.start()
    results = sorted(answers.get(timeout=120) for _ in processes)
    for process in processes:
        process.join()
    single = evaluate(dataset, model)
    reports = [(record.study_id, record.generated) for record in single.records]
    assert results == [(0, reports, True), (1, None, True)]  # rank zero alone scores
    assert [study for study, _ in reports] == [record["id"] for record in dataset.records]  # each once, in order


def test_sentences_have_the_regions_they_looked_at_and_a_confidence(dataset, model):
    for record in evaluate(dataset, model).records:
        assert " ".join(sentence.text for sentence in record.sentences) == record.generated
        selected = record.prediction.region_selected
        for sentence in record.sentences:
            np.testing.assert_allclose(sentence.regions, selected / max(selected.sum(), 1), atol=1e-6)
            assert 0 < sentence.confidence < 1
    for record in evaluate(dataset, model, graph_source=GraphSource.NONE).records:
        for sentence in record.sentences:
            assert not sentence.regions.any()
            assert sentence.confidence == pytest.approx(np.exp(sentence.log_probability))


def test_studies_that_cannot_be_read_are_left_out_and_named(root, model, tmp_path):
    copy = shutil.copytree(root, tmp_path / "copy")
    (copy / "images/test2_0.png").write_bytes(b"not an image")
    dataset, evaluator = open_split(copy), make_evaluator(open_split(root))
    loader = evaluation_loader(dataset, 2, 0, 0, 1, dataset.vocabularies.tokenizer.pad_id, False, most_skipped=1)
    records = evaluator.generate(model, loader, CPU)
    assert [record.study_id for record in records] == ["test0", "test1", "test3", "test4"]
    (skipped,) = evaluator.skipped
    assert (skipped.index, skipped.study_id) == (2, "test2") and "not a PNG or JPEG" in skipped.reason
    whole = evaluator.generate(model, loader_over(open_split(root)), CPU)
    assert evaluator.skipped == []
    assert [record.generated for record in whole if record.study_id != "test2"] == [each.generated for each in records]
