"""The trainer with a model of a few hundred weights; gradients over windows and processes with the smallest SGRRG."""

import json
import re
import signal
from pathlib import Path

import pytest
import torch
from torch import nn

from data.collate import collate
from data.errors import UserError
from data.loaders import training_loader
from modules.checkpoint import load_checkpoint
from tests.support.tiny_training import (
    ScriptedEvaluator,
    gradients,
    largest_difference,
    smallest_sgrrg_trainer,
    tiny_trainer,
)
from tests.support.training.process_pair import run_two_processes

# 9 studies, 4 per step in 2 micro-batches: an epoch is two steps.
STEPS, MICRO_BATCHES = 2, 4


def log_entries(folder: Path, kind: str) -> list[dict]:
    lines = (folder / "results/run/log.jsonl").read_text(encoding="utf-8").splitlines()
    return [entry for entry in map(json.loads, lines) if entry["kind"] == kind]


def messages(folder: Path) -> str:
    return "\n".join(entry["text"] for entry in log_entries(folder, "message"))


# Resuming


# Several workers and random augmentation: neither may change a resumed run.
REALISTIC = ("data.workers=2", "data.rotate=8", "data.intensity=0.1")


@pytest.fixture(scope="module")
def uninterrupted(tmp_path_factory):
    folder = tmp_path_factory.mktemp("uninterrupted")
    trainer = tiny_trainer(folder, *REALISTIC)
    assert trainer.fit() == 0
    return folder, trainer


@pytest.mark.parametrize(
    ("where", "stopped_position"),
    [
        ({"stop_at": MICRO_BATCHES + 1}, (1, 1)),  # in the first micro-batch of a window
        ({"stop_at": 2 * MICRO_BATCHES}, (1, STEPS)),  # in the last micro-batch of an epoch
        ({"evaluator": {"stop_in": 2}}, (1, STEPS)),
    ],
    ids=["inside a window", "at an epoch's end", "during validation"],
)
def test_resuming_is_bit_equal(tmp_path, uninterrupted, where, stopped_position):
    reference_folder, reference = uninterrupted
    where = {key: ScriptedEvaluator(**value) if key == "evaluator" else value for key, value in where.items()}
    (tmp_path / "data").symlink_to(reference_folder / "data")
    stopped = tiny_trainer(tmp_path, *REALISTIC, **where)
    assert stopped.fit() == 128 + signal.SIGTERM
    assert (stopped.progress.epoch, stopped.progress.batch) == stopped_position
    assert "resume with the same command and train.resume=true" in messages(tmp_path)

    torch.manual_seed(99)  # the RNG state of the new process must not matter
    resumed = tiny_trainer(tmp_path, *REALISTIC, "train.resume=true")
    assert resumed.fit() == 0
    for name, value in reference.model.state_dict().items():
        assert torch.equal(resumed.model.state_dict()[name], value), name
    assert resumed.progress == reference.progress
    for kind, key in (("train", "terms"), ("validation", "scores")):
        expected = [(entry["epoch"], entry["step"], entry[key]) for entry in log_entries(reference_folder, kind)]
        assert [(entry["epoch"], entry["step"], entry[key]) for entry in log_entries(tmp_path, kind)] == expected


def test_reference_run_has_what_the_comparison_needs(uninterrupted):
    folder, trainer = uninterrupted
    assert [entry["step"] for entry in log_entries(folder, "train")] == [1, 2, 3, 4, 5, 6]
    assert [entry["step"] for entry in log_entries(folder, "validation")] == [2, 4, 6]
    again = tiny_trainer(folder, "name=other_seed", "seed=1")
    again.fit()
    assert not torch.equal(again.model.decoder.weight, trainer.model.decoder.weight)


def test_a_finished_run_is_not_trained_further(tmp_path):
    tiny_trainer(tmp_path, "train.epochs=1").fit()
    before = (tmp_path / "results/run/last/weights.pt").read_bytes()
    again = tiny_trainer(tmp_path, "train.epochs=1", "train.resume=true")
    assert again.fit() == 0
    assert again.criterion.studies == []
    assert (tmp_path / "results/run/last/weights.pt").read_bytes() == before


def test_resuming_nothing_says_so_and_starts(tmp_path):
    trainer = tiny_trainer(tmp_path, "train.resume=true", "train.epochs=1")
    assert trainer.fit() == 0
    assert trainer.progress.step == 2
    assert "No checkpoint to resume from" in messages(tmp_path)


