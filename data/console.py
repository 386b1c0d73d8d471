"""Console output of commands: results, and the progress of long work."""

import os
import sys
import time

from tqdm import tqdm

_SECONDS_BETWEEN_LINES = 30.0


def print_to_reader(text: str) -> None:
    """Print `text`. A reader that closes the pipe when it has seen enough (`| head`) is no error."""
    try:
        print(text, flush=True)
    except BrokenPipeError:
        # Python flushes stdout once more at its end, and would complain then.
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())


class Progress:
    """Counts what is done, and shows it with its rate and the time that is left."""

    def __init__(self, name: str, unit: str, total: int | None = None):
        """`name` says what is going on, `unit` what is counted (plural); `total` may be unknown."""
        self._name, self._unit, self._total = name, unit, total
        self._done = self._done_before = 0
        self._started = self._last_line = time.monotonic()
        self._bar = tqdm(total=total, desc=name, unit=f" {unit}") if sys.stderr.isatty() else None

    def found_done(self, count: int) -> None:
        """Count what was done before: it says nothing about the rate."""
        self._done_before += count
        self._done += count
        if self._bar is not None:
            self._bar.initial += count
            self._bar.update(count)

    def advance(self, count: int) -> None:
        """Count what was done now."""
        self._done += count
        if self._bar is not None:
            self._bar.update(count)
        elif time.monotonic() - self._last_line >= _SECONDS_BETWEEN_LINES:
            self._last_line = time.monotonic()
            print(self.line(), flush=True)

    def line(self) -> str:
        """What a log is told."""
        rate = (self._done - self._done_before) / max(time.monotonic() - self._started, 1e-9)
        if self._total is None:
            return f"{self._name}: {self._done:,} {self._unit}, {rate:.1f} a second"
        left = tqdm.format_interval((self._total - self._done) / rate) if rate > 0 else "?"
        return f"{self._name}: {self._done:,} of {self._total:,} {self._unit}, {rate:.1f} a second, {left} left"

    def close(self) -> None:
        """Leave the bar as it is and go to a new line."""
        if self._bar is not None:
            self._bar.close()
