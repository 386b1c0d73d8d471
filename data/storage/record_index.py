"""The index of a records.jsonl: where the records of each split are. It is made once, when all records are checked.

    index/current.json                 size and fingerprint of the records.jsonl that was indexed last
    index/FINGERPRINT.v1/train.npy     int64 [records, 2]: first byte and end of every record of the split, in file
    order index/FINGERPRINT.v1/...           other numbers derived from the same content, see `data.storage.statistics`

The fingerprint is that of the content, so an index never belongs to other records, and a copied data set need not be
indexed again. Hashing gigabytes takes seconds, so it is skipped for a file that is clearly older than `current.json`.
"""

import hashlib
import json
import os
import shutil
import sys
import time
from array import array
from collections.abc import Callable, Sequence
from contextlib import ExitStack, closing, suppress
from dataclasses import dataclass
from functools import lru_cache
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from data.console import Progress
from data.errors import UserError, reason
from data.storage.atomic_files import atomic_file, atomic_folder, folder_lock

# Increase when the files of the index or the checks of a record change.
VERSION = 1
# A change within this time after another one may leave the modification time as it is on some file systems.
_CLOCK_RESOLUTION_NS = 2_000_000_000


@dataclass(frozen=True)
class RecordIndex:
    """The index of a records.jsonl.

    offsets   split -> int64 [records, 2], first byte and end of every record
    folder    folder of the index; None if it cannot be written and is in memory only
    """

    offsets: dict[str, NDArray]
    folder: Path | None

    def file(self, split: str) -> Path | None:
        """Return the .npy file of the offsets of a split; None if the index is in memory only."""
        return None if self.folder is None else _offsets_file(self.folder, split)


def open_index(path: Path, splits: Sequence[str], parse: Callable[[bytes, str], dict]) -> RecordIndex:
    """Return the index of the records.jsonl at `path`, which is made and stored beside it if absent.

    splits   all splits
    parse    parses and checks a line, given its place for messages; returns a record with `id` and `split`

    Raises what `parse` raises, UserError if a study occurs twice in a split or the file changes meanwhile, and OSError
    if it cannot be read. If the folder is read-only, the index is kept in memory, with a note on stderr.
    """
    status = path.stat()
    if not _is_settled(status, time.time_ns()):
        return _find_or_build(path, splits, parse)
    return _open_settled(path, tuple(splits), parse, _state(status))


@lru_cache(maxsize=8)
def _open_settled(
    path: Path, splits: tuple[str, ...], parse: Callable[[bytes, str], dict], state: tuple[int, ...]
) -> RecordIndex:
    """Open the index of a file whose next change will change its `state`; vocabularies and splits share the result."""
    return _find_or_build(path, splits, parse)


def _find_or_build(path: Path, splits: Sequence[str], parse: Callable[[bytes, str], dict]) -> RecordIndex:
    parent = path.parent / "index"
    if (found := _find(path, parent, splits)) is not None:
        return found
    with ExitStack() as stack:
        locked = False
        with suppress(OSError):
            parent.mkdir(exist_ok=True)
            locked = stack.enter_context(folder_lock(parent))
        # Another process may have finished it while this one waited.
        if (found := _find(path, parent, splits)) is not None:
            return found
        offsets, fingerprint = _scan(path, splits, parse)
        try:
            return _store(path, parent, offsets, fingerprint, locked)
        except OSError as error:
            print(
                f"{parent} cannot be written ({reason(error)}): the index of the records is kept in memory, and made "
                "again at every start",
                file=sys.stderr,
            )
            return RecordIndex(offsets, None)


# Finding


def _find(path: Path, parent: Path, splits: Sequence[str]) -> RecordIndex | None:
    """Return the stored index of the present content of `path`; None if absent or damaged."""
    current = parent / "current.json"
    try:
        described = json.loads(current.read_text(encoding="utf-8"))
        size, fingerprint, written = described["size"], described["fingerprint"], current.stat().st_mtime_ns
    except (OSError, ValueError, KeyError, TypeError):
        return None
    status = path.stat()
    if size != status.st_size:
        return None
    if not _is_settled(status, written):
        if _fingerprint(path) != fingerprint:
            return None
        with suppress(OSError):  # in a read-only folder, the next start compares the content again
            os.utime(current)
    return _load(parent / _folder_name(fingerprint), splits, status.st_size)


