"""The files of a prepared data set: `dataset.yaml`, and `records.jsonl` with one study per line."""

import json
from collections.abc import Iterable, Sequence
from itertools import accumulate
from pathlib import Path

import numpy as np
import yaml

from data.errors import UserError, cannot_read, missing, unknown_name, wrong_format

SPLITS = ("train", "val", "test")
_KEYS = ("id", "split", "images", "views", "report", "observations", "graph")
_PREPARE_AGAIN = "prepare the data set again"
# Unrecorded views count as frontal: most images are, and data sets without views consist of frontal images.
_FRONTAL_VIEWS = ("PA", "AP", "FRONTAL", "", "UNKNOWN")
# What reading a graph that violates the schema can raise. Validating all graphs first would cost as much as using them.
MALFORMED_GRAPH = (KeyError, TypeError, ValueError, AttributeError, ArithmeticError, UserError)


class Records(Sequence[dict]):
    """The studies of one split.

    They are stored as bytes and parsed on access: as dictionaries, the 166,521 scene graphs of Chest ImaGenome's
    training split would take gigabytes in every loader process.
    """

    def __init__(self, lines: Iterable[bytes]):
        lines = list(lines)
        self._text = b"".join(lines)
        self._starts = np.fromiter(accumulate(map(len, lines), initial=0), dtype=np.int64)

    def __len__(self) -> int:
        return len(self._starts) - 1

    def __getitem__(self, index: int | slice) -> dict | list[dict]:
        if isinstance(index, slice):
            return [self[position] for position in range(*index.indices(len(self)))]
        return json.loads(self._line(index))

    def select(self, indices: Iterable[int]) -> "Records":
        """Return the studies at `indices`, in the order of `indices`."""
        return Records(self._line(index) for index in indices)

    def _line(self, index: int) -> bytes:
        if not -len(self) <= index < len(self):
            raise IndexError(f"study {index} of {len(self)}")
        index %= len(self)
        return self._text[self._starts[index] : self._starts[index + 1]]


def read_records(root: str | Path, split: str) -> Records:
    """Read the studies of `split` ("train", "val" or "test") of the prepared data set in the folder `root`.

    Raises UserError if the folder is missing or not a prepared data set, a line is damaged, lacks a key or has an
    unknown split, a study occurs twice in the split, the split is unknown or has no studies, or the number of studies
    differs from that in `dataset.yaml`.
    """
    root = Path(root)
    if split not in SPLITS:
        raise unknown_name("split", split, SPLITS)
    counts = _read_counts(root)
    path = root / "records.jsonl"
    lines, ids = [], set()
    try:
        with path.open("rb") as file:
            for number, line in enumerate(file, start=1):
                record = _parse(line, f"{path} line {number}")
                if record["split"] != split:
                    continue
                if record["id"] in ids:
                    raise UserError(f"{path} line {number}: study {record['id']} is already in the split '{split}'")
                ids.add(record["id"])
                lines.append(line)
    except OSError as error:
        raise cannot_read(path, error, _PREPARE_AGAIN) from error
    if not lines:
        raise UserError(f"The split '{split}' of {root} has no studies: choose another, or {_PREPARE_AGAIN}")
    if counts.get(split, len(lines)) != len(lines):
        raise UserError(
            f"{path} has {len(lines)} studies in the split '{split}', but dataset.yaml counts {counts[split]}: "
            f"{_PREPARE_AGAIN}"
        )
    return Records(lines)


def is_frontal(record: dict) -> bool:
    """Whether the study's first image is a frontal view; regions refer to that image."""
    return is_frontal_view(record["views"][0])


def is_frontal_view(view: str | None) -> bool:
    """Whether an image with this recorded `view` counts as frontal; None and "" stand for an unrecorded view."""
    return (view or "").upper() in _FRONTAL_VIEWS


def malformed_graph(record: dict, error: Exception) -> UserError:
    """The error to raise for a study whose graph cannot be read because of `error`."""
    return UserError(f"Study {record['id']}: its graph is malformed ({error}): {_PREPARE_AGAIN}")


def _read_counts(root: Path) -> dict[str, int]:
    """Return the number of studies by split according to `dataset.yaml`; empty if it has no counts."""
    if not root.is_dir():
        raise missing("data set", root, "prepare one with python -m data.prepare, or set data.root to another folder")
    path = root / "dataset.yaml"
    try:
        description = yaml.safe_load(path.read_text(encoding="utf-8"))
    except OSError as error:
        raise cannot_read(path, error, f"{root} is not a prepared data set, see python -m data.prepare") from error
    except (yaml.YAMLError, UnicodeDecodeError) as error:
        raise wrong_format(path, "YAML", _PREPARE_AGAIN) from error
    counts = description.get("counts") if isinstance(description, dict) else None
    return counts if isinstance(counts, dict) else {}


def _parse(line: bytes, where: str) -> dict:
    """Parse and check one line."""
    try:
        record = json.loads(line)
    except (ValueError, RecursionError) as error:
        raise wrong_format(where, "JSON", _PREPARE_AGAIN) from error
    if not isinstance(record, dict):
        raise wrong_format(where, "a JSON object", _PREPARE_AGAIN)
    missing_keys = [key for key in _KEYS if key not in record]
    if missing_keys:
        raise UserError(f"{where}: study {record.get('id', '?')} lacks the key '{missing_keys[0]}'")
    if not isinstance(record["id"], str) or not isinstance(record["report"], str):
        raise UserError(f"{where}: id and report of study {record['id']} must be strings")
    if record["split"] not in SPLITS:
        raise unknown_name("split", record["split"], SPLITS, f"{where}: study {record['id']}")
    if not record["images"] or len(record["images"]) != len(record["views"]):
        raise UserError(f"{where}: study {record['id']} needs at least one image, and one view per image")
    return record
