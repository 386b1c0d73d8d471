"""The part of METEOR's paraphrase table that given texts can use.

The whole table holds five million pairs of phrases. Reading it takes METEOR as long as scoring thousands of reports
and a gigabyte of memory, at every start. A pair can only match where all words of both phrases stand in the texts: the
pairs for which that is possible are some ten thousands, and METEOR gives the same scores with them as with all.

This module is also a program, so that the filter can have a core of its own; it imports nothing but the standard
library.

    python paraphrases.py TABLE FILTERED < TEXTS
"""

import gzip
import re
import sys
from collections.abc import Iterable, Iterator
from pathlib import Path

_RUN = re.compile(rb"[a-z0-9]+")
_DOTTED_RUNS = re.compile(rb"[a-z0-9]+(?:\.[a-z0-9]+)+")
# Lower-casing turns it into an ASCII letter, and METEOR makes a word of its own of it.
_KELVIN_SIGN = "\u212a"
_LINES_A_PAIR = 3  # probability, phrase, phrase
_BLOCK = 2**20  # bytes of the table at a time


def filter_paraphrases(table: Path, filtered: Path, text: str) -> int:
    """Write the pairs of `table` that METEOR can find between lines of `text` to `filtered`; how many they are.

    Both files are gzipped and hold three lines a pair; the order is kept. Raises OSError for files that cannot be read
    or written.
    """
    possible = _PossibleWords(runs_of_words(text))
    pairs, last_phrase, last_possible = 0, None, False
    with gzip.open(filtered, "wb", compresslevel=1) as file:
        for lines in _blocks_of_lines(table):
            phrases = zip(lines[1::_LINES_A_PAIR], lines[2::_LINES_A_PAIR], strict=True)
            for pair, (first, second) in enumerate(phrases):
                if first != last_phrase:  # the table is sorted by first phrase
                    last_phrase, last_possible = first, possible.all_of(first)
                if last_possible and possible.all_of(second):
                    file.write(b"%b\n%b\n%b\n" % (lines[_LINES_A_PAIR * pair], first, second))
                    pairs += 1
    return pairs


def runs_of_words(text: str) -> frozenset[bytes]:
    """All runs of ASCII letters and digits that METEOR's words for `text` can hold, in lower case; perhaps more.

    METEOR parts words at punctuation and rewrites it, which leaves such runs whole; it takes the dots out of an
    abbreviation ("U.S." becomes "us"), which joins some.
    """
    lowered = text.replace(_KELVIN_SIGN, " k ").lower().encode("utf-8", "replace")
    joined = (run.replace(b".", b"") for run in _DOTTED_RUNS.findall(lowered))
    return frozenset(_RUN.findall(lowered)).union(joined)


class _PossibleWords(dict[bytes, bool]):
    """Whether a word of the table can be one of METEOR's words for texts with these runs, by word."""

    def __init__(self, runs: frozenset[bytes]) -> None:
        super().__init__()
        self._runs = runs

    def __missing__(self, word: bytes) -> bool:
        possible = self[word] = self._runs.issuperset(_RUN.findall(word))
        return possible

    def all_of(self, phrase: bytes) -> bool:
        """Whether all words of `phrase` are possible."""
        return all([self[word] for word in phrase.split()])  # a list is faster than a generator here


def _blocks_of_lines(table: Path) -> Iterator[list[bytes]]:
    """The lines of a gzipped file, without their ends, in lists of whole pairs."""
    lines: list[bytes] = []
    rest = b""
    with gzip.open(table) as file:
        while block := file.read(_BLOCK):
            *complete, rest = (rest + block).split(b"\n")
            lines += complete
            whole = len(lines) - len(lines) % _LINES_A_PAIR
            yield lines[:whole]
            del lines[:whole]
    if rest:  # the last line need not have an end
        yield [*lines, rest]


def main(arguments: Iterable[str]) -> None:
    """The program: paths of the table and of its part, and the texts on standard input."""
    table, filtered = map(Path, arguments)
    filter_paraphrases(table, filtered, sys.stdin.buffer.read().decode("utf-8", "replace"))


if __name__ == "__main__":
    main(sys.argv[1:])
