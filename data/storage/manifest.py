"""Manifests: size and SHA-256 of the files of a folder.

    {"version": 1, "files": {"weights.pt": {"size": 123, "sha256": "..."}, ...}}

Small JSON files are sealed instead: they contain their own SHA-256.
"""

import hashlib
import json
import os
from collections.abc import Iterable, Mapping
from pathlib import Path
from typing import BinaryIO, NamedTuple

MANIFEST = "manifest.json"
# What reading a manifest that is not well-formed can raise.
MALFORMED_MANIFEST = (ValueError, KeyError, TypeError, AttributeError, OverflowError, RecursionError)


class FileEntry(NamedTuple):
    """Size in bytes and SHA-256 of a file."""

    size: int
    sha256: str


def file_entry(file: BinaryIO) -> FileEntry:
    """Return the entry of an open file. Raises OSError if it cannot be read."""
    file.seek(0)
    return FileEntry(os.fstat(file.fileno()).st_size, hashlib.file_digest(file, "sha256").hexdigest())


def content_entry(content: bytes) -> FileEntry:
    """Return the entry of a file with this content."""
    return FileEntry(len(content), hashlib.sha256(content).hexdigest())


def list_files(folder: Path, names: Iterable[str]) -> dict[str, FileEntry]:
    """Return the entries of the files `names` in `folder`. Raises OSError if one cannot be read."""
    entries = {}
    for name in sorted(names):
        with (folder / name).open("rb") as file:
            entries[name] = file_entry(file)
    return entries


def manifest_content(entries: Mapping[str, FileEntry], **others: Mapping[str, FileEntry]) -> bytes:
    """Return the content of a manifest; `others` are further lists of entries."""
    lists = {"files": entries, **others}
    described = {key: {name: entry._asdict() for name, entry in sorted(each.items())} for key, each in lists.items()}
    return json.dumps({"version": 1, **described}, indent=2).encode() + b"\n"


def read_entries(content: bytes, key: str = "files") -> dict[str, FileEntry]:
    """Return the entries in a list of a manifest. Raises one of MALFORMED_MANIFEST."""
    listed = json.loads(content)[key]
    return {name: FileEntry(int(entry["size"]), str(entry["sha256"])) for name, entry in listed.items()}


def seal(content: dict) -> bytes:
    """Return `content` as JSON with the SHA-256 of all its entries."""
    return json.dumps(content | {"sha256": _seal_digest(content)}).encode() + b"\n"


def unseal(sealed: bytes) -> dict:
    """Return what was sealed. Raises one of MALFORMED_MANIFEST if it was not sealed, or changed since."""
    content = json.loads(sealed)
    if content.pop("sha256", None) != _seal_digest(content):
        raise ValueError("it was changed, or is of an earlier version")
    return content


def _seal_digest(content: dict) -> str:
    return content_entry(json.dumps(content, sort_keys=True).encode()).sha256
