"""Splitting reports into sentences: raw ones with headings, lists and line breaks, and cleaned ones.

A sentence ends at a full stop, ";", "!", "?" or an empty line, before a heading or a list mark, and where text without
full stops visibly starts again: at a line break that no wrapping explains, or at a capital letter.
"""

import re
from collections.abc import Iterator
from functools import lru_cache

from data.text.findings import STATEMENT_KINDS
from data.text.lexicon import Lexicon, Mention
from data.text.words import COLUMN_SIGN, normalise_words

# Titles end sentences nowhere, other abbreviations only before a capital letter.
_TITLES = {"dr", "mr", "mrs", "ms", "vs", "approx", "e", "e.g", "i", "i.e"}
_ABBREVIATIONS = {"rt", "lt", "bilat", "mod", "sm", "incl", "resp", "poss", "prob", "prev", "hx", "dx", "pt", "w"}
_MAX_ABBREVIATION_LENGTH = max(map(len, _TITLES | _ABBREVIATIONS))
_LAST_WORD = re.compile(r"[a-z.]*\Z")

_BULLETS = "•◦‣▪■●○·∙⁃★➢►✓"
_LIST_MARK = re.compile(
    rf"[{_BULLETS}]+\s*|[*+#>]+\s*(?=[A-Za-z])|[-–—]+\s*(?=[A-Za-z])|\(?(?:\d{{1,2}}|[a-h])[.)]\s*(?=[A-Za-z])"
    r"|\[\d{1,2}\]\s*(?=[A-Za-z])"
)
# Where a sentence may end. A full stop before a digit is a decimal point.
_END = re.compile(
    r"(?P<blank>\n\s*\n)"
    r"|(?P<line>\n)"
    r"|(?P<question>\?+)"
    r"|(?P<stop>[!;]+|\.+(?!\d))"
    rf"|\s(?P<mark>(?=[{_BULLETS}]|\(\d{{1,2}}\)\s?[A-Za-z]|\d{{1,2}}[.)]\s?[A-Z]|\d{{1,2}}\)\s?[a-z]))"
    r"|(?<=[A-Za-z\d)]) (?P<capital>(?=[A-Z][A-Za-z]+))"
)
_HEADING = re.compile(r"([a-z][a-z ,/&()]{0,40}?)\s*(:|\s[-–—](?=\s))\s*", re.IGNORECASE)
_LINE_HEADING = re.compile(r"[ \t]*[A-Za-z][A-Za-z /&()]{0,40}:")
_TITLE_SEPARATOR = re.compile(r"\s*(?:/|&|,|\(|\)|\band\b)\s*")
_FIRST_WORD = re.compile(r"[A-Za-z]+")
_ANSWER = re.compile(r"\s*(?:no|none|negative|absent|nil|yes|present|positive)\b\s*(?:[.,;\n]|\Z)", re.IGNORECASE)
# A longer sentence lacks full stops; it is cut where a statement begins.
_MAX_WORDS = 100
# Reports repeat their sentences and headings, so what was made of the latest lines is kept.
KEPT_LINES = 1 << 14
# Number of characters before a break that say whether it ends a statement.
_CONTEXT = 300


def split_sentences(text: str) -> Iterator[tuple[str, tuple[str, ...]]]:
    """Yield every sentence of `text` that has a word: its text in one line, and its normalised words.

    Headings such as "FINDINGS:" and list marks are removed. Sections that do not describe the images (history,
    comparison, technique) are left out; they end at the next heading of another section. In a text without headings
    that announce a description, they end with their line, or, if they have no line of their own, with their sentence.
    """
    parts = list(_split_at_ends(text.replace(COLUMN_SIGN, " ")))  # a control character, which no report needs
    titles = [_read_heading(line) for line, _ in parts]
    has_description = any(is_read for is_read, _ in titles)
    has_lines = any(starts_line for _, starts_line in parts[1:])
    about_images = True
    for (line, starts_line), (is_read, start) in zip(parts, titles, strict=True):
        if is_read is not None:
            about_images = is_read
        elif not has_description and (starts_line or not has_lines):
            about_images = True
        if about_images:
            yield from _split_long(line[start:])


