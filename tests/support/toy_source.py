"""An invented source of a few studies, for what prepares data sets."""

import os
import signal
import time
from collections.abc import Iterator
from dataclasses import dataclass, field
from pathlib import Path

import numpy as np

from data.ontology import Anatomy, observation_names
from data.sources.preparation import Dropped, PreparedImage, Study

_SPLITS = ("train", "train", "val", "test")


@dataclass(frozen=True)
class ToyPlan:
    """A study to be built."""

    id: str
    split: str
    number: int


@dataclass
class ToySource:
    """Studies of noise. Every seventh is damaged, every fifth lacks its second image and warns of it.

    pause          seconds that a study takes
    killed         number of the study whose worker is killed by the system
    witnesses      folder in which every process that builds studies leaves its id
    """

    studies: int
    paths: tuple[Path, ...] = ()
    options: dict = field(default_factory=dict)
    expected: dict = field(default_factory=dict)
    pause: float = 0.0
    killed: int | None = None
    witnesses: Path | None = None
    name: str = "toy"

    def __len__(self) -> int:
        return self.studies

    def describe(self) -> dict:
        """See `data.sources.preparation.Source`."""
        return {
            "distributions": ["invented numbers"],
            "options": self.options,
            "expected": self.expected,
            "found": {"numbers": self.studies},
        }

    def plans(self) -> Iterator[ToyPlan]:
        """See `data.sources.preparation.Source`."""
        for number in range(self.studies):
            yield ToyPlan(f"99{number:06d}", _SPLITS[number % len(_SPLITS)], number)

    def build(self, plan: ToyPlan) -> Study | Dropped:
        """See `data.sources.preparation.Source`."""
        time.sleep(self.pause)
        if self.witnesses is not None:
            (self.witnesses / str(os.getpid())).touch()
        if plan.number == self.killed:
            os.kill(os.getpid(), signal.SIGKILL)
        if plan.number % 7 == 6:
            return Dropped(plan.id, "damaged image")
        generator = np.random.default_rng(plan.number)
        whole = plan.number % 5 != 4
        images = [PreparedImage(generator.integers(0, 256, size=(70, 60), dtype=np.uint8), "PA")]
        if whole:
            images.append(PreparedImage(generator.integers(0, 256, size=(40, 90), dtype=np.uint8), "LATERAL"))
        return Study(
            id=plan.id,
            split=plan.split,
            images=tuple(images),
            report=f"Number {plan.number} is clear.",
            observations={observation_names()[plan.number % len(observation_names())]: 1},
            graph=toy_graph(plan.number),
            warnings=() if whole else ("no second image",),
        )


def toy_graph(number: int) -> dict:
    """A graph with a box for every region but the first."""
    regions = Anatomy.load().regions
    return {
        "box_source": "atlas",
        "regions": {
            region.name: {
                "box": list(region.box) if position else None,
                "mentioned": position == number % len(regions),
                "abnormal": False,
                "attributes": [],
            }
            for position, region in enumerate(regions)
        },
    }
