"""What lies in the folders and files that a user gives as sources, and the tables in them."""

import csv
import gzip
import os
import re
import zlib
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path

from data.errors import UserError

# Deep enough for a folder that holds several downloads as the sites' own tools lay them out.
_DEPTH = 4
# Folders of many images or graphs: their files are opened by name, never listed.
_LARGE_FOLDER = re.compile(r"p\d{2,}|s\d{6,}|images|scene_graph")
_PATIENT_GROUP = re.compile(r"p\d\d")
_OF_INTEREST = (".csv", ".csv.gz", ".zip", ".json", ".arrow")


@dataclass(frozen=True)
class Contents:
    """What a search of the sources found.

    files    tables, archives and annotation files, in a stable order
    folders  all folders looked into, large ones among them
    trees    the folders that hold MIMIC-CXR's groups of patients, p10 to p19
    """

    files: tuple[Path, ...]
    folders: tuple[Path, ...]
    trees: tuple[Path, ...]

    def file(self, *names: str) -> Path | None:
        """The first file with one of the `names`, or None."""
        return next((path for name in names for path in self.files if path.name == name), None)

    def table(self, stem: str) -> Path | None:
        """The table `stem`, compressed or not, or None."""
        return self.file(f"{stem}.csv", f"{stem}.csv.gz")


def look_through(sources: Sequence[Path]) -> Contents:
    """Search the `sources`, folders or files, without going through the large folders in them.

    Raises UserError for a source that is not there or cannot be read.
    """
    files, folders, trees = [], [], []
    for source in sources:
        if source.is_file():
            files.append(source)
        elif not source.is_dir():
            raise UserError(f"There is no source {source}: give a folder or a file that is there")
        else:
            _search(source, _DEPTH, files, folders, trees)
    return Contents(tuple(files), tuple(folders), tuple(trees))


def _search(folder: Path, depth: int, files: list[Path], folders: list[Path], trees: list[Path]) -> None:
    """Add what lies in `folder` and `depth` levels below."""
    folders.append(folder)
    try:
        with os.scandir(folder) as listing:
            entries = sorted(
                (entry for entry in listing if entry.name.endswith(_OF_INTEREST) or entry.is_dir()),
                key=lambda entry: entry.name,
            )
    except OSError as error:
        raise UserError(f"Cannot look into {folder}: {error.strerror}") from error
    subfolders = [Path(entry.path) for entry in entries if entry.is_dir()]
    files.extend(Path(entry.path) for entry in entries if not entry.is_dir())
    if any(_PATIENT_GROUP.fullmatch(subfolder.name) for subfolder in subfolders):
        trees.append(folder)
    for subfolder in subfolders:
        if _LARGE_FOLDER.fullmatch(subfolder.name):
            folders.append(subfolder)
            if subfolder.name == "images" and _holds_patient_groups(subfolder):
                trees.append(subfolder)
        elif depth > 0 and not subfolder.name.startswith("."):
            _search(subfolder, depth - 1, files, folders, trees)


def _holds_patient_groups(folder: Path) -> bool:
    with os.scandir(folder) as entries:
        return any(_PATIENT_GROUP.fullmatch(entry.name) for entry in entries)


def read_table(path: Path, columns: Sequence[str]) -> Iterator[tuple[str, ...]]:
    """The `columns` of every row of a CSV table, plain or gzipped, wherever they stand.

    Raises UserError for a file that cannot be read, a column that is missing, and a row that is too short.
    """
    opened = gzip.open if path.suffix == ".gz" else open
    try:
        with opened(path, "rt", encoding="utf-8-sig", newline="") as file:
            rows = csv.reader(file)
            header = [name.strip() for name in next(rows, [])]
            missing = [column for column in columns if column not in header]
            if missing:
                raise UserError(f"{path} has no column '{missing[0]}': fetch the file again")
            positions = [header.index(column) for column in columns]
            for row in rows:
                if not row:
                    continue
                if len(row) <= max(positions):
                    raise UserError(f"{path} line {rows.line_num} has {len(row)} columns: fetch the file again")
                yield tuple(row[position].strip() for position in positions)
    except (OSError, EOFError, zlib.error, UnicodeDecodeError, csv.Error) as error:
        reason = getattr(error, "strerror", None) or str(error) or type(error).__name__
        raise UserError(f"Cannot read {path} ({reason}): fetch the file again") from error
