"""Reading observation labels from the tables that other labelers write.

Columns and keys name the observations, in any order:

    CSV by study id      `study_id` (MIMIC-CXR-JPG: chexpert, negbio and the test set of 2.1.0) or `id` (our own)
    CSV by report        `Report Impression` (CheXbert's labeled_reports.csv) or `Reports` (the CheXpert labeler)
    JSON                 {study id: {name: value}}

JSON can also contain lists, {study id: [14 values]}: in alphabetical order of the observations, unless a key
`observations` lists the 14 names in another order. Both kinds of JSON may group the ids by split. All files may be
gzipped.
"""

import csv
import gzip
import hashlib
import io
import math
import re
import zlib
from collections.abc import Iterable, Iterator, Sequence
from contextlib import contextmanager
from functools import cache
from pathlib import Path
from typing import Any, TextIO

from data.errors import UserError, cannot_read, damaged, readable, wrong_format
from data.ontology import observation_names
from data.storage.lines import bounded_lines
from data.storage.parse import parse_json

_ID_COLUMNS = ("study_id", "id")
_REPORT_COLUMNS = ("Report Impression", "Reports")
_SPLITS = {"train", "val", "valid", "validate", "test"}
_MAX_NAME_LENGTH = 60
# In characters; the labels of all studies of MIMIC-CXR by name take a third of it. Archives may unpack to far more.
_LARGEST_JSON = 1 << 28

# "No Finding" excludes all other observations but support devices, so contradictions reveal lists in another order. In
# CheXbert's labels, one normal study in fifty contradicts itself; fewer studies than the minimum are not checked.
_MIN_NORMAL_STUDIES = 20
_MAX_CONTRADICTIONS = 0.25

# The labels of a study in the order of observation_names(): 1, 0, -1, or None if not mentioned.
Labels = tuple[int | None, ...]


class LabelTable:
    """The labels of a file, by study id or by report.

    Every process that prepares studies has a copy, so it is kept small: reports are stored as hashes, and equal labels
    once.
    """

    def __init__(self, by_report: bool):
        """Create an empty table; its keys are report texts if `by_report`, otherwise study ids."""
        self._by_report = by_report
        self._labels: dict[str | bytes, Labels] = {}
        self._distinct: dict[Labels, Labels] = {}

    def __len__(self) -> int:
        return len(self._labels)

    def find(self, study_id: str, report: str) -> dict[str, int] | None:
        """Return the mentioned observations as 1 (present), 0 (absent) or -1 (uncertain); None for an unknown study.

        study_id   matched without an `s` before the number, without a suffix such as `.dcm`, and without the image part
                   of an id of IU X-Ray (CXR1_1_IM-0001-3001)
        report     the labeled text, matched without regard to spacing, case and enumerators
        """
        labels = self._labels.get(self._key(report if self._by_report else study_id))
        if labels is None:
            return None
        return {name: value for name, value in zip(observation_names(), labels, strict=True) if value is not None}

    def add(self, source: str, labels: Labels, where: str) -> None:
        """Add the `labels` of a study id or report; error messages refer to it as `where`.

        Raises UserError if the table already has other labels for it.
        """
        labels = self._distinct.setdefault(labels, labels)
        if self._labels.setdefault(self._key(source), labels) != labels:
            raise UserError(f"{where} has other labels than before: remove one of the two")

    def _key(self, source: str) -> str | bytes:
        return _report_key(source) if self._by_report else _id_key(source)


def read_label_table(path: Path) -> LabelTable:
    """Read the labels in the file at `path`.

    Raises UserError naming file, line and column (or study and observation) if the file has none of the formats above,
    lacks an observation, has a value other than 1, 0, -1 or blank, or contradicts itself.
    """
    with _open_text(path) as file:
        first = file.read(1)
        while first.isspace():
            first = file.read(1)
        file.seek(0)
        table = _read_json(file, path) if first in ("{", "[") else _read_csv(file, path)
    if not len(table):
        raise UserError(f"{path} has no labels: use a table with at least one study")
    return table


