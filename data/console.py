"""Console output of commands: results and progress."""

import os
import sys
import time
from collections.abc import Callable
from typing import Any, TextIO

from tqdm import tqdm

from data.processes import interrupts

_SECONDS_BETWEEN_LINES = 30.0


def run_command(main: Callable[[], int]) -> int:
    """Run the `main` of a command and return its exit status: 130 and one line on stderr after Ctrl-C.

    After the first Ctrl-C, status 130 is returned even if other code has caught the interrupt. `main` may catch it to
    print a line of its own.

    A reader that closes its pipe does not end the work: `python main_predict.py ... | head` still writes all its files,
    and the rest of the output is discarded.
    """
    interrupts.install()
    sys.stdout, sys.stderr = _ClosablePipe(sys.stdout), _ClosablePipe(sys.stderr)
    try:
        status = main()
        if not interrupts.received():
            return status
        if status == 0:  # `main` has not noticed
            interrupts.report()
        return interrupts.STATUS
    except KeyboardInterrupt:
        interrupts.report()
        return interrupts.STATUS
    finally:
        interrupts.end()
        for stream in (sys.stdout, sys.stderr):
            stream.flush()


class _ClosablePipe:
    """A text stream that discards what is written after its reader has closed the pipe."""

    def __init__(self, stream: TextIO):
        self._stream = stream

    def __getattr__(self, name: str) -> Any:
        return getattr(self._stream, name)

    def write(self, text: str) -> int:
        """Write `text` and return its length."""
        try:
            return self._stream.write(text)
        except BrokenPipeError:
            self._discard()
            return len(text)

    def flush(self) -> None:
        """Write what is buffered."""
        try:
            self._stream.flush()
        except BrokenPipeError:
            self._discard()

    def _discard(self) -> None:
        """Send what is buffered, and everything from now on, to /dev/null."""
        os.dup2(os.open(os.devnull, os.O_WRONLY), self._stream.fileno())


def print_to_reader(text: str) -> None:
    """Print `text`; a pipe that its reader has closed (`| head`) is not an error."""
    try:
        print(text, flush=True)
    except BrokenPipeError:
        # Python flushes stdout once more at exit, which would raise the error again.
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())


class Progress:
    """Shows how many items are done, the rate, and the remaining time: as a bar in a terminal, as lines in a log."""

    def __init__(self, name: str, unit: str, total: int | None = None):
        """Start to count.

        name   the work, e.g. "Preparing"
        unit   what is counted (plural), e.g. "studies"
        total  number of items; None if unknown
        """
        self._name, self._unit, self._total = name, unit, total
        self._done = self._skipped = 0
        self._started = self._last_line = time.monotonic()
        self._bar = tqdm(total=total, desc=name, unit=f" {unit}") if sys.stderr.isatty() else None

    def skip(self, count: int) -> None:
        """Count items that an earlier run finished; they do not enter the rate."""
        self._skipped += count
        self._done += count
        if self._bar is not None:
            self._bar.initial += count
            self._bar.update(count)

    def advance(self, count: int) -> None:
        """Count items that are finished now."""
        self._done += count
        if self._bar is not None:
            self._bar.update(count)
        elif time.monotonic() - self._last_line >= _SECONDS_BETWEEN_LINES:
            self._last_line = time.monotonic()
            print(self.status(), flush=True)

    def status(self) -> str:
        """Return the current state as a line for a log."""
        rate = (self._done - self._skipped) / max(time.monotonic() - self._started, 1e-9)
        if self._total is None:
            return f"{self._name}: {self._done:,} {self._unit}, {rate:.1f} per second"
        remaining = tqdm.format_interval((self._total - self._done) / rate) if rate > 0 else "?"
        return f"{self._name}: {self._done:,} of {self._total:,} {self._unit}, {rate:.1f} per second, {remaining} left"

    def close(self) -> None:
        """Close the bar, leaving it on the screen."""
        if self._bar is not None:
            self._bar.close()
