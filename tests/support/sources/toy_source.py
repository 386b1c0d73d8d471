"""A made-up source of a few studies, and helpers to test preparation."""

import os
import signal
import time
from collections.abc import Callable, Iterator
from dataclasses import dataclass, field
from pathlib import Path

import numpy as np
import pytest

from data.ontology import Anatomy, observation_names
from data.sources.preparation import prepare
from data.sources.source import Dropped, PreparedImage, Study

# Short side of the stored images.
SIDE = 32
_SPLITS = ("train", "train", "val", "test")


@dataclass(frozen=True)
class ToyPlan:
    """A study to build."""

    id: str
    split: str
    number: int


@dataclass
class ToySource:
    """Studies of noise. Every seventh is damaged; every fifth has no second image and gives a warning.

    pause          seconds per study
    killed         number of the study whose worker is killed
    witnesses      folder where every process that builds studies creates a file named after its id
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
        """See `Source`."""
        return {
            "distributions": ["invented numbers"],
            "options": self.options,
            "expected": self.expected,
            "found": {"numbers": self.studies},
        }

    def plans(self) -> Iterator[ToyPlan]:
        """See `Source`."""
        for number in range(self.studies):
            yield ToyPlan(f"99{number:06d}", _SPLITS[number % len(_SPLITS)], number)

    def build(self, plan: ToyPlan) -> Study | Dropped:
        """See `Source`."""
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
    """Return a graph with a box for every region except the first."""
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


def folder_content(folder: Path) -> dict[str, bytes]:
    """Return relative path -> bytes of every file below a folder."""
    return {str(path.relative_to(folder)): path.read_bytes() for path in sorted(folder.rglob("*")) if path.is_file()}


def content_without_index(folder: Path) -> dict[str, bytes]:
    """Return `folder_content` without the index, which the first reader of a data set writes."""
    return {name: content for name, content in folder_content(folder).items() if not name.startswith("index/")}


def prepare_interrupted(out: Path, **settings) -> None:
    """Start to prepare 34 studies, and fail in the second part of ten."""
    source = ToySource(34, **settings)
    source.build = lambda plan: ToySource.build(source, plan) if plan.number < 15 else 1 / 0
    with pytest.raises(ZeroDivisionError):
        prepare(source, out, SIDE, 1)


def wait_until(condition: Callable[[], bool]) -> None:
    """Wait until `condition` holds, for at most a minute."""
    end = time.monotonic() + 60
    while not condition():
        assert time.monotonic() < end
        time.sleep(0.01)
