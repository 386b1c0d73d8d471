"""The files of a prepared data set: `dataset.yaml`, and `records.jsonl` with one study per line."""

import json
import mmap
import os
import warnings
from collections.abc import Iterable, Sequence
from pathlib import Path
from types import UnionType
from typing import BinaryIO

import numpy as np
import yaml
from numpy.typing import NDArray

from data.errors import UserError, cannot_read, damaged, missing, unknown_name, wrong_format
from data.storage.parse import parse_json
from data.storage.prepared_files import check_sizes
from data.storage.record_index import RecordIndex, open_index

SPLITS = ("train", "val", "test")
_KEYS = ("id", "split", "images", "views", "report", "observations", "graph")
# Strings or null; data sets that were prepared before these fields existed lack them, which is the same as null.
CONTEXT_KEYS = ("patient", "taken", "indication", "comparison", "impression", "prior")
_PREPARE_AGAIN = "prepare the data set again"
# Of dataset.yaml, which has a few KiB; parsing takes 1 KiB of memory for each value.
_LARGEST_DESCRIPTION = 1 << 20
_RESTART = "start the run again"
# A read maps up to 64 KiB around the record, so this bounds the resident part of a map to 8 MiB per process.
_READS_BETWEEN_RELEASES = 128
# Unrecorded views count as frontal: most images are, and data sets without views consist of frontal images.
_FRONTAL_VIEWS = ("PA", "AP", "FRONTAL", "", "UNKNOWN")
# What reading a graph that violates the schema can raise. Validating all graphs first would cost as much as using them.
MALFORMED_GRAPH = (KeyError, TypeError, ValueError, AttributeError, ArithmeticError, UserError)


class Records(Sequence[dict]):
    """The studies of one split, parsed on access from a memory map of records.jsonl.

    As dictionaries, the 166,521 scene graphs of Chest ImaGenome's training split would take gigabytes in every process.
    The pages of the map are shared by all processes of a machine, whichever way they were started: pickled records
    carry paths only, and open the files again.
    """

    def __init__(
        self, path: Path, offsets: NDArray, offsets_file: Path | None = None, prior_offsets: NDArray | None = None
    ):
        """Open the records at `offsets`.

        path            the records.jsonl
        offsets         int64 [records, 2]: first byte and end of each record
        offsets_file    .npy file of `offsets`, which other processes load instead; None if there is none
        prior_offsets   int64 [records, 2] of the record of each study's prior, zeros if it has none; None if no study
                        has one

        Raises OSError if the file cannot be opened.
        """
        self._path = path
        self._offsets: NDArray | None = offsets
        self._offsets_file = offsets_file
        self._prior_offsets = prior_offsets
        self._length = len(offsets)
        self._file: BinaryIO | None = None
        self._open()

    @property
    def offsets_file(self) -> Path | None:
        """The stored offsets of exactly these records, in the folder of their index; None if they are not stored."""
        return self._offsets_file

    def __len__(self) -> int:
        return self._length

    def __getitem__(self, index: int | slice) -> dict | list[dict]:
        """Return one or several studies. Raises UserError if the file was changed since these records were opened."""
        if isinstance(index, slice):
            return [self[position] for position in range(*index.indices(len(self)))]
        if not -len(self) <= index < len(self):
            raise IndexError(f"study {index} of {len(self)}")
        self._open_again()
        return json.loads(self._line(self._offsets[index % len(self)]))

    def prior(self, index: int) -> dict | None:
        """Return the record of the latest earlier study of the same patient; None if the study has no prior.

        The prior is a study of the same split, but may not be one of these records. Raises UserError as indexing does.
        """
        if self._prior_offsets is None or not self._prior_offsets[index].any():
            return None
        return json.loads(self._line(self._prior_offsets[index]))

    def select(self, indices: Iterable[int]) -> "Records":
        """Return the studies at `indices`, in the order of `indices`."""
        self._open_again()
        indices = list(indices)
        priors = None if self._prior_offsets is None else np.asarray(self._prior_offsets[indices])
        return Records(self._path, np.asarray(self._offsets[indices]), prior_offsets=priors)

    def __getstate__(self) -> dict:
        state = self.__dict__ | {"_file": None, "_map": None}
        if self._offsets_file is not None:
            state["_offsets"] = None
        return state

    def _open(self) -> None:
        self._file = self._path.open("rb")
        status = os.fstat(self._file.fileno())
        self._version = status.st_size, status.st_mtime_ns
        self._map = mmap.mmap(self._file.fileno(), 0, access=mmap.ACCESS_READ)
        self._reads = 0

    def _open_again(self) -> None:
        """Open the files in a process that received these records pickled."""
        if self._file is None:
            version = self._version
            try:
                self._open()
                if self._offsets is None:
                    self._offsets = np.load(self._offsets_file, mmap_mode="r")
            except (OSError, ValueError) as error:
                raise cannot_read(self._path, error, _RESTART) from error
            self._version = version

    def _line(self, offsets: NDArray) -> bytes:
        self._open_again()
        # Reading a map of a file that was truncated would kill the process.
        status = os.fstat(self._file.fileno())
        if (status.st_size, status.st_mtime_ns) != self._version:
            raise UserError(f"{self._path} was changed while it was in use: {_RESTART}")
        start, end = offsets.tolist()
        line = self._map[start:end]
        self._reads += 1
        if self._reads == _READS_BETWEEN_RELEASES:
            # The pages stay in the system's cache, but no longer count as memory of each process.
            self._map.madvise(mmap.MADV_DONTNEED)
            self._reads = 0
        return line


