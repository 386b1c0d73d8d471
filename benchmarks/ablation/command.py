"""Is the scene graph worth it? Trains every arm of the study on the phantom and writes what came out.

    python -m benchmarks ablation [--arms NAME;...] [--seeds 0,1,2] [--jobs 2] [--report docs/results.md]
    python -m benchmarks ablation --report-only

A run is the demo's experiment (configs/demo.yaml) on a smaller budget, tested on the phantom's test split. All runs
begin with the same trunk, as the paper's begin with one trained on ImageNet: it has learned to tell the observations of
other phantoms. Runs that are finished are skipped and interrupted ones go on, so the study can be made in several
sittings; the most telling runs come first. What a finished run gave is kept beside the report (docs/results.jsonl), so
the sittings need not be on one machine; the report is written anew after every run, without the runs of other settings
than today's.
"""

import argparse
import os
import subprocess
import sys
from collections.abc import Sequence
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import torch

from benchmarks.ablation.arms import ARMS, BUDGET, DEMO, TRUNK, Arm, Run, fingerprint, in_order
from benchmarks.ablation.ledger import FinishedRun, read_ledger, read_run, write_ledger
from benchmarks.ablation.report import write_report
from data.errors import UserError
from data.sources.phantom.dataset import PhantomSettings, prepare_phantom
from modules.checkpoint import load_checkpoint

STUDIES, IMAGE_SIZE = 3000, 128
# Of the phantoms that the trunk is trained on; those of the arms have seed 0.
TRUNK_SEED = 1


def add_arguments(commands: argparse._SubParsersAction) -> None:
    """Register the command `ablation`."""
    parser = commands.add_parser("ablation", help="the paper's claims on the phantom: arms, three seeds each")
    parser.add_argument("--arms", help="some of them, by name, separated by semicolons; default: all")
    parser.add_argument("--seeds", default="0,1,2", help="separated by commas (%(default)s)")
    parser.add_argument("--jobs", type=int, default=2, help="runs at a time, one thread each (%(default)s)")
    parser.add_argument("--data", type=Path, default=Path("data"), help="where the phantoms are made (%(default)s)")
    parser.add_argument("--results", type=Path, default=Path("results/ablation"), help="run folders (%(default)s)")
    parser.add_argument("--report", type=Path, default=Path("docs/results.md"), help="(%(default)s)")
    parser.add_argument("--report-only", action="store_true", help="train nothing, write the report of what is there")
    parser.add_argument("overrides", nargs="*", metavar="key=value", help="settings of every run: train.max_steps=4")
    parser.set_defaults(run=run)


def run(options: argparse.Namespace) -> None:
    """Train and test what is missing, then write the report."""
    ledger = options.report.with_suffix(".jsonl")
    overrides = tuple(options.overrides)
    kept = read_ledger(ledger)
    finished = of_these_settings(kept, overrides)
    if options.report_only:
        write_report(options.report, finished, overrides)
    else:
        runs = [
            Run(arm, seed, options.results, overrides)
            for arm, seed in in_order(chosen_arms(options.arms), seeds_of(options.seeds))
        ]
        if options.jobs < 1:
            raise UserError(f"--jobs {options.jobs}: give how many runs go on at a time, at least 1")
        known = [(one.arm, one.seed) for one in finished]
        missing = [one for one in runs if (one.arm.name, one.seed) not in known]
        print(f"{len(runs) - len(missing)} of {len(runs)} runs are finished")
        trunk = trained_trunk(options.data, options.results, options.overrides) if missing else None
        for noise in sorted({one.arm.noise for one in missing}):
            prepare_phantom(phantom_of(options.data, noise), PhantomSettings(
                studies=STUDIES, image_size=IMAGE_SIZE, annotation_noise=noise / 100,
            ))
        with ThreadPoolExecutor(options.jobs) as pool:
            for one in pool.map(lambda one: make(one, options.data, trunk), missing):
                result = read_run(one, trunk)
                kept.append(result)
                finished.append(result)
                write_ledger(ledger, kept)
                write_report(options.report, finished, overrides)
                print(f"finished: {one.name}", flush=True)
    print(f"written: {options.report}")


