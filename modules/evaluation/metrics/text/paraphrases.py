"""Reduce METEOR's paraphrase table to the pairs of phrases that can match in given texts.

The table has five million pairs. Every METEOR process that reads all of it takes as long as scoring thousands of
reports, and a gigabyte of memory. A pair can only match if the texts contain all words of both phrases, which leaves
some ten thousand pairs; METEOR's scores with these are the same as with the whole table.

This module is also a program, so that the filter can run in its own process. It imports only the standard library.

    python paraphrases.py TABLE FILTERED < TEXTS
"""

import gzip
import re
import sys
from collections.abc import Iterable, Iterator
from pathlib import Path

_RUN = re.compile(rb"[a-z0-9]+")
_DOTTED_RUNS = re.compile(rb"[a-z0-9]+(?:\.[a-z0-9]+)+")
# METEOR turns this character into a separate word "k".
_KELVIN_SIGN = "\u212a"
_LINES_PER_PAIR = 3  # probability, phrase, phrase
_BLOCK_SIZE = 2**20  # bytes of the table to read at once


def filter_paraphrases(table: Path, filtered: Path, text: str) -> int:
    """Write the pairs of `table` that can match between lines of `text` to `filtered`; return their number.

    Both files are gzipped, with three lines per pair; the order does not change. Raises OSError if a file cannot be
    read or written.
    """
    possible = _PossibleWords(word_runs(text))
    pairs, last_phrase, last_possible = 0, None, False
    with gzip.open(filtered, "wb", compresslevel=1) as file:
        for lines in _blocks_of_lines(table):
            phrases = zip(lines[1::_LINES_PER_PAIR], lines[2::_LINES_PER_PAIR], strict=True)
            for pair, (first, second) in enumerate(phrases):
                if first != last_phrase:  # the table is sorted by the first phrase
                    last_phrase, last_possible = first, possible.has_all(first)
                if last_possible and possible.has_all(second):
                    file.write(b"%b\n%b\n%b\n" % (lines[_LINES_PER_PAIR * pair], first, second))
                    pairs += 1
    return pairs


def word_runs(text: str) -> frozenset[bytes]:
    """Return all lower-case runs of ASCII letters and digits that can be in METEOR's words for `text`, or more.

    METEOR splits words at punctuation and rewrites punctuation, which does not change such runs. It removes the dots of
    abbreviations ("U.S." becomes "us"), which joins some.
    """
    lowered = text.replace(_KELVIN_SIGN, " k ").lower().encode("utf-8", "replace")
    joined = (run.replace(b".", b"") for run in _DOTTED_RUNS.findall(lowered))
    return frozenset(_RUN.findall(lowered)).union(joined)


class _PossibleWords(dict[bytes, bool]):
    """word of the table -> whether it can be one of METEOR's words for texts with these runs; computed on first use."""

    def __init__(self, runs: frozenset[bytes]) -> None:
        super().__init__()
        self._runs = runs

    def __missing__(self, word: bytes) -> bool:
        possible = self[word] = self._runs.issuperset(_RUN.findall(word))
        return possible

    def has_all(self, phrase: bytes) -> bool:
        """Return whether all words of `phrase` are possible."""
        return all([self[word] for word in phrase.split()])  # a list is faster than a generator here


def _blocks_of_lines(table: Path) -> Iterator[list[bytes]]:
    """Yield the lines of a gzipped file, without line ends, in lists of whole pairs."""
    lines: list[bytes] = []
    rest = b""
    with gzip.open(table) as file:
        while block := file.read(_BLOCK_SIZE):
            *complete, rest = (rest + block).split(b"\n")
            lines += complete
            whole = len(lines) - len(lines) % _LINES_PER_PAIR
            yield lines[:whole]
            del lines[:whole]
    if rest:  # the last line may lack a line end
        yield [*lines, rest]


def main(arguments: Iterable[str]) -> None:
    """Run the filter: `arguments` are the paths of the table and of the output, standard input has the texts."""
    table, filtered = map(Path, arguments)
    filter_paraphrases(table, filtered, sys.stdin.buffer.read().decode("utf-8", "replace"))


if __name__ == "__main__":
    main(sys.argv[1:])
