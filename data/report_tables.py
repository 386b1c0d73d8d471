"""Tables of reports: CSV files with the columns `id` and `report`."""

import csv
import io
import sys
from collections.abc import Iterable, Iterator, Sequence
from pathlib import Path

from data.errors import UserError

_COLUMNS = ("id", "report")


def read_reports(path: Path) -> Iterator[tuple[str, str]]:
    """(id, report) of every row. Raises UserError for a file that is no such table."""
    for row in read_table(path, _COLUMNS):
        yield row["id"] or "", row["report"] or ""


def read_table(path: Path, columns: Sequence[str]) -> Iterator[dict[str, str | None]]:
    """The rows of a CSV file in UTF-8 that has `columns`, and maybe others; cells past a short row's end are None.

    Raises UserError for a file that is no such table.
    """
    # Python refuses longer cells than 131,072 characters, whatever the machine can hold.
    csv.field_size_limit(sys.maxsize)
    try:
        with path.open(encoding="utf-8-sig", newline="") as file:
            rows = csv.DictReader(file)
            for column in columns:
                if column not in (rows.fieldnames or ()):
                    raise UserError(f"{path} has no column '{column}': it needs the columns {', '.join(columns)}")
            yield from rows
    except OSError as error:
        raise UserError(f"Cannot read {path}: {error.strerror}") from error
    except (UnicodeDecodeError, csv.Error) as error:
        raise UserError(f"{path} is no CSV in UTF-8 ({error}): save it again as such") from error


def csv_lines(rows: Iterable[Sequence[object]]) -> Iterator[str]:
    """Every row as a line of a CSV file; a cell may have line breaks."""
    buffer = io.StringIO()
    writer = csv.writer(buffer, lineterminator="")
    for row in rows:
        writer.writerow(row)
        yield buffer.getvalue()
        buffer.seek(0)
        buffer.truncate()


def write_lines(path: Path, lines: Iterable[str]) -> None:
    """Write `lines` to `path`, under another name until the last is there. Raises UserError where that fails."""
    unfinished = path.with_name(f".{path.name}.unfinished")
    try:
        with unfinished.open("w", encoding="utf-8", newline="") as file:
            file.writelines(f"{line}\n" for line in lines)
        unfinished.replace(path)
    except OSError as error:
        raise UserError(f"Cannot write {path}: {error.strerror}") from error
    finally:
        unfinished.unlink(missing_ok=True)
