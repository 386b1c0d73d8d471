"""What baselines answer, how it is stored, and their scores."""

import dataclasses
import json

import numpy as np
import pytest

from modules.config import load_config
from modules.evaluation.baselines.answers import (
    Answers,
    BaselineCache,
    absent_baselines,
    blind_answers,
    fingerprint_answers,
    fit_answers,
    read_references,
    score_answers,
)
from modules.evaluation.baselines.names import BLIND, MOST_FREQUENT, NAMES, NEAREST_IMAGE, RANDOM
from modules.evaluation.baselines.nearest_images import nearest_training_studies
from modules.evaluation.metrics import changes, selective
from modules.evaluation.records import Prediction
from modules.evaluation.scoring import SCORE_NAMES
from tests.support.evaluation.fake_evaluation import CPU, evaluate, make_evaluator, open_split
from tests.support.evaluation.fake_model import FakeModel, loader_over
from tests.support.tiny_dataset import write_tiny_dataset


@pytest.fixture(scope="module")
def splits(tmp_path_factory):
    root = write_tiny_dataset(tmp_path_factory.mktemp("data") / "tiny", train=9, val=4, test=5, image_size=32, seed=3)
    training = open_split(root, "train")
    return {split: open_split(root, split, training.vocabularies) for split in ("train", "val", "test")}


@pytest.fixture(scope="module")
def model(splits):
    return FakeModel(splits["train"].vocabularies, ["the heart is normal ."])


@pytest.fixture(scope="module")
def records(splits, model):
    return evaluate(splits["test"], model).records


def fit(splits, model, records, names=NAMES, workers=1):
    nearest = nearest_training_studies(model, loader_over(splits["test"]), loader_over(splits["train"]), CPU)
    evaluator = make_evaluator(splits["test"])
    return fit_answers(names, evaluator, records, splits["train"], splits["val"], nearest, workers)


def test_all_baselines_are_scored_like_the_model(splits, model, records):
    answers = fit(splits, model, records)
    assert tuple(answers) == NAMES
    scored = {name: score_answers(each, records, meteor=False) for name, each in answers.items()}
    scores, absent = ({name: getattr(each, part) for name, each in scored.items()} for part in ("scores", "absent"))
    low, high = scored[RANDOM].intervals["bleu_1"]
    assert low <= scores[RANDOM]["bleu_1"] <= high
    for name in NAMES:
        assert set(scores[name]) == set(SCORE_NAMES)
    for name in (BLIND, MOST_FREQUENT):
        assert scores[name]["distinct_reports"] == 1 / 5
    assert scores[RANDOM]["distinct_reports"] > 1 / 5 and scores[RANDOM]["region_micro_f1"] is None
    for name in ("region_auroc", "attribute_auroc", "observation_auroc"):
        assert scores[BLIND][name] == pytest.approx(0.5)
    assert 0.4 < scores[BLIND]["box_iou"] < 1
    # A baseline has no confidence in its sentences, and no study of the data set has a change.
    may_be_absent = {
        "meteor", "grounding_generated_iou", "grounding_generated_pointing", "observation_auroc_frequent",
        *selective.NAMES, *changes.HEAD_NAMES, *changes.REPORT_NAMES[:3],
    }
    assert set(absent[BLIND]) <= may_be_absent
    assert "box_iou" in absent[NEAREST_IMAGE] and scores[NEAREST_IMAGE]["bleu_1"] > 0
    assert set(absent[NEAREST_IMAGE]) == {name for name, value in scores[NEAREST_IMAGE].items() if value is None}


def test_the_answers_do_not_depend_on_the_workers(splits, model, records):
    alone, shared = (fit(splits, model, records, workers=workers) for workers in (1, 2))
    for name in NAMES:
        assert alone[name].reports == shared[name].reports
    for part, array in vars(alone[BLIND].prediction).items():
        np.testing.assert_array_equal(array, getattr(shared[BLIND].prediction, part))


def test_only_the_named_are_fitted(splits, model, records):
    assert fit_answers((), make_evaluator(splits["test"]), records, None, None) == {}
    assert tuple(fit(splits, model, records, (NEAREST_IMAGE, RANDOM))) == (NEAREST_IMAGE, RANDOM)


def test_the_nearest_image_to_a_training_image_is_itself(splits, model):
    training = splits["train"]
    records = make_evaluator(training).generate(model, loader_over(training), CPU)
    nearest = nearest_training_studies(model, loader_over(training), loader_over(training), CPU)
    answers = fit_answers((NEAREST_IMAGE,), make_evaluator(training), records, training, training, nearest)
    scored = score_answers(answers[NEAREST_IMAGE], records, meteor=False, resamples=0, names=["bleu_4"])
    assert scored.scores == {"bleu_4": pytest.approx(1)}


