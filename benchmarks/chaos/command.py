"""Disturbs the program in every way that docs/security.md promises it to survive, and counts what breaks.

    python -m benchmarks chaos [--minutes 10] [--seed 0] [--only NAME ...] [--trial N] [--json FILE]

Every trial draws from the seed, the name of its promise and its number, and takes one of the commands, kept in a
forked process: a failure is printed with what repeats it, though not to the microsecond. The promises take turns until
the time is over; each is tried at least once. A promise that this machine cannot try (small disks need root) is listed
with the reason. The exit status is 1 if a trial failed.
"""

import argparse
import shutil
import tempfile
import time
import zlib
from dataclasses import asdict, dataclass, field
from itertools import count
from pathlib import Path

import numpy as np
import torch

from benchmarks.chaos.commands import Reference
from benchmarks.chaos.disks import NotPossible
from benchmarks.chaos.promises import PROMISES, Broken, Trial
from benchmarks.support.measure import write_json
from data.errors import UserError, wrong_value


@dataclass
class Tally:
    """The trials of a promise.

    failures   number of the trial -> how the promise was broken
    missing    why it cannot be tried
    """

    trials: int = 0
    seconds: float = 0.0
    failures: dict[int, str] = field(default_factory=dict)
    missing: str | None = None


def add_arguments(commands: argparse._SubParsersAction) -> None:
    """Register the command `chaos`."""
    parser = commands.add_parser("chaos", help="kills, full disks, corruption and fuzzed files: what breaks?")
    parser.add_argument("--minutes", type=float, default=10.0, help="time for the trials (default: %(default)g)")
    parser.add_argument("--seed", type=int, default=0, help="of all draws (default: %(default)s)")
    parser.add_argument("--only", nargs="+", choices=PROMISES, default=list(PROMISES), metavar="NAME",
                        help=f"some of {', '.join(PROMISES)}")
    parser.add_argument("--trial", type=int, metavar="N", help="only trial number N of each promise")
    parser.add_argument("--json", type=Path, metavar="FILE", help="write the numbers to FILE")
    parser.set_defaults(run=run)


def run(options: argparse.Namespace) -> None:
    """Run the campaign and print its table. Raises UserError if a trial fails, or an option is invalid."""
    if not options.minutes >= 0:
        raise wrong_value("--minutes", options.minutes, "must be at least 0")
    torch.set_num_threads(1)  # processes with several threads must not be forked
    with tempfile.TemporaryDirectory(prefix="chaos-") as folder:
        reference = Reference(Path(folder) / "reference")
        tallies = run_campaign(reference, Path(folder), options.only, options.seed, options.minutes, options.trial)
    print(format_tallies(tallies))
    if options.json is not None:
        promises = {name: asdict(tally) for name, tally in tallies.items()}
        write_json(options.json, {"benchmark": "chaos", "seed": options.seed, "promises": promises})
    failures = sum(len(tally.failures) for tally in tallies.values())
    if failures:
        raise UserError(f"{failures} trials failed: repeat one with --seed {options.seed} --only NAME --trial N")


def run_campaign(
    reference: Reference, folder: Path, names: list[str], seed: int, minutes: float, trial: int | None = None
) -> dict[str, Tally]:
    """Try the promises in turn, in sub-folders of `folder`, until the time is over; return their tallies.

    trial   the number of the only trial of each
    """
    deadline = time.monotonic() + 60 * minutes
    tallies = {name: Tally() for name in names}
    for number in count() if trial is None else (trial,):
        for name, tally in tallies.items():
            if number and time.monotonic() > deadline and trial is None:
                return tallies
            if tally.missing is None:
                _try_once(name, tally, number, seed, reference, folder / "trial")
    return tallies


def _try_once(name: str, tally: Tally, number: int, seed: int, reference: Reference, folder: Path) -> None:
    folder.mkdir()
    generator = np.random.default_rng([seed, zlib.crc32(name.encode()), number])
    start = time.monotonic()
    try:
        PROMISES[name](Trial(generator, folder, reference))
    except Broken as broken:
        tally.failures[number] = str(broken)
        print(f"{name}, trial {number}: {broken}", flush=True)
    except NotPossible as reason:
        tally.missing = str(reason)
        return
    finally:
        shutil.rmtree(folder)
    tally.trials += 1
    tally.seconds += time.monotonic() - start


def format_tallies(tallies: dict[str, Tally]) -> str:
    """Return the table of promises, trials, failures and seconds."""
    rows = [("promise", "trials", "failures", "seconds")]
    rows += [
        (name, str(tally.trials), str(len(tally.failures)), tally.missing or f"{tally.seconds:.0f}")
        for name, tally in tallies.items()
    ]
    width = max(len(row[0]) for row in rows)
    return "\n".join(f"{name:<{width}}  {trials:>6}  {failures:>8}  {last}" for name, trials, failures, last in rows)
