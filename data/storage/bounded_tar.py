"""Reading tar archives within bounded memory and disk space."""

import tarfile
from pathlib import Path

# The longest path on Linux has 4,096 bytes; extended headers have a few further fields.
_LARGEST_NAME = 1 << 20
_NAMES = (
    tarfile.GNUTYPE_LONGNAME, tarfile.GNUTYPE_LONGLINK, tarfile.XHDTYPE, tarfile.XGLTYPE, tarfile.SOLARIS_XHDTYPE
)  # fmt: skip


class _BoundedTarInfo(tarfile.TarInfo):
    """A member whose name and extended headers, which tarfile reads into memory, have at most a MiB."""

    @classmethod
    def frombuf(cls, buf: bytes, encoding: str, errors: str) -> "tarfile.TarInfo":
        """See `tarfile.TarInfo`. Raises ReadError if the header is too large."""
        member = super().frombuf(buf, encoding, errors)
        if member.type in _NAMES and member.size > _LARGEST_NAME:
            raise tarfile.ReadError(f"the name of a member has {member.size} bytes")
        return member


def open_tar(path: Path, mode: str = "r") -> tarfile.TarFile:
    """Open a tar archive as `tarfile.open` does. It raises ReadError for a name of more than a MiB, when it is read."""
    return tarfile.open(path, mode, tarinfo=_BoundedTarInfo)
