"""Observation labels that somebody else made, from whichever table they came in.

Tables name their observations, in any order:

    CSV by study id      `study_id` (MIMIC-CXR-JPG: chexpert, negbio and the test set of 2.1.0) or `id` (our own)
    CSV by report        `Report Impression` (CheXbert's labeled_reports.csv) or `Reports` (the CheXpert labeler)
    JSON                 {study id: {name: value}}

JSON can also give lists, {study id: [14 values]}. They are taken to be in alphabetical order, unless the file has a key
`observations` with the 14 names in the order of its lists. Both kinds of JSON may have their ids in a level by split.
Every file may be gzipped.
"""

import csv
import gzip
import hashlib
import io
import json
import math
import re
import zlib
from collections.abc import Iterable, Iterator, Sequence
from contextlib import contextmanager
from functools import cache
from pathlib import Path
from typing import Any, TextIO

from data.errors import UserError
from data.ontology import observation_names

_ID_COLUMNS = ("study_id", "id")
_TEXT_COLUMNS = ("Report Impression", "Reports")
_SPLITS = {"train", "val", "valid", "validate", "test"}

# Lists in another order than they are taken for give themselves away: "No Finding" excludes all but support devices.
# By CheXbert's labels, one normal study in fifty contradicts itself; of few studies nothing can be said.
_FEWEST_NORMAL = 20
_MOST_CONTRADICTIONS = 0.25

# The labels of a study in the order of observation_names(): 1, 0, -1, or None for an observation that is not mentioned.
Labels = tuple[int | None, ...]


class LabelTable:
    """The labels of a file, found by study id or by report.

    Small, because every process that prepares studies has a copy: reports are kept as digests, and equal labels once.
    """

    def __init__(self, by_report: bool):
        """An empty table whose labels are found by the text of the report, or else by study id."""
        self._by_report = by_report
        self._labels: dict[str | bytes, Labels] = {}
        self._distinct: dict[Labels, Labels] = {}

    def __len__(self) -> int:
        return len(self._labels)

    def find(self, study_id: str, report: str) -> dict[str, int] | None:
        """The observations mentioned, as 1 (present), 0 (absent) or -1 (uncertain); None for a study it lacks.

        study_id   as the table has it, up to an `s` before the number, a suffix such as `.dcm`, and what distinguishes
                   the images of a study of IU X-Ray (CXR1_1_IM-0001-3001)
        report     the text that was labeled, up to spacing, capitals and the numbers of enumerated sentences
        """
        labels = self._labels.get(self._key(report if self._by_report else study_id))
        if labels is None:
            return None
        return {name: value for name, value in zip(observation_names(), labels, strict=True) if value is not None}

    def add(self, source: str, labels: Labels, where: str) -> None:
        """Take in the `labels` of a study id or report, which error messages call `where`.

        Raises UserError if the table has others for it.
        """
        labels = self._distinct.setdefault(labels, labels)
        if self._labels.setdefault(self._key(source), labels) != labels:
            raise UserError(f"{where} has other labels than before: leave one of the two")

    def _key(self, source: str) -> str | bytes:
        return _report_key(source) if self._by_report else _id_key(source)


def read_label_table(path: Path) -> LabelTable:
    """The labels in the file at `path`, which is of one of the kinds above.

    Raises UserError naming file, line and column (or study and observation) where it is none of them, lacks an
    observation, holds another value than 1, 0, -1 or nothing, or contradicts itself.
    """
    with _opened(path) as file:
        first = file.read(1)
        while first.isspace():
            first = file.read(1)
        file.seek(0)
        table = _read_json(file, path) if first in ("{", "[") else _read_csv(file, path)
    if not len(table):
        raise UserError(f"{path} has no labels: give a table with at least one study")
    return table


