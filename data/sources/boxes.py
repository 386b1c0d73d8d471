"""Replaces the boxes in the graphs of a prepared data set, by those of a file or of a trained localizer.

dataset.yaml records where they come from: `boxes` (source and fingerprint) and `graphs_with_given_boxes`.
"""

import json
from collections.abc import Mapping
from pathlib import Path
from typing import BinaryIO

import numpy as np
import yaml

from data.errors import UserError, cannot_read, cannot_write
from data.ontology import Anatomy
from data.records import is_frontal
from data.sources.fingerprints import path_fingerprint
from data.storage.lines import bounded_lines
from data.storage.prepared_files import RECORDS, replace_records
from data.storage.statistics import write_derived_files


def describe_boxes(path: Path, source: str) -> dict:
    """Return the entry `boxes` of dataset.yaml.

    path     the boxes file, or the weights of the localizer
    source   "file" or "localizer"; becomes the `box_source` of the graphs

    Raises UserError if `path` cannot be read.
    """
    return {"source": source, "fingerprint": path_fingerprint(path)}


def replace_boxes(dataset: Path, boxes: Mapping[str, np.ndarray], origin: dict, given_by: str) -> int:
    """Replace the boxes in the graphs of the prepared data set `dataset`, and note it in dataset.yaml.

    boxes      study id -> float32 [R, 4], xyxy in 0..1, NaN for regions without a box
    origin     see `describe_boxes`
    given_by   what the boxes come from, for messages

    A graph gets exactly the boxes given for its study; its other regions then have none. Studies without a graph,
    without a frontal image or without an entry in `boxes` stay as they are. Both files are replaced atomically, the
    records first: after a crash in between, repeating the call completes it. Manifest and index follow.

    Returns the number of graphs with new boxes. Raises UserError if there are none, leaving the data set unchanged,
    and if the data set cannot be read or written.
    """
    path = dataset / "dataset.yaml"
    try:
        description = yaml.safe_load(path.read_text(encoding="utf-8"))
    except (OSError, yaml.YAMLError, ValueError, RecursionError) as error:
        raise cannot_read(path, error, "prepare the data set again") from error
    changed = 0

    def write(file: BinaryIO) -> dict:
        nonlocal changed
        changed = _write_records(dataset / RECORDS, file, boxes, origin["source"], given_by)
        return description | {"boxes": origin, "graphs_with_given_boxes": changed}

    try:
        replace_records(dataset, write)
    except OSError as error:
        raise cannot_write(dataset, error, "free space, then run the same command again") from error
    write_derived_files(dataset)
    return changed


def describe_extra_boxes(found: dict, settings: dict) -> str:
    """Return how the boxes of a prepared data set differ from those that a command asks for, for display.

    found      content of its dataset.yaml
    settings   of the command; without `boxes`, it accepts the boxes of a file or a localizer

    "" if they do not differ.
    """
    if "boxes" in settings or not isinstance(found.get("boxes"), dict):
        return ""
    origin = {"file": "a boxes file", "localizer": "a localizer"}.get(found["boxes"].get("source"), "another source")
    return f"with boxes from {origin} (graphs_with_given_boxes: {found.get('graphs_with_given_boxes')})"


def _write_records(
    path: Path, output: BinaryIO, boxes: Mapping[str, np.ndarray], source: str, given_by: str
) -> int:
    """Copy a records.jsonl with other boxes to `output`; return the number of graphs with new boxes."""
    anatomy = Anatomy.load()
    changed = 0
    with path.open("rb") as file:
        for line in bounded_lines(file, path):
            record = json.loads(line)
            if record["graph"] is not None and record["id"] in boxes and is_frontal(record):
                record["graph"] = _with_boxes(record["graph"], boxes[record["id"]], anatomy, source)
                changed += 1
            output.write(json.dumps(record).encode() + b"\n")
    if not changed:
        raise UserError(
            f"{given_by} has no boxes for any graph of this data set: give boxes of studies that have a graph"
        )
    return changed


def _with_boxes(graph: dict, boxes: np.ndarray, anatomy: Anatomy, source: str) -> dict:
    """Return the graph with exactly these boxes [R, 4]."""
    regions = {name: region | {"box": None} for name, region in graph["regions"].items()}
    for name, corners in zip(anatomy.names, boxes.clip(0, 1).tolist(), strict=True):
        x1, y1, x2, y2 = (round(corner, 5) for corner in corners)
        if x1 < x2 and y1 < y2:
            region = regions.setdefault(name, {"box": None, "mentioned": False, "abnormal": False, "attributes": []})
            region["box"] = [x1, y1, x2, y2]
    return graph | {"box_source": source, "regions": regions}
