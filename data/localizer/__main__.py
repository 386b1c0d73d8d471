"""Trains the shipped localizer on simulated chests alone.

    python -m data.localizer [--out FILE]        about 15 minutes on one core

Simulates the chests, trains with domain randomisation and writes the weights. `python -m benchmarks lung_boxes` scores
them on real X-rays.
"""

import sys
from argparse import ArgumentParser
from collections.abc import Sequence
from contextlib import closing
from dataclasses import fields
from pathlib import Path

from data.console import Progress, run_command
from data.errors import UserError, cannot_write, wrong_value
from data.localizer.shipped import LOCALIZER_FILE, save_network
from data.localizer.training import LocalizerSettings, simulate_films, train


def main(arguments: Sequence[str] | None = None) -> int:
    """Train and write the weights; return the exit status."""
    parser = ArgumentParser(prog="python -m data.localizer", description=__doc__.partition("\n")[0])
    parser.add_argument("--out", type=Path, default=LOCALIZER_FILE, help="file to write (default: %(default)s)")
    helps = {
        "films": "number of simulated chests", "steps": "optimiser steps", "batch": "images of a step",
        "rate": "highest learning rate", "seed": "of chests, weights and randomisation",
    }
    for field in fields(LocalizerSettings):
        parser.add_argument(
            f"--{field.name}", type=type(field.default), default=field.default,
            help=f"{helps[field.name]} (default: %(default)s)",
        )
    options = parser.parse_args(arguments)
    try:
        chosen = {field.name: getattr(options, field.name) for field in fields(LocalizerSettings)}
        _run(options.out, LocalizerSettings(**chosen))
    except UserError as error:
        print(error, file=sys.stderr)
        return 1
    return 0


def _run(out: Path, settings: LocalizerSettings) -> None:
    """Train with `settings` and write the weights to `out`. Raises UserError if a setting or `out` is unusable."""
    for name in ("films", "steps", "batch"):
        if getattr(settings, name) < 1:
            raise wrong_value(f"--{name}", getattr(settings, name), "must be at least 1")
    if not settings.rate > 0:
        raise wrong_value("--rate", settings.rate, "must be above 0")
    if not out.parent.is_dir():
        raise UserError(f"--out {out}: the folder {out.parent} does not exist: create it, or choose another file")
    simulated = Progress("Simulating", "chests", settings.films)
    trained = Progress("Training", "steps", settings.steps)
    with closing(simulated), closing(trained):
        films = simulate_films(settings, lambda done: simulated.advance(1))
        network = train(films, settings, lambda step, loss: trained.advance(1))
    try:
        save_network(network, out)
    except OSError as error:
        raise cannot_write(out, error, "choose another --out") from error
    print(f"{out}: {out.stat().st_size / 2**20:.1f} MiB")


if __name__ == "__main__":
    sys.exit(run_command(main))
