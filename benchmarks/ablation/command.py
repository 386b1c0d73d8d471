"""The ablation study of the scene graph: trains and tests every arm on the phantom and writes the report.

    python -m benchmarks ablation [--arms NAME;...] [--seeds 0,1,2] [--jobs 2] [--report docs/results.md]
    python -m benchmarks ablation --report-only

A run is the demo's experiment (configs/demo.yaml) with fewer epochs, tested on the phantom's test split. All runs start
from the same trunk, which was trained to classify the observations of other phantoms, like the paper's from one trained
on ImageNet. Finished runs are skipped and interrupted ones are resumed; the most important runs come first. The results
of finished runs are recorded next to the report (docs/results.jsonl), so that the study can be continued on another
machine. The report is rewritten after every run; runs of an earlier version are reported as such, and runs with other
settings than the current ones are left out.
"""

import argparse
import os
from collections.abc import Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import torch

from benchmarks.ablation.arms import ARMS, BUDGET, DEMO, TRUNK, VERSION, Arm, Run, fingerprint, order_runs
from benchmarks.ablation.ledger import FinishedRun, read_ledger, read_run, write_ledger
from benchmarks.ablation.report import write_report
from benchmarks.support.scripts import run_script
from data.errors import UserError, wrong_value
from data.sources.phantom.dataset import PhantomSettings, prepare_phantom
from modules.checkpoint import load_checkpoint

STUDIES, IMAGE_SIZE = 3000, 128
# Seed of the phantoms that the trunk is trained on; those of the arms have seed 0.
TRUNK_SEED = 1


def add_arguments(commands: argparse._SubParsersAction) -> None:
    """Register the command `ablation`."""
    parser = commands.add_parser("ablation", help="the paper's claims, tested on the phantom with three seeds per arm")
    parser.add_argument("--arms", help="names of arms, separated by semicolons (default: all)")
    parser.add_argument("--seeds", default="0,1,2", help="seeds, separated by commas (default: %(default)s)")
    parser.add_argument("--jobs", type=int, default=2, help="parallel runs, one thread each (default: %(default)s)")
    parser.add_argument("--data", type=Path, default=Path("data"), help="folder of the phantoms (default: %(default)s)")
    parser.add_argument("--results", type=Path, default=Path("results/ablation"),
                        help="parent of the run folders (default: %(default)s)")
    parser.add_argument("--report", type=Path, default=Path("docs/results.md"),
                        help="the report; FILE.jsonl beside it records the runs (default: %(default)s)")
    parser.add_argument("--report-only", action="store_true", help="do not train, only write the report")
    parser.add_argument("overrides", nargs="*", metavar="key=value",
                        help="settings of every run, for example train.max_steps=4")
    parser.set_defaults(run=run)


def run(options: argparse.Namespace) -> None:
    """Train and test the missing runs and write the report."""
    ledger = options.report.with_suffix(".jsonl")
    overrides = tuple(options.overrides)
    recorded = read_ledger(ledger)
    finished, earlier = select_current(recorded, overrides), select_earlier(recorded, overrides)
    left_out = len(recorded) - len(finished) - len(earlier)
    if left_out:
        print(f"{left_out} runs with other settings are left out of the report")
    if options.report_only:
        write_report(options.report, finished, overrides, earlier)
    else:
        for result in _complete_study(options, finished):
            recorded.append(result)
            finished.append(result)
            write_ledger(ledger, recorded)
            write_report(options.report, finished, overrides, earlier)
    print(f"written: {options.report}")


def _complete_study(options: argparse.Namespace, finished: Sequence[FinishedRun]) -> Iterator[FinishedRun]:
    """Train and test the runs that are not among `finished`; yield each result."""
    runs = [
        Run(arm, seed, options.results, tuple(options.overrides))
        for arm, seed in order_runs(parse_arms(options.arms), parse_seeds(options.seeds))
    ]
    if options.jobs < 1:
        raise wrong_value("--jobs", options.jobs, "must be at least 1")
    done = {(result.arm, result.seed) for result in finished}
    missing = [each for each in runs if (each.arm.name, each.seed) not in done]
    print(f"{len(runs) - len(missing)} of {len(runs)} runs are finished")
    trunk = train_trunk(options.data, options.results, options.overrides) if missing else None
    for noise in sorted({each.arm.noise for each in missing}):
        prepare_phantom(phantom_folder(options.data, noise), PhantomSettings(
            studies=STUDIES, image_size=IMAGE_SIZE, annotation_noise=noise / 100,
        ))
    with ThreadPoolExecutor(options.jobs) as pool:
        for tested in pool.map(lambda each: train_and_test(each, options.data, trunk), missing):
            yield read_run(tested, trunk)
            print(f"finished: {tested.name}", flush=True)


