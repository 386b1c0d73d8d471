"""The study of the context: what the indication and the previous study add, on phantom patients with several studies.

    python -m benchmarks ablation --arms context [--seeds 0,1,2] [--jobs 2] [--report-only]

Every arm has the trunk and the budget of the other arms of the ablation study. The arm with both is also tested with
everything withheld. Finished runs are recorded in docs/context_results.jsonl and skipped; docs/context_results.md is
rewritten from that ledger after every run.
"""

import argparse
from collections.abc import Iterable, Sequence
from pathlib import Path

from benchmarks.ablation.arms import HEAVY_OBSERVATIONS, VERSION, Run
from benchmarks.ablation.context_ledger import ContextArm, ContextRun, read_context_run
from benchmarks.ablation.context_report import write_context_report
from benchmarks.ablation.ledger import read_ledger, record_run
from benchmarks.ablation.training import IMAGE_SIZE, STUDIES, complete, train_and_test, train_trunk
from data.sources.phantom.dataset import PhantomSettings, prepare_phantom

# Share of the phantom's patients with several studies.
PRIORS = 0.8
# The indication also reaches what is predicted before the report: see docs/context.md.
EVIDENCE = "model.indication_evidence=true"


def context_arm(name: str, reads: str, *settings: str, shown: tuple[str, ...] = ("all",)) -> ContextArm:
    """Create an arm that reads `reads`, as in `model.context`."""
    common = (HEAVY_OBSERVATIONS, "loss.change=2", f"model.context={reads}")
    return ContextArm(f"context, {name}", (*common, *settings), shown=shown)


ARMS = (
    context_arm("none", "[]"),
    context_arm("indication", "[indication]"),
    context_arm("prior", "[prior]"),
    context_arm("both", "[indication,prior]", EVIDENCE, shown=("all", "none")),
    context_arm("indication as evidence", "[indication]", EVIDENCE),
)


def run_context_study(options: argparse.Namespace, seeds: Sequence[int], overrides: tuple[str, ...]) -> Path:
    """Train and test the missing runs of all arms and seeds; return the path of the report.

    Raises UserError if a run fails, and with --report-only if no run is finished.
    """
    page = options.report.with_name("context_results.md")
    ledger = page.with_suffix(".jsonl")
    runs = [Run(arm, seed, options.results, overrides) for seed in seeds for arm in ARMS]
    finished = select_current(read_ledger(ledger, ContextRun), overrides)
    if options.report_only:
        write_context_report(page, finished)
        return page
    done = {(run.arm, run.seed) for run in finished}
    missing = [run for run in runs if (run.arm.name, run.seed) not in done]
    print(f"{len(runs) - len(missing)} of {len(runs)} runs are finished")
    if missing:
        trunk = train_trunk(options.trunk, options.data, options.results, overrides, options.jobs)
        phantom = options.data / "phantom_context"
        prepare_phantom(phantom, PhantomSettings(studies=STUDIES, image_size=IMAGE_SIZE, priors=PRIORS))

        def make(run: Run) -> ContextRun:
            train_and_test(run, phantom, trunk, ("--baselines", "none", "--context", ",".join(run.arm.shown)))
            return read_context_run(run, phantom, trunk)

        for result in complete(missing, options.jobs, make):
            write_context_report(page, select_current(record_run(ledger, result), overrides))
    return page


def select_current(runs: Iterable[ContextRun], overrides: tuple[str, ...]) -> list[ContextRun]:
    """Return the runs with the current version, arms and settings."""
    current = {arm.name: Run(arm, 0, Path(), overrides).experiment for arm in ARMS}
    return [run for run in runs if run.version == VERSION and current.get(run.arm) == run.experiment]
