"""Writing files and folders so that readers see either nothing, the old content or all of the new content."""

import fcntl
import os
import secrets
import shutil
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from pathlib import Path
from typing import BinaryIO

import yaml


@contextmanager
def atomic_file(path: Path) -> Iterator[BinaryIO]:
    """Open a binary file that replaces `path` once it is complete and on disk. On an error, `path` is unchanged."""
    temporary = path.with_name(f"{path.name}.partial")
    try:
        with temporary.open("wb") as file:
            yield file
            file.flush()
            os.fsync(file.fileno())
        temporary.replace(path)
    except (Exception, KeyboardInterrupt):
        temporary.unlink(missing_ok=True)
        raise


def write_yaml(path: Path, content: dict) -> None:
    """Write `content` to `path` atomically."""
    with atomic_file(path) as file:
        file.write(yaml.safe_dump(content, sort_keys=False).encode())


@contextmanager
def atomic_folder(path: Path) -> Iterator[Path]:
    """Create a folder that becomes `path` once it is complete. On an error, `path` is unchanged.

    An existing `path` is replaced; for a moment, neither exists.
    """
    temporary = path.with_name(f"{path.name}.partial-{os.getpid()}-{secrets.token_hex(4)}")
    temporary.mkdir()
    try:
        yield temporary
        shutil.rmtree(path, ignore_errors=True)
        temporary.rename(path)
    except (Exception, KeyboardInterrupt):
        shutil.rmtree(temporary, ignore_errors=True)
        raise


@contextmanager
def folder_lock(folder: Path) -> Iterator[bool]:
    """Wait until no other process holds the lock of `folder`, then hold it.

    Yields False, without a lock, on file systems that cannot lock folders. The lock ends with the process.
    """
    descriptor = os.open(folder, os.O_RDONLY)
    try:
        try:
            fcntl.flock(descriptor, fcntl.LOCK_EX)
            locked = True
        except OSError:
            locked = False
        yield locked
    finally:
        with suppress(OSError):  # a process forked meanwhile has a copy of the descriptor, so closing is not enough
            fcntl.flock(descriptor, fcntl.LOCK_UN)
        os.close(descriptor)
