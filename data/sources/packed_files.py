"""Files in folders and archives, addressed so that any process can read them in any order."""

import gzip
import os
import tarfile
import zlib
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import BinaryIO

from data.errors import UserError, cannot_read, missing
from data.sources.fingerprints import path_fingerprint
from data.sources.zip_members import LARGEST_MEMBER, ZipMember, list_members, read_member
from data.storage.bounded_tar import open_tar

ARCHIVE_SUFFIXES = (".tgz", ".tar.gz", ".tar", ".zip")
# Reports compress to a tenth, images hardly; a file made to fill the disk, to a thousandth.
_LARGEST_RATIO = 100
_CHUNK = 1 << 20
_TAR_ERRORS = (tarfile.TarError, OSError, EOFError, zlib.error, ValueError)


@dataclass(frozen=True, slots=True)
class PackedFile:
    """A file: `path` itself, `size` bytes from `offset` on in the uncompressed tar `path`, or a member of a zip."""

    path: Path
    offset: int | None = None
    size: int = 0
    member: ZipMember | None = None

    def content(self) -> Path | bytes:
        """Return the path of a plain file, else the bytes. Raises UserError or OSError if they cannot be read."""
        if self.member is not None:
            return read_member(self.path, self.member)
        if self.offset is None:
            return self.path
        if self.size > LARGEST_MEMBER:
            raise _damaged(self.path, ValueError(f"a member has {self.size} bytes"))
        with self.path.open("rb") as file:
            file.seek(self.offset)
            return file.read(self.size)

    def read(self) -> bytes:
        """Return the bytes. Raises UserError or OSError if they cannot be read."""
        content = self.content()
        return content.read_bytes() if isinstance(content, Path) else content


def list_paths(sources: Sequence[Path]) -> Iterator[Path]:
    """Yield the files among and below `sources`, in a stable order, without hidden ones.

    Raises UserError if a source does not exist.
    """
    for source in sources:
        if not source.exists():
            raise missing("source", source, "give an existing folder or file as --source")
        if not source.is_dir():
            yield source
            continue
        for folder, folders, names in os.walk(source):
            folders[:] = sorted(name for name in folders if not name.startswith("."))
            yield from (Path(folder, name) for name in sorted(names) if not name.startswith("."))


def is_archive(path: Path) -> bool:
    """Whether the name is that of an archive that `list_archive` reads."""
    return path.name.lower().endswith(ARCHIVE_SUFFIXES)


def list_archive(archive: Path, scratch: Path) -> Iterator[tuple[str, PackedFile]]:
    """Yield the name and the position of every file in a zip or tar archive, without hidden ones.

    A compressed tar is first uncompressed into the folder `scratch`, since its members cannot be read in any order; a
    copy from before is used again. Raises UserError if the archive is damaged or the disk is full.
    """
    if archive.name.lower().endswith(".zip"):
        files = ((member.name, PackedFile(archive, member=member)) for member in list_members(archive))
    else:
        files = _list_tar(archive, scratch)
    for name, file in files:
        if not name.rpartition("/")[2].startswith("."):
            yield name, file


def _list_tar(archive: Path, scratch: Path) -> Iterator[tuple[str, PackedFile]]:
    try:
        plain = _uncompress(archive, scratch) if _is_compressed(archive) else archive
        with open_tar(plain, "r:") as members:
            for member in members:
                if member.isreg() and not member.issparse():
                    yield member.name, PackedFile(plain, member.offset_data, member.size)
    except _TAR_ERRORS as error:
        raise _damaged(archive, error) from error


def _is_compressed(archive: Path) -> bool:
    with archive.open("rb") as file:
        return file.read(2) == b"\x1f\x8b"


def _uncompress(archive: Path, scratch: Path) -> Path:
    plain = scratch / f"{path_fingerprint(archive)}.tar"
    if not plain.exists():
        scratch.mkdir(parents=True, exist_ok=True)
        unfinished = plain.with_suffix(".unfinished")
        with gzip.open(archive) as packed, unfinished.open("wb") as file:
            try:
                _copy(packed, file, _LARGEST_RATIO * archive.stat().st_size + _CHUNK)
            except BaseException:
                unfinished.unlink()
                raise
        unfinished.replace(plain)
    return plain


def _copy(source: BinaryIO, target: BinaryIO, limit: int) -> None:
    """Copy all bytes. Raises ValueError if they are more than `limit`."""
    copied = 0
    while chunk := source.read(_CHUNK):
        copied += len(chunk)
        if copied > limit:
            raise ValueError(f"it unpacks to more than {_LARGEST_RATIO} times its size")
        target.write(chunk)


def _damaged(path: Path, error: Exception) -> UserError:
    return cannot_read(f"the archive {path}", error, "download it again, or unpack it and give the folder")
