"""What training starts from: word counts, attribute counts and mean boxes of a training split.

Counting takes minutes for hundreds of thousands of studies, so the numbers are stored in the folder of the index, one
file per set of cleaning rules: `training-mimic_cxr.v1.json`.
"""

import json
import sys
from collections import Counter
from collections.abc import Sequence
from contextlib import ExitStack, closing, suppress
from dataclasses import asdict, dataclass
from pathlib import Path

from data.console import Progress
from data.errors import UserError, reason
from data.images.atlas import MeanBox
from data.ontology import Anatomy
from data.records import (
    MALFORMED_GRAPH,
    Records,
    count_studies,
    graph_is_complete,
    is_frontal,
    malformed_graph,
    read_records,
)
from data.storage.atomic_files import atomic_file, folder_lock
from data.storage.manifest import seal, unseal
from data.text.cleaning import CLEANING_RULES, clean

# Increase when the same records give other numbers than before: when cleaning, counting or averaging changes.
VERSION = 1


@dataclass(frozen=True)
class TrainingStatistics:
    """The numbers of a training split, with one set of cleaning rules. Graphs count if the first image is frontal.

    words        word -> occurrences in all cleaned reports; studies without a report have none
    attributes   region -> attribute -> occurrences in all graphs
    annotated    region -> number of graphs that annotate its attributes: the report mentions it and, if the graph has
                 boxes, it is visible
    positives    region -> attribute -> number of these graphs that have the attribute
    mean_boxes   region -> mean of its boxes, for regions that have a box
    """

    words: dict[str, int]
    attributes: dict[str, dict[str, int]]
    annotated: dict[str, int]
    positives: dict[str, dict[str, int]]
    mean_boxes: dict[str, tuple[float, ...]]


def training_statistics(root: str | Path, cleaning: str) -> TrainingStatistics:
    """Return the numbers of the training split of the prepared data set in `root`.

    They are counted at the first call and stored. Raises UserError as `read_records` does, if `cleaning` is unknown and
    for a malformed graph. If they cannot be stored, a note is printed on stderr.
    """
    clean("", cleaning)  # raises UserError for unknown rules
    return _load_or_count(root, [cleaning])[cleaning]


def write_derived_files(root: str | Path) -> None:
    """Index the prepared data set in `root`, and count its training split with all cleaning rules, where not yet done.

    Then training starts without reading all records. Raises UserError as `training_statistics` does.
    """
    if count_studies(root)["train"]:
        _load_or_count(root, CLEANING_RULES)


def _load_or_count(root: str | Path, rules: Sequence[str]) -> dict[str, TrainingStatistics]:
    """Return the numbers for each of the `rules`; those that are absent are counted in one pass, and stored."""
    records = read_records(root, "train")
    if records.offsets_file is None:  # the index could not be stored either, which has been noted
        return _count(root, records, rules)
    folder = records.offsets_file.parent
    found = _load(folder, rules)
    if len(found) == len(rules):
        return found
    with ExitStack() as stack:
        with suppress(OSError):
            stack.enter_context(folder_lock(folder))
        # Another process may have counted while this one waited.
        found = _load(folder, rules)
        if not (absent := [rule for rule in rules if rule not in found]):
            return found
        counted = _count(root, records, absent)
        try:
            for rule, statistics in counted.items():
                with atomic_file(_file(folder, rule)) as file:
                    file.write(seal(asdict(statistics)))
        except OSError as error:
            print(
                f"{folder} cannot be written ({reason(error)}): words and attributes are counted again at every start",
                file=sys.stderr,
            )
    return found | counted


def _file(folder: Path, rule: str) -> Path:
    return folder / f"training-{rule}.v{VERSION}.json"


def _load(folder: Path, rules: Sequence[str]) -> dict[str, TrainingStatistics]:
    """Return the stored numbers for those of the `rules` that have an undamaged file."""
    found = {}
    for rule in rules:
        with suppress(OSError, ValueError, KeyError, TypeError, AttributeError):
            content = _file(folder, rule).read_bytes()
            stored = json.loads(content)
            if "sha256" in stored:  # earlier versions wrote none
                stored = unseal(content)
            boxes = {name: tuple(box) for name, box in stored.pop("mean_boxes").items()}
            found[rule] = TrainingStatistics(**stored, mean_boxes=boxes)
    return found


def _count(root: str | Path, records: Records, rules: Sequence[str]) -> dict[str, TrainingStatistics]:
    """Count with each of the `rules`, in one pass over the records."""
    words = {rule: Counter() for rule in rules}
    graphs = _GraphCounts()
    with closing(Progress(f"Counting words and attributes of {root}", "records", len(records))) as progress:
        for record in records:
            for rule in rules if record["report"] is not None else ():
                words[rule].update(clean(record["report"], rule).split())
            if record["graph"] is not None and is_frontal(record):
                try:
                    graphs.add(record["graph"]["regions"], graph_is_complete(record["graph"]))
                except MALFORMED_GRAPH as error:
                    raise malformed_graph(record, error) from error
            progress.advance(1)
    for name, counts in graphs.attributes.items():
        if unnamed := [attribute for attribute in counts if not isinstance(attribute, str)]:
            raise UserError(f"{root}: an attribute of the region '{name}' is not a string: {unnamed[0]!r}")
    return {
        rule: TrainingStatistics(
            words=dict(counts),
            attributes={name: dict(found) for name, found in graphs.attributes.items() if found},
            annotated=dict(graphs.annotated),
            positives={name: dict(found) for name, found in graphs.positives.items() if found},
            mean_boxes={name: box.mean for name, box in graphs.boxes.items() if box.count > 0},
        )
        for rule, counts in words.items()
    }


class _GraphCounts:
    """Counts over graphs, by region."""

    def __init__(self) -> None:
        self._anatomy = Anatomy.load()
        self.attributes = {name: Counter() for name in self._anatomy.names}
        self.annotated = Counter()
        self.positives = {name: Counter() for name in self._anatomy.names}
        self.boxes = {name: MeanBox() for name in self._anatomy.names}

    def add(self, regions: dict[str, dict], complete: bool) -> None:
        """Count the regions of one graph; only boxes if it is not complete.

        Raises one of MALFORMED_GRAPH if it violates the schema.
        """
        has_boxes = any(region.get("box") is not None for region in regions.values())
        for name, region in regions.items():
            self._anatomy.index(name)  # raises UserError for unknown names
            if complete:
                self.attributes[name].update(region["attributes"])
            box = region["box"]
            if box is not None:
                self.boxes[name].add(box)
            if complete and region.get("mentioned") and (box is not None or not has_boxes):
                self.annotated[name] += 1
                self.positives[name].update(set(region["attributes"]))
