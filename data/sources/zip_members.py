"""Random access to the members of large zip archives.

Reading the directory of an archive with hundreds of thousands of members takes seconds and memory. The main process
reads it once; workers get the offset of each member that they need.
"""

import struct
import zipfile
import zlib
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

from data.errors import cannot_read

# Members are read into memory. The images of the data sets have up to 40 MiB.
LARGEST_MEMBER = 1 << 28
_LOCAL_HEADER = struct.Struct("<4s22xHH")


@dataclass(frozen=True, slots=True)
class ZipMember:
    """The position of a file in a zip archive.

    offset            of its local header
    compressed, size  bytes in the archive, and uncompressed
    method            zipfile.ZIP_STORED or zipfile.ZIP_DEFLATED
    checksum          CRC-32 of the uncompressed bytes
    """

    name: str
    offset: int
    compressed: int
    size: int
    method: int
    checksum: int


def list_members(path: Path) -> Iterator[ZipMember]:
    """Yield the files of an archive, in the order of its directory. Raises UserError if it cannot be read."""
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
        raise cannot_read(f"the archive {path}", error, "download the archive again") from error


def read_member(path: Path, member: ZipMember) -> bytes:
    """Return the uncompressed bytes of a member of the archive at `path`. Raises UserError if they are damaged."""
    try:
        if max(member.compressed, member.size) > LARGEST_MEMBER:
            raise ValueError(f"it has {member.size} bytes")
        with path.open("rb") as file:
            file.seek(member.offset)
            signature, name_length, extra_length = _LOCAL_HEADER.unpack(file.read(_LOCAL_HEADER.size))
            if signature != b"PK\3\4":
                raise ValueError("no local header at its offset")
            file.seek(name_length + extra_length, 1)
            content = file.read(member.compressed)
        if member.method == zipfile.ZIP_DEFLATED:
            # One byte more than stated: a damaged member that unpacks to more must not fill the memory.
            content = zlib.decompressobj(-zlib.MAX_WBITS).decompress(content, member.size + 1)
        elif member.method != zipfile.ZIP_STORED:
            raise ValueError(f"compression method {member.method}")
        if len(content) != member.size or zlib.crc32(content) != member.checksum:
            raise ValueError("wrong checksum")
    except (OSError, ValueError, struct.error, zlib.error) as error:
        raise cannot_read(f"{member.name} in {path}", error, "download the archive again") from error
    return content