@contextmanager
def _opened(path: Path) -> Iterator[TextIO]:
    """The text of the file at `path`, unpacked if it is gzipped. Raises UserError where reading it fails."""
    try:
        with path.open("rb") as file:
            packed = file.read(2) == b"\x1f\x8b"
            file.seek(0)
            content = gzip.open(file) if packed else file
            with io.TextIOWrapper(content, encoding="utf-8-sig", newline="") as text:
                yield text
    except (EOFError, zlib.error, gzip.BadGzipFile) as error:
        raise UserError(f"{path} is damaged (cannot be unpacked): replace it") from error
    except UnicodeDecodeError as error:
        raise UserError(f"{path} is no text in UTF-8: give a table as CSV or JSON") from error
    except OSError as error:
        raise UserError(f"Cannot read the labels {path}: {error.strerror or error}") from error


def _read_csv(file: TextIO, path: Path) -> LabelTable:
    """The table in a CSV `file` with a header."""
    reader = csv.reader(file, strict=True)
    try:
        header = [name.strip() for name in next(reader, [])]
        key_column, by_report = _key_column(header, path)
        columns = _observation_columns(header, path)
        table = LabelTable(by_report)
        for row in reader:
            if not any(row):
                continue
            where = f"{path} line {reader.line_num}"
            if len(row) != len(header):
                raise UserError(f"{where} has {len(row)} fields instead of the {len(header)} of the header: mend it")
            key = row[key_column].strip()
            if key:
                labels = tuple(_cell(row[column], f"{where}, column '{header[column]}'") for column in columns)
                table.add(key, labels, f"{where}: this {'report' if by_report else 'study'}")
            elif not by_report:
                raise UserError(f"{where}, column '{header[key_column]}' is empty: fill in the study id")
    except csv.Error as error:
        raise UserError(f"{path} line {reader.line_num} is not CSV ({error}): mend it") from error
    return table


def _key_column(header: Sequence[str], path: Path) -> tuple[int, bool]:
    """The position of the column that tells the study, and whether it does so by the report."""
    for name in (*_ID_COLUMNS, *_TEXT_COLUMNS):
        if name in header:
            return header.index(name), name in _TEXT_COLUMNS
    names = ", ".join(f"'{name}'" for name in (*_ID_COLUMNS, *_TEXT_COLUMNS))
    raise UserError(f"{path} line 1 has none of the columns {names}: name the one that tells the study")


def _observation_columns(header: Sequence[str], path: Path) -> list[int]:
    """The position of every observation's column, in the order of observation_names()."""
    found: dict[str, int] = {}
    for position, name in enumerate(header):
        observation = _observation(name)
        if observation in found:
            raise UserError(f"{path} line 1 has two columns for '{observation}': remove one of them")
        if observation is not None:
            found[observation] = position
    missing = [name for name in observation_names() if name not in found]
    if missing:
        raise UserError(f"{path} line 1 lacks the column '{missing[0]}': all {len(observation_names())} are needed")
    return [found[name] for name in observation_names()]


def _cell(text: str, where: str) -> int | None:
    """The label in a cell of a CSV file."""
    try:
        return _label(float(text) if text.strip() else None, where)
    except ValueError as error:
        raise _no_label(where) from error


def _read_json(file: TextIO, path: Path) -> LabelTable:
    """The table in a JSON `file`."""
    try:
        content = json.load(file)
    except (ValueError, RecursionError) as error:
        if isinstance(error, UnicodeDecodeError):
            raise
        raise UserError(f"{path} is not JSON: mend it") from error
    if not isinstance(content, dict):
        raise UserError(f"{path} is not of the form {{study id: labels}}")
    order = observation_names()
    if "observations" in content:
        order = _stated_order(content.pop("observations"), path)
    by_split = set(content) <= _SPLITS and all(isinstance(part, dict) for part in content.values())
    table = LabelTable(by_report=False)
    lists = []
    for part in content.values() if by_split else [content]:
        for study_id, values in part.items():
            where = f"{path}, study {_shown(study_id)}"
            labels = named_labels(values, where) if isinstance(values, dict) else _listed_labels(values, order, where)
            if not isinstance(values, dict):
                lists.append(labels)
            table.add(study_id, labels, where)
    if order is observation_names() and _contradictory(lists):
        raise UserError(
            f"{path}: its lists are in another order than the alphabetical one, by which 'No Finding' often stands "
            "beside findings: state their order in the file's key 'observations'"
        )
    return table


