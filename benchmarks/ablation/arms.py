"""The arms of the ablation study, and their runs.

Each arm is the demo's experiment (configs/demo.yaml) on a smaller budget with a few settings changed.
"""

import hashlib
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path

import yaml

from models.outputs import GraphSource
from modules.evaluation.results import result_path

DEMO = Path("configs/demo.yaml")
# What all arms share beside the demo's settings. A trunk that has learned something already takes smaller steps.
BUDGET = (
    "train.epochs=4", "train.mix_epochs=2", "train.validate_from=4", "train.validate_every=1",
    "optim.lr_patch_encoder=5e-4", "train.precision=bf16",
)
# The run that the trunk comes from: observations of 2,400 other phantoms, and hardly any other part beside the trunk.
TRUNK = (
    "train.epochs=10", "train.validate_from=10", "train.validate_every=1", "train.monitor=observation_micro_f1",
    "train.graph_source=none", "model.graph_in=none", "optim.lr=1e-3", "loss.report=0", "data.max_tokens=3",
    "model.width=32", "model.heads=2", "model.feedforward=32", "model.image_layers=0", "model.decoder_layers=1",
    "model.initial_std=0.02",
)
# Of the arms with a graph: beside its losses the demo's weight teaches the trunk less than beside those of the words.
HEAVY_OBSERVATIONS = "loss.observations=20"
# Learning rates of the arms without graph, but for the trunk: from a quarter to twice that of all others.
RATES = (5e-4, 1e-3, 2e-3, 4e-3)
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


def _without_graph(rate: float, *settings: str, also: str = "") -> Arm:
    """The model without graph, so wide that it has as many parameters; its observation head stays."""
    return Arm(f"{NO_GRAPH}, rate {rate:g}{also}", (
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
    _without_graph(2e-3, HEAVY_OBSERVATIONS, also=", observations weigh 20"),
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
    """An arm with a seed, and its folder; `overrides` are settings of all runs that the user gave."""

    arm: Arm
    seed: int
    results: Path
    overrides: tuple[str, ...] = ()

    @property
    def settings(self) -> list[str]:
        """What decides its numbers beside the seed, but for the demo's own settings."""
        return [*BUDGET, *self.arm.settings, *self.overrides, f"noise={self.arm.noise}"]

    @property
    def experiment(self) -> str:
        """A fingerprint of all its settings, the demo's and the trunk's too: no run of others is gone on with."""
        return fingerprint([*TRUNK, *self.settings])

    @property
    def name(self) -> str:
        """The name of its folder below `results`."""
        return f"{self.arm.folder}_{self.experiment}_seed{self.seed}"

    @property
    def folder(self) -> Path:
        """The run folder."""
        return self.results / self.name

    @property
    def predictions(self) -> Path:
        """The reports that its test wrote."""
        return result_path(self.folder, "predictions.jsonl", self.arm.graph, "test")

    @property
    def metrics(self) -> Path:
        """The scores of its test."""
        return result_path(self.folder, "metrics.json", self.arm.graph, "test")


def fingerprint(settings: Sequence[str]) -> str:
    """Six digits that change with the demo's settings, whatever its comments, and with `settings` beside them."""
    demo = yaml.safe_dump(yaml.safe_load(DEMO.read_text(encoding="utf-8")))
    return hashlib.sha256("\n".join([demo, *settings]).encode()).hexdigest()[:6]


def in_order(arms: Sequence[Arm], seeds: Sequence[int]) -> Iterator[tuple[Arm, int]]:
    """The runs, most telling first: the graph against none with all seeds, then the other arms seed by seed."""
    first = [arm for arm in arms if arm == FULL or arm.graph == GraphSource.NONE]
    for seed in seeds:
        yield from ((arm, seed) for arm in first)
    for seed in seeds:
        yield from ((arm, seed) for arm in arms if arm not in first)