def test_more_epochs_may_be_asked_for_on_resuming(tmp_path):
    tiny_trainer(tmp_path, "train.epochs=1").fit()
    resumed = tiny_trainer(tmp_path, "train.epochs=2", "train.resume=true")
    assert resumed.fit() == 0
    assert resumed.progress.epoch == 2


def test_saves_inside_an_epoch(tmp_path):
    with pytest.raises(UserError, match="not finite"):
        tiny_trainer(tmp_path, "train.save_every=1", spoil_at=3).fit()
    position = load_checkpoint(tmp_path / "results/run/last", training=True).training_state["position"]
    assert (position["epoch"], position["batch"], position["step"]) == (0, 1, 1)


def test_the_log_of_a_resumed_run_is_that_of_an_undisturbed_one(tmp_path):
    """The run ends in its fifth step, and is resumed after the third: within the steps that a line averages over."""
    settings = ["optim.batch_size=1", "data.micro_batch_size=1", "train.log_every=5", "train.save_every=3",
                "train.epochs=2"]

    def log(name):
        lines = (tmp_path / "results" / name / "log.jsonl").read_text(encoding="utf-8").splitlines()
        entries = [json.loads(line) for line in lines]
        return [
            {key: value for key, value in entry.items() if key not in ("time", "images_per_second")}
            for entry in entries if entry["kind"] in ("train", "validation")
        ]

    tiny_trainer(tmp_path, *settings, "name=whole").fit()
    with pytest.raises(UserError, match="not finite"):
        tiny_trainer(tmp_path, *settings, "name=broken", spoil_at=5).fit()
    assert log("broken") == []
    tiny_trainer(tmp_path, *settings, "name=broken", "train.resume=true").fit()
    assert log("broken") == log("whole") and [entry["step"] for entry in log("whole")][:2] == [5, 9]


def test_max_steps_ends_in_a_validated_checkpoint_to_go_on_from(tmp_path, uninterrupted):
    reference_folder, reference = uninterrupted
    (tmp_path / "data").symlink_to(reference_folder / "data")
    cut = tiny_trainer(tmp_path, *REALISTIC, "train.max_steps=3")
    assert cut.fit() == 0
    assert [entry["step"] for entry in log_entries(tmp_path, "validation")] == [2, 3]
    assert (tmp_path / "results/run/best/weights.pt").is_file()
    resumed = tiny_trainer(tmp_path, *REALISTIC, "train.resume=true")
    assert resumed.fit() == 0
    assert torch.equal(resumed.model.decoder.weight, reference.model.decoder.weight)


def test_init_from_loads_what_fits_and_lists_the_rest(tmp_path):
    first = tiny_trainer(tmp_path, "train.epochs=1")
    first.fit()
    second = tiny_trainer(
        tmp_path, "name=second", f"train.init_from={tmp_path / 'results/run'}", "train.max_steps=1",
        "data.min_word_count=3", "optim.lr=0", "optim.lr_patch_encoder=0", "seed=5",
    )
    before = second.model.words.weight.clone()
    assert second.fit() == 0
    best = load_checkpoint(tmp_path / "results/run").weights
    assert torch.equal(second.model.observations.weight, best["observations.weight"])
    assert torch.equal(second.model.words.weight, before)
    log = (tmp_path / "results/second/log.jsonl").read_text()
    assert re.search(r"3 weights did not fit: decoder\.bias is .*; decoder\.weight is .*; words\.weight is", log)


# What stops a run


def test_non_finite_loss_names_terms_and_studies_and_leaves_the_checkpoint(tmp_path):
    trainer = tiny_trainer(tmp_path, spoil_at=MICRO_BATCHES + 2)
    with pytest.raises(UserError) as caught:
        trainer.fit()
    assert "\n" not in str(caught.value)
    assert "report nan" in str(caught.value)
    assert "observations 0." in str(caught.value)
    for study_id in trainer.criterion.studies[-1]:
        assert study_id in str(caught.value)
    for study_id in set(trainer.criterion.studies[-2]) - set(trainer.criterion.studies[-1]):
        assert study_id not in str(caught.value)
    state = load_checkpoint(tmp_path / "results/run/last", training=True)
    assert state.training_state["position"]["epoch"] == 1
    assert all(weight.isfinite().all() for weight in state.weights.values())