def _stated_order(names: Any, path: Path) -> tuple[str, ...]:
    """The order of a file's lists, from its key `observations`."""
    order = tuple(_observation(name) if isinstance(name, str) else None for name in _as_list(names))
    if set(order) != set(observation_names()) or len(order) != len(observation_names()):
        raise UserError(f"{path}: its key 'observations' must list the {len(observation_names())} observations, each once")
    return order


def named_labels(values: dict[str, Any], where: str) -> Labels:
    """The labels of a study in JSON that gives them by name; what it leaves out is not mentioned.

    Raises UserError, which begins with `where`, for a name that is no observation and for a value that is no label.
    """
    found: dict[str, int | None] = {}
    for name, value in values.items():
        observation = _observation(name)
        if observation is None or observation in found:
            problem = "is no observation" if observation is None else "is there twice"
            raise UserError(f"{where}: '{_shown(name)}' {problem}: give each of the {len(observation_names())} at most once")
        found[observation] = _label(value, f"{where}, '{observation}'")
    return tuple(found.get(name) for name in observation_names())


def _listed_labels(values: Any, order: Sequence[str], where: str) -> Labels:
    """The labels of a study in JSON that gives them as a list in the given `order`."""
    values = _as_list(values)
    if len(values) != len(order):
        raise UserError(f"{where} has no list of {len(order)} labels")
    found = {name: _label(value, f"{where}, '{name}'") for name, value in zip(order, values, strict=True)}
    return tuple(found[name] for name in observation_names())


def _as_list(value: Any) -> list:
    """`value`, or an empty list for something else than a list."""
    return value if isinstance(value, list) else []


def _contradictory(studies: Iterable[Labels]) -> bool:
    """Whether "No Finding" stands beside findings so often that the order of the labels must be another."""
    no_finding = observation_names().index("No Finding")
    findings = [place for place, name in enumerate(observation_names()) if name not in ("No Finding", "Support Devices")]
    normal = [labels for labels in studies if labels[no_finding] == 1]
    contradicted = sum(any(labels[place] == 1 for place in findings) for labels in normal)
    return len(normal) >= _FEWEST_NORMAL and contradicted > _MOST_CONTRADICTIONS * len(normal)


def _label(value: Any, where: str) -> int | None:
    """1, 0 or -1; None for nothing, which pandas writes as NaN."""
    if value is None or (isinstance(value, float) and math.isnan(value)):
        return None
    if isinstance(value, (int, float)) and value in (1, 0, -1):
        return int(value)
    raise _no_label(where)


def _no_label(where: str) -> UserError:
    """The error for a value that is no label. The value is not shown: in a row that slipped it can be report text."""
    return UserError(f"{where} holds no label: give 1, 0, -1 or nothing")


def _observation(name: str) -> str | None:
    """The observation that a column or key calls `name`, ignoring case and spacing; None if there is no such one."""
    return _observations_by_letters().get(_letters(name))


@cache
def _observations_by_letters() -> dict[str, str]:
    by_letters = {_letters(name): name for name in observation_names()}
    # Names in the test set of MIMIC-CXR-JPG 2.1.0.
    return by_letters | {"airspaceopacity": "Lung Opacity", "nofindings": "No Finding"}


def _letters(name: str) -> str:
    return re.sub("[^a-z]", "", name.lower())


def _id_key(study_id: str) -> str:
    """What is the same in all ways to write a study's id."""
    bare = re.sub(r"\.(dcm|jpe?g|png|txt)$", "", study_id.strip(), flags=re.IGNORECASE)
    if number := re.fullmatch(r"s?(\d+)(\.0)?", bare):
        return number[1]
    if study := re.match(r"CXR\w*-\d+", bare):
        return study[0]
    return bare


def _report_key(report: str) -> bytes:
    """A digest of what CheXbert keeps of a report: no enumerators, single spaces, small letters."""
    text = " ".join(re.sub(r"\d\.", "", report).split()).lower()
    return hashlib.blake2b(text.encode("utf-8", "surrogatepass"), digest_size=16).digest()


def _shown(text: str) -> str:
    """`text` from a file, fit for one line of an error message."""
    return "".join(character for character in text if character.isprintable())[:60]
