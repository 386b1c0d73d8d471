"""Runs parts of a measurement one after the other, each in its own process and all before a deadline.

A process of its own gives each part its own peak memory, lets the others survive its failure, and can be stopped at any
time. A part that is stopped keeps the values that it has published.
"""

import multiprocessing
import signal
import time
import traceback
from collections.abc import Callable
from dataclasses import dataclass, field
from multiprocessing.connection import Connection
from typing import Any

from data.errors import UserError

Values = dict[str, Any]
Publish = Callable[[Values], None]

# A part is not started with less time than a process needs to start.
LEAST_SECONDS = 5.0
_SECONDS_TO_STOP = 2.0


class NotPossible(Exception):
    """Raised by a part that cannot run here; the message says why."""


@dataclass
class Part:
    """One measurement.

    measure  called as `measure(publish)` in the part's process; passes values to `publish` as soon as they are known.
             Must be importable (a function of a module, or a `functools.partial` of one)
    weight   share of the remaining time, relative to the weights of the other parts that remain
    """

    name: str
    measure: Callable[[Publish], None]
    weight: float


@dataclass
class Outcome:
    """What a part has measured, how long it took, and why the rest is missing (None if nothing is)."""

    values: Values = field(default_factory=dict)
    seconds: float = 0.0
    missing: str | None = None


def run_parts(parts: list[Part], seconds: float, finished: Callable[[str, Outcome], None]) -> None:
    """Run the parts in order and call `finished` with the name and outcome of each, in `seconds` at most.

    Each part may use its share of the remaining time; what it does not use is left to the others.
    """
    deadline = time.monotonic() + seconds
    for position, part in enumerate(parts):
        remaining = deadline - time.monotonic() - _SECONDS_TO_STOP
        limit = remaining * part.weight / sum(later.weight for later in parts[position:])
        if limit < LEAST_SECONDS:
            finished(part.name, Outcome(missing=f"no time left of {seconds:.0f} s"))
        else:
            finished(part.name, run_part(part, limit))


def run_part(part: Part, limit: float) -> Outcome:
    """Run one part in a new process and stop it after `limit` seconds."""
    outcome, start = Outcome(), time.monotonic()
    # Processes are forked from one that has imported everything and not used the GPU, so they start in no time.
    context = multiprocessing.get_context("forkserver")
    context.set_forkserver_preload(["benchmarks.__main__"])
    ours, theirs = context.Pipe(duplex=False)
    process = context.Process(target=_serve, args=(theirs, part.measure))
    process.start()
    theirs.close()
    try:
        outcome.missing = _collect(ours, outcome.values, start + limit, limit)
    finally:
        process.kill()
        process.join()
        ours.close()
    outcome.seconds = time.monotonic() - start
    return outcome


def _collect(connection: Connection, values: Values, deadline: float, limit: float) -> str | None:
    """Add what a part publishes to `values`. Return why something is missing, or None."""
    while connection.poll(max(0.0, deadline - time.monotonic())):
        try:
            kind, content = connection.recv()
        except EOFError:
            return "its process died (out of memory?)"
        if kind != "values":
            return content
        values.update(content)
    return f"stopped after its {limit:.0f} s"


def _serve(connection: Connection, measure: Callable[[Publish], None]) -> None:
    """Main function of a part's process. Sends ("values", ...) any number of times, then ("ended", reason or None)."""
    signal.signal(signal.SIGINT, signal.SIG_IGN)  # Ctrl-C reaches all processes, but the parent ends this one
    reason = None
    try:
        measure(lambda values: connection.send(("values", values)))
    except (NotPossible, UserError) as error:
        reason = str(error)
    except Exception as error:  # any error is reported to the parent process
        traceback.print_exc()
        reason = f"failed: {type(error).__name__}: {(str(error).splitlines() or [''])[0][:200]}"
    connection.send(("ended", reason))
