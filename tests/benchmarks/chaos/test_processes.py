"""Commands in forked processes: how they end, and that nothing of them stays."""

import os
import signal
import subprocess
import sys
import time

import pytest

from benchmarks.chaos.processes import Process, run
from data.errors import UserError


def fail(arguments):
    raise UserError("no file")


def wait_long(arguments):
    print("waiting", file=sys.stderr, flush=True)
    time.sleep(60)
    return 0


@pytest.mark.parametrize(("main", "status", "errors"), [
    (lambda arguments: int(arguments[0]), 3, 0),
    (lambda arguments: print("one\n\ntwo", file=sys.stderr) or 0, 0, 2),
    (lambda arguments: print("out") or 0, 0, 0),
    (lambda arguments: "no status", 1, 0),
    (lambda arguments: sys.exit(5), 5, 0),
    (fail, 1, None),
])
def test_status_and_errors_are_those_of_the_command(tmp_path, main, status, errors):
    outcome = run(main, ["3"], tmp_path / "log")
    assert outcome.status == status
    assert len(outcome.errors) == errors if errors is not None else outcome.errors[-1].endswith("UserError: no file")


@pytest.mark.parametrize(("number", "status"), [(signal.SIGKILL, -signal.SIGKILL), (signal.SIGINT, 130)])
def test_a_signal_ends_it(tmp_path, number, status):
    process = Process(wait_long, [], tmp_path / "log")
    while not (tmp_path / "log").exists() or not (tmp_path / "log").read_text():
        time.sleep(0.01)
    process.signal_after(0, number)
    outcome = process.wait()
    assert outcome.status == status
    assert outcome.errors == ["waiting"] + ["Interrupted"] * (number == signal.SIGINT)


def test_after_the_limit_it_is_ended_with_what_it_started(tmp_path):
    def start_another(arguments):
        other = subprocess.Popen([sys.executable, "-c", "import time; time.sleep(60)"])
        (tmp_path / "other").write_text(str(other.pid))
        return wait_long(arguments)

    process = Process(start_another, [], tmp_path / "log", {"PATH": os.environ["PATH"]})
    while not (tmp_path / "other").exists() or not (tmp_path / "other").read_text():
        time.sleep(0.01)
    assert process.wait(limit=0).status is None
    other = int((tmp_path / "other").read_text())
    deadline = time.monotonic() + 30
    while is_running(other):
        assert time.monotonic() < deadline
        time.sleep(0.01)


def is_running(process):
    try:
        with open(f"/proc/{process}/stat", encoding="utf-8") as file:
            return file.read().rpartition(")")[2].split()[0] != "Z"
    except OSError:
        return False
