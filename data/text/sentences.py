"""A report's sentences, be it raw, with headings and line breaks, or cleaned ("heart normal . lungs clear .")."""

import re
from collections.abc import Iterator

from data.text.lexicon import Lexicon, words_of

_ABBREVIATIONS = {"dr", "mr", "mrs", "ms", "vs", "approx", "e", "e.g", "i", "i.e"}
_LONGEST_ABBREVIATION = max(map(len, _ABBREVIATIONS))
# A full stop before a digit is a decimal point. Reports are wrapped: a single line break ends no sentence, unless a
# heading follows.
_END = re.compile(r"\n\s*\n|\n(?=[ \t]*[A-Za-z][A-Za-z ]{0,40}:)|[!?;]+|\.+(?!\d)")
_LAST_WORD = re.compile(r"[a-z.]*\Z")
_ENUMERATOR = re.compile(r"\(?\d{1,2}[.)]\s")
_HEADING = re.compile(r"([a-z][a-z ]{0,40}):\s*", re.IGNORECASE)
# More words without a full stop are no sentence but a text without punctuation; it is read in pieces.
_MOST_WORDS = 100


def sentences(text: str) -> Iterator[tuple[str, list[str]]]:
    """Every sentence of `text` that has a word: as it stands there but in one line, and its `words_of`.

    Headings such as "FINDINGS:" and enumerators go. Parts about something else than the images (the patient's history,
    comparisons, technique) are left out.
    """
    headings = Lexicon.load().headings
    about_images = True
    for part in _split(text):
        line = " ".join(part.split())
        if _ENUMERATOR.match(line):
            line = line.split(maxsplit=1)[1]
        heading = _HEADING.match(line)
        title = " ".join(words_of(heading[1])) if heading else ""
        if title in headings:
            about_images = headings[title]
            line = line[heading.end() :]
        if about_images:
            yield from _in_pieces(line)


def _split(text: str) -> Iterator[str]:
    start = 0
    for end in _END.finditer(text):
        if end[0] == "." and _is_abbreviation(text, end.start()):
            continue
        yield text[start : end.end()]
        start = end.end()
    yield text[start:]


def _is_abbreviation(text: str, stop: int) -> bool:
    """Whether the full stop at `stop` belongs to the word before it."""
    before = text[max(0, stop - _LONGEST_ABBREVIATION - 1) : stop].lower()
    return _LAST_WORD.search(before)[0].lstrip(".") in _ABBREVIATIONS


def _in_pieces(line: str) -> Iterator[tuple[str, list[str]]]:
    """The line with its words, in pieces where it is too long for a sentence."""
    words = words_of(line)
    if len(words) <= _MOST_WORDS:
        pieces = [(line, words)]
    else:
        parts = line.split()
        lines = [" ".join(parts[start : start + _MOST_WORDS]) for start in range(0, len(parts), _MOST_WORDS)]
        pieces = [(piece, words_of(piece)[: 2 * _MOST_WORDS]) for piece in lines]
    for piece, its_words in pieces:
        if any(word[0].isalpha() for word in its_words):
            yield piece, its_words
