"""The folder of unfinished work, `.NAME.unfinished` beside a data set that is being prepared.

    lock             held while a process works there
    settings.yaml    what is being prepared; a preparation with other settings is refused
    parts/           finished parts
    dataset/         the data set, moved to its place at the very end
"""

import fcntl
import os
import shutil
import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import BinaryIO

import yaml

from data.errors import UserError, damaged
from data.storage.atomic_files import write_yaml

_SECONDS_FOR_WORKERS_TO_END = 2.0
_BUSY = "Another process is preparing {out}: wait for it, or choose another --out"


def work_folder(out: Path) -> Path:
    """Return the folder of unfinished work on the data set `out`."""
    return out.parent / f".{out.name}.unfinished"


@contextmanager
def lock(folder: Path, out: Path) -> Iterator[None]:
    """Lock the work folder of `out` against other processes, until this process and the workers that it forks end.

    The workers of a process that was just killed may still write: the lock waits until they have ended. Raises
    UserError if another process holds the lock.
    """
    with (folder / "lock").open("wb") as file:
        end = time.monotonic() + _SECONDS_FOR_WORKERS_TO_END
        while not _is_locked(file):
            if time.monotonic() > end:
                raise UserError(_BUSY.format(out=out))
            time.sleep(0.02)
        if not os.fstat(file.fileno()).st_nlink:  # the other process has finished, and removed the folder
            raise UserError(_BUSY.format(out=out))
        yield


def _is_locked(file: BinaryIO) -> bool:
    """Lock an open file and return whether that succeeded. Forked workers hold this kind of lock too."""
    try:
        fcntl.flock(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
    except (BlockingIOError, PermissionError):
        return False
    return True


def start_or_resume(folder: Path, settings: dict) -> None:
    """Set up the work folder for a preparation with these settings, or resume an interrupted one.

    Raises UserError, naming the differences, if a preparation with other settings was started there, and if its
    settings cannot be read.
    """
    images = folder / "dataset" / "images"
    if not images.is_dir():
        # Either nothing was done yet, or the data set was already moved to its place: then its parts are obsolete.
        shutil.rmtree(folder / "parts", ignore_errors=True)
        images.mkdir(parents=True)
    (folder / "parts").mkdir(exist_ok=True)
    path = folder / "settings.yaml"
    if not path.exists():
        write_yaml(path, settings)
    try:
        found = yaml.safe_load(path.read_text(encoding="utf-8"))
    except (yaml.YAMLError, ValueError, RecursionError):
        found = None
    if not isinstance(found, dict):
        raise damaged(path, "not a YAML mapping", f"delete the folder {folder}")
    if differences := differing_settings(found, settings):
        raise UserError(
            f"{folder} holds an interrupted preparation with different settings ({differences}): "
            "repeat that command, delete the folder, or choose another --out"
        )


def differing_settings(found: dict, settings: dict) -> str:
    """Return the names of the `settings` that differ in `found`, for display; "" if all agree."""
    names = []
    for key, value in settings.items():
        other = found.get(key)
        if isinstance(value, dict) and isinstance(other, dict):
            names += [f"{key}.{name}" for name in {**value, **other} if value.get(name) != other.get(name)]
        elif value != other:
            names.append(key)
    return ", ".join(names)
