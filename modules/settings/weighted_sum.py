"""Weighted sums of scores, as some settings are written: "bleu_4 + 0.5 * meteor"."""

import re

from data.errors import UserError

_TERM = re.compile(r"\s*([+-]?)\s*(?:(\d+\.?\d*|\.\d+)\s*\*\s*)?([A-Za-z_]\w*)\s*")


def parse_sum(text: str, setting: str) -> dict[str, float]:
    """Return the weight of each score in the sum `text`. Raises UserError, which names the `setting`, if it is none."""
    weights: dict[str, float] = {}
    position = 0
    while position < len(text) or not weights:
        match = _TERM.match(text, position)
        if match is None or (weights and not match[1]):
            raise UserError(
                f"Cannot parse {setting}={text!r} at {text[position:]!r}: write a score, or a sum such as "
                "'bleu_4 + 0.5 * meteor'"
            )
        sign, factor, name = match.groups()
        weights[name] = weights.get(name, 0.0) + float(factor or 1) * (-1 if sign == "-" else 1)
        position = match.end()
    return weights
