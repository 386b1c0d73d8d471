"""Validation: only what is asked for, the image-blind baseline, and two processes."""

import multiprocessing
from datetime import timedelta

import pytest
import torch
import torch.distributed as dist

from modules.evaluation import scoring, validation
from modules.evaluation.metrics.text.nlg import BLEU_NAMES
from modules.evaluation.validation import SplitValidator
from tests.support.evaluation.fake_evaluation import CPU, evaluate, make_evaluator, open_split
from tests.support.evaluation.fake_model import FakeModel, loader_over
from tests.support.tiny_dataset import write_tiny_dataset

TEXTS = ["the heart is normal . no pneumothorax .", "the left lung is clear .", "the spine looks enlarged ."]


@pytest.fixture(scope="module")
def root(tmp_path_factory):
    return write_tiny_dataset(tmp_path_factory.mktemp("data") / "tiny", train=9, val=6, test=1, image_size=32, seed=3)


@pytest.fixture(scope="module")
def training(root):
    return open_split(root, "train")


@pytest.fixture(scope="module")
def split(root, training):
    return open_split(root, "val", training.vocabularies)


def validate(validator, split, model, names, **settings):
    return validator.validate(model, loader_over(split), CPU, names, **settings)


def test_the_scores_are_those_of_an_evaluation(split, training):
    model = FakeModel(training.vocabularies, TEXTS)
    names = ("bleu_4", "region_micro_f1", "truth_14_micro_f1", "triple_f1", "sentence_error_area", "box_iou")
    validated = validate(SplitValidator(make_evaluator(split), training), split, model, names, meteor=False)
    evaluated = evaluate(split, model, resamples=0)
    assert validated.scores == {name: evaluated.scores[name] for name in names}
    assert set(validated.absent) <= set(names)


def test_nothing_else_is_computed(split, training, monkeypatch):
    def refuse(*_, **__):
        pytest.fail("a score that was not requested was computed")

    for name in ("sentence_scores", "abnormal_regions", "decision_table"):
        monkeypatch.setattr(scoring, name, refuse)
    for name in ("modules.evaluation.metrics.labelers.label_report", "modules.evaluation.metrics.triples.read_report",
                 "modules.evaluation.metrics.text.nlg.Rouge", "modules.evaluation.metrics.text.nlg.meteor_statistics"):
        monkeypatch.setattr(name, refuse)
    model = FakeModel(training.vocabularies, TEXTS)
    validated = validate(SplitValidator(make_evaluator(split), training), split, model, BLEU_NAMES)
    assert set(validated.scores) == set(validated.blind) == set(BLEU_NAMES)


def test_a_collapsed_model_scores_as_the_image_blind_baseline(split, training, monkeypatch):
    fitted = []
    original = validation.blind_answers
    monkeypatch.setattr(validation, "blind_answers", lambda *given: fitted.append(original(*given)) or fitted[-1])
    validator = SplitValidator(make_evaluator(split), training)
    first = validate(validator, split, FakeModel(training.vocabularies, TEXTS), ["bleu_4"])
    collapsed = FakeModel(training.vocabularies, [fitted[0].reports[0]])
    second = validate(validator, split, collapsed, ["bleu_4"])
    assert second.scores == second.blind == first.blind
    assert len(fitted) == 1  # once per run
    assert first.scores != first.blind


def test_the_baseline_is_fitted_on_a_bounded_part_of_the_training_split(split, training, monkeypatch):
    monkeypatch.setattr(validation, "MOST_TRAINING_STUDIES", 4)
    read = []
    original = validation.read_references
    monkeypatch.setattr(
        validation, "read_references", lambda data, indices, workers: read.append(indices) or original(data, indices)
    )
    model = FakeModel(training.vocabularies, TEXTS)
    validate(SplitValidator(make_evaluator(split), training), split, model, ["bleu_4"])
    assert read == [[0, 3, 5, 8]]


TIMEOUT = timedelta(seconds=3)


def validate_share(rank, root, rendezvous, answers, scored):
    """Run one of two processes; scoring takes longer than collectives of the default group may."""
    torch.set_num_threads(1)
    training = open_split(root, "train")
    split = open_split(root, "val", training.vocabularies)
    model, validator = FakeModel(training.vocabularies, TEXTS), SplitValidator(make_evaluator(split), training)
    original = validation.score_validation

    def score_slowly(*arguments):
        assert not scored.wait(2 * TIMEOUT.total_seconds())
        return original(*arguments)

    validation.score_validation = score_slowly
    dist.init_process_group("gloo", init_method=rendezvous, rank=rank, world_size=2)
    dist.barrier()
    dist.distributed_c10d._set_pg_timeout(TIMEOUT)
    validated = validator.validate(model, loader_over(split, 2, rank, 2), CPU, ["bleu_4"])
    answers.put(validated)
    dist.barrier()
    dist.destroy_process_group()


def test_the_other_processes_wait_however_long_scoring_takes(root, split, training, tmp_path):
    context = multiprocessing.get_context("spawn")
    answers, scored = context.Queue(), context.Event()
    arguments = (root, f"file://{tmp_path / 'rendezvous'}", answers, scored)
    processes = [context.Process(target=validate_share, args=(rank, *arguments)) for rank in range(2)]
    for process in processes:
        process.start()
    results = [answers.get(timeout=120) for _ in processes]
    for process in processes:
        process.join()
    model = FakeModel(training.vocabularies, TEXTS)
    alone = validate(SplitValidator(make_evaluator(split), training), split, model, ["bleu_4"])
    assert results == [alone, alone]
