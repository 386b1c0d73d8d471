"""Writing files and folders so that readers see either nothing, the old content or all of the new content."""

import fcntl
import os
import re
import secrets
import shutil
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from functools import lru_cache
from pathlib import Path
from typing import BinaryIO

import yaml

_TEMPORARY = re.compile(r"\.(?P<name>.+)\.\d+\.tmp")


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


@contextmanager
def private_temporary(path: Path) -> Iterator[BinaryIO]:
    """Open a binary file beside `path`, `.NAME.PID.tmp`, which can be renamed to it; removed at the end if left.

    Those of killed processes are removed first. A running process holds a lock on its file.
    """
    for leftover in _leftovers(path.parent).pop(path.name, ()):
        _remove_unlocked(leftover)
    temporary = path.with_name(f".{path.name}.{os.getpid()}.tmp")
    file = temporary.open("wb")
    try:
        while not _lock(file) or not _is_at(file, temporary):  # removed by another process before it was locked
            file.close()
            file = temporary.open("wb")
        yield file
    finally:
        try:
            file.close()  # writes what is buffered, which fails on a full disk
        finally:
            temporary.unlink(missing_ok=True)


@lru_cache(maxsize=64)
def _leftovers(folder: Path) -> dict[str, list[Path]]:
    """Return the temporary files in `folder` at the first call, by the name of the file that they stand for."""
    found: dict[str, list[Path]] = {}
    for path in folder.glob(".*.tmp"):
        if match := _TEMPORARY.fullmatch(path.name):
            found.setdefault(match["name"], []).append(path)
    return found


def _remove_unlocked(path: Path) -> None:
    with suppress(OSError), path.open("rb") as file:
        fcntl.flock(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
        path.unlink()


def _lock(file: BinaryIO) -> bool:
    """Lock a file of this process. Return True also on file systems without locks, where nothing is removed."""
    try:
        fcntl.flock(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
    except BlockingIOError:
        return False
    except OSError:
        pass
    return True


def _is_at(file: BinaryIO, path: Path) -> bool:
    with suppress(FileNotFoundError):
        return os.path.samestat(os.fstat(file.fileno()), path.stat())
    return False


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
