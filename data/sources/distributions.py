"""Searches the folders and files that a user gives as sources, and reads the CSV tables in them."""

import csv
import gzip
import os
import re
import zlib
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from itertools import chain
from pathlib import Path

from data.errors import UserError, cannot_read, missing
from data.storage.lines import bounded_lines

# Deep enough for a folder with several downloads, laid out as the download tools of the sites do.
_DEPTH = 4
# Folders of many images or graphs: their files are opened by name, never listed.
_LARGE_FOLDER = re.compile(r"p\d{2,}|s\d{6,}|images|scene_graph")
_PATIENT_GROUP = re.compile(r"p\d\d")
# In characters; the header of a table is a line of names.
_LONGEST_HEADER = 1 << 16
_SUFFIXES = (".csv", ".csv.gz", ".zip", ".json", ".arrow")


@dataclass(frozen=True)
class Contents:
    """What a search of the sources found.

    files    tables, archives and annotation files, in a stable order
    folders  all folders that were searched, and the large ones
    trees    folders that contain MIMIC-CXR's groups of patients, p10 to p19
    """

    files: tuple[Path, ...]
    folders: tuple[Path, ...]
    trees: tuple[Path, ...]

    def file(self, *names: str) -> Path | None:
        """Return the first file with one of the `names`; None if absent."""
        return next((path for name in names for path in self.files if path.name == name), None)

    def table(self, stem: str) -> Path | None:
        """Return the table `stem`, gzipped or not; None if absent."""
        return self.file(f"{stem}.csv", f"{stem}.csv.gz")


def search_sources(sources: Sequence[Path]) -> Contents:
    """Search the `sources`, folders or files, without listing the large folders in them.

    Raises UserError if a source does not exist or cannot be read.
    """
    files, folders, trees = [], [], []
    for source in sources:
        if source.is_file():
            files.append(source)
        elif not source.is_dir():
            raise missing("source", source, "give an existing folder or file as --source")
        else:
            _search(source, _DEPTH, files, folders, trees)
    return Contents(tuple(files), tuple(folders), tuple(trees))


def _search(folder: Path, depth: int, files: list[Path], folders: list[Path], trees: list[Path]) -> None:
    """Add the contents of `folder` and of `depth` levels below it to the lists."""
    folders.append(folder)
    try:
        with os.scandir(folder) as listing:
            entries = sorted(
                (entry for entry in listing if entry.name.endswith(_SUFFIXES) or entry.is_dir()),
                key=lambda entry: entry.name,
            )
    except OSError as error:
        raise cannot_read(folder, error, "make it readable, or give another --source") from error
    subfolders = [Path(entry.path) for entry in entries if entry.is_dir()]
    files.extend(Path(entry.path) for entry in entries if not entry.is_dir())
    if any(_PATIENT_GROUP.fullmatch(subfolder.name) for subfolder in subfolders):
        trees.append(folder)
    for subfolder in subfolders:
        if _LARGE_FOLDER.fullmatch(subfolder.name):
            folders.append(subfolder)
            if subfolder.name == "images" and _has_patient_groups(subfolder):
                trees.append(subfolder)
        elif depth > 0 and not subfolder.name.startswith("."):
            _search(subfolder, depth - 1, files, folders, trees)


def _has_patient_groups(folder: Path) -> bool:
    with os.scandir(folder) as entries:
        return any(_PATIENT_GROUP.fullmatch(entry.name) for entry in entries)


def read_table(
    path: Path, columns: Sequence[str], fix: str = "download the file again", optional: Sequence[str] = ()
) -> Iterator[tuple[str, ...]]:
    """Yield the values of the named `columns` for every row of a CSV table, plain or gzipped; blank rows are left out.

    fix        what a user can do about a table that is not as expected
    optional   further columns, whose values follow those of `columns`; "" if the table lacks them

    Cells may be separated by commas, semicolons or tabs, in UTF-8 or UTF-16, as spreadsheets save tables. Raises
    UserError if the file cannot be read, a column is missing, or a row is too short.
    """
    open_text = gzip.open if path.suffix == ".gz" else open
    try:
        with open_text(path, "rt", encoding=_encoding(path), newline="") as file:
            first = file.readline(_LONGEST_HEADER)
            separator = next((each for each in ",;\t" if each in first), ",")
            rows = csv.reader(chain([first], bounded_lines(file, path, first=2)), delimiter=separator)
            header = [name.strip() for name in next(rows, [])]
            absent = [column for column in columns if column not in header]
            if absent:
                raise UserError(f"{path} has no column '{absent[0]}': {fix}")
            positions = [header.index(column) for column in columns]
            others = [header.index(column) if column in header else None for column in optional]
            for row in rows:
                if not any(map(str.strip, row)):
                    continue
                if len(row) <= max(positions + [position for position in others if position is not None]):
                    raise UserError(f"{path} line {rows.line_num} has {len(row)} columns: {fix}")
                yield tuple("" if at is None else row[at].strip() for at in (*positions, *others))
    except (OSError, EOFError, zlib.error, UnicodeDecodeError, csv.Error) as error:
        raise cannot_read(path, error, fix) from error


def _encoding(path: Path) -> str:
    """Return UTF-16 if the file begins with its byte order mark, else UTF-8."""
    open_bytes = gzip.open if path.suffix == ".gz" else open
    with open_bytes(path, "rb") as file:
        return "utf-16" if file.read(2) in (b"\xff\xfe", b"\xfe\xff") else "utf-8-sig"
