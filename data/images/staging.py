"""Copying image shards to a local disk before they are read, once for all processes of a machine."""

import fcntl
import hashlib
import shutil
from pathlib import Path

from data.errors import UserError, cannot_write


class StagingError(UserError):
    """The local disk cannot take a shard; no study is to blame."""


def stage_shard(shard: Path, folder: Path) -> Path:
    """Return the copy of `shard` in `folder`, after making it if absent.

    A read of a whole shard is sequential, which shared file systems do well; the random reads then go to the local
    disk. Copies are named after the path, size and time of the original, so a changed data set is copied again and
    several data sets may share the folder. Processes wait for the one that copies. Raises StagingError if the folder
    cannot be written, and OSError if the shard cannot be read.
    """
    status = shard.stat()
    key = f"{shard.resolve()} {status.st_size} {status.st_mtime_ns}"
    copy = folder / f"{shard.stem}-{hashlib.sha256(key.encode()).hexdigest()[:16]}{shard.suffix}"
    with shard.open("rb") as source:
        try:
            folder.mkdir(parents=True, exist_ok=True)
            with copy.with_suffix(".lock").open("w") as lock:
                fcntl.flock(lock, fcntl.LOCK_EX)
                if not copy.exists():
                    partial = copy.with_suffix(".partial")
                    with partial.open("wb") as target:
                        shutil.copyfileobj(source, target, length=2**22)
                    partial.replace(copy)
        except OSError as error:
            fix = "free space, choose another folder, or use null to read from the data set"
            raise StagingError(str(cannot_write(f"data.stage_dir={folder}", error, fix))) from error
    return copy
