"""Runs the tests that need a GPU."""

import importlib.util
import os
import re
import signal
import subprocess
import sys
from pathlib import Path

from benchmarks.gpu.parts import NotPossible, Publish

ROOT = Path(__file__).resolve().parents[2]
# Without the options of pyproject.toml, some of which need plugins that may not be installed.
PYTEST = ("-m", "pytest", "-q", "-o", "addopts=--import-mode=importlib", "-p", "no:cacheprovider", "-m", "gpu")


def run_device_tests(publish: Publish, device_type: str, tests: str = "tests") -> None:
    """Publish how many of the tests marked `gpu` passed, failed and were skipped, and the names of failed ones."""
    if importlib.util.find_spec("pytest") is None:
        raise NotPossible("pytest is not installed: pip install -r requirements-dev.txt")
    if device_type != "cuda":
        raise NotPossible("the tests marked gpu need a GPU")
    output = run_pytest(tests)
    counts = {kind: int(count) for count, kind in re.findall(r"(\d+) (passed|failed|error|skipped)", output)}
    publish(counts | {"failures": re.findall(r"^(?:FAILED|ERROR) (\S+)", output, re.MULTILINE)})
    if not counts:
        raise RuntimeError(output.strip().splitlines()[-1] if output.strip() else "pytest printed nothing")


def run_pytest(tests: str) -> str:
    """Return the output of pytest. If this process is ended, so is pytest."""
    command = [sys.executable, *PYTEST, tests]
    with subprocess.Popen(
        command, cwd=ROOT, stdout=subprocess.PIPE, stderr=subprocess.STDOUT, text=True, preexec_fn=end_with_parent,
    ) as process:  # fmt: skip
        return process.communicate()[0]


def end_with_parent() -> None:
    """Ask Linux to kill this process when its parent ends."""
    import ctypes

    parent_death_signal = 1
    ctypes.CDLL(None).prctl(parent_death_signal, signal.SIGKILL)
    if os.getppid() == 1:
        os.kill(os.getpid(), signal.SIGKILL)
