"""Rows of tables: CSV, JSON lines, JSON and Parquet."""

from collections.abc import Iterator
from pathlib import Path
from typing import Any

from data.errors import UserError, cannot_read, missing, reason, wrong_format
from data.storage.lines import LARGEST_LINE, bounded_lines
from data.storage.parse import parse_json
from data.text.report_tables import read_table

Row = dict[str, Any]

JSON_LINES = (".jsonl", ".ndjson")
# Separators that a header may have instead of commas.
_OTHER_SEPARATORS = ("\t", ";")


def read_rows(path: Path) -> tuple[str, list[Row]]:
    """Return the format of the table at `path`, by its suffix, and its rows.

    Raises UserError if the file cannot be read or a row is malformed.
    """
    if path.suffix in JSON_LINES:
        return "JSON lines", list(read_json_lines(path))
    if path.suffix == ".json":
        content = read_json(path)
        if not isinstance(content, list) or not all(isinstance(row, dict) for row in content):
            raise wrong_format(path, "a list of JSON objects", "write one object for each report")
        return "JSON", content
    if path.suffix == ".parquet":
        return "Parquet", _read_parquet(path)
    separator = _find_separator(path)
    name = {",": "CSV", "\t": "CSV, separated by tabs", ";": "CSV, separated by semicolons"}[separator]
    return name, list(read_table(path, (), separator))


def read_json(path: Path) -> Any:
    """Return the content of a JSON file; NaN, which pandas writes for a missing value, is None.

    Raises UserError if the file cannot be read or is not JSON.
    """
    try:
        text = path.read_text(encoding="utf-8-sig")
    except OSError as error:
        raise cannot_read(path, error, "give a predictions file or a run folder") from error
    except UnicodeDecodeError as error:
        raise wrong_format(path, f"JSON ({reason(error)})", "write it again") from error
    return parse_json(text, str(path), "write it again", parse_constant=lambda _: None)


def read_json_lines(path: Path) -> Iterator[Row]:
    """Yield the objects of a JSON lines file. Raises UserError at the first malformed line."""
    try:
        with path.open("rb") as file:
            for number, line in enumerate(bounded_lines(file, path), start=1):
                where = f"{path} line {number}"
                row = parse_json(line, where, "write the predictions again")
                if not isinstance(row, dict):
                    raise wrong_format(where, "a JSON object", "write the predictions again")
                yield row
    except OSError as error:
        raise cannot_read(path, error, "give a predictions file or a run folder") from error


def _read_parquet(path: Path) -> list[Row]:
    """The rows of a Parquet file; a missing value is an empty text."""
    import pandas

    if not path.is_file():
        raise missing("predictions file", path, "check the path")
    try:
        table = pandas.read_parquet(path)
    except ImportError as error:
        raise UserError(
            f"Reading {path} needs the package pyarrow: pip install -r requirements-parquet.txt"
        ) from error
    except (OSError, ValueError) as error:  # pyarrow's errors are of these types
        raise wrong_format(path, f"a Parquet file ({reason(error)})", "write it again") from error
    return table.astype(object).where(table.notna(), "").to_dict("records")


def _find_separator(path: Path) -> str:
    """The separator of a CSV file's header: a comma, unless it has none but another one."""
    try:
        with path.open(encoding="utf-8-sig", errors="replace") as file:
            header = file.readline(LARGEST_LINE)
    except OSError as error:
        raise cannot_read(path, error) from error
    return next((each for each in _OTHER_SEPARATORS if each in header), ",") if "," not in header else ","
