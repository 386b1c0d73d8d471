"""Cleaning of raw report text for models and metrics.

There are three sets of rules. `iu_xray` and `mimic_cxr` reproduce those of the R2Gen family for its two data sets,
quirks included, so that scores are comparable with the literature; `corrected` avoids the quirks.
"""

import re
from collections.abc import Callable

from data.errors import wrong_value

# The family meant to remove punctuation. The range from ':' to '[' in its character class also removes < = > @ and
# capitals (none are left at that point), and the hyphen stays.
_FAMILY_REMOVED = re.compile(r"[.,?;*!%^&_+()\]{}:-\[]")
_FAMILY_DELETED = str.maketrans("", "", "\"/\\'")

_PLACEHOLDER = re.compile(r"_{2,}|x{4,}")
_ABBREVIATION = re.compile(r"\b(?:dr|mrs?|ms|vs|e\.g|i\.e)\.")
# At the start of a line or sentence: "1. ", "2) " and "(3) ", but not "1.5 cm" or the end of "is 1.5. The".
_ENUMERATOR = re.compile(r"(?:^|(?<=\n)|(?<=\D[.?!;:])|(?<=[.?!;:])\s)\s*\(?\d{1,2}[.)]\s+")
_SENTENCE_END = re.compile(r"\n\s*\n|[?!;]|(?<!\d)\.|\.(?!\d)")
_APOSTROPHE = re.compile(r"['\"\u2018\u2019\u201c\u201d]")
_SEPARATOR = re.compile(r"[\s,*%^&_+():<=>@\[\]{}/\\|~`#\u2013\u2014]+")


def clean(text: str, rules: str) -> str:
    """Return the report in lower case, with single spaces between words and " ." at the end of each sentence.

    Both family rules (`iu_xray`, `mimic_cxr`) delete "/" without inserting a space, the first enumerator (and with it
    the last digit of numbers such as "21. "), and the point of decimal numbers; they keep empty sentences as " .  . ".
    `mimic_cxr` also joins lines and collapses underscores and spaces. With `corrected`,

    - a sentence ends at a full stop (also without a space after it), "?", "!", ";" or an empty line; a single line
      break is a space, because reports are wrapped; a few abbreviations ("dr.", "vs.", "e.g.") do not end sentences;
    - decimal numbers are preserved; enumerators ("1. ", "2) ") are removed at the start of a line or sentence only;
    - punctuation is replaced by a space ("and/or" -> "and or"); apostrophes and quotes are deleted; hyphens are kept
      inside words only;
    - the placeholders of de-identification ("___", "XXXX") are removed;
    - sentences without words are removed, so an empty report is "".

    Raises UserError if `rules` is unknown.
    """
    if rules not in _RULES:
        raise wrong_value("data.cleaning", rules, f"choose one of {', '.join(_RULES)}")
    return _RULES[rules](text)


def _clean_iu_xray(text: str) -> str:
    """Apply the family's rules for IU X-Ray."""
    return _family_sentences(_repeat_replace(text, "..", ".", times=3))


def _clean_mimic_cxr(text: str) -> str:
    """Apply the family's rules for MIMIC-CXR."""
    text = text.replace("\n", " ")
    for doubled, passes in (("__", 7), ("  ", 6), ("..", 8)):
        text = _repeat_replace(text, doubled, doubled[0], times=passes)
    return _family_sentences(text)


def _repeat_replace(text: str, old: str, new: str, times: int) -> str:
    """Replace `old` by `new` in several passes, each of which halves a run of the doubled character."""
    for _ in range(times):
        text = text.replace(old, new)
    return text


def _family_sentences(text: str) -> str:
    """Apply what both rule sets have in common: enumerators, sentences, punctuation."""
    text = text.replace("1. ", "")
    for before in (". ", " "):
        for number in range(2, 6):
            text = text.replace(f"{before}{number}. ", ". ")
    sentences = text.strip().lower().split(". ")
    cleaned = (_FAMILY_REMOVED.sub("", sentence.translate(_FAMILY_DELETED).strip().lower()) for sentence in sentences)
    return " . ".join(cleaned) + " ."


def _clean_corrected(text: str) -> str:
    """Apply the rules without the quirks; see `clean`."""
    text = _PLACEHOLDER.sub(" ", _APOSTROPHE.sub("", text.lower()))
    text = _ENUMERATOR.sub(" ", text)
    text = _ABBREVIATION.sub(lambda match: match[0].replace(".", "") + " ", text)
    sentences = []
    for sentence in _SENTENCE_END.split(text):
        words = (word.strip("-") for word in _SEPARATOR.split(sentence))
        line = " ".join(word for word in words if word)
        if line:
            sentences.append(line + " .")
    return " ".join(sentences)


_RULES: dict[str, Callable[[str], str]] = {
    "iu_xray": _clean_iu_xray,
    "mimic_cxr": _clean_mimic_cxr,
    "corrected": _clean_corrected,
}
# The names of all sets of rules.
CLEANING_RULES = tuple(_RULES)
