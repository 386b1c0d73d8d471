"""Reading files of JSON lines and tables within bounded memory."""

from collections.abc import Iterator
from itertools import count
from pathlib import Path
from typing import IO, AnyStr

from data.errors import damaged

# A record of Chest ImaGenome takes 20 KiB. Parsed, a line of this size can take 0.4 GiB.
LARGEST_LINE = 1 << 24


def bounded_lines(file: IO[AnyStr], path: Path | str, first: int = 1) -> Iterator[AnyStr]:
    """Yield the lines of `file`, which is at `path`, from where it is: line number `first`.

    Raises UserError, naming the line, for one of more than 16 MiB, or in a text file as many characters. A few MiB of a
    compressed file can unpack to a line of several GiB.
    """
    for number in count(first):
        line = file.readline(LARGEST_LINE + 1)
        if not line:
            return
        if len(line) > LARGEST_LINE:
            raise damaged(f"{path} line {number}", f"longer than {LARGEST_LINE >> 20} MiB", "restore or replace it")
        yield line
