"""Ctrl-C wherever Python may be: one line and status 130, also where Python discards the exception."""

import os
import signal
import subprocess
import sys
from pathlib import Path

import pytest

ROOT = Path(__file__).resolve().parents[3]

PROGRAM = """
import atexit, gc, os, signal, sys, time, weakref
from data.console import run_command

def interrupt(*_):
    os.kill(os.getpid(), signal.SIGINT)

class Deleted:
    def __del__(self):
        interrupt()

class Referred:
    pass

def fork():
    if os.fork() == 0:
        os._exit(0)

def main():
    {body}

if __name__ == "__main__":
    sys.exit(run_command(main))
"""

DISCARDED = {
    "before a fork": "os.register_at_fork(before=interrupt); fork()",
    "after a fork": "os.register_at_fork(after_in_parent=interrupt); fork()",
    "deletion": "Deleted()",
    "deletions in turn": "for _ in range(20): Deleted(); time.sleep(0.0005)",
    "weak reference": "value = Referred(); reference = weakref.ref(value, interrupt); del value",
    "before a call that blocks": "signal.pthread_sigmask(signal.SIG_BLOCK, [signal.SIGALRM]); Deleted(); "
    "signal.sigwait([signal.SIGALRM]); signal.pthread_sigmask(signal.SIG_UNBLOCK, [signal.SIGALRM])",
    "garbage collection": "gc.callbacks.append(interrupt); gc.collect(); gc.callbacks.clear()",
}


def run(body: str) -> subprocess.CompletedProcess:
    return subprocess.run(
        [sys.executable, "-c", PROGRAM.format(body=body)], cwd=ROOT, capture_output=True, text=True, timeout=60,
        preexec_fn=lambda: signal.signal(signal.SIGINT, signal.SIG_DFL),
    )


@pytest.mark.parametrize("body", DISCARDED.values(), ids=DISCARDED)
def test_an_interrupt_that_python_discards_is_raised_again(body):
    done = run(f"{body}\n    time.sleep(3600)")
    assert (done.returncode, done.stdout, done.stderr) == (130, "", "Interrupted\n")


@pytest.mark.parametrize(("body", "printed"), [
    ("try: interrupt()\n    except BaseException: return 0", "Interrupted\n"),
    ("try: interrupt()\n    except BaseException: print('Stopped: resume', file=sys.stderr); return 1",
     "Stopped: resume\n"),
    ("try: interrupt()\n    except BaseException: raise RuntimeError('half imported')", "Interrupted\n"),
])  # fmt: skip
def test_an_interrupt_that_other_code_catches_decides_the_status(body, printed):
    done = run(body)
    assert (done.returncode, done.stderr) == (130, printed)


def test_other_discarded_errors_are_printed():
    done = run("weakref.finalize(Referred(), lambda: 1 / 0)\n    return 3")
    assert done.returncode == 3 and "ZeroDivisionError" in done.stderr


def test_after_the_work_an_interrupt_has_no_effect():
    done = run("atexit.register(print, 'ended'); atexit.register(interrupt)\n    return 0")
    assert (done.returncode, done.stdout, done.stderr) == (0, "ended\n", "")


def test_an_end_that_hangs_is_ended_by_the_second_interrupt():
    done = run("atexit.register(time.sleep, 3600); [atexit.register(interrupt) for _ in 'ab']\n    return 0")
    assert (done.returncode, done.stderr) == (130, "")


def test_forked_processes_leave_it_to_their_parent():
    done = run("child = os.fork()\n    if child == 0: interrupt(); os._exit(5)\n"
               "    return os.waitstatus_to_exitcode(os.waitpid(child, 0)[1])")  # fmt: skip
    assert (done.returncode, done.stderr) == (5, "")


def test_a_command_that_was_started_to_ignore_it_ignores_it():
    done = subprocess.run(
        [sys.executable, "-c", PROGRAM.format(body="interrupt(); return 0")], cwd=ROOT, capture_output=True, text=True,
        preexec_fn=lambda: signal.signal(signal.SIGINT, signal.SIG_IGN),
    )
    assert (done.returncode, done.stderr) == (0, "")


def commands() -> list[str]:
    """The commands of the program: scripts, and modules for python -m."""
    files = [path for folder in (".", "data", "modules", "benchmarks") for path in (ROOT / folder).glob(
        "main_*.py" if folder == "." else "**/*.py")]  # fmt: skip
    names = [path.relative_to(ROOT) for path in files if "sys.exit(run_command(main))" in path.read_text("utf-8")]
    return sorted(
        str(name) if len(name.parts) == 1 else ".".join(name.with_suffix("").parts).removesuffix(".__main__")
        for name in names
    )


@pytest.mark.parametrize(("command", "module"), [
    *((command, "argparse") for command in commands()), ("data.prepare", "numpy"), ("main_test.py", "dataclasses"),
    ("modules.export", "numpy"), ("main_train.py", "numpy"),
])  # fmt: skip
def test_an_interrupt_during_imports_is_one_line(command, module, tmp_path):
    """Importing a module of the standard library, or one that all commands need, is interrupted."""
    (tmp_path / f"{module}.py").write_text("raise KeyboardInterrupt")
    environment = os.environ | {"PYTHONPATH": f"{tmp_path}:{ROOT}"}
    arguments = [command] if command.endswith(".py") else ["-m", command]
    done = subprocess.run([sys.executable, *arguments], cwd=ROOT, env=environment, capture_output=True, text=True)
    assert (done.returncode, done.stderr) == (130, "Interrupted\n")