def test_blind_answers_are_the_same_for_every_study(splits):
    _, references = read_references(splits["train"], range(9))
    answers = blind_answers(references, references, splits["train"], range(9), studies=3)
    assert len(answers.reports) == 3 and len(set(answers.reports)) == 1 and answers.reports[0] in references
    assert answers.prediction.boxes is not None


def test_absent_baselines_have_the_reason():
    absent = absent_baselines((BLIND,), 5, "no training split")
    assert tuple(absent) == (BLIND,) and set(absent[BLIND].absent.values()) == {"no training split"}


# The cache


FINGERPRINTS = {BLIND: "1", RANDOM: "2"}


def test_stored_answers_are_equal(splits, model, records, tmp_path):
    answers = fit(splits, model, records, (BLIND, RANDOM))
    BaselineCache(tmp_path / "baselines.json", FINGERPRINTS).store(answers)
    stored = BaselineCache(tmp_path / "baselines.json", FINGERPRINTS).load(answers, len(records))
    assert tuple(stored) == (BLIND, RANDOM)
    for name, each in answers.items():
        assert stored[name].reports == each.reports
        for part, array in vars(each.prediction).items():
            if array is None:
                assert getattr(stored[name].prediction, part) is None
            else:
                np.testing.assert_array_equal(getattr(stored[name].prediction, part), array)
                assert getattr(stored[name].prediction, part).dtype == array.dtype


def test_what_was_stored_for_something_else_is_not_used(tmp_path):
    path = tmp_path / "baselines.json"
    BaselineCache(path, FINGERPRINTS).store({BLIND: Answers(["a", "a"]), RANDOM: Answers(["a", "b"])})
    assert tuple(BaselineCache(path, {BLIND: "1", RANDOM: "3"}).load((BLIND, RANDOM), 2)) == (BLIND,)
    assert BaselineCache(path, FINGERPRINTS).load((BLIND, RANDOM), 3) == {}
    assert BaselineCache(path, FINGERPRINTS).load((NEAREST_IMAGE,), 2) == {}
    other = BaselineCache(path, {RANDOM: "3"})
    other.store({RANDOM: Answers(["c"], Prediction())})
    assert set(json.loads(path.read_text())) == {BLIND, RANDOM, "sha256"}


@pytest.mark.parametrize("content", ["", "{", "[]", "[" * 9999, '{"blind": 3}', '{"blind": {"fingerprint": "1"}}'])
def test_a_damaged_file_is_like_an_empty_one(tmp_path, content):
    path = tmp_path / "baselines.json"
    path.write_text(content)
    assert BaselineCache(path, FINGERPRINTS).load((BLIND,), 1) == {}


def test_a_changed_byte_is_noticed(tmp_path):
    path = tmp_path / "baselines.json"
    BaselineCache(path, FINGERPRINTS).store({BLIND: Answers(["clear lungs"])})
    assert BaselineCache(path, FINGERPRINTS).load((BLIND,), 1)
    path.write_text(path.read_text().replace("clear", "cleat"))
    assert BaselineCache(path, FINGERPRINTS).load((BLIND,), 1) == {}


def test_the_fingerprint_follows_what_the_answers_depend_on(splits, model, tmp_path):
    config = load_config(None)
    root = splits["test"].root
    evaluator = make_evaluator(splits["test"])

    def fingerprints(config=config, evaluator=evaluator, split="test"):
        return fingerprint_answers(NAMES, model, evaluator, config, root, split, CPU)

    first = fingerprints()
    assert first == fingerprints() and set(first) == set(NAMES)
    assert first == fingerprints(load_config(None, ["eval.beam_size=7", "data.workers=1", "train.epochs=2"]))
    changed = [
        fingerprints(load_config(None, ["data.train_limit=3"])), fingerprints(load_config(None, ["seed=1"])),
        fingerprints(evaluator=dataclasses.replace(evaluator, protocol="full")), fingerprints(split="val"),
    ]
    for other in changed:
        assert all(first[name] != other[name] for name in NAMES)
    images = fingerprints(load_config(None, ["data.image_size=33"]))
    assert [name for name in NAMES if images[name] != first[name]] == [NEAREST_IMAGE]
    records = root / "records.jsonl"
    content = records.read_bytes()
    records.write_bytes(content + b" ")
    assert all(first[name] != other for name, other in fingerprints().items())
    records.write_bytes(content)
