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
        yield row["id"], row["report"]


def read_table(path: Path, columns: Sequence[str]) -> Iterator[dict[str, str]]:
    """The rows of a CSV file in UTF-8 that has `columns`, and maybe others.

    Raises UserError for a file that is no such table, naming the line where its cells or quotes do not fit.
    """
    # Python refuses longer cells than 131,072 characters, whatever the machine can hold.
    csv.field_size_limit(sys.maxsize)
    try:
        with path.open(encoding="utf-8-sig", newline="") as file:
            rows = csv.DictReader(file, strict=True)
            for column in columns:
                if column not in (rows.fieldnames or ()):
                    raise UserError(f"{path} has no column '{column}': it needs the columns {', '.join(columns)}")
            for row in rows:
                # DictReader puts cells past the header under None, and None into columns past a short row's end.
                if None in row or None in row.values():
                    raise UserError(
                        f"{path} line {rows.line_num} has too {'many' if None in row else 'few'} cells for the header: "
                        "put quotes around a cell that holds a comma"
                    )
                yield row
    except OSError as error:
        raise UserError(f"Cannot read {path}: {error.strerror}") from error
    except UnicodeDecodeError as error:
        raise UserError(f"{path} is no CSV in UTF-8 ({error}): save it again as such") from error
    except csv.Error as error:
        where = f"{path} line {rows.reader.line_num}"
        raise UserError(f"{where} is no CSV ({error}): is a quote left open, there or above?") from error


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
