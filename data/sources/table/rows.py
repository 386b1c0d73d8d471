"""Reading the rows of a table in CSV, Parquet, JSON or JSON lines, whatever program has written it."""

from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import pandas

from data.errors import UserError, cannot_read, wrong_format
from data.sources.distributions import read_table
from data.sources.missing_texts import text_or_empty
from data.storage.parse import parse_json

_FORMATS = ".csv, .tsv (both also .gz), .parquet, .jsonl or .json"


def read_rows(path: Path, columns: Sequence[str]) -> Iterator[tuple[str, dict[str, Any]]]:
    """Yield where each row is, for messages, and its values of `columns`, as text, lists or dictionaries.

    Missing values are "". JSON (a list) and JSON lines need every column in at least one row. Raises UserError if the
    file cannot be read or lacks a column.
    """
    name = path.name.lower()
    if name.endswith((".csv", ".tsv", ".csv.gz", ".tsv.gz")):
        for number, values in enumerate(read_table(path, columns, "correct the table"), start=1):
            yield f"{path} row {number}", dict(zip(columns, map(text_or_empty, values), strict=True))
        return
    readers = {".parquet": _read_parquet, ".jsonl": _read_json_lines, ".json": _read_json}
    if path.suffix.lower() not in readers:
        raise wrong_format(path, f"a table in one of the formats {_FORMATS}", "save it in one of them")
    rows = readers[path.suffix.lower()](path)
    present = {column for row in rows for column in row}
    for column in columns:
        if column not in present:
            raise UserError(f"{path} has no column '{column}': it has {', '.join(sorted(present)) or 'none'}")
    for number, row in enumerate(rows, start=1):
        yield f"{path} row {number}", {column: _plain(row.get(column)) for column in columns}


def _read_parquet(path: Path) -> list[dict[str, Any]]:
    try:
        return pandas.read_parquet(path).to_dict("records")
    except ImportError as error:
        raise UserError(f"{path} needs pyarrow: pip install -r requirements-parquet.txt, or save it as CSV") from error
    except Exception as error:  # the readers of Parquet raise their own kinds of errors
        raise cannot_read(path, error, "give a Parquet file") from error


def _read_json_lines(path: Path) -> list[dict[str, Any]]:
    return [
        _parse_object(line, f"{path} line {number}")
        for number, line in enumerate(_read_text(path).splitlines(), start=1) if line.strip()
    ]


def _read_json(path: Path) -> list[dict[str, Any]]:
    rows = parse_json(_read_text(path), str(path), "correct the file")
    if not isinstance(rows, list) or not all(isinstance(row, dict) for row in rows):
        raise wrong_format(path, "a list of JSON objects", "give one object for each image")
    return rows


def _read_text(path: Path) -> str:
    try:
        return path.read_text(encoding="utf-8-sig")
    except (OSError, UnicodeDecodeError) as error:
        raise cannot_read(path, error, "give a file in UTF-8") from error


def _parse_object(line: str, where: str) -> dict[str, Any]:
    row = parse_json(line, where, "correct the file")
    if not isinstance(row, dict):
        raise wrong_format(where, "a JSON object", "give one object for each image")
    return row


def _plain(value: Any) -> Any:
    """Return a value as text; lists and dictionaries as they are, and "" for a missing value."""
    if isinstance(value, np.ndarray):
        value = value.tolist()
    if isinstance(value, list | dict):
        return value
    if value is None or (not isinstance(value, str) and pandas.isna(value)):
        return ""
    if isinstance(value, bool | np.bool_):
        return "1" if value else "0"
    # A column of whole numbers with a missing one becomes a column of floats in pandas.
    if isinstance(value, float | np.floating) and float(value).is_integer():
        value = int(value)
    return text_or_empty(str(value).strip())