def test_non_finite_gradient_stops_before_it_reaches_the_weights(tmp_path):
    trainer = tiny_trainer(tmp_path)
    trainer.model.decoder.weight.register_hook(lambda gradient: gradient * torch.inf)
    with pytest.raises(UserError, match="A gradient is not finite in epoch 1 after step 0: gradient_norm .*studies tr"):
        trainer.fit()
    assert all(weight.isfinite().all() for weight in trainer.model.state_dict().values())


def test_stops_early_and_keeps_the_best(tmp_path):
    evaluator = ScriptedEvaluator([0.1, 0.4, 0.3, 0.4, 0.9])
    trainer = tiny_trainer(tmp_path, "train.epochs=9", "train.patience=2", evaluator=evaluator)
    assert trainer.fit() == 0
    assert trainer.progress.epoch == 4
    assert (trainer.progress.best, trainer.progress.best_epoch) == (0.4, 2)
    assert "bleu_4 = 0.4000, from epoch 2" in messages(tmp_path)
    best = load_checkpoint(tmp_path / "results/run").weights
    last = load_checkpoint(tmp_path / "results/run/last").weights
    assert not torch.equal(best["decoder.weight"], last["decoder.weight"])
    assert not (tmp_path / "results/run/best/training_state.pt").exists()


def test_validates_where_the_settings_say_and_at_the_end(tmp_path):
    evaluator = ScriptedEvaluator()
    settings = ("train.epochs=6", "train.validate_from=2", "train.validate_every=3")
    tiny_trainer(tmp_path, *settings, evaluator=evaluator).fit()
    assert [entry["epoch"] for entry in log_entries(tmp_path, "validation")] == [2, 5, 6]


def test_validations_without_the_score_select_nothing_and_do_not_end_the_run(tmp_path):
    """The last weights are then saved as best, so that the run can be tested."""
    settings = ("train.epochs=4", "train.patience=1")
    trainer = tiny_trainer(tmp_path, *settings, evaluator=ScriptedEvaluator([None]))
    assert trainer.fit() == 0
    assert trainer.progress.epoch == 4 and trainer.progress.best is None
    assert messages(tmp_path).count("Warning: bleu_4 is absent (no words), so this validation has no bleu_4") == 4
    assert "no validation had bleu_4, so the last weights are saved as" in messages(tmp_path)
    assert [entry["monitored"] for entry in log_entries(tmp_path, "validation")] == [None] * 4
    best = load_checkpoint(tmp_path / "results/run").weights
    assert torch.equal(best["decoder.weight"], trainer.model.decoder.weight)


def test_an_absent_score_is_worse_than_any_other(tmp_path):
    trainer = tiny_trainer(tmp_path, evaluator=ScriptedEvaluator([None, 0.0, None]))
    trainer.fit()
    assert (trainer.progress.best, trainer.progress.best_epoch) == (0.0, 2)


@pytest.mark.parametrize(("least_epochs", "last"), [(1, 2), (2, 2), (4, 4), (9, 5)])
def test_a_run_is_not_stopped_early_before_the_least_number_of_epochs(tmp_path, least_epochs, last):
    trainer = tiny_trainer(
        tmp_path, "train.epochs=5", "train.patience=1", f"train.least_epochs={least_epochs}",
        evaluator=ScriptedEvaluator([0.5, 0.1]),
    )
    trainer.fit()
    assert trainer.progress.epoch == last


# Training steps


def test_frozen_parts_keep_weights_and_running_means(tmp_path):
    trainer = tiny_trainer(tmp_path, "train.freeze=[patch_encoder]", "train.epochs=1")
    before = {name: value.clone() for name, value in trainer.model.state_dict().items()}
    trainer.fit()
    for name, value in trainer.model.state_dict().items():
        assert torch.equal(value, before[name]) == name.startswith("patch_encoder."), name


def test_unfrozen_running_means_move(tmp_path):
    trainer = tiny_trainer(tmp_path, "train.epochs=1")
    trainer.fit()
    assert trainer.model.patch_encoder[1].num_batches_tracked == MICRO_BATCHES


def test_mixing_rises_to_its_height_and_stays(tmp_path):
    trainer = tiny_trainer(
        tmp_path, "train.graph_source=mixed", "train.mix_to=0.6", "train.mix_epochs=2", "optim.batch_size=3",
        "data.micro_batch_size=null",
    )
    trainer.fit()
    assert trainer.model.mixing_probabilities == pytest.approx([0, 0.1, 0.2, 0.3, 0.4, 0.5, 0.6, 0.6, 0.6])


