"""What a source provides: the interface between the readers of original downloads and `data.sources.preparation`.

A source first lists its studies as light plans, always in the same order. Worker processes then build the planned
studies: they read the images, the report and the annotations.
"""

from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Protocol

import numpy as np


class Plan(Protocol):
    """A study to build: small and picklable, with any further fields that its source needs."""

    id: str
    split: str


@dataclass
class PreparedImage:
    """An image at any resolution.

    pixels   uint8 [height, width], grey
    view     "PA", "AP", "FRONTAL" or "LATERAL"; "" if it was not recorded
    """

    pixels: np.ndarray
    view: str


@dataclass
class Study:
    """A study, with what its record will contain.

    images         at least one; a frontal image first, if there is one
    report         raw text; None if the study has no report
    observations   name -> 1, 0 or -1, or None if unknown; the others are not mentioned. None if none is known
    graph          {"box_source": ..., "regions": ...}, and "complete": False if only boxes of these regions are known;
                   None if absent
    finding_boxes  {"finding": name, "box": [x1, y1, x2, y2] in 0..1 of the first image} of each drawn finding
    patient        identifier of the patient; None if unknown
    taken          time of the study, so that strings of earlier times sort first; None if unknown
    indication     raw text of why the study was requested; None if unknown
    comparison     the report's own section on what it was compared with, for reading only
    impression     raw text of the report's impression; None if absent
    prior          id of the study's prior if the source states it; otherwise it follows from patient and time
    warnings       short reasons why parts of the study were left out, for counting: no report text, no paths
    """

    id: str
    split: str
    images: tuple[PreparedImage, ...]
    report: str | None
    observations: dict[str, int | None] | None
    graph: dict | None
    warnings: tuple[str, ...] = ()
    finding_boxes: tuple[dict, ...] = ()
    patient: str | None = None
    taken: str | None = None
    indication: str | None = None
    comparison: str | None = None
    impression: str | None = None
    prior: str | None = None


@dataclass
class Dropped:
    """A study that cannot be used, with a short reason for counting: no report text, no paths."""

    id: str
    reason: str


class Source(Protocol):
    """The original files of a data set. If `len(source)` is defined, it is the number of plans (for progress output).

    name    of the data set: "iu_xray", ...
    paths   files and folders that are read; nothing is ever written into them
    """

    name: str
    paths: Sequence[Path]

    def describe(self) -> dict:
        """Return the source's entries of dataset.yaml: plain YAML, without paths of this machine.

        They include everything that determines the result: a preparation is resumed only if all of it is unchanged.
        `prepare` treats these keys specially:

        distributions   list of lines that say which files were recognised; printed
        list            name of the list of samples and splits, shown beside every score
        expected        name -> published number; compared with the number of studies per split ("train", "val",
                        "test") and with `found`. Differences are printed.
        found           name -> actual number. `expected` and `found` may change until all plans are made.
        """
        ...

    def plans(self) -> Iterator[Plan | Dropped]:
        """Yield the studies, always in the same order. Called once, in the main process.

        Studies that are known to be unusable may be dropped here. If an id occurs twice, the first plan counts.
        """
        ...

    def build(self, plan: Any) -> Study | Dropped:
        """Build the study of a plan. Called in a worker process, which opens the files that it needs.

        The worker has a copy of the source from before `plans` was called, so anything learned there must be in the
        plan. Damaged studies are dropped, damaged parts left out with a warning; a UserError stops the preparation.
        """
        ...
