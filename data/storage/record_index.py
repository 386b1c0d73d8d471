"""The index of a records.jsonl: where the records of each split are. It is made once, when all records are checked.

    index/current.json                 size and fingerprint of the records.jsonl that was indexed last
    index/FINGERPRINT.v1/train.npy     int64 [records, 2]: first byte and end of every record of the split, in file
                                       order
    index/FINGERPRINT.v1/train-priors.npy   the same of the record of each study's prior, zeros if it has none; absent
                                       if no study of the split has one
    index/FINGERPRINT.v1/manifest.json size and SHA-256 of these files
    index/FINGERPRINT.v1/...           other numbers derived from the same content, see `data.storage.statistics`

The fingerprint is that of the content, so an index never belongs to other records, and a copied data set need not be
indexed again. Hashing gigabytes takes seconds, so it is skipped for a file that is clearly older than `current.json`.
An index that is damaged is made again.
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
from data.storage.lines import bounded_lines
from data.storage.manifest import MALFORMED_MANIFEST, MANIFEST, FileEntry, list_files, manifest_content, read_entries
from data.storage.prior_links import PriorLinks

# Increase when the files of the index or the checks of a record change.
VERSION = 1
# A change within this time after another one may leave the modification time as it is on some file systems.
_CLOCK_RESOLUTION_NS = 2_000_000_000


@dataclass(frozen=True)
class RecordIndex:
    """The index of a records.jsonl.

    offsets   split -> int64 [records, 2], first byte and end of every record
    folder    folder of the index; None if it cannot be written and is in memory only
    priors    split -> int64 [records, 2], the same of the prior of every study, zeros if it has none; without the
              splits in which no study has one
    """

    offsets: dict[str, NDArray]
    folder: Path | None
    priors: dict[str, NDArray]

    def file(self, split: str) -> Path | None:
        """Return the .npy file of the offsets of a split; None if the index is in memory only."""
        return None if self.folder is None else _offsets_file(self.folder, split)


def open_index(path: Path, splits: Sequence[str], parse: Callable[[bytes, str], dict]) -> RecordIndex:
    """Return the index of the records.jsonl at `path`, which is made and stored beside it if absent.

    splits   all splits
    parse    parses and checks a line, given its place for messages; returns a record with `id` and `split`

    Raises what `parse` raises, UserError if a study occurs twice in a split, a prior is not an earlier study of the
    same patient in the same split, or the file changes meanwhile, and OSError if it cannot be read. If the folder is
    read-only, the index is kept in memory, with a note on stderr.
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
        offsets, priors, fingerprint = _scan(path, splits, parse)
        try:
            return _store(path, parent, offsets, priors, fingerprint, locked)
        except OSError as error:
            print(
                f"{parent} cannot be written ({reason(error)}): the index of the records is kept in memory, and made "
                "again at every start",
                file=sys.stderr,
            )
            return RecordIndex(offsets, None, priors)


# Finding


def _find(path: Path, parent: Path, splits: Sequence[str]) -> RecordIndex | None:
    """Return the stored index of the present content of `path`; None if absent or damaged."""
    current = parent / "current.json"
    try:
        described = json.loads(current.read_text(encoding="utf-8"))
        size, fingerprint, written = described["size"], described["fingerprint"], current.stat().st_mtime_ns
    except (OSError, *MALFORMED_MANIFEST):
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
        # Indices of earlier versions have no manifest.
        if (folder / MANIFEST).exists() and list_files(folder, listed := _read_manifest(folder)) != listed:
            return None
        offsets = {split: np.load(_offsets_file(folder, split), mmap_mode="r") for split in splits}
        files = {split: _priors_file(folder, split) for split in splits}
        priors = {split: np.load(file, mmap_mode="r") for split, file in files.items() if file.exists()}
    except (OSError, EOFError, *MALFORMED_MANIFEST):
        return None
    valid = _cover_file(list(offsets.values()), size)
    valid = valid and all(len(rows) == len(offsets[split]) for split, rows in priors.items())
    return RecordIndex(offsets, folder, priors) if valid else None


def _read_manifest(folder: Path) -> dict[str, FileEntry]:
    return read_entries((folder / MANIFEST).read_bytes())


def _cover_file(offsets: list[NDArray], size: int) -> bool:
    """Whether the records of all splits together are a file of `size` bytes, without gap or overlap."""
    if any(rows.dtype != np.int64 or rows.ndim != 2 or rows.shape[1] != 2 for rows in offsets):
        return False
    rows = np.concatenate(offsets)
    rows = rows[rows[:, 0].argsort()]
    return np.array_equal(np.append(rows[:, 0], size), np.append(0, rows[:, 1]))


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


def _priors_file(folder: Path, split: str) -> Path:
    return folder / f"{split}-priors.npy"


# Building


def _store(
    path: Path, parent: Path, offsets: dict[str, NDArray], priors: dict[str, NDArray], fingerprint: str, locked: bool
) -> RecordIndex:
    """Write the index. Raises OSError if that fails."""
    folder = parent / _folder_name(fingerprint)
    if locked:
        _remove_obsolete(parent, folder)
    size = path.stat().st_size
    if _load(folder, tuple(offsets), size) is None:
        with atomic_folder(folder) as unfinished:
            for split, rows in offsets.items():
                np.save(_offsets_file(unfinished, split), rows)
            for split, rows in priors.items():
                np.save(_priors_file(unfinished, split), rows)
            entries = list_files(unfinished, [path.name for path in unfinished.iterdir()])
            (unfinished / MANIFEST).write_bytes(manifest_content(entries))
    with atomic_file(parent / "current.json") as file:
        file.write(json.dumps({"size": size, "fingerprint": fingerprint}).encode() + b"\n")
    # Mapped rather than kept: all processes share the pages.
    return _load(folder, tuple(offsets), size) or RecordIndex(offsets, None, priors)


def _remove_obsolete(parent: Path, folder: Path) -> None:
    """Remove the indices of earlier contents, and what a killed process left behind."""
    for other in parent.iterdir():
        if other.is_dir() and other != folder:
            shutil.rmtree(other, ignore_errors=True)


def _scan(
    path: Path, splits: Sequence[str], parse: Callable[[bytes, str], dict]
) -> tuple[dict[str, NDArray], dict[str, NDArray], str]:
    """Check all records; return the offsets of each split, those of its priors, and the fingerprint of the content."""
    before = path.stat()
    offsets = {split: array("q") for split in splits}
    ids: dict[str, set[str]] = {split: set() for split in splits}
    links = PriorLinks()
    digest = _new_digest()
    position = 0
    with path.open("rb") as file, closing(Progress(f"Indexing {path.parent}", "records")) as progress:
        for number, line in enumerate(bounded_lines(file, path), start=1):
            record = parse(line, f"{path} line {number}")
            split, study_id = record["split"], record["id"]
            if study_id in ids[split]:
                raise UserError(f"{path} line {number}: study {study_id} is already in the split '{split}'")
            ids[split].add(study_id)
            digest.update(line)
            links.add(record, f"{path} line {number}", len(offsets[split]) // 2)
            offsets[split].extend((position, position + len(line)))
            position += len(line)
            progress.advance(1)
    if _state(path.stat()) != _state(before):
        raise UserError(f"{path} changed while it was indexed: run the command again when nothing writes to it")
    found = {split: np.array(rows, dtype=np.int64).reshape(-1, 2) for split, rows in offsets.items()}
    return found, links.offsets(found), digest.hexdigest()
