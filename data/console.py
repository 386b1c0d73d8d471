"""Console output of commands: results and progress."""

import os
import sys
import time

from tqdm import tqdm

_SECONDS_BETWEEN_LINES = 30.0


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
