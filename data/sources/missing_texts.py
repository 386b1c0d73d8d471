"""Missing texts in tables and JSON files that other programs have written."""

# What pandas writes for a missing cell or reads as one, and how other programs spell it, in small letters.
_MISSING = frozenset({
    "", "nan", "-nan", "1.#qnan", "none", "null", "nil", "na", "n/a", "#n/a", "#n/a n/a", "#na", "<na>", "nat",
})  # fmt: skip


def text_or_empty(text: str) -> str:
    """Return `text`, or "" if it is blank or stands for a missing text, as the word "nan" of pandas does."""
    return "" if text.strip().lower() in _MISSING else text