@contextmanager
def _open_text(path: Path) -> Iterator[TextIO]:
    """Open a text file, gzipped or not. Raises UserError if reading it fails."""
    try:
        with path.open("rb") as file:
            is_gzipped = file.read(2) == b"\x1f\x8b"
            file.seek(0)
            content = gzip.open(file) if is_gzipped else file
            with io.TextIOWrapper(content, encoding="utf-8-sig", newline="") as text:
                yield text
    except (EOFError, zlib.error, gzip.BadGzipFile) as error:
        raise damaged(path, "cannot be decompressed", "replace it") from error
    except UnicodeDecodeError as error:
        raise wrong_format(path, "a text file in UTF-8", "use a table in CSV or JSON") from error
    except OSError as error:
        raise cannot_read(f"the labels {path}", error) from error


def _read_csv(file: TextIO, path: Path) -> LabelTable:
    """Read a CSV file with a header."""
    reader = csv.reader(bounded_lines(file, path), strict=True)
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
                raise UserError(f"{where} has {len(row)} fields instead of the {len(header)} of the header: fix it")
            key = row[key_column].strip()
            if key:
                cells = ((row[column], f"{where}, column '{_shorten(header[column])}'") for column in columns)
                labels = tuple(_parse_cell(text, cell) for text, cell in cells)
                table.add(key, labels, f"{where}: this {'report' if by_report else 'study'}")
            elif not by_report:
                raise UserError(f"{where}, column '{header[key_column]}' is empty: add the study id")
    except csv.Error as error:
        raise wrong_format(f"{path} line {reader.line_num}", f"CSV ({error})", "fix it") from error
    return table


def _key_column(header: Sequence[str], path: Path) -> tuple[int, bool]:
    """Return the position of the column that identifies the study, and whether it contains reports."""
    for name in (*_ID_COLUMNS, *_REPORT_COLUMNS):
        if name in header:
            return header.index(name), name in _REPORT_COLUMNS
    names = ", ".join(f"'{name}'" for name in (*_ID_COLUMNS, *_REPORT_COLUMNS))
    raise UserError(f"{path} line 1 has none of the columns {names}: rename the one that identifies the study")


def _observation_columns(header: Sequence[str], path: Path) -> list[int]:
    """Return the position of each observation's column, in the order of observation_names()."""
    columns: dict[str, int] = {}
    for position, name in enumerate(header):
        observation = _find_observation(name)
        if observation in columns:
            raise UserError(f"{path} line 1 has two columns for '{observation}': remove one of them")
        if observation is not None:
            columns[observation] = position
    missing = [name for name in observation_names() if name not in columns]
    if missing:
        raise UserError(f"{path} line 1 lacks the column '{missing[0]}': add it")
    return [columns[name] for name in observation_names()]


def _parse_cell(text: str, where: str) -> int | None:
    """Return the label in a cell of a CSV file."""
    try:
        return _parse_label(float(text) if text.strip() else None, where)
    except ValueError as error:
        raise _invalid_label(where) from error


def _read_json(file: TextIO, path: Path) -> LabelTable:
    """Read a JSON file."""
    text = file.read(_LARGEST_JSON + 1)
    if len(text) > _LARGEST_JSON:
        raise damaged(path, f"longer than {_LARGEST_JSON >> 20} MiB", "give one file for each split")
    content = parse_json(text, str(path), "fix it")
    if not isinstance(content, dict):
        raise wrong_format(path, "a JSON object {study id: labels}", "fix it")
    order = observation_names()
    if "observations" in content:
        order = _parse_order(content.pop("observations"), path)
    by_split = set(content) <= _SPLITS and all(isinstance(part, dict) for part in content.values())
    table = LabelTable(by_report=False)
    from_lists = []
    for part in content.values() if by_split else [content]:
        for study_id, values in part.items():
            where = f"{path}, study {_shorten(study_id)}"
            if isinstance(values, dict):
                labels = parse_named_labels(values, where)
            else:
                labels = _parse_listed_labels(values, order, where)
                from_lists.append(labels)
            table.add(study_id, labels, where)
    if order is observation_names() and _contradict_no_finding(from_lists):
        raise UserError(
            f"{path}: its lists are in another order than the alphabetical one, by which 'No Finding' often occurs "
            "together with findings: add their order to the file as the key 'observations'"
        )
    return table


