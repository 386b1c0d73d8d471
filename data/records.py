"""A prepared data set on disk: `dataset.yaml` and `records.jsonl`, one study a line."""

import json
from collections.abc import Iterable, Sequence
from itertools import accumulate
from pathlib import Path

import numpy as np
import yaml

from data.errors import UserError

SPLITS = ("train", "val", "test")
_KEYS = ("id", "split", "images", "views", "report", "observations", "graph")
# A view that nobody recorded is taken for frontal: most are, and the data sets without views list frontal images.
_FRONTAL_VIEWS = ("PA", "AP", "FRONTAL", "", "UNKNOWN")
# What reading a graph of another form than the schema's can raise. Checking all graphs beforehand would cost as much
# as using them.
MALFORMED_GRAPH = (KeyError, TypeError, ValueError, AttributeError, ArithmeticError, UserError)


class Records(Sequence[dict]):
    """The studies of one split.

    They are kept as bytes and parsed when asked for. As dictionaries, the 166,521 scene graphs of Chest ImaGenome's
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
        """The studies at `indices`, in their order."""
        return Records(self._line(index) for index in indices)

    def _line(self, index: int) -> bytes:
        if not -len(self) <= index < len(self):
            raise IndexError(f"study {index} of {len(self)}")
        index %= len(self)
        return self._text[self._starts[index] : self._starts[index + 1]]


def read_records(root: str | Path, split: str) -> Records:
    """The studies of `split` ("train", "val" or "test") of the prepared data set in the folder `root`.

    Raises UserError for a folder that is not there or no prepared data set, a damaged line, a missing key, a study that
    stands in the split twice, an unknown split, a split without studies, and a file that holds fewer or more studies
    than `dataset.yaml` counts.
    """
    root = Path(root)
    if split not in SPLITS:
        raise UserError(f"There is no split '{split}': choose one of {', '.join(SPLITS)}")
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
        raise UserError(f"Cannot read {path} ({error.strerror}): prepare the data set again") from error
    if not lines:
        raise UserError(f"The split '{split}' of {root} has no studies: choose another, or prepare the data set again")
    if counts.get(split, len(lines)) != len(lines):
        raise UserError(
            f"{path} holds {len(lines)} studies of the split '{split}', but dataset.yaml counts {counts[split]}: "
            "prepare the data set again"
        )
    return Records(lines)


def is_frontal(record: dict) -> bool:
    """Whether the study's first image is a frontal view: regions live on that one."""
    return is_frontal_view(record["views"][0])


def is_frontal_view(view: str | None) -> bool:
    """Whether an image whose view is recorded as `view` (or not at all) is taken from the front or the back."""
    return (view or "").upper() in _FRONTAL_VIEWS


def malformed_graph(record: dict, error: Exception) -> UserError:
    """The error to raise for a study whose graph could not be read because of `error`."""
    return UserError(f"Study {record['id']}: its graph is malformed ({error}); prepare the data set again")


def _read_counts(root: Path) -> dict[str, int]:
    """Studies by split as `dataset.yaml` states them; empty where it states none."""
    if not root.is_dir():
        raise UserError(
            f"No data set at {root}: prepare one with python -m data.prepare, or give another folder as data.root"
        )
    path = root / "dataset.yaml"
    try:
        description = yaml.safe_load(path.read_text(encoding="utf-8"))
    except OSError as error:
        raise UserError(
            f"{root} is no prepared data set (dataset.yaml: {error.strerror}): make one with python -m data.prepare"
        ) from error
    except (yaml.YAMLError, UnicodeDecodeError) as error:
        raise UserError(f"{path} is not YAML: prepare the data set again") from error
    counts = description.get("counts") if isinstance(description, dict) else None
    return counts if isinstance(counts, dict) else {}


def _parse(line: bytes, where: str) -> dict:
    """The study of one line, its keys checked."""
    try:
        record = json.loads(line)
    except (ValueError, RecursionError) as error:
        raise UserError(f"{where} is not JSON: prepare the data set again") from error
    if not isinstance(record, dict):
        raise UserError(f"{where} is not a JSON object: prepare the data set again")
    missing = [key for key in _KEYS if key not in record]
    if missing:
        raise UserError(f"{where}: study {record.get('id', '?')} lacks the key '{missing[0]}'")
    if not isinstance(record["id"], str) or not isinstance(record["report"], str):
        raise UserError(f"{where}: id and report of study {record['id']} must be texts")
    if record["split"] not in SPLITS:
        raise UserError(f"{where}: study {record['id']} is of the split '{record['split']}', not {', '.join(SPLITS)}")
    if not record["images"] or len(record["images"]) != len(record["views"]):
        raise UserError(f"{where}: study {record['id']} needs at least one image, and a view for each")
    return record
