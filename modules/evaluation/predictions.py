"""Generated reports of any system with their references, from `predictions.jsonl` or a file of another program."""

import json
from argparse import ArgumentParser, Namespace
from collections.abc import Iterable, Sequence
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from data.errors import UserError, cannot_read, wrong_format
from data.ontology import observation_names
from data.text.label_tables import LabelTable, parse_named_labels, read_label_table
from modules.evaluation.formats.reading import FormatOptions, add_format_options, read_reports
from modules.evaluation.formats.sections import REPORT

_TEXT_COLUMNS = ("reference", "generated")
_COLUMNS = ("id", *_TEXT_COLUMNS)


@dataclass(frozen=True)
class Predictions:
    """Generated reports, one per study or per image.

    path               the file that they were read from
    ids, references, generated   one per report
    scored_references  the references as our evaluation cut them; None for a table
    labels             per report, the data set's own labels: observation -> 1, 0 or -1; None if the file has none
    studies            [reports] int, the study of each report, numbered from 0; None if no column names it
    evaluation         content of metrics.json beside predictions.jsonl; empty if absent
    taken              what the ids and texts were taken from, in words; empty for our own predictions.jsonl
    section            the section that its texts were cut to; "report" for complete reports
    """

    path: Path
    ids: list[str]
    references: list[str]
    generated: list[str]
    scored_references: list[str] | None = None
    labels: list[dict[str, int]] | None = None
    studies: NDArray | None = None
    evaluation: dict[str, Any] = field(default_factory=dict)
    taken: str = ""
    section: str = REPORT

    def __len__(self) -> int:
        return len(self.ids)

    def truth(self, uncertain: bool = True) -> tuple[NDArray | None, NDArray | None]:
        """Return the data set's observations and which of them are known, each [reports, 14] bool; None if unlabelled.

        uncertain   count uncertain labels as positive
        """
        if self.labels is None:
            return None, None
        positive = (1, -1) if uncertain else (1,)
        values = [[labels.get(name) for name in observation_names()] for labels in self.labels]
        known = np.array([[value is not None for value in row] for row in values], dtype=bool)
        return np.array([[value in positive for value in row] for row in values], dtype=bool), known


def add_data_options(parser: ArgumentParser) -> None:
    """Add the options that `load_predictions` reads."""
    parser.add_argument("--labels", type=Path, metavar="FILE", help="the data set's own observations: truth_* scores")
    parser.add_argument(
        "--studies", metavar="COLUMN", help="column with the study of a report, if a study has several images"
    )
    add_format_options(parser)


def load_predictions(paths: Sequence[Path], options: Namespace) -> list[Predictions]:
    """Read the predictions at `paths`, with the labels and studies of `add_data_options`.

    Raises UserError as `read_predictions` and `read_label_table` do, or if the labels belong to other reports.
    """
    predictions = [read_predictions(path, options.studies, FormatOptions.from_options(options)) for path in paths]
    if options.labels is None:
        return predictions
    table = read_label_table(options.labels)
    return [_with_labels(each, table, options.labels) for each in predictions]


def predictions_path(path: Path) -> Path:
    """Return the predictions file of a run folder or beside a metrics file; any other `path` is returned as it is."""
    if path.is_dir():
        return path / "predictions.jsonl"
    if path.suffix == ".json" and path.stem.startswith("metrics"):
        return path.with_name(path.stem.replace("metrics", "predictions", 1) + ".jsonl")
    return path


