"""The images of a prepared data set: packed into tar shards, or single files.

Hundreds of thousands of single files are slow to copy, list and open. So images are packed into tar shards, which any
tar program and WebDataset can read, and a record refers to the bytes of an image: `images/00003.tar@OFFSET+SIZE`.
Images can be read in any order and by any process.
"""

import errno
import io
import os
import re
import tarfile
import time
from functools import lru_cache
from pathlib import Path
from typing import BinaryIO

import numpy as np
from PIL import Image

from data.images.staging import stage_shard

# Compared with PNG, JPEG of this quality takes 60% of the bytes and 30% of the decoding time (18 KiB and 0.2 ms for a
# radiograph of 256 pixels), with an error of 1.1 grey levels (root mean square), less than the noise of a radiograph.
JPEG_QUALITY = 95
# Default short side of prepared images, in pixels.
IMAGE_SIDE = 256

_PACKED_REFERENCE = re.compile(r"(?P<shard>.+\.tar)@(?P<offset>\d+)\+(?P<size>\d+)")
# More than the 185 shards of MIMIC-CXR, and far below the usual limit of 1,024 open files.
_MAX_OPEN_SHARDS = 256

# Errors of network and shared file systems that usually pass, and the seconds to wait before reading again.
_TRANSIENT = {
    errno.EAGAIN, errno.EBUSY, errno.ECONNABORTED, errno.ECONNREFUSED, errno.ECONNRESET, errno.EHOSTDOWN,
    errno.EHOSTUNREACH, errno.EIO, errno.ENETDOWN, errno.ENETRESET, errno.ENETUNREACH, errno.ENOTCONN, errno.EREMOTEIO,
    errno.ESHUTDOWN, errno.ESTALE, errno.ETIMEDOUT,
}  # fmt: skip
_WAITS = (0.1, 0.5, 2.0)


def encode_image(pixels: np.ndarray, image_size: int) -> bytes:
    """Encode pixels, [height, width] uint8, as a grey JPEG; a short side above `image_size` is reduced to it."""
    image = Image.fromarray(pixels)
    scale = image_size / min(image.size)
    if scale < 1:
        width, height = (max(image_size, round(side * scale)) for side in image.size)
        image = image.resize((width, height), Image.Resampling.BILINEAR, reducing_gap=3.0)
    encoded = io.BytesIO()
    image.save(encoded, "JPEG", quality=JPEG_QUALITY)
    return encoded.getvalue()


class ShardWriter:
    """Writes images to a tar shard; equal images and names result in equal bytes."""

    def __init__(self, file: BinaryIO, reference: str):
        """Start a shard.

        file       open for writing, at its start
        reference  the path of the shard relative to the folder of the data set
        """
        self._file = file
        self._reference = reference
        self._tar = tarfile.open(fileobj=file, mode="w", format=tarfile.USTAR_FORMAT)

    def add(self, study_id: str, position: int, encoded: bytes) -> str:
        """Append the image at `position` of a study, and return its reference for the record.

        Members are called `STUDY.POSITION.jpg`: WebDataset groups them into one sample per study.
        """
        name = re.sub(r"[^A-Za-z0-9_-]", "_", study_id)[:80]
        member = tarfile.TarInfo(f"{name}.{position}.jpg")
        member.size = len(encoded)
        self._tar.addfile(member, io.BytesIO(encoded))
        padded_size = -(-len(encoded) // tarfile.BLOCKSIZE) * tarfile.BLOCKSIZE
        return f"{self._reference}@{self._file.tell() - padded_size}+{len(encoded)}"

    def close(self) -> None:
        """Write the end of the archive, without closing the file."""
        self._tar.close()


def read_image_bytes(root: Path, reference: str, stage_dir: Path | None = None) -> bytes:
    """Return the encoded image that a record of the prepared data set in `root` refers to.

    Errors that usually pass, such as a stale NFS handle, are retried three times within 3 seconds.

    stage_dir  folder on a local disk to which a shard is copied before its first use; None reads it in place

    Raises OSError if the file is missing or cannot be read, EOFError if a shard is too short, and UserError if
    `stage_dir` cannot be written.
    """
    for wait in (*_WAITS, None):
        try:
            return _read_once(root, reference, stage_dir)
        except OSError as error:
            if wait is None or error.errno not in _TRANSIENT:
                raise
            _open_shard.cache_clear()  # a stale handle stays stale
            time.sleep(wait)


def _read_once(root: Path, reference: str, stage_dir: Path | None) -> bytes:
    match = _PACKED_REFERENCE.fullmatch(reference)
    if match is None:
        return (root / reference).read_bytes()
    size = int(match["size"])
    content = os.pread(_open_shard(root / match["shard"], stage_dir).descriptor, size, int(match["offset"]))
    if len(content) != size:
        raise EOFError(f"{match['shard']} is truncated")
    return content


class _OpenShard:
    """A file descriptor that is closed when it is garbage-collected.

    Forked processes can share it, because `os.pread` does not use the common file position.
    """

    def __init__(self, path: Path, stage_dir: Path | None):
        local = path if stage_dir is None else stage_shard(path, stage_dir)
        self.descriptor = os.open(local, os.O_RDONLY | os.O_CLOEXEC)

    def __del__(self) -> None:
        if hasattr(self, "descriptor"):
            os.close(self.descriptor)


_open_shard = lru_cache(maxsize=_MAX_OPEN_SHARDS)(_OpenShard)
