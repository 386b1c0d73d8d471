"""Generated reports of any system with their references, from a table or from `predictions.jsonl`."""

import json
from collections.abc import Iterable, Iterator
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from data.errors import UserError
from data.ontology import observation_names
from data.text.label_tables import named_labels
from data.text.report_tables import read_table

_TEXTS = ("reference", "generated")
_COLUMNS = ("id", *_TEXTS)


@dataclass(frozen=True)
class Predictions:
    """N generated reports, one a study or an image.

    path               the file they come from
    ids, references, generated   texts
    scored_references  what an evaluation of ours compared them with; None for a table
    labels             observation -> 1, 0 or -1 of the data set itself, by report; None where the file has none
    studies            [N] int, which reports are of the same study: 0, 1, ...; None where that was not asked for
    evaluation         what metrics.json beside predictions.jsonl says about it; empty without
    """

    path: Path
    ids: list[str]
    references: list[str]
    generated: list[str]
    scored_references: list[str] | None = None
    labels: list[dict[str, int]] | None = None
    studies: NDArray | None = None
    evaluation: dict[str, Any] = field(default_factory=dict)

    def __len__(self) -> int:
        return len(self.ids)

    def truth(self, uncertain: bool = True) -> tuple[NDArray | None, NDArray | None]:
        """[N, 14] bool each: the data set's observations, with those that are `uncertain` or without, and which are
        known; None without labels.
        """
        if self.labels is None:
            return None, None
        positive = (1, -1) if uncertain else (1,)
        values = [[labels.get(name) for name in observation_names()] for labels in self.labels]
        known = np.array([[value is not None for value in row] for row in values], dtype=bool)
        return np.array([[value in positive for value in row] for row in values], dtype=bool), known


def predictions_file(path: Path) -> Path:
    """The predictions that `path` stands for: itself, those of a run folder, or those beside a metrics file."""
    if path.is_dir():
        return path / "predictions.jsonl"
    if path.suffix == ".json" and path.stem.startswith("metrics"):
        return path.with_name(path.stem.replace("metrics", "predictions", 1) + ".jsonl")
    return path


def read_predictions(path: Path, study_column: str | None = None) -> Predictions:
    """The predictions that `path` stands for: CSV with columns id, reference and generated, or predictions.jsonl.

    study_column   the column (or key) that says which study a report belongs to

    Raises UserError for a file that cannot be read, lacks a column, has no report, has an id or a study without a name
    or an id twice, and for JSON that holds anything but text as a report or anything but labels as labels.
    """
    path = predictions_file(path)
    rows = list(_read_json_lines(path) if path.suffix == ".jsonl" else read_table(path, _COLUMNS))
    if not rows:
        raise UserError(f"{path} has no generated report")
    names = ("id", *([study_column] if study_column else []))
    for number, row in enumerate(rows, start=1):
        where = f"{path}: report {number}"
        for name in (*_COLUMNS, *names):
            if row.get(name) is None:
                raise UserError(f"{where} has no '{name}'; every one needs {', '.join(_COLUMNS)}")
        for name in names:
            if not isinstance(row[name], str | int) or not str(row[name]).strip():
                raise UserError(f"{where} has no name as its '{name}': fill it in")
        for name in (*_TEXTS, "scored_reference"):
            if not isinstance(row.get(name), str | None):
                raise UserError(f"{where} holds no text as its '{name}': write it as a string")
    ids = [str(row["id"]) for row in rows]
    if len(set(ids)) != len(ids):
        twice = next(name for position, name in enumerate(ids) if name in ids[:position])
        raise UserError(f"{path}: the id {twice} stands there twice; every report needs an id of its own")
    studies = None
    if study_column:
        _, studies = np.unique([str(row[study_column]) for row in rows], return_inverse=True)
    # The cells of a table are text: a column of that name is somebody else's.
    labels = _all_or_none(rows, "labels") if path.suffix == ".jsonl" else None
    return Predictions(
        path=path,
        ids=ids,
        references=[row["reference"] for row in rows],
        generated=[row["generated"] for row in rows],
        scored_references=_all_or_none(rows, "scored_reference"),
        labels=None if labels is None else [
            _labels(each, f"{path}: report {number}") for number, each in enumerate(labels, start=1)
        ],
        studies=studies,
        evaluation=_evaluation_of(path),
    )


def _labels(values: Any, where: str) -> dict[str, int]:
    """The `labels` of a report: 1, 0 or -1 by observation, those that are known. Raises UserError for anything else."""
    if not isinstance(values, dict):
        raise UserError(f"{where} has labels that are no {{observation: 1, 0 or -1}}: write them as such")
    labels = zip(observation_names(), named_labels(values, where), strict=True)
    return {name: value for name, value in labels if value is not None}


def _all_or_none(rows: Iterable[dict[str, Any]], key: str) -> list | None:
    """What every row has under `key`; None where one has nothing."""
    values = [row.get(key) for row in rows]
    return None if any(value is None for value in values) else values


def _read_json_lines(path: Path) -> Iterator[dict[str, Any]]:
    number = 0
    try:
        with path.open("rb") as file:
            for number, line in enumerate(file, start=1):
                row = json.loads(line)
                if not isinstance(row, dict):
                    raise UserError(f"{path} line {number} is no JSON object: write the predictions again")
                yield row
    except OSError as error:
        raise UserError(f"Cannot read {path} ({error.strerror}): give a file of predictions or a run folder") from error
    except ValueError as error:
        raise UserError(f"{path} line {number} is not JSON ({error}): write the predictions again") from error


def _evaluation_of(path: Path) -> dict[str, Any]:
    """What the metrics file beside predictions.jsonl says; empty without one."""
    metrics = path.with_name(path.stem.replace("predictions", "metrics", 1) + ".json")
    if path.suffix != ".jsonl" or not path.stem.startswith("predictions") or not metrics.is_file():
        return {}
    try:
        content = json.loads(metrics.read_text(encoding="utf-8"))
    except (OSError, ValueError) as error:
        raise UserError(f"Cannot read {metrics} ({error}): evaluate again") from error
    return content if isinstance(content, dict) else {}