def read_predictions(
    path: Path, study_column: str | None = None, options: FormatOptions | None = None
) -> Predictions:
    """Read predictions.jsonl (see `predictions_path`), a table with ids, references and generated reports, or ReXrank's
    JSON (see `modules/evaluation/formats/reading.py`).

    study_column   the column (or key) with the study of a report

    Raises UserError if the file cannot be read, lacks a column, has no reports, has an empty or repeated id, an empty
    study, a report that is not text, or labels that are not labels.
    """
    path, options = predictions_path(path), options or FormatOptions()
    read = read_reports(path, options)
    rows = [row for row in read.rows if not _has_no_report(row)]
    if not rows:
        raise UserError(f"{path} has no generated reports: write the predictions again")
    _check_rows(rows, path, study_column)
    ids = [str(row["id"]) for row in rows]
    if len(set(ids)) != len(ids):
        repeated = next(name for position, name in enumerate(ids) if name in ids[:position])
        raise UserError(f"{path}: two reports have the id {repeated}: give every report a different id")
    studies = None
    if study_column:
        _, studies = np.unique([str(row[study_column]) for row in rows], return_inverse=True)
    # The cells of a table are text: a column "labels" there is something else.
    labels = _complete_column(rows, "labels") if path.suffix == ".jsonl" else None
    scored_references = _complete_column(rows, "scored_reference")
    return Predictions(
        path=path,
        ids=ids,
        references=[row["reference"] for row in rows],
        generated=[row["generated"] for row in rows],
        scored_references=scored_references,
        labels=None if labels is None else [
            _parse_labels(each, f"{path}: report {number}") for number, each in enumerate(labels, start=1)
        ],
        studies=studies,
        evaluation=_read_metrics_beside(path),
        taken=read.taken if scored_references is None else "",
        section=options.section,
    )


def _has_no_report(row: dict[str, Any]) -> bool:
    """Whether a line of our predictions.jsonl is about a study without a report, for which none was generated."""
    return all(name in row and row[name] is None for name in _TEXT_COLUMNS)


def _check_rows(rows: Sequence[dict[str, Any]], path: Path, study_column: str | None) -> None:
    """Raise UserError for the first row that lacks a value or has one of the wrong type."""
    names = ("id", study_column) if study_column else ("id",)
    for number, row in enumerate(rows, start=1):
        where = f"{path}: report {number}"
        for name in (*_COLUMNS, *names):
            if row.get(name) is None:
                raise UserError(f"{where} has no '{name}': every report needs {', '.join(_COLUMNS)}")
        for name in names:
            if not isinstance(row[name], str | int) or not str(row[name]).strip():
                raise wrong_format(f"{where}: '{name}'", "a name", "give text or a number")
        for name in (*_TEXT_COLUMNS, "scored_reference"):
            if not isinstance(row.get(name), str | None):
                raise wrong_format(f"{where}: '{name}'", "text", "write it as a string")


def _with_labels(predictions: Predictions, table: LabelTable, path: Path) -> Predictions:
    """`predictions` with the labels of `table`, read from `path`. Raises UserError if it has none of the reports."""
    pairs = zip(predictions.ids, predictions.references, strict=True)
    rows = [table.find(name, reference) for name, reference in pairs]
    if all(row is None for row in rows):
        raise UserError(f"{path} has labels for none of the reports of {predictions.path}: check that the ids match")
    # A study without a row has no known labels; in a row, blank means absent, as labelers write it.
    labels = [{} if row is None else dict.fromkeys(observation_names(), 0) | row for row in rows]
    return replace(predictions, labels=labels)


def _parse_labels(values: Any, where: str) -> dict[str, int]:
    """The known labels of a report: observation -> 1, 0 or -1. Raises UserError for anything else."""
    if not isinstance(values, dict):
        raise wrong_format(f"{where}: 'labels'", "an object {observation: 1, 0 or -1}", "write the predictions again")
    labels = zip(observation_names(), parse_named_labels(values, where), strict=True)
    return {name: value for name, value in labels if value is not None}


def _complete_column(rows: Iterable[dict[str, Any]], key: str) -> list | None:
    """The values of all rows for `key`; None if one is missing."""
    values = [row.get(key) for row in rows]
    return None if any(value is None for value in values) else values


def _read_metrics_beside(path: Path) -> dict[str, Any]:
    """The content of the metrics file beside predictions.jsonl; empty if absent."""
    metrics = path.with_name(path.stem.replace("predictions", "metrics", 1) + ".json")
    if path.suffix != ".jsonl" or not path.stem.startswith("predictions") or not metrics.is_file():
        return {}
    try:
        content = json.loads(metrics.read_text(encoding="utf-8"))
    except (OSError, ValueError, RecursionError) as error:
        raise cannot_read(metrics, error, "run main_test.py again") from error
    return content if isinstance(content, dict) else {}