def of_these_settings(runs: Sequence[FinishedRun], overrides: tuple[str, ...]) -> list[FinishedRun]:
    """Those of `runs` whose arm and settings are the study's today; the report says nothing of the others."""
    today = {arm.name: Run(arm, 0, Path(), overrides).experiment for arm in ARMS}
    chosen = [run for run in runs if today.get(run.arm) == run.experiment]
    if len(chosen) < len(runs):
        print(f"{len(runs) - len(chosen)} runs of other settings are left out of the report")
    return chosen


def seeds_of(text: str) -> list[int]:
    """The seeds of `text`, separated by commas. Raises UserError for what is none."""
    try:
        return [int(seed) for seed in text.split(",")]
    except ValueError as error:
        raise UserError(f"--seeds {text}: give whole numbers separated by commas, for example 0,1,2") from error


def chosen_arms(names: str | None) -> tuple[Arm, ...]:
    """The arms of `names`, separated by semicolons; all without. Raises UserError for an unknown one."""
    if names is None:
        return ARMS
    by_name = {arm.name: arm for arm in ARMS}
    wanted = [name.strip() for name in names.split(";")]
    for name in wanted:
        if name not in by_name:
            raise UserError(f"There is no arm '{name}': choose from {'; '.join(by_name)}")
    return tuple(by_name[name] for name in wanted)


def phantom_of(data: Path, noise: int) -> Path:
    """The folder of the phantom with `noise` per cent; without noise it is the demo's own."""
    return data / ("phantom" if noise == 0 else f"phantom_noise{noise}")


def trained_trunk(data: Path, results: Path, overrides: Sequence[str]) -> Path:
    """The file of the weights that all trunks begin with, trained if it is missing. Raises UserError if that fails."""
    folder = results / f"trunk_{fingerprint([*TRUNK, *overrides])}"
    file = folder.with_suffix(".pt")
    if not file.is_file():
        phantom = data / "phantom_trunk"
        prepare_phantom(phantom, PhantomSettings(studies=STUDIES, image_size=IMAGE_SIZE, seed=TRUNK_SEED))
        _run(folder, _training(folder, phantom, 0, [*TRUNK, *overrides]), threads=os.cpu_count() or 1)
        beginning = "patch_encoder.trunk."
        weights = load_checkpoint(folder).weights
        temporary = file.with_suffix(".tmp")
        torch.save({n.removeprefix(beginning): w for n, w in weights.items() if n.startswith(beginning)}, temporary)
        temporary.replace(file)
    return file


def make(one: Run, data: Path, trunk: Path) -> Run:
    """Train and test a run that begins with the weights in the file `trunk`. Raises UserError if that fails."""
    settings = [f"model.patch_encoder.weights={trunk}", *BUDGET, *one.arm.settings, *one.overrides]
    _run(one.folder, _training(one.folder, phantom_of(data, one.arm.noise), one.seed, settings))
    _run(one.folder, [
        "main_test.py", "--checkpoint", str(one.folder), "--split", "test", "--graph", one.arm.graph.value,
    ])
    return one


def _training(folder: Path, phantom: Path, seed: int, settings: Sequence[str]) -> list[str]:
    return [
        "main_train.py", "--config", str(DEMO), f"name={folder.name}", f"results={folder.parent}",
        f"seed={seed}", f"data.root={phantom}", "train.resume=true", *settings,
    ]


def _run(folder: Path, command: Sequence[str], threads: int = 1) -> None:
    """Run a script with what it prints in `folder`/console.txt. Raises UserError where it fails.

    Two runs of one thread each get more done on two cores than one run of two threads.
    """
    folder.mkdir(parents=True, exist_ok=True)
    environment = os.environ | {"OMP_NUM_THREADS": str(threads), "PYTHONUNBUFFERED": "1"}
    log = folder / "console.txt"
    with log.open("a", encoding="utf-8") as file:
        done = subprocess.run([sys.executable, *command], stdout=file, stderr=subprocess.STDOUT, env=environment)
    if done.returncode:
        raise UserError(f"{folder.name}: {command[0]} ended with status {done.returncode}; see the end of {log}")
