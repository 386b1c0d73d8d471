"""Whole runs of reward training: resuming, guards, precision, two processes, and whether rewards rise."""

import json
import os
import signal

import pytest
import torch

from data.images.network_input import to_network_input
from data.loaders import training_loader
from models.sampling.reports import report_log_probabilities
from modules.checkpoint import load_checkpoint
from modules.training.rewards.sampling import SampledReports
from tests.support.tiny_training import ScriptedEvaluator, gradients, largest_difference
from tests.support.training.process_pair import run_two_processes
from tests.support.training.reward_runs import REPEATABLE, GuardedEvaluator, keep_running_statistics, reward_trainer

START = {"bleu_4": 0.2, "distinct_reports": 1.0, "generated_words_mean": 10.0, "repeated_sentences": 0.0}


def entries(trainer, kind):
    lines = (trainer.run_folder.path / "log.jsonl").read_text(encoding="utf-8").splitlines()
    return [entry for entry in map(json.loads, lines) if entry["kind"] == kind]


def training_state(trainer):
    checkpoint = load_checkpoint(trainer.run_folder.last, training=True)
    return checkpoint.weights, checkpoint.training_state


def assert_equal(first, second):
    """Equal bit for bit: nested dictionaries, lists and tuples of tensors and plain values."""
    if isinstance(first, torch.Tensor):
        assert torch.equal(first, second)
    elif isinstance(first, dict):
        assert first.keys() == second.keys()
        for key in first:
            assert_equal(first[key], second[key])
    elif isinstance(first, list | tuple):
        assert len(first) == len(second)
        for left, right in zip(first, second, strict=True):
            assert_equal(left, right)
    else:
        assert first == second


@pytest.fixture(scope="module")
def folder(tmp_path_factory):
    return tmp_path_factory.mktemp("reward")


@pytest.fixture(scope="module")
def finished(folder):
    trainer = reward_trainer(folder, "name=whole", "train.epochs=2", "reward.baseline=greedy")
    assert trainer.fit() == 0
    return trainer


def test_the_run_starts_with_a_validation_and_logs_its_samples(finished):
    validations, steps = entries(finished, "validation"), entries(finished, "train")
    assert [validation["step"] for validation in validations] == [0, 2, 4]
    assert validations[0]["improved"] and finished.progress.best_epoch == 0
    logged = {name for name in steps[0]["terms"] if name.startswith("sampled/")}
    assert logged == {
        f"sampled/{name}" for name in (
            "length", "cider", "rouge_l", "words", "repeated_sentences", "reward", "baseline", "distinct_reports",
        )
    }
    for step in steps:
        terms = step["terms"]
        assert terms["sampled/reward"] == pytest.approx(terms["sampled/length"] + terms["sampled/cider"], abs=1e-4)
        assert terms["policy"] != 0 and 0 < terms["sampled/words"] <= 11


@pytest.mark.parametrize("where", ["before the first step", "inside an epoch", "in a validation"])
def test_a_resumed_run_is_bit_equal(folder, finished, where):
    name = f"name=stopped_{where[-5:]}"
    settings = (name, "train.epochs=2", "reward.baseline=greedy")
    stop_in = {"before the first step": 1, "in a validation": 2}.get(where)
    trainer = reward_trainer(folder, *settings, evaluator=ScriptedEvaluator(stop_in=stop_in))
    if stop_in is None:
        prepare = trainer.stage.prepare

        def prepare_and_stop(model, window, step, memory_format):
            if step == 2:
                os.kill(os.getpid(), signal.SIGTERM)
            return prepare(model, window, step, memory_format)

        trainer.stage.prepare = prepare_and_stop
    assert trainer.fit() == 128 + signal.SIGTERM
    assert trainer.progress.step == {"before the first step": 0, "inside an epoch": 3, "in a validation": 2}[where]
    resumed = reward_trainer(folder, *settings, "train.resume=true")
    assert resumed.fit() == 0
    assert_equal(training_state(resumed), training_state(finished))
    whole, again = ([step["terms"] for step in entries(each, "train")] for each in (finished, resumed))
    assert whole == again


