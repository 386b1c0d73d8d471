"""Is the scene graph worth it? Trains every arm of the study on the phantom and writes what came out.

    python -m benchmarks ablation [--arms NAME,...] [--seeds 0,1,2] [--jobs 2] [--report docs/results.md]
    python -m benchmarks ablation --report-only

A run is the demo's experiment (configs/demo.yaml) on a smaller budget, tested on the phantom's test split. Runs that
are finished are skipped and interrupted ones go on, so the study can be made in several sittings; the most telling runs
come first. The report is written anew from the run folders each time, however many there are.
"""

import argparse
import os
import subprocess
import sys
from collections.abc import Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from pathlib import Path

from benchmarks.ablation_report import write_report
from data.errors import UserError
from data.sources.phantom import PhantomSettings, prepare_phantom
from models.outputs import GraphSource
from modules.results import result_path

STUDIES, IMAGE_SIZE = 3000, 128
# What all arms share beside the demo's settings.
BUDGET = ("train.epochs=5", "train.mix_epochs=2.5", "train.validate_from=5", "train.validate_every=1")
LEARNING_RATES = (5e-4, 1e-3, 2e-3)
NO_GRAPH = "no graph"


@dataclass(frozen=True)
class Arm:
    """One system of the study.

    settings   what differs from the demo's
    noise      per cent of the training split's annotated graphs that are disturbed
    """

    name: str
    settings: tuple[str, ...] = ()
    noise: int = 0

    @property
    def folder(self) -> str:
        """The name of its runs without the seed."""
        return self.name.translate(str.maketrans(" ", "_", ",%")).replace("__", "_")

    @property
    def graph(self) -> GraphSource:
        """What its test shows the decoder."""
        return GraphSource.NONE if self.name.startswith(NO_GRAPH) else GraphSource.PREDICTED


def _without_graph(rate: float) -> Arm:
    """The model without graph, so wide that it has as many parameters; its observation head stays."""
    return Arm(f"{NO_GRAPH}, rate {rate:g}", (
        "model.graph_in=none", "model.width=256", "model.feedforward=640", "model.image_layers=3",
        f"optim.lr={rate}", f"optim.lr_patch_encoder={rate}",
    ))


FULL = Arm("full")
ORACLE_TRAINED = "train.graph_source=oracle"
ARMS = (
    FULL,
    *(_without_graph(rate) for rate in LEARNING_RATES),
    Arm("without proxy tasks", ("model.observation_head=false", "loss.observations=0", "loss.contrast=0")),
    Arm("without contrast", ("loss.contrast=0",)),
    Arm("without grounding", ("loss.grounding=0",)),
    Arm("node attention", ("model.sentence_attention=node",)),
    Arm("hierarchical attention", ("model.sentence_attention=hierarchical",)),
    Arm("full, annotated graphs only", (ORACLE_TRAINED,)),
    Arm("full, 20 % noise", noise=20),
    Arm("full, 40 % noise", noise=40),
    Arm("full, annotated graphs only, 20 % noise", (ORACLE_TRAINED,), noise=20),
    Arm("full, annotated graphs only, 40 % noise", (ORACLE_TRAINED,), noise=40),
)


@dataclass(frozen=True)
class Run:
    """An arm with a seed, and its folder."""

    arm: Arm
    seed: int
    results: Path

    @property
    def name(self) -> str:
        """The name of its folder below `results`."""
        return f"{self.arm.folder}_seed{self.seed}"

    @property
    def folder(self) -> Path:
        """The run folder."""
        return self.results / self.name

    @property
    def predictions(self) -> Path:
        """The reports that its test wrote: the last file of a finished run but its page."""
        return result_path(self.folder, "predictions.jsonl", self.arm.graph, "test")

    @property
    def metrics(self) -> Path:
        """The scores of its test."""
        return result_path(self.folder, "metrics.json", self.arm.graph, "test")

    @property
    def finished(self) -> bool:
        """Whether its test has been written."""
        return self.predictions.is_file() and self.metrics.is_file()


def add_arguments(commands: argparse._SubParsersAction) -> None:
    """Register the command `ablation`."""
    parser = commands.add_parser("ablation", help="the paper's claims on the phantom: arms, three seeds each")
    parser.add_argument("--arms", help=f"some of them, by name: {'; '.join(arm.name for arm in ARMS)} (separated by ;)")
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
    seeds = [int(seed) for seed in options.seeds.split(",")]
    runs = [Run(arm, seed, options.results) for arm, seed in in_order(chosen_arms(options.arms), seeds)]
    if not options.report_only:
        missing = [one for one in runs if not one.finished]
        print(f"{len(runs) - len(missing)} of {len(runs)} runs are finished")
        for noise in sorted({one.arm.noise for one in missing}):
            prepare_phantom(phantom_of(options.data, noise), PhantomSettings(
                studies=STUDIES, image_size=IMAGE_SIZE, annotation_noise=noise / 100,
            ))
        with ThreadPoolExecutor(options.jobs) as pool:
            for one in pool.map(lambda one: make(one, options.data, options.overrides), missing):
                print(f"finished: {one.name}", flush=True)
    write_report(options.report, [one for one in runs if one.finished], NO_GRAPH, FULL.name)
    print(f"written: {options.report}")


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


def in_order(arms: Sequence[Arm], seeds: Sequence[int]) -> Iterator[tuple[Arm, int]]:
    """The runs, most telling first: the graph against none with all seeds, then the other arms seed by seed."""
    first = [arm for arm in arms if arm == FULL or arm.graph == GraphSource.NONE]
    for seed in seeds:
        yield from ((arm, seed) for arm in first)
    for seed in seeds:
        yield from ((arm, seed) for arm in arms if arm not in first)


def phantom_of(data: Path, noise: int) -> Path:
    """The folder of the phantom with `noise` per cent; without noise it is the demo's own."""
    return data / ("phantom" if noise == 0 else f"phantom_noise{noise}")


def make(one: Run, data: Path, overrides: Sequence[str]) -> Run:
    """Train and test a run in processes of their own, which print into its folder. Raises UserError if one fails."""
    one.folder.mkdir(parents=True, exist_ok=True)
    train = [
        "main_train.py", "--config", "configs/demo.yaml", f"name={one.name}", f"results={one.results}",
        f"seed={one.seed}", f"data.root={phantom_of(data, one.arm.noise)}", "train.resume=true", *BUDGET,
        *one.arm.settings, *overrides,
    ]
    test = ["main_test.py", "--checkpoint", str(one.folder), "--split", "test", "--graph", one.arm.graph.value]
    # Two runs of one thread each get more done on two cores than two threads in one run.
    environment = os.environ | {"OMP_NUM_THREADS": "1", "PYTHONUNBUFFERED": "1"}
    log = one.folder / "console.txt"
    with log.open("a", encoding="utf-8") as file:
        for command in (train, test):
            done = subprocess.run([sys.executable, *command], stdout=file, stderr=subprocess.STDOUT, env=environment)
            if done.returncode:
                raise UserError(f"{one.name}: {command[0]} ended with status {done.returncode}; see the end of {log}")
    return one
