"""main_train.py end to end: the smallest SGRRG on a few invented studies."""

import json
import os
import signal
import subprocess
import sys
import time
from pathlib import Path

import pytest
import torch

from main_train import main
from modules.checkpoint import load_checkpoint
from modules.config import load_config
from modules.evaluation.scoring import SCORE_NAMES
from tests.support.tiny_training import SMALLEST_SGRRG, tiny_settings

ROOT = Path(__file__).resolve().parents[1]


def settings(folder: Path, *overrides: str) -> list[str]:
    return [*tiny_settings(folder), *SMALLEST_SGRRG, "train.epochs=1", "train.graph_source=mixed", *overrides]


def log_entries(run: Path, kind: str) -> list[dict]:
    lines = (run / "log.jsonl").read_text(encoding="utf-8").splitlines()
    return [entry for entry in map(json.loads, lines) if entry["kind"] == kind]


def start(folder: Path, *command: str) -> subprocess.Popen:
    return subprocess.Popen(
        [sys.executable, *command], cwd=ROOT, env=os.environ | {"OMP_NUM_THREADS": "1"}, stderr=subprocess.PIPE,
        text=True, start_new_session=True,
    )


def test_a_run_leaves_what_it_promises(tmp_path, capsys):
    yaml = tmp_path / "experiment.yaml"
    yaml.write_text("optim: {lr: 3.0e-4}\n")
    assert main(["--config", str(yaml), *settings(tmp_path)]) == 0
    run = tmp_path / "results/run"
    assert sorted(os.listdir(run)) == ["best", "config.yaml", "last", "log.jsonl", "tensorboard"]
    assert sorted(os.listdir(run / "best")) == ["config.yaml", "vocabularies.json", "weights.pt"]
    assert sorted(os.listdir(run / "last")) == ["config.yaml", "training_state.pt", "vocabularies.json", "weights.pt"]
    assert load_config(run / "config.yaml").optim.lr == load_checkpoint(run).config.optim.lr == 3e-4
    (start_entry,) = log_entries(run, "start")
    assert (start_entry["graph_source"], start_entry["studies"], start_entry["processes"]) == ("mixed", 7, 1)
    first, second = log_entries(run, "train")
    assert first["terms"].keys() == {
        "report", "observations", "regions", "attributes", "contrast", "boxes", "visibility",
    }
    (validation,) = log_entries(run, "validation")
    assert validation["scores"].keys() == set(SCORE_NAMES)
    assert validation["scores"]["box_iou"] > 0
    assert (validation["graph_source"], validation["box_source"]) == ("predicted", "localizer")
    assert f"step 2/2: loss {second['loss']:.3f}, report " in capsys.readouterr().err

    assert main(settings(tmp_path)) == 1
    error = capsys.readouterr().err
    assert error.count("\n") == 1 and "already holds a run" in error
    assert main(settings(tmp_path, "train.resume=true")) == 0


@pytest.mark.parametrize(
    ("argument", "complaint"),
    [
        ("optim.learning_rate=1", "learning_rate"),
        ("data.root=/nowhere", "/nowhere"),
        ("train.monitor=blue", "unknown score 'blue'"),
        ("train.freeze=[trunk]", "the model has no part 'trunk'"),
        ("train.init_from=/nowhere", "No checkpoint at /nowhere"),
    ],
)
def test_what_the_user_can_mend_is_one_line_and_status_1(tmp_path, capsys, argument, complaint):
    assert main(settings(tmp_path, argument)) == 1
    error = capsys.readouterr().err
    assert complaint in error
    assert error.count("\n") == 1


def test_a_terminated_run_is_saved_and_goes_on(tmp_path):
    """SIGTERM to the whole process group, including loader workers, as schedulers send it."""
    arguments = settings(tmp_path, "train.epochs=400", "data.workers=1", "train.validate_from=400")
    process = start(tmp_path, "main_train.py", *arguments)
    run = tmp_path / "results/run"
    deadline = time.monotonic() + 100
    while not (run / "log.jsonl").is_file() or not log_entries(run, "train"):
        assert process.poll() is None and time.monotonic() < deadline, process.communicate()[1]
        time.sleep(0.05)
    os.killpg(process.pid, signal.SIGTERM)
    error = process.communicate(timeout=100)[1]
    assert process.returncode == 128 + signal.SIGTERM, error
    assert "Stopped by SIGTERM" in error.splitlines()[-1]
    assert "resume with the same command and train.resume=true" in error.splitlines()[-1]
    assert "Traceback" not in error
    saved = load_checkpoint(run / "last", training=True).training_state["position"]["step"]
    assert saved == log_entries(run, "train")[-1]["step"] >= 1
    assert main([*arguments, "train.resume=true", f"train.max_steps={saved + 1}"]) == 0
    assert [entry["step"] for entry in log_entries(run, "train")] == list(range(1, saved + 2))


def test_two_processes_train_one_model(tmp_path):
    """With a disabled loss term, so that part of the model gets no gradient."""
    process = start(
        tmp_path, "-m", "torch.distributed.run", "--standalone", "--nproc_per_node=2", "main_train.py",
        *settings(tmp_path, "data.batch_size=1", "loss.attributes=0", "train.epochs=2"),
    )
    error = process.communicate(timeout=150)[1]
    assert process.returncode == 0, error
    run = tmp_path / "results/run"
    (start_entry,) = log_entries(run, "start")
    assert start_entry["processes"] == 2
    assert [entry["step"] for entry in log_entries(run, "train")] == [1, 2, 3, 4]
    first, second = log_entries(run, "validation")
    assert second["scores"].keys() == set(SCORE_NAMES)
    assert error.count("epoch 1, validation") == 1
    state = load_checkpoint(run / "last", training=True).training_state
    states = [of_process["torch"] for of_process in state["random_states"]]
    assert len(states) == 2 and not torch.equal(*states)
