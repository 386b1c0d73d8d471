"""Members of large zip archives, read by their place.

The directory of an archive with hundreds of thousands of members takes seconds and memory to read. The main process
reads it once; a worker gets the place of what it needs and opens nothing else.
"""

import struct
import zipfile
import zlib
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

from data.errors import UserError

_LOCAL_HEADER = struct.Struct("<4s22xHH")


@dataclass(frozen=True, slots=True)
class ZipMember:
    """Where a file lies in a zip archive.

    offset            of its local header
    compressed, size  bytes in the archive and unpacked
    method            zipfile.ZIP_STORED or zipfile.ZIP_DEFLATED
    checksum          CRC-32 of the unpacked bytes
    """

    name: str
    offset: int
    compressed: int
    size: int
    method: int
    checksum: int


def list_members(path: Path) -> Iterator[ZipMember]:
    """The files of an archive, in the order of its directory. Raises UserError where it cannot be read."""
    try:
        with zipfile.ZipFile(path) as archive:
            for entry in archive.infolist():
                if not entry.is_dir():
                    yield ZipMember(
                        entry.filename,
                        entry.header_offset,
                        entry.compress_size,
                        entry.file_size,
                        entry.compress_type,
                        entry.CRC,
                    )
    except (OSError, zipfile.BadZipFile, ValueError, RuntimeError) as error:
        reason = getattr(error, "strerror", None) or str(error) or type(error).__name__
        raise UserError(f"Cannot read the archive {path} ({reason}): fetch the file again") from error


def read_member(path: Path, member: ZipMember) -> bytes:
    """The unpacked bytes of a member of the archive at `path`. Raises UserError where they are damaged."""
    try:
        with path.open("rb") as file:
            file.seek(member.offset)
            signature, name_length, extra_length = _LOCAL_HEADER.unpack(file.read(_LOCAL_HEADER.size))
            if signature != b"PK\3\4":
                raise ValueError("no file begins there")
            file.seek(name_length + extra_length, 1)
            content = file.read(member.compressed)
        if member.method == zipfile.ZIP_DEFLATED:
            # One byte more than stated: a member that unpacks to more is damaged, and must not fill the memory.
            content = zlib.decompressobj(-zlib.MAX_WBITS).decompress(content, member.size + 1)
        elif member.method != zipfile.ZIP_STORED:
            raise ValueError(f"compression method {member.method}")
        if len(content) != member.size or zlib.crc32(content) != member.checksum:
            raise ValueError("its checksum differs")
    except (OSError, ValueError, struct.error, zlib.error) as error:
        raise UserError(f"{path}: cannot read {member.name} ({error}): fetch the archive again") from error
    return content
