"""Small disks that are almost full."""

import ctypes
import os
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

_DETACH = 2


class NotPossible(Exception):
    """What a trial needs is not allowed on this machine; the message says what."""


@contextmanager
def small_disk(path: Path, total: int, free: int) -> Iterator[tuple[Path, Path]]:
    """Mount a disk in memory at `path`; yield its folder and the file that fills it, but for about `free` bytes.

    Raises NotPossible if this process may not mount.
    """
    libc = ctypes.CDLL(None, use_errno=True)
    path.mkdir()
    if libc.mount(b"tmpfs", os.fsencode(path), b"tmpfs", 0, f"size={total}".encode()):
        raise NotPossible(f"mounting a small disk: {os.strerror(ctypes.get_errno())}")
    try:
        filler = path / "filler"
        with filler.open("wb") as file:
            os.posix_fallocate(file.fileno(), 0, total - free)
        yield path, filler
    finally:
        libc.umount2(os.fsencode(path), _DETACH)
