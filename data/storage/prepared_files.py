"""The manifest of a prepared data set: size and SHA-256 of all its files but the index, which has digests of its own.

The first line of dataset.yaml says that there is a manifest, so that its absence shows. Data sets that were not written
by `data.prepare`, or by an earlier version of it, have neither, and are not compared with anything.
"""

import random
import stat
from collections.abc import Callable, Collection, Mapping
from pathlib import Path
from typing import BinaryIO

import yaml

from data.errors import UserError, cannot_read, damaged, reason, truncate_list
from data.storage.atomic_files import atomic_file
from data.storage.manifest import (
    MALFORMED_MANIFEST,
    MANIFEST,
    FileEntry,
    content_entry,
    file_entry,
    list_files,
    manifest_content,
    read_entries,
)

DESCRIPTION, RECORDS, INDEX = "dataset.yaml", "records.jsonl", "index"
_MARK = b"# manifest.json lists the files of this data set.\n"
# The content of a sample is read at 1 to 2 GB/s, so this takes less than 0.1 s.
_SAMPLE_BYTES = 2**26

Entries = dict[str, tuple[FileEntry, ...]]


def write_description(root: Path, content: dict) -> None:
    """Write a dataset.yaml that says that there is a manifest. Raises OSError if that fails."""
    with atomic_file(root / DESCRIPTION) as file:
        file.write(_description(content, True))


def write_manifest(root: Path, known: Mapping[str, FileEntry] | None = None) -> int:
    """Write the manifest of the present files of the data set `root`; return their number.

    known   entries of files that need not be read again

    Raises OSError if that fails.
    """
    known = known or {}
    names = [path.relative_to(root).as_posix() for path in root.rglob("*") if path.is_file()]
    ignored = (f"{INDEX}/", MANIFEST, f"{MANIFEST}.partial")
    listed = [name for name in names if not name.startswith(ignored)]
    _write(root, list_files(root, set(listed) - known.keys()) | known)
    return len(listed)


def replace_records(root: Path, write: Callable[[BinaryIO], dict]) -> None:
    """Replace records.jsonl of the data set `root` by what `write` writes to a file, and dataset.yaml by its result.

    Both are replaced atomically, the records first. Meanwhile the manifest lists the old and the new files, so the data
    set remains readable after a crash in between. Raises UserError if the old files are damaged, what `write` raises,
    and OSError if a file cannot be written.
    """
    has_manifest = (root / MANIFEST).exists()
    others = {}
    if has_manifest:
        others = _read(root)
        before = {name: _check_content(root, name, others.pop(name, ())) for name in (RECORDS, DESCRIPTION)}
        others = {name: entries[0] for name, entries in others.items()}
    with atomic_file(root / RECORDS) as file:
        description = _description(write(file), has_manifest)
        file.flush()
        if has_manifest:
            with Path(file.name).open("rb") as written:
                after = {RECORDS: file_entry(written), DESCRIPTION: content_entry(description)}
            _write(root, others | before, changes=after)
    with atomic_file(root / DESCRIPTION) as file:
        file.write(description)
    if has_manifest:
        _write(root, others | after)


def check_sizes(root: Path, description: bytes) -> None:
    """Compare the size of every file of the data set `root` with its manifest, and the content of dataset.yaml.

    description   the content of its dataset.yaml

    Raises UserError, naming the file, if one is missing or differs, or if the manifest is missing or damaged.
    """
    if not (root / MANIFEST).exists():
        if description.startswith(_MARK[:-1]):
            raise damaged(root, f"it has no {MANIFEST}", _fix(root))
        return
    expected = _read(root)
    if content_entry(description) not in expected.get(DESCRIPTION, ()):
        raise damaged(root / DESCRIPTION, f"its content is not the one in {MANIFEST}", _fix(root))
    for name, entries in expected.items():
        _check_size(root, name, entries)


def check_sample(root: Path, generator: random.Random | None = None, budget: int = _SAMPLE_BYTES) -> None:
    """Compare the content of a random sample of the files of the data set `root` with its manifest.

    generator   chooses the sample; None for another one at each call
    budget      bytes to read, except for a first file that is larger

    Raises UserError, naming the file, if one is missing or differs.
    """
    if not (root / MANIFEST).exists():
        return
    expected = _read(root)
    names = sorted(expected)
    (generator or random.Random()).shuffle(names)
    total = 0
    for number, name in enumerate(names):
        total += expected[name][0].size
        if number and total > budget:
            return
        _check_content(root, name, expected[name])


def check_all(root: Path, advance: Callable[[int], None]) -> int:
    """Compare the content of all files of the data set `root` with its manifest; return their number.

    advance   called with 1 after each file

    Raises UserError with all files that are missing or differ, or if there is no manifest.
    """
    if not (root / MANIFEST).exists():
        raise UserError(
            f"{root} has no {MANIFEST}, so there is nothing to compare it with: write one for the present files with "
            f"{_accept(root)}"
        )
    expected = _read(root)
    errors = []
    for name, entries in expected.items():
        try:
            _check_content(root, name, entries)
        except UserError as error:
            errors.append(str(error))
        advance(1)
    if errors:
        raise UserError(truncate_list(errors, "\n"))
    return len(expected)


def _check_size(root: Path, name: str, entries: Collection[FileEntry]) -> None:
    try:
        status = (root / name).stat()
    except OSError as error:
        raise cannot_read(root / name, error, _fix(root)) from error
    if not stat.S_ISREG(status.st_mode):
        raise damaged(root / name, "not a file", _fix(root))
    found = status.st_size
    sizes = [entry.size for entry in entries]
    if not sizes:
        raise damaged(root / MANIFEST, f"it does not list {name}", _fix(root))
    if found not in sizes:
        raise damaged(root / name, f"{found} bytes instead of the {sizes[0]} in {MANIFEST}", _fix(root))


def _check_content(root: Path, name: str, entries: Collection[FileEntry]) -> FileEntry:
    _check_size(root, name, entries)
    try:
        with (root / name).open("rb") as file:
            found = file_entry(file)
    except OSError as error:
        raise cannot_read(root / name, error, _fix(root)) from error
    if found not in entries:
        raise damaged(root / name, f"its content is not the one in {MANIFEST}", _fix(root))
    return found


def _description(content: dict, has_manifest: bool) -> bytes:
    return _MARK * has_manifest + yaml.safe_dump(content, sort_keys=False).encode()


def _fix(root: Path) -> str:
    return f"restore it or prepare the data set again, or accept a change of your own with {_accept(root)}"


def _accept(root: Path) -> str:
    return f"python -m data.prepare verify {root} --accept"


def _read(root: Path) -> Entries:
    """Return the entries of each file: one, or two while it changes. Raises UserError if the manifest is damaged."""
    try:
        content = (root / MANIFEST).read_bytes()
        entries = {name: (entry,) for name, entry in read_entries(content).items()}
        if any(name.startswith("/") or ".." in Path(name).parts for name in entries):
            raise ValueError("it lists a file outside the data set")
        if b'"changes"' in content:
            for name, entry in read_entries(content, "changes").items():
                entries[name] = (*entries[name], entry)
    except OSError as error:
        raise cannot_read(root / MANIFEST, error, _fix(root)) from error
    except MALFORMED_MANIFEST as error:
        raise damaged(root / MANIFEST, f"{type(error).__name__}: {reason(error)}", _fix(root)) from error
    return entries


def _write(root: Path, entries: Mapping[str, FileEntry], **others: Mapping[str, FileEntry]) -> None:
    with atomic_file(root / MANIFEST) as file:
        file.write(manifest_content(entries, **others))