def read_records(root: str | Path, split: str) -> Records:
    """Return the studies of `split` ("train", "val" or "test") of the prepared data set in the folder `root`.

    The records are checked and indexed at their first use (see `data.storage.record_index`); later calls only open
    files. Fewer studies than `dataset.yaml` counts give a warning.

    Raises UserError if the folder is missing or not a prepared data set, a file differs from its manifest (see
    `data.storage.prepared_files.check_sizes`), a line is damaged, lacks a key or has an unknown split, a study occurs
    twice in a split, a prior is not an earlier study of the same patient in the same split, the split is unknown or
    has no studies, or it has more studies than `dataset.yaml` counts.
    """
    root = Path(root)
    if split not in SPLITS:
        raise unknown_name("split", split, SPLITS)
    counts = _read_counts(root)
    path = root / "records.jsonl"
    index = _open_index(path)
    offsets = index.offsets[split]
    if not len(offsets):
        raise UserError(f"The split '{split}' of {root} has no studies: choose another, or {_PREPARE_AGAIN}")
    _compare_count(path, split, len(offsets), counts.get(split, len(offsets)))
    try:
        return Records(path, offsets, index.file(split), index.priors.get(split))
    except OSError as error:
        raise cannot_read(path, error, _PREPARE_AGAIN) from error


def count_studies(root: str | Path) -> dict[str, int]:
    """Return the number of studies by split. Raises UserError as `read_records` does."""
    _read_counts(Path(root))
    return {split: len(offsets) for split, offsets in _open_index(Path(root) / "records.jsonl").offsets.items()}


def graph_is_complete(graph: dict) -> bool:
    """Whether a graph annotates all regions; if not, only the boxes of its own entries are known.

    A radiologist who outlines the lungs says nothing about the other regions, nor about what is seen in the lungs.
    """
    return graph.get("complete", True)


def is_frontal(record: dict) -> bool:
    """Whether the study's first image is a frontal view; regions refer to that image."""
    return is_frontal_view(record["views"][0])


def is_frontal_view(view: str | None) -> bool:
    """Whether an image with this recorded `view` counts as frontal; None and "" stand for an unrecorded view."""
    return (view or "").upper() in _FRONTAL_VIEWS


def malformed_graph(record: dict, error: Exception) -> UserError:
    """The error to raise for a study whose graph cannot be read because of `error`."""
    return UserError(f"Study {record['id']}: its graph is malformed ({error}): {_PREPARE_AGAIN}")


def _read_counts(root: Path) -> dict[str, int]:
    """Check the files of a data set for their size; return the number of studies by split from its `dataset.yaml`."""
    if not root.is_dir():
        raise missing("data set", root, "prepare one with python -m data.prepare, or set data.root to another folder")
    path = root / "dataset.yaml"
    try:
        content = path.read_bytes()
    except OSError as error:
        raise cannot_read(path, error, f"{root} is not a prepared data set, see python -m data.prepare") from error
    if len(content) > _LARGEST_DESCRIPTION:
        raise damaged(path, f"it has {len(content) >> 10} KiB", _PREPARE_AGAIN)
    check_sizes(root, content)
    try:
        description = yaml.safe_load(content)
    except (yaml.YAMLError, ValueError, RecursionError) as error:
        raise wrong_format(path, "YAML", _PREPARE_AGAIN) from error
    counts = description.get("counts") if isinstance(description, dict) else None
    if not isinstance(counts, dict) or not all(type(counts.get(split, 0)) is int for split in SPLITS):
        raise wrong_format(path, "complete: it has no counts of studies by split", f"add them, or {_PREPARE_AGAIN}")
    return counts


def _open_index(path: Path) -> RecordIndex:
    try:
        return open_index(path, SPLITS, _parse)
    except OSError as error:
        raise cannot_read(path, error, _PREPARE_AGAIN) from error


def _compare_count(path: Path, split: str, found: int, expected: int) -> None:
    """Warn if studies are missing, which does no harm; raise UserError if there are more, which may be wrong ones."""
    difference = f"{path} has {found} studies in the split '{split}', but dataset.yaml counts {expected}"
    if found > expected:
        raise UserError(f"{difference}: {_PREPARE_AGAIN}")
    if found < expected:
        warnings.warn(f"{difference}: continuing with {found}", stacklevel=3)


def _parse(line: bytes, where: str) -> dict:
    """Parse and check one line."""
    record = parse_json(line, where, _PREPARE_AGAIN)
    if not isinstance(record, dict):
        raise wrong_format(where, "a JSON object", _PREPARE_AGAIN)
    missing_keys = [key for key in _KEYS if key not in record]
    if missing_keys:
        raise UserError(f"{where}: study {record.get('id', '?')} lacks the key '{missing_keys[0]}'")
    if not isinstance(record["id"], str) or not isinstance(record["report"], str | None):
        raise UserError(
            f"{where}: id and report of study {record['id']} must be strings; a study without a report has null"
        )
    if record["split"] not in SPLITS:
        raise unknown_name("split", record["split"], SPLITS, f"{where}: study {record['id']}")
    images, views = record["images"], record["views"]
    if not _is_list_of(images, str) or not _is_list_of(views, str | None) or not images or len(images) != len(views):
        raise UserError(f"{where}: study {record['id']} needs at least one image, and one view per image")
    for key in ("observations", "graph"):
        if not isinstance(record[key], dict | None):
            raise UserError(f"{where}: {key} of study {record['id']} must be an object or null: {_PREPARE_AGAIN}")
    for key in CONTEXT_KEYS:
        if not isinstance(record.get(key), str | None):
            raise UserError(f"{where}: {key} of study {record['id']} must be a string or null: {_PREPARE_AGAIN}")
    return record


def _is_list_of(value: object, kind: type | UnionType) -> bool:
    return isinstance(value, list) and all(isinstance(item, kind) for item in value)


