"""Bounds of files that torch.save wrote, checked before they are read."""

import io
import os
import re
import struct
import zipfile
from typing import BinaryIO

from models.trunks.pickle_bounds import check_pickle

# The structure beside the tensors; that of the largest model takes a few hundred KiB. In memory it can take 200 times
# as much.
LARGEST_PICKLE = 4 << 20
# torch.load ignores case.
PICKLE_NAME = re.compile(r"(?:[^/]*/)?data\.pkl", re.IGNORECASE)
# torch.load reads a file as an archive if it starts with this.
_ARCHIVE_START = b"PK\3\4"
# Older versions of PyTorch wrote five pickles, and the tensors after them.
_PICKLES_WITHOUT_ARCHIVE = 5
# Sizes of the records at the end of an archive: of an ordinary one, and of one with more than 4 GiB.
_END, _LARGE_END = 22, 98


def check_torch_file(file: BinaryIO) -> None:
    """Raise ValueError if torch.load would take much more memory for the file than its tensors do.

    Raises zipfile.BadZipFile for a damaged archive.
    """
    if _is_archive(file):
        check_archive(file)
        return
    start = io.BytesIO(file.read(LARGEST_PICKLE + 1))
    complete = all(check_pickle(start) for _ in range(_PICKLES_WITHOUT_ARCHIVE))
    file.seek(0)
    if not complete and len(start.getvalue()) > LARGEST_PICKLE:
        raise ValueError(f"its structure has more than {LARGEST_PICKLE >> 20} MiB")


def check_archive(file: BinaryIO) -> None:
    """Raise ValueError unless the zip archive is one without compression, as torch.save writes it, and of few entries.

    Raises zipfile.BadZipFile for a file that is not a zip archive.
    """
    if not _is_archive(file):
        raise zipfile.BadZipFile("File is not a zip file")
    size = os.fstat(file.fileno()).st_size
    with zipfile.ZipFile(file) as archive:
        _check_directory(file, size)
        entries = archive.infolist()
        for entry in entries:
            if entry.compress_type != zipfile.ZIP_STORED:
                raise ValueError(f"{entry.filename[:40]} is compressed")
            if entry.filename != entry.orig_filename:
                raise ValueError(f"the name of {entry.filename[:40]} is malformed")
        if sum(entry.file_size for entry in entries) > size:
            raise ValueError("its parts are larger than the file")
        pickles = [entry for entry in entries if PICKLE_NAME.fullmatch(entry.filename)]
        if len(pickles) > 1:
            raise ValueError(f"it has {len(pickles)} structures")
        for entry in pickles:
            if entry.file_size > LARGEST_PICKLE:
                raise ValueError(f"{entry.filename[:40]} has {entry.file_size >> 20} MiB")
            check_pickle(io.BytesIO(archive.read(entry)))
    file.seek(0)


def _is_archive(file: BinaryIO) -> bool:
    """Whether torch.load reads the file as an archive. It is then at its start."""
    file.seek(0)
    start = file.read(len(_ARCHIVE_START))
    file.seek(0)
    return start == _ARCHIVE_START


def _check_directory(file: BinaryIO, size: int) -> None:
    """Raise ValueError unless the directory is directly before the end of the archive, where it is said to be.

    Elsewhere, zipfile and torch.load could find different directories.
    """
    file.seek(max(size - _LARGE_END, 0))
    end = file.read()
    directory_size, start, comment = struct.unpack("<2LH", end[-10:])
    at = size - _END
    if len(end) == _LARGE_END and end.startswith(b"PK\6\6") and end[56:60] == b"PK\6\7":
        at = size - _LARGE_END
        directory_size, start = struct.unpack("<2Q", end[40:56])
        if struct.unpack("<Q", end[64:72]) != (at,):
            raise ValueError("its directory is not at its end")
    elif end[-42:-38] == b"PK\6\7":
        raise ValueError("its directory is not at its end")
    if comment or start + directory_size != at or end[-_END:][:4] != b"PK\5\6":
        raise ValueError("its directory is not at its end")
