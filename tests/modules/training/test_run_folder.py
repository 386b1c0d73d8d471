"""Which run folders may be used, and which runs may be resumed."""

import fcntl
import multiprocessing

import pytest
import torch

from data.errors import UserError
from modules.checkpoint import TRAINING_STATE
from tests.support.checkpoint_files import update_manifest
from tests.support.sources.toy_source import folder_content
from tests.support.tiny_training import ScriptedEvaluator, tiny_trainer


def test_a_taken_run_folder_is_refused_and_left_alone(tmp_path):
    (tmp_path / "results/run").mkdir(parents=True)
    tiny_trainer(tmp_path, "train.epochs=1").fit()
    before = (tmp_path / "results/run/log.jsonl").read_bytes()
    with pytest.raises(UserError, match=r"already holds a run.*train\.resume=true.*name="):
        tiny_trainer(tmp_path, "train.epochs=1").fit()
    assert (tmp_path / "results/run/log.jsonl").read_bytes() == before


@pytest.mark.parametrize("setting", ["train.resume=true", "train.resume=false"])
def test_a_run_that_another_process_trains_is_refused_and_left_alone(tmp_path, setting):
    run = tmp_path / "results/run"
    tiny_trainer(tmp_path, "train.epochs=1").fit()
    before = folder_content(run)
    context = multiprocessing.get_context("fork")
    held, ended = context.Event(), context.Event()

    def hold():
        with (run / ".lock").open("wb") as file:
            fcntl.lockf(file, fcntl.LOCK_EX)
            held.set()
            ended.wait()

    process = context.Process(target=hold)
    process.start()
    held.wait()
    try:
        with pytest.raises(UserError, match="Another process is training in .*run: wait for it, or choose another"):
            tiny_trainer(tmp_path, "train.epochs=2", setting).fit()
    finally:
        ended.set()
        process.join()
    assert folder_content(run) == before
    tiny_trainer(tmp_path, "train.epochs=2", "train.resume=true").fit()


def test_a_folder_of_something_else_gets_no_lock(tmp_path):
    (tmp_path / "results/run").mkdir(parents=True)
    (tmp_path / "results/run/letter.txt").touch()
    with pytest.raises(UserError, match="already holds a run"):
        tiny_trainer(tmp_path).fit()
    assert [path.name for path in (tmp_path / "results/run").iterdir()] == ["letter.txt"]


def test_what_killed_saves_left_is_removed_when_the_run_is_resumed(tmp_path):
    run = tmp_path / "results/run"
    tiny_trainer(tmp_path, "train.epochs=1").fit()
    expected = sorted(path.name for path in run.rglob("*"))
    for name in (".best.partial", ".last.partial", ".best.previous"):
        (run / name).mkdir()
        (run / name / "weights.pt").write_bytes(b"half")
    (run / "best/.thresholds.json.partial").write_bytes(b"half")
    tiny_trainer(tmp_path, "train.epochs=1", "train.resume=true").fit()
    assert sorted(path.name for path in run.rglob("*") if "tfevents" not in path.name) == [
        name for name in expected if "tfevents" not in name
    ]


@pytest.mark.parametrize("name", ["best", "last"])
def test_files_of_others_in_a_checkpoint_stop_a_run_before_it_replaces_them(tmp_path, name):
    note = tmp_path / "results/run" / name / "notes.txt"
    note.parent.mkdir(parents=True)
    note.write_text("precious")
    with pytest.raises(UserError, match=f"{name} holds notes.txt, which a checkpoint there would replace"):
        tiny_trainer(tmp_path, "train.resume=true").fit()
    assert note.read_text() == "precious"


@pytest.mark.parametrize(
    ("changed", "complaint"),
    [
        (["optim.batch_size=2"], r"optim\.batch_size was 4, now 2"),
        (["seed=1"], r"seed was 0, now 1"),
        (["data.min_word_count=2"], r"other vocabularies \(tokenizer\)"),
    ],
)
def test_resuming_with_other_data_is_refused_by_name(tmp_path, changed, complaint):
    tiny_trainer(tmp_path, "train.max_steps=1").fit()
    with pytest.raises(UserError, match=complaint):
        tiny_trainer(tmp_path, "train.resume=true", *changed).fit()


def test_resuming_with_weights_of_another_size_is_refused_by_name(tmp_path):
    tiny_trainer(tmp_path, "train.max_steps=1").fit()
    with pytest.raises(UserError, match=r"decoder\.weight is \[\d+, 6\] in the checkpoint and \[\d+, 8\] in the model"):
        tiny_trainer(tmp_path, "train.resume=true", width=8).fit()


@pytest.mark.parametrize("validation_pending", [False, True])
def test_run_saved_before_phases_had_names_is_resumed(tmp_path, validation_pending):
    """The saved position of older runs, after the first step of three epochs of two steps each."""
    tiny_trainer(tmp_path, "train.max_steps=1").fit()
    path = tmp_path / "results/run/last" / TRAINING_STATE
    state = torch.load(path, weights_only=True)
    state["position"] = {
        "epoch": 0, "batch": 1, "step": 1, "validation_pending": validation_pending, "best": 0.25, "best_epoch": 1,
        "validations_without_gain": 0,
    }
    torch.save(state, path)
    update_manifest(path.parent)
    evaluator = ScriptedEvaluator([0.1])
    resumed = tiny_trainer(tmp_path, "train.max_steps=2", "train.resume=true", evaluator=evaluator)
    assert resumed.fit() == 0
    assert evaluator.calls == 1 + validation_pending
    assert (resumed.progress.step, resumed.progress.best) == (2, 0.25)
    assert resumed.progress.validations_without_gain == evaluator.calls


def test_run_of_an_earlier_version_is_not_resumed_and_stays_as_it_is(tmp_path):
    """Its `last` has the order of studies as that version counted it."""
    tiny_trainer(tmp_path, "train.max_steps=1").fit()
    path = tmp_path / "results/run/last" / TRAINING_STATE
    state = torch.load(path, weights_only=True)
    state["order"] = {
        "seed": 0, "studies of the training split": 9, "data.batch_size": 2, "optim.accumulate": 2, "processes": 1,
    }
    torch.save(state, path)
    update_manifest(path.parent)
    before = (tmp_path / "results/run/config.yaml").read_bytes()
    with pytest.raises(UserError) as caught:
        tiny_trainer(tmp_path, "train.resume=true", "optim.lr=0.5").fit()
    message = str(caught.value)
    assert "an earlier version saved it" in message and "train.init_from=" in message and "\n" not in message
    assert (tmp_path / "results/run/config.yaml").read_bytes() == before
