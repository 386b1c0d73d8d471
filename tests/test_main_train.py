"""main_train.py end to end: the smallest SGRRG on a few invented studies."""

import json
import os
import re
import signal
import socket
import subprocess
import sys
import time
from pathlib import Path

import pytest
import torch

from main_train import main
from modules.checkpoint import load_checkpoint
from modules.config import load_config
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
    assert main(["--config", str(yaml), *settings(tmp_path, "train.monitor=bleu_4 + box_iou")]) == 0
    run = tmp_path / "results/run"
    assert sorted(os.listdir(run)) == [".lock", "best", "config.yaml", "last", "log.jsonl", "tensorboard"]
    assert sorted(os.listdir(run / "best")) == ["config.yaml", "manifest.json", "vocabularies.json", "weights.pt"]
    assert sorted(os.listdir(run / "last")) == [
        "config.yaml", "manifest.json", "training_state.pt", "vocabularies.json", "weights.pt",
    ]
    assert load_config(run / "config.yaml").optim.lr == load_checkpoint(run).config.optim.lr == 3e-4
    (start_entry,) = log_entries(run, "start")
    assert (start_entry["graph_source"], start_entry["studies"], start_entry["processes"]) == ("mixed", 9, 1)
    first, second = log_entries(run, "train")
    assert first["terms"].keys() == {
        "report", "observations", "regions", "attributes", "contrast", "boxes", "visibility",
    }
    (validation,) = log_entries(run, "validation")
    assert validation["scores"].keys() == validation["blind"].keys() == {"bleu_4", "box_iou"}
    assert validation["scores"]["box_iou"] > 0
    assert (validation["graph_source"], validation["box_source"]) == ("predicted", "localizer")
    console = capsys.readouterr().err
    assert f"step 2/2: loss {second['loss']:.3f}, report " in console
    blind = validation["blind"]["bleu_4"] + validation["blind"]["box_iou"]
    assert f"bleu_4 + box_iou = {validation['monitored']:.4f} (image-blind {blind:.4f})" in console

    assert main(settings(tmp_path)) == 1
    error = capsys.readouterr().err
    assert error.count("\n") == 1 and "already holds a run" in error
    assert main(settings(tmp_path, "train.resume=true")) == 0


def test_a_run_can_end_with_tuning_its_thresholds(tmp_path, capsys):
    assert main(settings(tmp_path, "train.tune_thresholds=true", "loss.attribute_pos_weight=3")) == 0
    assert "studies with an annotated graph, boxes localizer" in capsys.readouterr().out
    assert load_checkpoint(tmp_path / "results/run/best").thresholds.origin["split"] == "val"
    assert load_checkpoint(tmp_path / "results/run/last").thresholds is None


@pytest.mark.parametrize(
    ("argument", "complaint"),
    [
        ("optim.learning_rate=1", "learning_rate"),
        ("data.root=/nowhere", "/nowhere"),
        ("train.monitor=blue", "unknown score 'blue'"),
        ("train.freeze=[trunk]", "the model has no part 'trunk'"),
        ("train.init_from=/nowhere", "No checkpoint at /nowhere"),
        ("optim.batch_size=5", "use a divisor of 5"),
        ("model.patch_encoder.weights=imagenet_v1", "small_resnet has no ImageNet weights"),
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
        *settings(tmp_path, "data.micro_batch_size=1", "loss.attributes=0", "train.epochs=2"),
    )
    error = process.communicate(timeout=150)[1]
    assert process.returncode == 0, error
    run = tmp_path / "results/run"
    (start_entry,) = log_entries(run, "start")
    assert start_entry["processes"] == 2
    assert [entry["step"] for entry in log_entries(run, "train")] == [1, 2, 3, 4]
    first, second = log_entries(run, "validation")
    assert first["scores"].keys() == second["scores"].keys() == {"bleu_4"}
    assert first["blind"] == second["blind"] and first["blind"]["bleu_4"] is not None
    assert error.count("epoch 1, validation") == 1
    state = load_checkpoint(run / "last", training=True).training_state
    states = [of_process["torch"] for of_process in state["random_states"]]
    assert len(states) == 2 and not torch.equal(*states)


@pytest.mark.parametrize(
    ("rank", "where", "line"),
    [
        (1, "step", r"Rank 1: MemoryError in {script}, line \d+ \(cannot allocate 8 GiB\); traceback: .*"),
        (0, "save", r"Rank 0: ValueError in {script}, line \d+ \(no such thing\); traceback: .*"),
        (1, "data", "Rank 1: Study a: no image"),
    ],
)
def test_an_exception_in_one_process_ends_both_with_one_line(tmp_path, rank, where, line):
    processes, errors = run_two_processes(tmp_path, rank, where)
    assert [process.returncode for process in processes] == [1, 1], errors
    lines = [each for error in errors for each in error.splitlines() if "epoch 1, " not in each]
    line = line.format(script="tests/support/training/failing_process.py")
    assert len(lines) == 1 and re.fullmatch(line, lines[0]), errors
    assert errors[rank].endswith(f"{lines[0]}\n")


@pytest.mark.parametrize("rank", [0, 1])
def test_a_killed_process_is_one_line_of_the_other(tmp_path, rank):
    processes, errors = run_two_processes(tmp_path, rank, "kill")
    assert processes[rank].returncode == -9 and processes[1 - rank].returncode == 1, errors
    lines = [each for each in errors[1 - rank].splitlines() if "epoch 1, " not in each]
    assert len(lines) == 1 and lines[0].startswith(f"Rank {1 - rank}: another process ended"), errors
    assert lines[0].endswith("resume with the same command and train.resume=true")


def run_two_processes(tmp_path, rank, where):
    """Train with two processes until one fails, without torchrun, which would end the other one itself.

    Returns the processes and what each has written to stderr.
    """
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        port = probe.getsockname()[1]
    arguments = settings(tmp_path, "train.log_every=100")
    variables = os.environ | {
        "OMP_NUM_THREADS": "1", "WORLD_SIZE": "2", "MASTER_ADDR": "127.0.0.1", "MASTER_PORT": str(port),
        "TMPDIR": str(tmp_path), "TORCH_CPP_LOG_LEVEL": "ERROR",  # as environment.sh sets it
    }
    processes = [
        subprocess.Popen(
            [sys.executable, "-m", "tests.support.training.failing_process", str(rank), where, *arguments], cwd=ROOT,
            env=variables | {"RANK": str(own_rank)}, stderr=subprocess.PIPE, text=True,
        )
        for own_rank in range(2)
    ]
    # A collective operation waits 30 minutes for a process that does not take part.
    try:
        errors = [process.communicate(timeout=150)[1] for process in processes]
    finally:
        for process in processes:
            process.kill()
    return processes, errors
