"""The words of report text: one spelling of signs, numbers and plurals.

`normalise_words` turns a sentence, or a term of the lexicon, into the words by which `data/text/lexicon.py` looks terms
up. Signs that separate statements remain as words: "," (also for " / "), ":" (also for "|", "=" and tabs), "/" between
two words, "-" (a dash, not a hyphen) and "?".
"""

import re
from functools import cache

from data.ontology import FILES, read_yaml

# Plural ending -> singular ending; the first match counts, so longer endings come first.
_PLURAL_ENDINGS = (
    ("aces", "ax"),
    ("ices", "ex"),
    ("ases", "asis"),
    ("sses", "ss"),
    ("shes", "sh"),
    ("ches", "ch"),
    ("hila", "hilum"),
    ("ies", "y"),
    ("xes", "x"),
    ("s", ""),
)
_SINGULAR_ENDINGS = ("ss", "us", "is")
_IRREGULAR_PLURALS = {
    "bases": "base",
    "spaces": "space",
    "diseases": "disease",
    "increases": "increase",
    "decreases": "decrease",
    "surfaces": "surface",
    "bronchi": "bronchus",
    "sulci": "sulcus",
    "hili": "hilum",
    "vertebrae": "vertebra",
    "bullae": "bulla",
    "opinions": "opinion",
}

# Stands for a tab in a line whose spaces have been collapsed.
COLUMN_SIGN = "\x02"
_CHARACTERS = str.maketrans(
    {"'": None, "’": None, "‘": None, "|": ":", "\t": ":", "=": ":", COLUMN_SIGN: ":"}
    | dict.fromkeys("‐‑‒–―−", "-")
    | {"—": " - ", "⁄": "/", "？": "?", "，": ","}
)
# Most sentences have none of the signs that need a closer look.
_NEEDS_CARE = re.compile(r"[-/?<>&+_*\d]")
_NUMBER = r"\d+(?:\.\d+)?"
# What is replaced in a lower-case sentence with a sign or digit, in this order; abbreviations come first.
_REPLACEMENTS = tuple(
    (re.compile(pattern), replacement)
    for pattern, replacement in (
        (r"\[\*\*.*?\*\*\]|_{2,}", " xxxx "),  # removed names
        (r"<\s*br\s*/?>", " "),
        (r"<unk>", " unk "),  # a rare word (`data.text.tokenizer.UNKNOWN_WORD`): "<" is no comparison here
        (r"\(\s*-\s*\)", " : negative "),
        (r"\(\s*\+\s*\)", " : positive "),
        (r"\+\s?/\s?-", " possible "),
        # Dates ("6/7", "XX/XX/XXXX") and ranges ("5-6").
        (r"\b(?:\d{1,4}|x{1,4})([/-])(?:\d{1,4}|x{1,4})(?:\1(?:\d{1,4}|x{1,4}))?\b(?! ?[cm]m\b)", " "),
        (rf"{_NUMBER}(?:\s*(?:x|by|to|-)\s*{_NUMBER})*\s*-?\s*(?:[mc]m|(?:milli|centi)met(?:er|re)s?)\b", " mm "),
        (r"\s/\s", " , "),
        (r"\s*&\s*", " and "),
        (r">", " greater than "),
        (r"<", " less than "),
        # A question mark before a word hedges it; elsewhere, it hedges what it ends.
        (r"(?:^|(?<=[\s(]))\?+(?=[a-z])|^\?+(?=\s*[a-z])|(?<=[,:(])\s*\?+(?=\s*[a-z])", " question "),
        # A hyphen joins words. A dash has a space beside it, or is double.
        (r"-{2,}|(?:^|(?<=\s))-(?=\s|$|[a-z])|(?<=[a-z\d])-(?=\s)(?!\s(?:and|or|to)\b)", " \x00 "),
        (r"-", " "),
        ("\x00", "-"),
    )
)
_WORD = re.compile(r"[a-z]+|\d+(?:\.\d+)?|[,:/?-]")


def normalise_words(text: str) -> list[str]:
    """Split a sentence into words as the lexicon has them: lower case, singular, hyphenated words apart.

    Abbreviations with a slash are spelled out ("w/o"), sizes become "mm", dates are dropped, the placeholders of
    de-identification become "xxxx", and signs that separate statements are words. Other punctuation is dropped.
    """
    text = text.lower().translate(_CHARACTERS)
    if _NEEDS_CARE.search(text):
        abbreviations, meanings = _abbreviations()
        text = abbreviations.sub(lambda match: f" {meanings[match[0]]} ", text)
        for pattern, replacement in _REPLACEMENTS:
            text = pattern.sub(replacement, text)
    return [singular(word) for word in _WORD.findall(text)]


@cache
def _abbreviations() -> tuple[re.Pattern[str], dict[str, str]]:
    """Return a pattern for the abbreviations with a slash of `files/lexicon/spelling.yaml`, and what they stand for."""
    meanings = read_yaml(FILES / "lexicon" / "spelling.yaml")["abbreviations"]
    endings = {True: "", False: r"(?![a-z\d/])"}
    names = sorted(meanings, key=len, reverse=True)
    pattern = "|".join(re.escape(name) + endings[name.endswith("/")] for name in names)
    return re.compile(rf"(?<![a-z\d/])(?:{pattern})"), meanings


@cache
def singular(word: str) -> str:
    """Return the singular of `word`. Errors do no harm, because terms and reports are treated alike."""
    if word in _IRREGULAR_PLURALS:
        return _IRREGULAR_PLURALS[word]
    if len(word) < 4 or word.endswith(_SINGULAR_ENDINGS):
        return word
    for plural, ending in _PLURAL_ENDINGS:
        if word.endswith(plural):
            return word[: -len(plural)] + ending
    return word