def select_current(runs: Sequence[FinishedRun], overrides: tuple[str, ...]) -> list[FinishedRun]:
    """Return the runs with the current version, arms and settings."""
    current = {arm.name: Run(arm, 0, Path(), overrides).experiment for arm in ARMS}
    return [run for run in runs if run.version == VERSION and current.get(run.arm) == run.experiment]


def select_earlier(runs: Sequence[FinishedRun], overrides: tuple[str, ...]) -> list[FinishedRun]:
    """Return the runs of earlier versions with the current arms and settings.

    Their fingerprints cannot be compared: the demo's settings had other names.
    """
    settings = {arm.name: Run(arm, 0, Path(), overrides).settings for arm in ARMS}
    return [run for run in runs if run.version < VERSION and settings.get(run.arm) == run.settings]


def parse_seeds(text: str) -> list[int]:
    """Parse comma-separated seeds. Raises UserError if one is not a whole number."""
    try:
        return [int(seed) for seed in text.split(",")]
    except ValueError as error:
        raise wrong_value("--seeds", text, "must be whole numbers separated by commas, for example 0,1,2") from error


def parse_arms(names: str | None) -> tuple[Arm, ...]:
    """Return the arms of `names`, separated by semicolons; None for all. Raises UserError if a name is unknown."""
    if names is None:
        return ARMS
    by_name = {arm.name: arm for arm in ARMS}
    chosen = [name.strip() for name in names.split(";")]
    for name in chosen:
        if name not in by_name:
            raise UserError(f"--arms: unknown arm '{name}'; choose from {'; '.join(by_name)}")
    return tuple(by_name[name] for name in chosen)


def phantom_folder(data: Path, noise: int) -> Path:
    """Return the folder of the phantom with `noise` per cent; without noise it is the demo's."""
    return data / ("phantom" if noise == 0 else f"phantom_noise{noise}")


def train_trunk(data: Path, results: Path, overrides: Sequence[str]) -> Path:
    """Return the file of the initial weights of all trunks, trained if absent. Raises UserError if that fails."""
    folder = results / f"trunk_{fingerprint([*TRUNK, *overrides])}"
    file = folder.with_suffix(".pt")
    if not file.is_file():
        phantom = data / "phantom_trunk"
        prepare_phantom(phantom, PhantomSettings(studies=STUDIES, image_size=IMAGE_SIZE, seed=TRUNK_SEED))
        run_script(
            folder, _training_command(folder, phantom, 0, [*TRUNK, *overrides]), threads=os.cpu_count() or 1
        )
        prefix = "patch_encoder.trunk."
        weights = load_checkpoint(folder).weights
        temporary = file.with_suffix(".tmp")
        torch.save({n.removeprefix(prefix): w for n, w in weights.items() if n.startswith(prefix)}, temporary)
        temporary.replace(file)
    return file


def train_and_test(run: Run, data: Path, trunk: Path) -> Run:
    """Train and test a run, starting from the weights in the file `trunk`. Raises UserError if that fails."""
    settings = [f"model.patch_encoder.weights={trunk}", *BUDGET, *run.arm.settings, *run.overrides]
    phantom = phantom_folder(data, run.arm.noise)
    run_script(run.folder, _training_command(run.folder, phantom, run.seed, settings))
    run_script(run.folder, [
        "main_test.py", "--checkpoint", str(run.folder), "--split", "test", "--graph", run.arm.graph.value,
    ])
    return run


def _training_command(folder: Path, phantom: Path, seed: int, settings: Sequence[str]) -> list[str]:
    return [
        "main_train.py", "--config", str(DEMO), f"name={folder.name}", f"results={folder.parent}",
        f"seed={seed}", f"data.root={phantom}", "train.resume=true", *settings,
    ]