def _load(folder: Path, splits: Sequence[str], size: int) -> RecordIndex | None:
    """Return the index in `folder`; None if absent or damaged."""
    try:
        offsets = {split: np.load(_offsets_file(folder, split), mmap_mode="r") for split in splits}
    except (OSError, ValueError, EOFError):
        return None
    valid = all(
        rows.dtype == np.int64 and rows.ndim == 2 and rows.shape[1] == 2 and (not len(rows) or rows[-1, 1] <= size)
        for rows in offsets.values()
    )
    return RecordIndex(offsets, folder) if valid else None


def _is_settled(status: os.stat_result, moment_ns: int) -> bool:
    """Whether the file was last changed so long before `moment_ns` that a change since then would show."""
    # The time of the last status change (ctime) also shows that another file was moved here.
    return max(status.st_mtime_ns, status.st_ctime_ns) + _CLOCK_RESOLUTION_NS < moment_ns


def _state(status: os.stat_result) -> tuple[int, ...]:
    return status.st_dev, status.st_ino, status.st_size, status.st_mtime_ns, status.st_ctime_ns


def _fingerprint(path: Path) -> str:
    with path.open("rb") as file:
        return hashlib.file_digest(file, _new_digest).hexdigest()


def _new_digest() -> "hashlib._Hash":
    return hashlib.blake2b(digest_size=8)


def _folder_name(fingerprint: str) -> str:
    return f"{fingerprint}.v{VERSION}"


def _offsets_file(folder: Path, split: str) -> Path:
    return folder / f"{split}.npy"


# Building


def _store(path: Path, parent: Path, offsets: dict[str, NDArray], fingerprint: str, locked: bool) -> RecordIndex:
    """Write the index. Raises OSError if that fails."""
    folder = parent / _folder_name(fingerprint)
    if locked:
        _remove_obsolete(parent, folder)
    size = path.stat().st_size
    if _load(folder, tuple(offsets), size) is None:
        with atomic_folder(folder) as unfinished:
            for split, rows in offsets.items():
                np.save(_offsets_file(unfinished, split), rows)
    with atomic_file(parent / "current.json") as file:
        file.write(json.dumps({"size": size, "fingerprint": fingerprint}).encode() + b"\n")
    # Mapped rather than kept: all processes share the pages.
    return _load(folder, tuple(offsets), size) or RecordIndex(offsets, None)


def _remove_obsolete(parent: Path, folder: Path) -> None:
    """Remove the indices of earlier contents, and what a killed process left behind."""
    for other in parent.iterdir():
        if other.is_dir() and other != folder:
            shutil.rmtree(other, ignore_errors=True)


def _scan(
    path: Path, splits: Sequence[str], parse: Callable[[bytes, str], dict]
) -> tuple[dict[str, NDArray], str]:
    """Check all records; return the offsets of each split and the fingerprint of the content."""
    before = path.stat()
    offsets = {split: array("q") for split in splits}
    ids: dict[str, set[str]] = {split: set() for split in splits}
    digest = _new_digest()
    position = 0
    with path.open("rb") as file, closing(Progress(f"Indexing {path.parent}", "records")) as progress:
        for number, line in enumerate(file, start=1):
            record = parse(line, f"{path} line {number}")
            split, study_id = record["split"], record["id"]
            if study_id in ids[split]:
                raise UserError(f"{path} line {number}: study {study_id} is already in the split '{split}'")
            ids[split].add(study_id)
            digest.update(line)
            offsets[split].extend((position, position + len(line)))
            position += len(line)
            progress.advance(1)
    if _state(path.stat()) != _state(before):
        raise UserError(f"{path} changed while it was indexed: run the command again when nothing writes to it")
    return {split: np.array(rows, dtype=np.int64).reshape(-1, 2) for split, rows in offsets.items()}, digest.hexdigest()
