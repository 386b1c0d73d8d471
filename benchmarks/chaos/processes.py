"""Runs the commands of the project in forked processes, which can be stopped at any moment.

A forked process has imported the program already, so that a trial takes as long as its work.
"""

import os
import signal
import sys
import time
import traceback
from collections.abc import Callable, Mapping, Sequence
from contextlib import suppress
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import NoReturn

from data.console import run_command

Main = Callable[[list[str]], int]
# A command that takes longer hangs.
LIMIT_SECONDS = 300.0
_SECONDS_BETWEEN_LOOKS = 0.005
# No Java and no git: they take longer than the commands, and are not what is tested.
_ENVIRONMENT = {"PATH": "/nonexistent"}


@dataclass(frozen=True)
class Outcome:
    """How a process ended.

    status   exit status, or the negative number of the signal that ended it; None if it was stopped after the limit
    errors   lines on stderr, without empty ones
    """

    status: int | None
    errors: list[str]
    seconds: float


class Process:
    """A forked process with a session of its own, so that signals reach all processes that it starts."""

    def __init__(self, main: Main, arguments: Sequence[str], log: Path, environment: Mapping[str, str] | None = None):
        """Start `main(arguments)`; its errors go to the file `log`."""
        self._log = log
        self._started = time.monotonic()
        sys.stdout.flush()
        sys.stderr.flush()
        self._id = os.fork()
        if self._id == 0:
            _run(main, arguments, log, _ENVIRONMENT | dict(environment or {}))

    def signal_after(self, seconds: float, number: int) -> None:
        """Send a signal to all its processes, `seconds` after the start, unless it has ended."""
        while (left := self._started + seconds - time.monotonic()) > 0 and not self._has_ended():
            time.sleep(min(left, _SECONDS_BETWEEN_LOOKS))
        self.signal(number)

    def signal(self, number: int) -> None:
        """Send a signal to all its processes now."""
        with suppress(ProcessLookupError):
            os.killpg(self._id, number)

    def wait(self, limit: float = LIMIT_SECONDS) -> Outcome:
        """Wait for its end, and end what it started. After `limit` seconds, it is killed."""
        status = None
        while not self._has_ended():
            if time.monotonic() - self._started > limit:
                break
            time.sleep(_SECONDS_BETWEEN_LOOKS)
        else:
            status = os.waitstatus_to_exitcode(os.waitpid(self._id, 0)[1])
        seconds = time.monotonic() - self._started
        self.signal(signal.SIGKILL)
        if status is None:
            os.waitpid(self._id, 0)
        lines = self._log.read_text(encoding="utf-8", errors="replace").splitlines() if self._log.exists() else []
        return Outcome(status, [line for line in lines if line.strip()], seconds)

    def _has_ended(self) -> bool:
        # Not reaped until `wait`: its id must not be given to another process before that.
        return os.waitid(os.P_PID, self._id, os.WEXITED | os.WNOHANG | os.WNOWAIT) is not None


def run(main: Main, arguments: Sequence[str], log: Path, environment: Mapping[str, str] | None = None) -> Outcome:
    """Run `main(arguments)` to its end."""
    return Process(main, arguments, log, environment).wait()


def _run(main: Main, arguments: Sequence[str], log: Path, environment: Mapping[str, str]) -> NoReturn:
    """Run in the forked process, and end it."""
    status = 1
    try:
        os.setsid()
        signal.signal(signal.SIGINT, signal.default_int_handler)
        os.environ.update(environment)
        os.dup2(os.open(os.devnull, os.O_WRONLY), 1)
        os.dup2(os.open(log, os.O_WRONLY | os.O_CREAT | os.O_TRUNC), 2)
        sys.stdout, sys.stderr = (os.fdopen(stream, "w", buffering=1, errors="replace") for stream in (1, 2))
        status = run_command(partial(main, list(arguments)))
    except KeyboardInterrupt:  # before or after the command, where Python would print one line (see data/__init__.py)
        status = 130
    except SystemExit as end:
        status = end.code if isinstance(end.code, int) else 1
    except BaseException:
        traceback.print_exc()
    finally:
        with suppress(Exception):
            sys.stdout.flush()
            sys.stderr.flush()
        os._exit(status if isinstance(status, int) else 1)
