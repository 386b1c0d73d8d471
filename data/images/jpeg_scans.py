"""Counts the scans of a JPEG before it is decoded.

A decoder passes over all pixels once per scan. A progressive JPEG has about ten scans, but its format allows any
number: a file of a few kilobytes can keep a decoder busy for hours.
"""

import re

from data.errors import UserError

# libtiff has the same limit for JPEGs in TIFF files (LIBTIFF_JPEG_MAX_ALLOWED_SCAN_NUMBER).
MAX_SCANS = 100
# A segment holds up to 64 KiB of metadata; 512 MiB of it are 8192 segments.
_MAX_SEGMENTS = 20_000
# A marker that is followed by a length. 0xFF 0x00 is a byte of compressed pixels; TEM (0x01), RST0..7 (0xD0..0xD7) and
# SOI (0xD8) have no length. A decoder too skips bytes up to the next marker.
_MARKER = re.compile(rb"\xff([^\x00\x01\xd0-\xd8\xff])")
_START_OF_SCAN, _END_OF_IMAGE = b"\xda", b"\xd9"


def check_scans(content: bytes, name: str) -> None:
    """Raise UserError if `content` is a JPEG with more than `MAX_SCANS` scans. Anything else passes."""
    if not content.startswith(b"\xff\xd8"):
        return
    position = scans = 0
    for _ in range(_MAX_SEGMENTS):
        marker = _MARKER.search(content, position)
        if marker is None or marker[1] == _END_OF_IMAGE:
            return
        if marker[1] == _START_OF_SCAN:
            scans += 1
            if scans > MAX_SCANS:
                raise UserError(f"{name} is a JPEG of more than {MAX_SCANS} scans, too many for an image: replace it")
        position = marker.end() + max(2, int.from_bytes(content[marker.end() : marker.end() + 2], "big"))
    raise UserError(f"{name} is a JPEG of more than {_MAX_SEGMENTS} segments, too many for an image: replace it")