def test_oracle_training_mixes_nothing(tmp_path):
    trainer = tiny_trainer(tmp_path, "train.epochs=1")
    trainer.fit()
    assert set(trainer.model.mixing_probabilities) == {0.0}


def test_fp16_skips_a_step_that_overflows(tmp_path):
    trainer = tiny_trainer(tmp_path, "train.precision=fp16", "train.max_steps=1")
    before = trainer.model.words.weight.clone()
    trainer.model.decoder.weight.register_hook(lambda gradient: gradient * torch.inf)
    assert trainer.fit() == 0
    assert torch.equal(trainer.model.words.weight, before)
    scaler = load_checkpoint(tmp_path / "results/run/last", training=True).training_state["scaler"]
    assert scaler["scale"] == 2**15


def test_fp16_recovers_from_a_loss_that_is_not_finite(tmp_path):
    trainer = tiny_trainer(tmp_path, "train.precision=fp16", spoil_at=3)
    assert trainer.fit() == 0
    first, second, *rest = log_entries(tmp_path, "train")
    assert (second["loss"], second["terms"], second["skipped_steps"]) == (None, {}, 1)
    assert all(entry["loss"] > 0 and "skipped_steps" not in entry for entry in (first, *rest))
    assert all(weight.isfinite().all() for weight in trainer.model.state_dict().values())


def test_fp16_gives_up_after_many_skipped_steps_in_a_row(tmp_path, monkeypatch):
    monkeypatch.setattr("modules.training.trainer.MOST_SKIPPED_STEPS", 3)
    trainer = tiny_trainer(tmp_path, "train.precision=fp16")

    def spoil(gradient: torch.Tensor) -> torch.Tensor:
        """In all steps but the second, whose micro-batches are numbers 3 and 4."""
        return gradient if len(trainer.criterion.studies) in (3, 4) else gradient * torch.inf

    trainer.model.decoder.weight.register_hook(spoil)
    with pytest.raises(UserError) as caught:
        trainer.fit()
    message = str(caught.value)
    assert "The gradient of 3 steps in a row is not finite in epoch 3 after step 4: gradient_norm" in message
    for name in (*trainer.criterion.studies[-1], *trainer.criterion.studies[-2], "report ", "observations "):
        assert name in message


def test_channels_last_reaches_the_trunk(tmp_path):
    trainer = tiny_trainer(tmp_path, "train.channels_last=true", "train.max_steps=1")
    seen = []
    trainer.model.patch_encoder[0].register_forward_hook(
        lambda module, inputs, output: seen.append(inputs[0].is_contiguous(memory_format=torch.channels_last))
    )
    trainer.fit()
    assert seen == [True, True]
    assert trainer.model.patch_encoder[0].weight.is_contiguous(memory_format=torch.channels_last)


def test_compiled_model_trains_alike_and_keeps_its_names(tmp_path, monkeypatch):
    plain = tiny_trainer(tmp_path, "name=plain", "train.max_steps=1", "data.rotate=0")
    plain.fit()
    compile_module = nn.Module.compile
    # Dynamo only: its graphs run eagerly, which saves minutes of C++ compilation.
    monkeypatch.setattr(nn.Module, "compile", lambda module: compile_module(module, backend="eager"))
    compiled = tiny_trainer(tmp_path, "train.compile=true", "train.max_steps=1", "data.rotate=0")
    assert compiled.model._compiled_call_impl is not None
    compiled.fit()
    saved = load_checkpoint(tmp_path / "results/run").weights
    for name, value in plain.model.state_dict().items():
        torch.testing.assert_close(saved[name], value)


def test_two_accumulated_micro_batches_equal_one_batch(tmp_path):
    trainer = smallest_sgrrg_trainer(tmp_path, "loss.contrast=0")
    samples = [trainer.train_dataset[0, index] for index in range(4)]
    trainer.backward([collate(samples, 0)])
    whole = gradients(trainer.model)
    # Unequal halves: tokens, regions and labels are counted over both.
    losses = trainer.backward([collate(samples[:1], 0), collate(samples[1:], 0)])
    assert largest_difference(whole, gradients(trainer.model)) < 1e-5
    assert set(losses.names) == {"total", "report", "observations", "regions", "attributes", "boxes", "visibility"}