def test_a_broken_guard_stops_the_run_and_keeps_the_best_weights(folder):
    settings = ("name=guarded", "train.epochs=5", "reward.watch=[bleu_4]")
    hacked = START | {"bleu_4": 0.9, "repeated_sentences": 0.3}
    evaluator = GuardedEvaluator(START, START | {"bleu_4": 0.3}, hacked)
    trainer = reward_trainer(folder, *settings, evaluator=evaluator)
    assert trainer.fit() == 0
    assert set(evaluator.names) == set(START)
    assert trainer.progress.step == 4 and trainer.progress.epoch == 2
    assert (trainer.progress.best, trainer.progress.best_epoch) == (0.3, 1)
    said = "\n".join(entry["text"] for entry in entries(trainer, "message"))
    assert "a guard has stopped the training: repeated_sentences rose from 0 to 0.3, above 0.05" in said
    resumed = reward_trainer(folder, *settings, "train.resume=true", evaluator=GuardedEvaluator(START))
    assert resumed.fit() == 0 and resumed.progress.step == 4 and resumed.evaluator.calls == 0


def test_the_guards_of_a_resumed_run_compare_with_its_start(folder):
    settings = ("name=resumed_guard", "train.epochs=4", "reward.watch=[bleu_4]")
    assert reward_trainer(folder, *settings, "train.max_steps=2", evaluator=GuardedEvaluator(START)).fit() == 0
    fallen = GuardedEvaluator(START | {"bleu_4": 0.1})
    resumed = reward_trainer(folder, *settings, "train.resume=true", evaluator=fallen)
    assert resumed.fit() == 0
    assert resumed.progress.step == 4
    assert resumed.progress.broken_guard.startswith("bleu_4 fell from 0.2 to 0.1, below 0.18. Start a new run with")


@pytest.mark.parametrize("precision", ["bf16", "fp16"])
def test_reward_training_in_half_precision(folder, precision):
    trainer = reward_trainer(folder, f"name={precision}", f"train.precision={precision}", "train.max_steps=2")
    before = trainer.model.decoder.word_head.weight.clone()
    assert trainer.fit() == 0
    assert not torch.equal(trainer.model.decoder.word_head.weight, before)


def test_a_step_makes_rewarded_reports_more_probable(folder):
    """To first order: the samples' log-probabilities change in the direction of their advantages."""
    others = ("observations", "regions", "attributes", "boxes", "visibility")
    trainer = reward_trainer(
        folder, *REPEATABLE, "name=step", "reward.share=1", "reward.samples=6", "optim.lr=0.00001",
        "optim.lr_patch_encoder=0.00001", *(f"loss.{name}=0" for name in others),
    )
    keep_running_statistics(trainer.model)
    batch = next(iter(training_loader(trainer.train_dataset, 4, seed=0, epoch=0)))
    drawn = trainer.stage.prepare(trainer.model, [batch], 0, torch.contiguous_format)
    sampled = drawn[0][0]
    trainer.stage.prepare = lambda *_: drawn

    def log_probabilities():
        with torch.no_grad():
            output = trainer.training_step.compute_output(to_network_input(batch), 0.0, None)
            return report_log_probabilities(trainer.model, output.encoded, sampled.studies, sampled.token_ids)

    before = log_probabilities()
    trainer.train_step([batch])
    trainer.stage.close()
    rewards = torch.from_numpy(sampled.pending.result()["length"] + sampled.pending.result()["cider"]).float()
    advantages = (rewards - rewards.mean(1, keepdim=True)) * 6 / 5
    assert advantages.abs().max() > 0.1
    gain = advantages * (log_probabilities() - before)
    assert gain.sum() > 0.5 * gain.abs().sum() > 0


def test_two_processes_have_the_gradient_of_one(tmp_path):
    """And equal weights after training, also where one of them has no reference."""
    trainer = reward_trainer(tmp_path, *REPEATABLE)
    keep_running_statistics(trainer.model)
    run_two_processes("tests.support.training.reward_processes", str(tmp_path), timeout=240)
    saved = [torch.load(tmp_path / f"rank{rank}.pt", weights_only=False) for rank in range(2)]
    drawn = [(SampledReports(*each["sampled"], False, _Computed(each["rewards"])), ()) for each in saved]
    trainer.stage.prepare = lambda *_: drawn
    trainer.backward([each["batch"] for each in saved])
    trainer.stage.close()
    assert largest_difference(gradients(trainer.model), saved[0]["gradients"]) < 1e-4


class _Computed:
    def __init__(self, rewards):
        self.rewards = rewards

    def result(self):
        return self.rewards
