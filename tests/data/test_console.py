"""Console output: closed pipes, and progress in a terminal and in a log."""

import os
import signal
import subprocess
import sys
from pathlib import Path

import pytest

from data import console
from data.console import Progress

ROOT = Path(__file__).resolve().parents[2]
PRINTS = "from data.console import print_to_reader; print_to_reader('x' * {length}); print_to_reader('end')"


def test_a_reader_that_leaves_early_is_no_error():
    command = [sys.executable, "-c", PRINTS.format(length=10**6)]
    with subprocess.Popen(command, stdout=subprocess.PIPE, stderr=subprocess.PIPE) as process:
        process.stdout.read(10)
        process.stdout.close()
        errors = process.stderr.read()
        assert process.wait() == 0 and errors == b""
    complete = subprocess.run([sys.executable, "-c", PRINTS.format(length=10)], capture_output=True, check=True).stdout
    assert complete.split() == [b"x" * 10, b"end"]


WORKS_ON = """
import pathlib, sys
from data.console import run_command
def main():
    for number in range(3000):
        print("x" * 100, file=sys.stdout if number % 2 else sys.stderr)
    pathlib.Path(sys.argv[1]).write_text("done")
    return 3
if __name__ == "__main__":
    sys.exit(run_command(main))
"""


@pytest.mark.parametrize("unbuffered", ["", "1"])
def test_a_command_finishes_its_work_without_a_reader(tmp_path, unbuffered):
    command = [sys.executable, "-c", WORKS_ON, tmp_path / "file"]
    environment = os.environ | {"PYTHONUNBUFFERED": unbuffered}
    with subprocess.Popen(
        command, stdout=subprocess.PIPE, stderr=subprocess.STDOUT, env=environment, text=True
    ) as process:
        assert process.stdout.readline() == "x" * 100 + "\n"
        process.stdout.close()
        assert process.wait() == 3
    assert (tmp_path / "file").read_text() == "done"
    complete = subprocess.run(command, capture_output=True, text=True)
    assert complete.returncode == 3 and complete.stdout == complete.stderr == ("x" * 100 + "\n") * 1500


INTERRUPTED = """
import sys, time
from data.console import run_command
def main():
    print("started", flush=True)
    time.sleep(3600)
if __name__ == "__main__":
    sys.exit(run_command(main))
"""


def test_an_interrupted_command_ends_with_one_line():
    with subprocess.Popen(
        [sys.executable, "-c", INTERRUPTED], stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True
    ) as process:
        assert process.stdout.readline() == "started\n"
        process.send_signal(signal.SIGINT)
        assert process.stderr.read() == "Interrupted\n" and process.wait() == 130


def test_a_program_that_imports_the_package_keeps_its_tracebacks(tmp_path):
    (tmp_path / "program.py").write_text("import data.console\nraise KeyboardInterrupt")
    done = subprocess.run(
        [sys.executable, tmp_path / "program.py"], env=os.environ | {"PYTHONPATH": str(ROOT)}, capture_output=True,
        text=True,
    )
    assert "Traceback" in done.stderr


def test_every_command_runs_so():
    folders = ("main_*.py", "data/**/*.py", "modules/**/*.py", "benchmarks/**/*.py")
    files = [path for folder in folders for path in ROOT.glob(folder)]
    ends = {path: path.read_text("utf-8").rpartition('__name__ == "__main__":')[2].strip() for path in files}
    assert sum(end == "sys.exit(run_command(main))" for end in ends.values()) > 10
    assert [path for path, end in ends.items() if end == "sys.exit(main())"] == []


@pytest.fixture
def clock(monkeypatch):
    """A clock that the test sets; stderr is not a terminal."""
    now = [0.0]
    monkeypatch.setattr(console.time, "monotonic", lambda: now[0])
    monkeypatch.setattr(console.sys.stderr, "isatty", lambda: False, raising=False)
    return now


def test_a_log_gets_a_line_now_and_then(clock, capsys):
    progress = Progress("toy", "studies", 4000)
    for _ in range(60):
        clock[0] += 1
        progress.advance(10)
    progress.close()
    assert capsys.readouterr().out.splitlines() == [
        "toy: 300 of 4,000 studies, 10.0 per second, 06:10 left",
        "toy: 600 of 4,000 studies, 10.0 per second, 05:40 left",
    ]


def test_what_was_done_before_does_not_count_for_the_rate(clock):
    progress = Progress("toy", "studies", 1000)
    progress.skip(500)
    assert progress.status() == "toy: 500 of 1,000 studies, 0.0 per second, ? left"
    clock[0] = 10.0
    progress.advance(100)
    assert progress.status() == "toy: 600 of 1,000 studies, 10.0 per second, 00:40 left"


def test_without_a_total_no_end_is_foretold(clock):
    progress = Progress("toy", "studies")
    clock[0] = 2.0
    progress.advance(3000)
    assert progress.status() == "toy: 3,000 studies, 1500.0 per second"


def test_a_terminal_gets_a_bar(clock, monkeypatch, capsys):
    monkeypatch.setattr(console.sys.stderr, "isatty", lambda: True, raising=False)
    progress = Progress("toy", "studies", 100)
    progress.skip(40)
    clock[0] = 100.0
    progress.advance(60)
    progress.close()
    output = capsys.readouterr()
    assert output.out == "" and "100/100" in output.err
