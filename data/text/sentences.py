"""Splitting reports into sentences: raw ones with headings and line breaks, and cleaned ones."""

import re
from collections.abc import Iterator

from data.text.lexicon import Lexicon, normalise_words

_ABBREVIATIONS = {"dr", "mr", "mrs", "ms", "vs", "approx", "e", "e.g", "i", "i.e"}
_MAX_ABBREVIATION_LENGTH = max(map(len, _ABBREVIATIONS))
# A full stop before a digit is a decimal point. Reports are wrapped: a single line break only ends a sentence if a
# heading follows.
_END = re.compile(r"\n\s*\n|\n(?=[ \t]*[A-Za-z][A-Za-z ]{0,40}:)|[!?;]+|\.+(?!\d)")
_LAST_WORD = re.compile(r"[a-z.]*\Z")
_ENUMERATOR = re.compile(r"\(?\d{1,2}[.)]\s")
_HEADING = re.compile(r"([a-z][a-z ]{0,40}):\s*", re.IGNORECASE)
# A text of more words without a full stop lacks punctuation; it is split into pieces of this length.
_MAX_WORDS = 100


def split_sentences(text: str) -> Iterator[tuple[str, list[str]]]:
    """Yield every sentence of `text` that has a word: its text in one line, and its normalised words.

    Headings such as "FINDINGS:" and enumerators are removed. Sections that do not describe the images (history,
    comparison, technique) are left out.
    """
    headings = Lexicon.load().headings
    about_images = True
    for part in _split_at_ends(text):
        line = " ".join(part.split())
        if _ENUMERATOR.match(line):
            line = line.split(maxsplit=1)[1]
        heading = _HEADING.match(line)
        title = " ".join(normalise_words(heading[1])) if heading else ""
        if title in headings:
            about_images = headings[title]
            line = line[heading.end() :]
        if about_images:
            yield from _split_long(line)


def _split_at_ends(text: str) -> Iterator[str]:
    start = 0
    for end in _END.finditer(text):
        if end[0] == "." and _is_abbreviation(text, end.start()):
            continue
        yield text[start : end.end()]
        start = end.end()
    yield text[start:]


def _is_abbreviation(text: str, stop: int) -> bool:
    """Whether the full stop at the position `stop` belongs to an abbreviation."""
    before = text[max(0, stop - _MAX_ABBREVIATION_LENGTH - 1) : stop].lower()
    return _LAST_WORD.search(before)[0].lstrip(".") in _ABBREVIATIONS


def _split_long(line: str) -> Iterator[tuple[str, list[str]]]:
    """Yield the line with its normalised words, in pieces if it is too long for a sentence."""
    words = normalise_words(line)
    if len(words) <= _MAX_WORDS:
        pieces = [(line, words)]
    else:
        parts = line.split()
        lines = [" ".join(parts[start : start + _MAX_WORDS]) for start in range(0, len(parts), _MAX_WORDS)]
        pieces = [(piece, normalise_words(piece)[: 2 * _MAX_WORDS]) for piece in lines]
    for piece, piece_words in pieces:
        if any(word[0].isalpha() for word in piece_words):
            yield piece, piece_words