# Equal runs: dropout is 0, and the trunk is frozen, because BatchNorm's statistics are those of a micro-batch.
EQUAL_RUNS = ("train.freeze=[patch_encoder]", "data.rotate=5")


def test_the_same_settings_give_the_same_run_in_micro_batches(tmp_path):
    """The pairs of the contrast loss are those of a micro-batch."""
    expected, accumulated = (
        run_smallest_sgrrg(tmp_path, f"name=micro_{size}", f"data.micro_batch_size={size}", "loss.contrast=0")
        for size in ("null", 2)
    )
    assert_same_run(accumulated, expected)


def test_the_same_settings_give_the_same_run_in_two_processes_also_after_resuming_in_one(tmp_path):
    """And the gradients of the first step are those of one process."""
    trainer = smallest_sgrrg_trainer(tmp_path, "data.micro_batch_size=null", "data.rotate=5")
    batch = next(iter(training_loader(trainer.train_dataset, 4, seed=0, epoch=0)))
    losses = trainer.backward([batch])
    run_two_processes("tests.support.training.two_processes", str(tmp_path), *EQUAL_RUNS, timeout=120)
    shared = torch.load(tmp_path / "shared.pt", weights_only=True)
    terms = dict(zip(losses.names, losses.table[0].tolist(), strict=True))
    assert terms["contrast"] > 0 and terms["boxes"] > 0
    assert shared["terms"] == pytest.approx(terms, rel=1e-4)
    assert largest_difference(gradients(trainer.model), shared["gradients"]) < 1e-5

    # The two processes have stopped after three of six steps, in the middle of an epoch.
    expected = run_smallest_sgrrg(tmp_path, "name=alone", "data.micro_batch_size=null")
    resumed = run_smallest_sgrrg(tmp_path, "name=shared", "data.micro_batch_size=null", "train.resume=true")
    assert_same_run(resumed, expected)
    log = (tmp_path / "results/shared/log.jsonl").read_text(encoding="utf-8")
    assert "step 3; it had another number of processes" in log


def run_smallest_sgrrg(folder: Path, *overrides: str) -> list[dict]:
    """Train in this process. Return the entries of the log of all six steps."""
    trainer = smallest_sgrrg_trainer(folder, *EQUAL_RUNS, *overrides)
    assert trainer.fit() == 0
    lines = (trainer.run_folder.path / "log.jsonl").read_text(encoding="utf-8").splitlines()
    return [entry for entry in map(json.loads, lines) if entry["kind"] == "train"]


def assert_same_run(entries: list[dict], expected: list[dict]) -> None:
    """Losses, gradients and learning rates of all steps are equal up to rounding."""
    assert [entry["step"] for entry in entries] == [entry["step"] for entry in expected] == [1, 2, 3, 4, 5, 6]
    for entry, reference in zip(entries, expected, strict=True):
        for key in ("terms", "lr", "gradient_norm"):
            assert entry[key] == pytest.approx(reference[key], rel=1e-3), (entry["step"], key)


# Learning rate


def test_cosine_ends_with_the_last_step(tmp_path):
    """Of a run that `max_steps` ends, here in the third of a thousand epochs."""
    trainer = tiny_trainer(
        tmp_path, "optim.schedule=cosine", "optim.lr=1", "optim.warmup_steps=1", "train.epochs=1000",
        "train.max_steps=5",
    )
    trainer.fit()
    assert trainer.schedule.factor(trainer.progress.step) == pytest.approx(0.01)
    rates = [entry["lr"]["rest"] for entry in log_entries(tmp_path, "train")]
    assert rates == pytest.approx([0.01, 1, 0.855, 0.505, 0.155], abs=1e-3)


def test_decays_counted_in_epochs_come_after_that_many_epochs(tmp_path):
    trainer = tiny_trainer(
        tmp_path, "optim.decay_epochs=2", "optim.decay_steps=1", "optim.decay=0.5", "optim.warmup_steps=0",
        "optim.lr=0.1", "train.epochs=5",
    )
    trainer.fit()
    rates = {entry["epoch"]: entry["lr"]["rest"] for entry in log_entries(tmp_path, "train")}
    assert rates == pytest.approx({1: 0.1, 2: 0.1, 3: 0.05, 4: 0.05, 5: 0.025})
