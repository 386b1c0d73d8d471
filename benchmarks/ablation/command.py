"""The ablation study of the scene graph: trains and tests every arm on the phantom and writes the report.

    python -m benchmarks ablation [--arms NAME;...] [--seeds 0,1,2] [--jobs 2] [--report docs/results.md]
    python -m benchmarks ablation --report-only

A run is the demo's experiment (configs/demo.yaml) with fewer epochs, tested on the phantom's test split. All runs start
from the same trunk (files/phantom_trunk.safetensors), which was trained to classify the observations of other phantoms,
like the paper's from one trained on ImageNet. Finished runs are skipped and interrupted ones are resumed; the most
important runs come first. The results of finished runs are recorded next to the report (docs/results.jsonl), so that
the study can be continued on another machine. The report is rewritten after every run; runs of an earlier version, or
with other settings than the current ones, are left out.
"""

import argparse
from collections.abc import Iterator, Sequence
from pathlib import Path

from benchmarks.ablation.arms import ARMS, VERSION, Arm, Run, order_runs
from benchmarks.ablation.context import run_context_study
from benchmarks.ablation.family import family_names, run_family_study
from benchmarks.ablation.ledger import FinishedRun, read_ledger, read_run, record_run
from benchmarks.ablation.report import write_report
from benchmarks.ablation.training import complete, prepare, train_and_test, train_trunk
from data.errors import UserError, wrong_value

CONTEXT, FAMILY = "context", "family"


def add_arguments(commands: argparse._SubParsersAction) -> None:
    """Register the command `ablation`."""
    parser = commands.add_parser("ablation", help="the paper's claims, tested on the phantom with three seeds per arm")
    parser.add_argument("--arms", help="names of arms, separated by semicolons (default: all), or context or "
                        "family: the studies of `benchmarks.ablation.context` and `benchmarks.ablation.family`")
    parser.add_argument("--seeds", default="0,1,2", help="seeds, separated by commas (default: %(default)s)")
    parser.add_argument("--jobs", type=int, default=2, help="parallel runs, one thread each (default: %(default)s)")
    parser.add_argument("--data", type=Path, default=Path("data"), help="folder of the phantoms (default: %(default)s)")
    parser.add_argument("--results", type=Path, default=Path("results/ablation"),
                        help="parent of the run folders (default: %(default)s)")
    parser.add_argument("--trunk", type=Path, default=Path("files/phantom_trunk.safetensors"), metavar="FILE",
                        help="initial weights of all trunks, trained and written if absent (default: %(default)s)")
    parser.add_argument("--report", type=Path, default=Path("docs/results.md"),
                        help="the report; FILE.jsonl beside it records the runs, and the other studies write "
                        "context_results.md, family_results.md there (default: %(default)s)")
    parser.add_argument("--report-only", action="store_true", help="do not train, only write the report")
    parser.add_argument("overrides", nargs="*", metavar="key=value",
                        help="settings of every run, for example train.max_steps=4")
    parser.set_defaults(run=run)


def run(options: argparse.Namespace) -> None:
    """Train and test the missing runs and write the report."""
    overrides = tuple(options.overrides)
    if options.jobs < 1:
        raise wrong_value("--jobs", options.jobs, "must be at least 1")
    if options.arms in (CONTEXT, FAMILY):
        study = run_context_study if options.arms == CONTEXT else run_family_study
        page = study(options, parse_seeds(options.seeds), overrides)
    else:
        page = _run_graph_study(options, overrides)
    print(f"written: {page}")


def _run_graph_study(options: argparse.Namespace, overrides: tuple[str, ...]) -> Path:
    ledger = options.report.with_suffix(".jsonl")
    recorded = read_ledger(ledger)
    _print_left_out(recorded, overrides)
    if options.report_only:
        write_report(options.report, select_current(recorded, overrides), overrides)
        return options.report
    for result in _complete_study(options, select_current(recorded, overrides), overrides):
        write_report(options.report, select_current(record_run(ledger, result), overrides), overrides)
    return options.report


def _print_left_out(recorded: Sequence[FinishedRun], overrides: tuple[str, ...]) -> None:
    runs = [run for run in recorded if run.arm not in family_names()]
    left_out = len(runs) - len(select_current(runs, overrides))
    if left_out:
        print(f"{left_out} runs of an earlier version or with other settings are left out of the report")


def _complete_study(
    options: argparse.Namespace, finished: Sequence[FinishedRun], overrides: tuple[str, ...]
) -> Iterator[FinishedRun]:
    """Train and test the runs that are not among `finished`; yield each result."""
    runs = [
        Run(arm, seed, options.results, overrides)
        for arm, seed in order_runs(parse_arms(options.arms), parse_seeds(options.seeds))
    ]
    done = {(result.arm, result.seed) for result in finished}
    missing = [each for each in runs if (each.arm.name, each.seed) not in done]
    print(f"{len(runs) - len(missing)} of {len(runs)} runs are finished")
    if not missing:
        return
    trunk = train_trunk(options.trunk, options.data, options.results, overrides, options.jobs)
    phantoms = {noise: prepare(options.data, noise) for noise in sorted({each.arm.noise for each in missing})}

    def make(each: Run) -> FinishedRun:
        train_and_test(each, phantoms[each.arm.noise], trunk)
        return read_run(each, trunk)

    yield from complete(missing, options.jobs, make)


def select_current(runs: Sequence[FinishedRun], overrides: tuple[str, ...]) -> list[FinishedRun]:
    """Return the runs with the current version, arms and settings."""
    current = {arm.name: Run(arm, 0, Path(), overrides).experiment for arm in ARMS}
    return [run for run in runs if run.version == VERSION and current.get(run.arm) == run.experiment]


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
            known = "; ".join(by_name)
            raise UserError(f"--arms: unknown arm '{name}'; choose from {known}, or one of {CONTEXT}, {FAMILY}")
    return tuple(by_name[name] for name in chosen)