@lru_cache(KEPT_LINES)
def _read_heading(line: str) -> tuple[bool | None, int]:
    """Return whether the section that `line` begins describes the images, and where the text behind the heading starts.

    The first is None if the line does not begin with a known heading.
    """
    headings = Lexicon.load().headings
    heading = _HEADING.match(line)
    title, end = (heading[1], heading.end()) if heading else (line.strip(" .:"), len(line))
    if len(title) > 45:
        return None, 0
    kinds = {headings.get(" ".join(normalise_words(part))) for part in _TITLE_SEPARATOR.split(title) if part}
    if kinds in ({True}, {False}):
        return kinds.pop(), end
    return None, 0


def _split_at_ends(text: str) -> Iterator[tuple[str, bool]]:
    """Yield the sentences without list marks, and whether each begins on a new line."""
    start, starts_line = 0, True
    for end in _END.finditer(text):
        kind = end.lastgroup
        if end.start() < start or not _ends_sentence(text, start, end):
            continue
        line = _strip_mark(text[start : end.end()])
        if line:
            yield line, starts_line
        start, starts_line = end.end(), kind in ("blank", "line") or (starts_line and not line)
    if line := _strip_mark(text[start:]):
        yield line, starts_line


def _strip_mark(part: str) -> str:
    """Return `part` in one line, without a list mark at its start; columns of a table are separated by COLUMN_SIGN."""
    line = " ".join(part.replace("\t", COLUMN_SIGN).split())
    mark = _LIST_MARK.match(line)
    return line[mark.end() :] if mark else line


def _ends_sentence(text: str, start: int, end: re.Match[str]) -> bool:
    """Whether the sentence that began at `start` ends at a match of `_END`."""
    kind = end.lastgroup
    if kind == "stop":
        return end[0][0] != "." or not _is_abbreviation(text, end)
    if kind == "question":
        # "Effusion? None." is an answer; "?effusion" is a doubt.
        before, after = text[start : end.start()], text[end.end() : end.end() + 20]
        begins_word = after[:1].isalpha() and not before[-1:].isalnum()
        return bool(before.strip()) and not begins_word and after[:1] != ")" and not _ANSWER.match(after)
    if kind == "blank":
        return True
    if kind == "mark":
        return _first_word(text[end.end() :]) not in Lexicon.load().continuing_words
    before = text[max(start, end.start() - _CONTEXT) : end.start()].rstrip()
    after = text[end.end() : end.end() + _CONTEXT].partition("\n")[0].strip()
    if not before or not after:
        return False
    return _is_line_end(before, after) if kind == "line" else _is_capital_start(before, after)


def _is_abbreviation(text: str, stop: re.Match[str]) -> bool:
    """Whether a full stop belongs to an abbreviation."""
    before = text[max(0, stop.start() - _MAX_ABBREVIATION_LENGTH - 1) : stop.start()].lower()
    word = _LAST_WORD.search(before)[0].lstrip(".")
    return word in _TITLES or (word in _ABBREVIATIONS and text[stop.end() : stop.end() + 2].strip()[:1].islower())


def _is_line_end(before: str, after: str) -> bool:
    """Whether a line break between these texts separates statements; otherwise, the text is only wrapped."""
    lexicon = Lexicon.load()
    if mark := _LIST_MARK.match(after):
        return _first_word(after[mark.end() :]) not in lexicon.continuing_words
    if _LINE_HEADING.match(after) or _read_heading(before)[0] is not None or _read_heading(after)[0] is not None:
        return True
    first = _FIRST_WORD.match(after)
    if before[-1] in ":,(/-&+–—" or first is None or _is_continued(before, after):
        return False
    if first[0][0].isupper() and not first[0].isupper() and before.upper() != before:
        return True
    return _starts_anew(before, after)


def _is_capital_start(before: str, after: str) -> bool:
    """Whether a capital letter within a line starts a statement of a text that lacks full stops."""
    if _announces(after):
        return True
    words = after.split(maxsplit=2)
    # A word in capitals is an abbreviation, several words with capitals are a title or a name.
    if words[0][1:].lower() != words[0][1:] or (len(words) > 1 and words[1][0].isupper()):
        return False
    return not _is_continued(before, after) and _starts_anew(before, after)


