"""The manifest of a checkpoint, size and SHA-256 of each of its files, and reading the files of one save together.

The first line of config.yaml says that there is a manifest, so that its absence shows. Checkpoints of earlier versions
have neither.
"""

import os
import time
from collections.abc import Collection, Iterator, Mapping, Sequence
from contextlib import ExitStack, contextmanager
from pathlib import Path
from typing import BinaryIO

from data.errors import damaged, reason
from data.storage.lines import LARGEST_LINE
from data.storage.manifest import MALFORMED_MANIFEST, MANIFEST, file_entry, list_files, manifest_content, read_entries

# The first line of a configuration that is listed in a manifest.
MARK = b"# manifest.json lists the files of this checkpoint.\n"

# While a save replaces another one, the folder is absent for a moment.
_ATTEMPTS, _WAIT_SECONDS = 40, 0.05


def build_manifest(folder: Path, names: Collection[str]) -> bytes:
    """Return the content of the manifest of the files `names` in `folder`."""
    return manifest_content(list_files(folder, names))


@contextmanager
def open_save(directory: Path, names: Sequence[str]) -> Iterator[dict[str, BinaryIO]]:
    """Open those of the files `names` that exist in `directory`, all of the same save.

    They stay readable when another save replaces the folder meanwhile. Raises OSError if the folder cannot be read.
    """
    for attempt in range(_ATTEMPTS):
        with ExitStack() as stack:
            try:
                descriptor = os.open(directory, os.O_RDONLY | os.O_DIRECTORY)
                stack.callback(os.close, descriptor)
                files = {name: file for name in names if (file := _open(name, descriptor, stack)) is not None}
                is_current = os.path.samestat(os.fstat(descriptor), directory.stat())
            except FileNotFoundError:
                if attempt == _ATTEMPTS - 1:
                    raise
                is_current = False
            if is_current:
                yield files
                return
        time.sleep(_WAIT_SECONDS)
    raise TimeoutError(f"{directory} is replaced all the time")


def _open(name: str, descriptor: int, stack: ExitStack) -> BinaryIO | None:
    """Open the file `name` in an open folder; None if absent."""
    try:
        return stack.enter_context(os.fdopen(os.open(name, os.O_RDONLY, dir_fd=descriptor), "rb"))
    except FileNotFoundError:
        return None


def check_manifest(directory: Path, files: Mapping[str, BinaryIO], config: str, fix: str) -> None:
    """Raise UserError, naming the file, if one of the open `files` is not what the manifest among them lists.

    Without a manifest nothing is checked, unless the file `config` says that there is one.

    fix   what to do, for the message
    """
    if MANIFEST not in files:
        first_line = _rewound(files[config]).read(len(MARK)) if config in files else b""
        if first_line == MARK:
            raise damaged(f"Checkpoint {directory}", f"it has no {MANIFEST}", fix)
        for file in files.values():
            file.seek(0)
        return
    try:
        expected = read_entries(_rewound(files[MANIFEST]).read(LARGEST_LINE))  # a longer one ends within a value
    except MALFORMED_MANIFEST as error:
        raise damaged(directory / MANIFEST, f"{type(error).__name__}: {reason(error)}", fix) from error
    for name, file in files.items():
        if name == MANIFEST:
            continue
        if name not in expected:
            raise damaged(directory / MANIFEST, f"it does not list {name}", fix)
        size, digest = expected[name]
        found = os.fstat(file.fileno()).st_size
        if found != size:
            raise damaged(directory / name, f"{found} bytes instead of the {size} in {MANIFEST}", fix)
        if file_entry(file).sha256 != digest:
            raise damaged(directory / name, f"its content is not the one in {MANIFEST}", fix)
        file.seek(0)


def _rewound(file: BinaryIO) -> BinaryIO:
    file.seek(0)
    return file
