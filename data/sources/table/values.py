"""Options that name columns, and the values in these columns."""

import json
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from datetime import UTC, datetime
from typing import Any

from data.errors import UserError, unknown_name, wrong_value
from data.ontology import Anatomy, observation_names
from data.sources.r2gen import SPLIT_NAMES

_LABELS = {
    "1": 1, "true": 1, "yes": 1, "y": 1, "present": 1, "positive": 1, "pos": 1,
    "0": 0, "false": 0, "no": 0, "n": 0, "absent": 0, "negative": 0, "neg": 0,
    "-1": -1, "uncertain": -1, "possible": -1,
}  # fmt: skip
_VIEWS = {"F": "FRONTAL", "L": "LATERAL", "LAT": "LATERAL", "LL": "LATERAL", "RL": "LATERAL", "UNKNOWN": ""}
_NAME_KEYS, _BOX_KEYS = ("region", "finding", "name", "label"), ("box", "xyxy", "bbox")


@dataclass(frozen=True)
class ObservationColumn:
    """Where an observation is: a column of labels or, with `finding`, a column of lists of findings.

    In a list, findings are separated by `|`.
    """

    name: str
    column: str
    finding: str | None = None


@dataclass(frozen=True)
class Box:
    """A box of a region or of a finding, xyxy in pixels or in 0..1 of the image."""

    name: str
    corners: tuple[float, ...]


def parse_observations(arguments: Sequence[str]) -> tuple[ObservationColumn, ...]:
    """Parse NAME=COLUMN and NAME=COLUMN:FINDING. Raises UserError for another form or an unknown observation."""
    names = observation_names()
    parsed = []
    for argument in arguments:
        name, separator, column = argument.partition("=")
        name = next((known for known in names if known.lower() == name.strip().lower()), name.strip())
        if not separator or not column.strip():
            raise wrong_value("--observations", argument, 'write NAME=COLUMN, or "NAME=COLUMN:FINDING" for a list')
        if name not in names:
            raise unknown_name("observation", name, names, "--observations")
        column, separator, finding = column.strip().partition(":")
        parsed.append(ObservationColumn(name, column, finding.strip() if separator else None))
    return tuple(parsed)


def read_observations(
    columns: Sequence[ObservationColumn], row: Mapping[str, Any], where: str
) -> dict[str, int | None] | None:
    """Return the observations of a row: 1, 0, -1, or None if unknown; None without any known one.

    An observation with several columns is present if one of them says so. Raises UserError for another value.
    """
    labels: dict[str, int | None] = dict.fromkeys(observation_names())
    for column in columns:
        label = _read_label(column, row[column.column], where)
        known = [value for value in (labels[column.name], label) if value is not None]
        # Present outweighs uncertain, which outweighs absent.
        labels[column.name] = max(known, key=(0, -1, 1).index, default=None)
    return None if all(label is None for label in labels.values()) else labels


def _read_label(column: ObservationColumn, value: Any, where: str) -> int | None:
    if value in ("", [], None):
        return None
    if column.finding is not None:
        findings = value if isinstance(value, list) else str(value).split("|")
        return int(column.finding.lower() in [str(finding).strip().lower() for finding in findings])
    text = str(value).strip().lower()
    label = _LABELS.get(text.removesuffix(".0"))
    if label is None:
        raise UserError(
            f"{where}: {column.column}={text[:40]} is not a label: write 1, 0, -1 or nothing, or name the finding of a "
            f"list with --observations \"{column.name}={column.column}:FINDING\""
        )
    return label


def read_split(text: str, where: str) -> str | None:
    """Return the split that `text` names; None if it is blank. Raises UserError for an unknown one."""
    if not text:
        return None
    if text.lower() not in SPLIT_NAMES:
        raise unknown_name("split", text[:40], tuple(dict.fromkeys(SPLIT_NAMES.values())), where)
    return SPLIT_NAMES[text.lower()]


def read_time(text: str, where: str) -> str:
    """Return a date, or a date and a time, as text that sorts by time. Raises UserError for another form."""
    try:
        time = datetime.fromisoformat(text.strip())
    except ValueError as error:
        raise UserError(f"{where}: '{text[:40]}' is not a time: write 2180-05-06 or 2180-05-06T21:30:14") from error
    if time.tzinfo is not None:
        time = time.astimezone(UTC).replace(tzinfo=None)
    return time.isoformat(timespec="seconds")


def read_view(text: str) -> str:
    """Return the name of a view in a record; "" if it was not recorded."""
    return _VIEWS.get(text.strip().upper(), text.strip().upper())


def read_boxes(value: Any, where: str) -> tuple[Box, ...]:
    """Return the boxes in a cell, which may be JSON.

    Two forms are read: {name: [x1, y1, x2, y2]}, with a list of several boxes too, and a list of objects with the name
    as `region`, `finding`, `name` or `label` and the box as `box`, `xyxy` or `bbox`. Raises UserError for others.
    """
    if value in ("", None):
        return ()
    try:
        if isinstance(value, str):
            value = json.loads(value)
        if isinstance(value, dict):
            named = [(name, box) for name, boxes in value.items() for box in _as_list(boxes)]
        else:
            named = [(_first(entry, _NAME_KEYS), _first(entry, _BOX_KEYS)) for entry in value]
        boxes = []
        for name, corners in named:
            x1, y1, x2, y2 = map(float, corners)
            if not isinstance(name, str) or not (x1 < x2 and y1 < y2):
                raise ValueError
            boxes.append(Box(_region_name(name), (x1, y1, x2, y2)))
    except (ValueError, TypeError, KeyError, AttributeError, RecursionError) as error:
        raise UserError(
            f"{where}: its boxes are not of the form {{name: [x1, y1, x2, y2]}}, or "
            '[{"name": name, "box": [x1, y1, x2, y2]}, ...]: correct the table'
        ) from error
    return tuple(boxes)


def _as_list(boxes: Any) -> list:
    """Return the boxes of one name, of which there may be one or several; parquet fills absent names with null."""
    if boxes is None:
        return []
    return boxes if len(boxes) and isinstance(boxes[0], list | tuple) else [boxes]


def _first(entry: dict, keys: Sequence[str]) -> Any:
    return next(entry[key] for key in keys if key in entry) if any(key in entry for key in keys) else entry[keys[0]]


def _region_name(name: str) -> str:
    """Return the usual spelling of a region ("left_lung"); other names as they are."""
    spelled = name.strip().lower().replace("_", " ")
    return spelled if spelled in Anatomy.load().names else name.strip()
