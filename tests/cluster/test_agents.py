"""Two torchrun agents on the loopback interface, as if on two machines."""

import json
import os
import signal
import socket
import subprocess
import sys
import time
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest
import torch

import main_test
import main_train
from modules.checkpoint import load_checkpoint
from tests.support.checkout import path_without_java
from tests.support.tiny_training import SMALLEST_SGRRG, tiny_settings

ROOT = Path(__file__).resolve().parents[2]
pytestmark = pytest.mark.timeout(400)
# Nothing random but the order of studies and augmentation, which depend on the step alone; one study per process.
SETTINGS = [
    *SMALLEST_SGRRG, "model.dropout=0", "model.image_dropout=0", "train.freeze=[patch_encoder]",
    "train.precision=fp32", "optim.batch_size=2", "data.micro_batch_size=null",
    # Adam divides gradients that are only rounding errors by their size, unless epsilon is larger.
    "optim.epsilon=1e-3",
]


class Machines:
    """Starts the same command on several "machines", and ends what is left of them."""

    def __init__(self, path: str) -> None:
        """path: PATH of the commands."""
        with socket.socket() as unused:
            unused.bind(("127.0.0.1", 0))
            port = unused.getsockname()[1]
        self.variables = {
            "PATH": path, "PYTHON": sys.executable, "OMP_NUM_THREADS": "1", "CUDA_VISIBLE_DEVICES": "",
            "GLOO_SOCKET_IFNAME": "lo",
            "NNODES": "2", "MAX_RESTARTS": "2", "RDZV_ENDPOINT": f"127.0.0.1:{port}", "LOCAL_ADDR": "127.0.0.1",
        }
        self.started: list[subprocess.Popen] = []

    def start(self, rank: int, *command: str) -> subprocess.Popen:
        process = subprocess.Popen(
            ["bash", *command], cwd=ROOT, env=os.environ | self.variables | {"NODE_RANK": str(rank)},
            stdout=subprocess.PIPE, stderr=subprocess.STDOUT, text=True, start_new_session=True,
        )
        self.started.append(process)
        return process

    def close(self) -> None:
        for process in self.started:
            lose_machine(process)


def lose_machine(process: subprocess.Popen) -> None:
    """Kill a process and all its descendants at once, as the loss of its machine does."""
    def descendants(pid: int) -> Iterator[int]:
        yield pid
        for children in Path(f"/proc/{pid}/task").glob("*/children"):
            for child in children.read_text(encoding="ascii").split():
                yield from descendants(int(child))

    if process.poll() is None:
        for pid in list(descendants(process.pid)):
            os.kill(pid, signal.SIGKILL)
    process.wait()
    process.stdout.close()


@pytest.fixture
def machines(tmp_path, monkeypatch) -> Iterator[Machines]:
    """Two machines without GPUs and Java, which this process does not find either."""
    path = path_without_java(tmp_path)
    monkeypatch.setenv("PATH", path)
    machines = Machines(path)
    yield machines
    machines.close()


def settings(folder: Path, *overrides: str) -> list[str]:
    return [*tiny_settings(folder), *SETTINGS, *overrides]


def log_entries(run: Path, kind: str) -> list[dict]:
    log = run / "log.jsonl"
    lines = log.read_text(encoding="utf-8").splitlines() if log.exists() else []
    return [entry for entry in map(json.loads, lines) if entry["kind"] == kind]


def wait_for(condition: Callable[[], bool], *processes: subprocess.Popen) -> None:
    deadline = time.monotonic() + 150
    while not condition():
        for process in processes:
            assert process.poll() is None, process.communicate()[0]
        assert time.monotonic() < deadline
        time.sleep(0.02)


def finish(*processes: subprocess.Popen) -> list[str]:
    """Wait for processes that must succeed. Return their output."""
    outputs = [process.communicate(timeout=200)[0] for process in processes]
    for process, output in zip(processes, outputs, strict=True):
        assert process.returncode == 0, output
    return outputs


def assert_same_training(run: Path, expected: Path) -> None:
    """Every step of both runs has the same losses, gradient and learning rates, and leads to the same weights.

    Rounding grows over the steps, most of all in the hinge of the contrast loss.
    """
    steps, expected_steps = log_entries(run, "train"), log_entries(expected, "train")
    assert [entry["step"] for entry in steps] == list(range(1, len(expected_steps) + 1))
    for entry, other in zip(steps, expected_steps, strict=True):
        assert entry["terms"] == pytest.approx(other["terms"], rel=1e-3, abs=1e-3)
        assert entry["gradient_norm"] == pytest.approx(other["gradient_norm"], rel=1e-2)
        assert entry["lr"] == other["lr"]
    for entry, other in zip(steps[:3], expected_steps[:3], strict=True):
        assert entry["gradient_norm"] == pytest.approx(other["gradient_norm"], rel=1e-5)
    weights, expected_weights = (load_checkpoint(folder / "last").weights for folder in (run, expected))
    assert weights.keys() == expected_weights.keys()
    for name, weight in weights.items():
        torch.testing.assert_close(weight, expected_weights[name], rtol=1e-2, atol=2e-3, msg=name)


def test_two_machines_do_what_one_process_does_even_if_one_is_lost(tmp_path, machines):
    """Training with a validation, interrupted by the loss of a machine, resumed with a new one, and a test."""
    arguments = settings(tmp_path, "train.epochs=2", "train.validate_from=2", "train.save_every=1")
    run, alone = tmp_path / "results/run", tmp_path / "results/alone"
    first, second = (machines.start(rank, "run_mimic.sh", *arguments) for rank in (0, 1))
    wait_for(lambda: len(log_entries(run, "train")) >= 2, first, second)
    lose_machine(second)
    replacement = machines.start(1, "run_mimic.sh", *arguments)
    output = "".join(finish(first, replacement))
    assert "Resuming from" in output
    starts = log_entries(run, "start")
    assert len(starts) == 2 and all(entry["processes"] == 2 for entry in starts)
    assert len(log_entries(run, "train")) == 8

    assert main_train.main(["--config", "configs/mimic_cxr.yaml", *arguments, "name=alone"]) == 0
    assert_same_training(run, alone)
    (validation,), (expected,) = (log_entries(folder, "validation") for folder in (run, alone))
    assert validation["scores"] == pytest.approx(expected["scores"], rel=1e-2, abs=1e-3)
    options = ["--graph", "predicted", "--baselines", "none", "--out", str(tmp_path / "tested")]
    assert main_test.main(["--checkpoint", str(run), *options]) == 0
    tested, expected = (json.loads((folder / "metrics.json").read_text()) for folder in (run, tmp_path / "tested"))
    assert tested["scores"] == expected["scores"]
