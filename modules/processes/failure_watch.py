"""Ends all processes of a distributed run when one of them fails.

A process that is killed breaks the connections of the others; each of them prints one line. A process that raises
leaves the others waiting in a collective operation until it times out, after minutes or days. So
it says so in the store of the process group, where a thread of every other process looks once a second. That thread
ends its process, whatever the main thread waits for.
"""

import os
import re
import sys
import tempfile
import threading
import time
import traceback
from collections.abc import Callable
from pathlib import Path

import torch.distributed as dist

from data.errors import UserError, reason

_LOST_CONNECTION = re.compile(
    r"gloo/transport|Connection (closed|reset|refused|timed out)|Broken pipe|Socket Timeout|[Tt]imed out waiting"
)
_ROOT = Path(__file__).resolve().parents[2]
_SECONDS_BETWEEN_LOOKS = 1.0
_SECONDS_BETWEEN_COUNTS = 0.05
# How long a failed process waits for the others, since the store may end with it, and how long its own end may take.
_SECONDS_TO_LEAVE = 10.0
# The same if another process is dead, which never leaves: enough for the survivors to look.
_SECONDS_TO_LEAVE_WITHOUT_THE_DEAD = 3.0
# How long the others wait before they end, since the store may end with them while the failed process counts them.
_SECONDS_TO_BE_COUNTED = 1.0


class FailureWatch:
    """The failures of a run, as one of its processes sees them.

    store   of the process group
    exit    ends the process at once
    """

    def __init__(self, store: dist.Store, rank: int, world_size: int, exit: Callable[[int], None] = os._exit):
        self._store = dist.PrefixStore("failure_watch", store)
        self._watched = dist.PrefixStore("failure_watch", store.clone())  # a store is not thread-safe
        self._rank = rank
        self._world_size = world_size
        self._exit = exit
        self._stopped = threading.Event()
        self._thread = threading.Thread(target=self._watch, name="failure watch", daemon=True)
        self._thread.start()

    def stop(self) -> None:
        """Stop watching: this process has nothing to do with the others any more."""
        self._stopped.set()
        self._thread.join()

    def leave(self) -> None:
        """Stop watching because of a failure that another process reports: it need not wait for this one."""
        self.stop()
        _ignoring_lost_store(lambda: self._store.add("left", 1))

    def fail(self, error: BaseException) -> None:
        """Make all other processes end.

        The first process that fails prints its error as one line to stderr, and so does each one that has lost the
        connection to another process.
        """
        self.stop()
        is_lost = lost_connection(error)
        if is_lost:
            _ignoring_lost_store(lambda: self._store.set("lost", ""))
        failures = _ignoring_lost_store(lambda: self._store.add("failed", 1))
        if is_lost:
            # A process that has failed has said why.
            if not _ignoring_lost_store(lambda: self._store.check(["described"])):
                self._print_lost(f" or could not be reached ({reason(error)})")
        elif failures in (None, 1) and not isinstance(error, KeyboardInterrupt):
            print(describe_failure(error, self._rank), file=sys.stderr, flush=True)
            _ignoring_lost_store(lambda: self._store.set("described", ""))
        deadline = time.monotonic() + (_SECONDS_TO_LEAVE_WITHOUT_THE_DEAD if is_lost else _SECONDS_TO_LEAVE)
        left = _ignoring_lost_store(lambda: self._store.add("left", 1))
        while left is not None and left < self._world_size and time.monotonic() < deadline:
            time.sleep(_SECONDS_BETWEEN_COUNTS)
            left = _ignoring_lost_store(lambda: self._store.add("left", 0))
        # What remains to be closed, such as a GPU's communicator, can wait for the other processes for ever.
        timer = threading.Timer(_SECONDS_TO_LEAVE, self._exit, (1,))
        timer.daemon = True
        timer.start()

    def _print_lost(self, detail: str = "") -> None:
        print(
            f"Rank {self._rank}: another process ended{detail}: resume with the same command and train.resume=true",
            file=sys.stderr, flush=True,
        )

    def _watch(self) -> None:
        while not self._stopped.wait(_SECONDS_BETWEEN_LOOKS):
            failed = _ignoring_lost_store(lambda: self._watched.check(["failed"]))
            if failed is None:
                return
            if failed:
                if _ignoring_lost_store(lambda: self._watched.check(["lost"])):
                    self._print_lost()
                _ignoring_lost_store(lambda: self._watched.add("left", 1))
                time.sleep(_SECONDS_TO_BE_COUNTED)
                self._exit(1)
                return


def lost_connection(error: BaseException) -> bool:
    """Whether `error` means that another process has ended, and nothing is wrong with this one.

    Gloo raises a bare RuntimeError for a closed connection and for a collective that has timed out.
    """
    if isinstance(error, (dist.DistNetworkError, dist.DistBackendError, ConnectionError)):
        return True
    return isinstance(error, RuntimeError) and _LOST_CONNECTION.search(str(error)) is not None


def describe_failure(error: BaseException, rank: int) -> str:
    """Return one line that names the rank and the error.

    For an error that is not the user's, also the line of code that raised it, and a file with the traceback.
    """
    if isinstance(error, UserError):
        return f"Rank {rank}: {error}"
    frames = traceback.extract_tb(error.__traceback__)
    ours = [frame for frame in frames if Path(frame.filename).is_relative_to(_ROOT)] or frames
    where = f" in {ours[-1].filename.removeprefix(f'{_ROOT}/')}, line {ours[-1].lineno}" if ours else ""
    return f"Rank {rank}: {type(error).__name__}{where} ({reason(error)}){_write_traceback(error, rank)}"


def _write_traceback(error: BaseException, rank: int) -> str:
    """Write the traceback to a temporary file. Return where it is, for the message; nothing if it cannot be written."""
    try:
        with tempfile.NamedTemporaryFile(
            "w", prefix=f"sgrrg-rank{rank}-", suffix=".traceback", delete=False, encoding="utf-8"
        ) as file:
            file.writelines(traceback.format_exception(error))
    except OSError:
        return ""
    return f"; traceback: {file.name}"


def _ignoring_lost_store(operation: Callable[[], int | None]) -> int | None:
    """Return the result of `operation`, or None if the process that holds the store has ended."""
    try:
        return operation()
    except (RuntimeError, OSError):
        return None
