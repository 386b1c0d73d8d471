"""The arms of the ablation study and their runs.

Each arm is the demo's experiment (configs/demo.yaml) with fewer epochs and a few changed settings.
"""

import hashlib
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from functools import cache
from pathlib import Path

import yaml

from models.outputs import GraphSource
from modules.evaluation.results import result_path

DEMO = Path("configs/demo.yaml")
# Counts the changes of the program that change the scores of the study. Runs of version 1 had another RoI align, beam
# search and augmentation; up to version 2, the phantom's reports compared with earlier studies that did not exist.
VERSION = 3
# Settings of all arms. The trunk is trained already, so its learning rate is lower than the demo's.
BUDGET = (
    "train.epochs=4", "train.mix_epochs=2", "train.validate_from=4", "train.validate_every=1",
    "optim.lr_patch_encoder=5e-4", "train.precision=bf16",
)
# Settings of the run that trains the trunk on observations of 2,400 other phantoms. Its other parts are minimal.
TRUNK = (
    "train.epochs=10", "train.validate_from=10", "train.validate_every=1", "train.monitor=observation_micro_f1",
    "train.graph_source=none", "model.graph_in=none", "optim.lr=1e-3", "loss.report=0", "data.max_tokens=3",
    "model.width=32", "model.heads=2", "model.feedforward=32", "model.image_layers=0", "model.decoder_layers=1",
    "model.initial_std=0.02",
)
# Setting of the arms with a graph: next to the losses of the graph, the demo's weight teaches the trunk less.
HEAVY_OBSERVATIONS = "loss.observations=20"
# Learning rates of the arms without graph, except for the trunk: from a quarter to twice that of all others.
RATES = (5e-4, 1e-3, 2e-3, 4e-3)
NO_GRAPH = "no graph"


@dataclass(frozen=True)
class Arm:
    """One arm of the study.

    settings   that differ from the demo's
    noise      annotation noise of the training split, in per cent
    """

    name: str
    settings: tuple[str, ...] = ()
    noise: int = 0

    @property
    def folder(self) -> str:
        """The prefix of its run folders."""
        return self.name.translate(str.maketrans(" ", "_", ",%")).replace("__", "_")

    @property
    def graph(self) -> GraphSource:
        """The graph source of its test."""
        return GraphSource.NONE if self.name.startswith(NO_GRAPH) else GraphSource.PREDICTED


def _without_graph(rate: float, *settings: str, name_suffix: str = "") -> Arm:
    """Create an arm without graph: wider, to have as many parameters, and with the observation head."""
    return Arm(f"{NO_GRAPH}, rate {rate:g}{name_suffix}", (
        "model.graph_in=none", "model.width=256", "model.feedforward=1024", "model.image_layers=3", f"optim.lr={rate}",
        *settings,
    ))


def _with_graph(name: str, *settings: str, noise: int = 0) -> Arm:
    return Arm(name, (HEAVY_OBSERVATIONS, *settings), noise)


FULL = _with_graph("full")
ORACLE_TRAINED = "train.graph_source=oracle"
ARMS = (
    FULL,
    *(_without_graph(rate) for rate in RATES),
    _without_graph(2e-3, HEAVY_OBSERVATIONS, name_suffix=", observations weigh 20"),
    _with_graph("without proxy tasks", "model.observation_head=false", "loss.observations=0", "loss.contrast=0"),
    _with_graph("without contrast", "loss.contrast=0"),
    _with_graph("without grounding", "loss.grounding=0"),
    _with_graph("node attention", "model.sentence_attention=node"),
    _with_graph("hierarchical attention", "model.sentence_attention=hierarchical"),
    _with_graph("full, annotated graphs only", ORACLE_TRAINED),
    _with_graph("full, 20 % noise", noise=20),
    _with_graph("full, 40 % noise", noise=40),
    _with_graph("full, annotated graphs only, 20 % noise", ORACLE_TRAINED, noise=20),
    _with_graph("full, annotated graphs only, 40 % noise", ORACLE_TRAINED, noise=40),
)


@dataclass(frozen=True)
class Run:
    """An arm with a seed.

    results     parent of its run folder
    overrides   the user's settings for all runs
    continued   the run whose best checkpoint it starts from; None for one that starts from the trunk
    """

    arm: Arm
    seed: int
    results: Path
    overrides: tuple[str, ...] = ()
    continued: "Run | None" = None

    @property
    def settings(self) -> list[str]:
        """All settings except the seed and the demo's own, and what says which data and which start it has."""
        start = [] if self.continued is None else [f"after={self.continued.experiment}"]
        return [*self.settings_of_training, f"noise={self.arm.noise}", *start]

    @property
    def settings_of_training(self) -> list[str]:
        """All settings except the seed and the demo's own, as `main_train.py` takes them."""
        return [*BUDGET, *self.arm.settings, *self.overrides]

    @property
    def experiment(self) -> str:
        """A fingerprint of all settings, the demo's and the trunk's included: no other run is resumed in its place."""
        return fingerprint([*TRUNK, *self.settings])

    @property
    def name(self) -> str:
        """The name of its folder in `results`."""
        return f"{self.arm.folder}_{self.experiment}_seed{self.seed}"

    @property
    def folder(self) -> Path:
        """The run folder."""
        return self.results / self.name

    @property
    def predictions(self) -> Path:
        """The file of the reports that its test generated."""
        return result_path(self.folder, "predictions.jsonl", self.arm.graph, "test")

    @property
    def metrics(self) -> Path:
        """The file of the scores of its test."""
        return result_path(self.folder, "metrics.json", self.arm.graph, "test")


def fingerprint(settings: Sequence[str]) -> str:
    """Return a fingerprint, six hexadecimal digits, of the demo's settings (without comments) and of `settings`."""
    demo = _without_comments(DEMO.read_text(encoding="utf-8"))
    return hashlib.sha256("\n".join([demo, *settings]).encode()).hexdigest()[:6]


@cache
def _without_comments(text: str) -> str:
    """Return YAML without comments and with sorted keys."""
    return yaml.safe_dump(yaml.safe_load(text))


def order_runs(arms: Sequence[Arm], seeds: Sequence[int]) -> Iterator[tuple[Arm, int]]:
    """Order the runs by importance: the full model and those without graph with all seeds, then the rest by seed."""
    first = [arm for arm in arms if arm == FULL or arm.graph == GraphSource.NONE]
    for seed in seeds:
        yield from ((arm, seed) for arm in first)
    for seed in seeds:
        yield from ((arm, seed) for arm in arms if arm not in first)