def _parse_order(names: Any, path: Path) -> tuple[str, ...]:
    """Return the order of a file's lists, from the value of its key `observations`."""
    order = tuple(_find_observation(name) if isinstance(name, str) else None for name in _as_list(names))
    count = len(observation_names())
    if set(order) != set(observation_names()) or len(order) != count:
        raise UserError(f"{path}: its key 'observations' must list the {count} observations, each once")
    return order


def parse_named_labels(values: dict[str, Any], where: str) -> Labels:
    """Return the labels of a study from JSON that names the observations; missing ones are not mentioned.

    Raises UserError, which begins with `where`, if a name is not an observation or a value is not a label.
    """
    labels: dict[str, int | None] = {}
    for name, value in values.items():
        observation = _find_observation(name)
        if observation is None or observation in labels:
            problem = "is not an observation" if observation is None else "occurs twice"
            count = len(observation_names())
            raise UserError(f"{where}: '{_shorten(name)}' {problem}: use each of the {count} names at most once")
        labels[observation] = _parse_label(value, f"{where}, '{observation}'")
    return tuple(labels.get(name) for name in observation_names())


def _parse_listed_labels(values: Any, order: Sequence[str], where: str) -> Labels:
    """Return the labels of a study from a JSON list in the given `order`."""
    values = _as_list(values)
    if len(values) != len(order):
        raise UserError(f"{where} has no list of {len(order)} labels: fix it")
    labels = {name: _parse_label(value, f"{where}, '{name}'") for name, value in zip(order, values, strict=True)}
    return tuple(labels[name] for name in observation_names())


def _as_list(value: Any) -> list:
    """Return `value` if it is a list, else an empty list."""
    return value if isinstance(value, list) else []


def _contradict_no_finding(studies: Iterable[Labels]) -> bool:
    """Whether "No Finding" occurs with findings so often that the labels must be in another order."""
    names = observation_names()
    no_finding = names.index("No Finding")
    findings = [index for index, name in enumerate(names) if name not in ("No Finding", "Support Devices")]
    normal = [labels for labels in studies if labels[no_finding] == 1]
    contradictions = sum(any(labels[index] == 1 for index in findings) for labels in normal)
    return len(normal) >= _MIN_NORMAL_STUDIES and contradictions > _MAX_CONTRADICTIONS * len(normal)


def _parse_label(value: Any, where: str) -> int | None:
    """Return 1, 0 or -1; None for a missing value, which pandas writes as NaN."""
    if value is None or (isinstance(value, float) and math.isnan(value)):
        return None
    if isinstance(value, (int, float)) and value in (1, 0, -1):
        return int(value)
    raise _invalid_label(where)


def _invalid_label(where: str) -> UserError:
    """Return the error for an invalid value. It does not quote the value: in a shifted row it can be report text."""
    return UserError(f"{where} has an invalid label: use 1, 0, -1 or leave it blank")


def _find_observation(name: str) -> str | None:
    """Return the observation that a column or key names, ignoring case and spacing; None if it names none."""
    return _observations_by_letters().get(_letters(name))


@cache
def _observations_by_letters() -> dict[str, str]:
    by_letters = {_letters(name): name for name in observation_names()}
    # Names in the test set of MIMIC-CXR-JPG 2.1.0.
    return by_letters | {"airspaceopacity": "Lung Opacity", "nofindings": "No Finding"}


def _letters(name: str) -> str:
    return re.sub("[^a-z]", "", name.lower())


def _id_key(study_id: str) -> str:
    """Return the part of a study id that all spellings of it share."""
    bare = re.sub(r"\.(dcm|jpe?g|png|txt)$", "", study_id.strip(), flags=re.IGNORECASE)
    if number := re.fullmatch(r"s?(\d+)(\.0)?", bare):
        return number[1]
    if study := re.match(r"CXR\w*-\d+", bare):
        return study[0]
    return bare


def _report_key(report: str) -> bytes:
    """Return a hash of a report as CheXbert normalises it: without enumerators, with single spaces, in lower case."""
    text = " ".join(re.sub(r"\d\.", "", report).split()).lower()
    return hashlib.blake2b(text.encode("utf-8", "surrogatepass"), digest_size=16).digest()


def _shorten(name: str) -> str:
    """Return a name from a file such that it fits into a one-line message."""
    return readable(name[:_MAX_NAME_LENGTH])