def _announces(after: str) -> bool:
    """Whether `after` begins with the heading of a section and a colon ("... IMPRESSION: ...")."""
    heading = _HEADING.match(after) if ":" in after[:50] else None
    return heading is not None and heading[2] == ":" and _read_heading(after)[0] is not None


def _is_continued(before: str, after: str) -> bool:
    """Whether a word on either side of a break says that the sentence continues ("of", "or", "small")."""
    lexicon = Lexicon.load()
    last = re.search(r"[A-Za-z]*[^A-Za-z]*\Z", before)[0].strip(" .").lower()
    return last in lexicon.incomplete_words or _first_word(after) in lexicon.continuing_words


def _starts_anew(before: str, after: str) -> bool:
    """Whether `before` is a complete statement and `after` begins another one, by their terms."""
    lexicon = Lexicon.load()
    head = lexicon.correct(normalise_words(before))
    mentions = lexicon.find([*head, *lexicon.correct(normalise_words(after))])
    if any(mention.start < len(head) < mention.end for mention in mentions):
        return False
    first = [mention for mention in mentions if mention.start == len(head)]
    last = [mention for mention in mentions if mention.start < len(head)]
    if not any(mention.kind in STATEMENT_KINDS for mention in last):
        return False
    kinds = {mention.kind for mention in first}
    if kinds & {"negation before", "scope ends", "known"}:
        return True
    rest = mentions[len(last) + len(first) :]
    if "place" in kinds and rest and rest[0].kind == "being" and rest[0].start == first[0].end:
        return True  # a new subject: "PICC in the SVC / lungs are clear"
    return bool(kinds & _OPENINGS) and _is_closed(last, len(head))


_OPENINGS = STATEMENT_KINDS | {"side", "severity", "place", "comparison", "hedge before", "starter", "own statement"}
_CLOSINGS = (STATEMENT_KINDS - {"quality"}) | {"existence", "comparison", "negation after", "hedge after"}


def _is_closed(mentions: list[Mention], length: int) -> bool:
    """Whether the last of `mentions` can be the last term of a statement of `length` words."""
    final = [mention.kind for mention in mentions[-3:] if mention.end == length]
    if "place" in final:
        # "in the SVC" is complete, "the right lung" may be followed by its finding.
        return any(mention.kind in ("locative word", "landmark word") for mention in mentions[-4:])
    return any(kind in _CLOSINGS for kind in final)


def _first_word(text: str) -> str:
    word = _FIRST_WORD.match(text.lstrip())
    return word[0].lower() if word else ""


@lru_cache(KEPT_LINES)
def _split_long(line: str) -> tuple[tuple[str, tuple[str, ...]], ...]:
    """Return the line with its normalised words, in pieces if it is too long for a sentence."""
    words = normalise_words(line)
    if len(words) <= _MAX_WORDS:
        pieces = [(line, words)]
    else:
        pieces = [(piece, normalise_words(piece)[: 2 * _MAX_WORDS]) for piece in _cut(line.split())]
    return tuple(
        (" ".join(piece.replace(COLUMN_SIGN, " ").split()), tuple(piece_words))
        for piece, piece_words in pieces if _FIRST_WORD.search(piece)
    )


def _cut(words: list[str]) -> Iterator[str]:
    """Yield pieces of at most _MAX_WORDS words, the longest that end before a word with which statements begin."""
    openers = Lexicon.load().opening_words
    incomplete = Lexicon.load().incomplete_words
    while len(words) > _MAX_WORDS:
        ends = range(_MAX_WORDS, _MAX_WORDS // 2, -1)
        # Best before "no" or "the lungs", else behind a comma, else not behind "no" or "small".
        end = next((end for end in ends if words[end].lower() in openers and _is_free(words, end, incomplete)), None)
        end = end or next((end for end in ends if words[end - 1][-1] in ",:"), None)
        end = end or next((end for end in ends if _is_free(words, end, incomplete)), _MAX_WORDS)
        yield " ".join(words[:end])
        words = words[end:]
    yield " ".join(words)


def _is_free(words: list[str], end: int, incomplete: frozenset[str]) -> bool:
    return words[end - 1].lower().strip(",:") not in incomplete and words[end - 1][-1] not in "/-&+"
