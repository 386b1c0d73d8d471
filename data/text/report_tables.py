"""Reading and writing tables of reports: CSV files with the columns `id` and `report`."""

import csv
import io
import re
from collections.abc import Iterable, Iterator, Sequence
from pathlib import Path

from data.errors import UserError, cannot_read, cannot_write, wrong_format
from data.storage.lines import LARGEST_LINE, bounded_lines

_COLUMNS = ("id", "report")
# How formulas begin, also in full-width characters, and the numbers that begin likewise.
_FORMULA = re.compile(r"\s*[=+\-@\uff1d\uff0b\uff0d\uff20]|[\t\r\n]")
_NUMBER = re.compile(r"[-+]?\d+(?:\.\d+)?(?:[eE][-+]?\d+)?", re.ASCII)


def read_reports(path: Path) -> Iterator[tuple[str, str]]:
    """Yield (id, report) of every row. Raises UserError as `read_table` does."""
    for row in read_table(path, _COLUMNS):
        yield row["id"], row["report"]


def read_table(path: Path, columns: Sequence[str], separator: str = ",") -> Iterator[dict[str, str]]:
    """Yield the rows of a CSV file in UTF-8 that has `columns`; more columns are allowed.

    Raises UserError if the file cannot be read, lacks a column, or has a line with a wrong number of cells or with
    unbalanced quotes.
    """
    # By default, Python rejects cells of more than 131,072 characters.
    csv.field_size_limit(LARGEST_LINE)
    try:
        with path.open(encoding="utf-8-sig", newline="") as file:
            rows = csv.DictReader(bounded_lines(file, path), strict=True, delimiter=separator)
            for column in columns:
                if column not in (rows.fieldnames or ()):
                    raise UserError(f"{path} has no column '{column}': it needs {', '.join(columns)}")
            for row in rows:
                # DictReader stores surplus cells under the key None, and None in the columns that a short row lacks.
                if None in row or None in row.values():
                    raise UserError(
                        f"{path} line {rows.line_num} has too {'many' if None in row else 'few'} cells for the header: "
                        "put quotes around cells that contain a comma"
                    )
                yield row
    except OSError as error:
        raise cannot_read(path, error) from error
    except UnicodeDecodeError as error:
        raise wrong_format(path, "a CSV file in UTF-8", "save it again in this format") from error
    except csv.Error as error:
        where = f"{path} line {rows.reader.line_num}"
        raise wrong_format(where, f"CSV ({error})", "close open quotes, in this line or above") from error


def csv_lines(rows: Iterable[Sequence[object]], for_spreadsheets: bool = False) -> Iterator[str]:
    """Yield every row as CSV text without the final line break; cells may contain line breaks.

    for_spreadsheets   put an apostrophe before texts that a spreadsheet would run as a formula, such as `=cmd|...`
    """
    buffer = io.StringIO()
    line_break = "\r\n"  # a cell with one of its characters is quoted
    writer = csv.writer(buffer, lineterminator=line_break)
    for row in rows:
        writer.writerow(map(_without_formula, row) if for_spreadsheets else row)
        yield buffer.getvalue().removesuffix(line_break)
        buffer.seek(0)
        buffer.truncate()


def _without_formula(cell: object) -> object:
    """Return a cell such that a spreadsheet shows it as it is; numbers stay numbers."""
    if not isinstance(cell, str) or not _FORMULA.match(cell) or _NUMBER.fullmatch(cell):
        return cell
    return f"'{cell}"


def write_lines(path: Path, lines: Iterable[str]) -> None:
    """Write `lines` to `path`, under a temporary name until complete. Raises UserError if writing fails."""
    unfinished = path.with_name(f".{path.name}.unfinished")
    try:
        with unfinished.open("w", encoding="utf-8", newline="") as file:
            file.writelines(f"{line}\n" for line in lines)
        unfinished.replace(path)
    except OSError as error:
        raise cannot_write(path, error) from error
    finally:
        unfinished.unlink(missing_ok=True)
