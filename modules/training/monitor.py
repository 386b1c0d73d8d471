"""The number that selects the best checkpoint, parsed from `train.monitor`."""

import re
from collections.abc import Sequence
from dataclasses import dataclass

from data.errors import UserError, unknown_name

_TERM = re.compile(r"\s*([+-]?)\s*(?:(\d+\.?\d*|\.\d+)\s*\*\s*)?([A-Za-z_]\w*)\s*")


@dataclass(frozen=True)
class Monitor:
    """A weighted sum of validation scores.

    text      as in the configuration, e.g. "bleu_4 + 0.5 * meteor"
    weights   score -> its weight in the sum
    """

    text: str
    weights: dict[str, float]

    @classmethod
    def parse(cls, text: str, score_names: Sequence[str]) -> "Monitor":
        """Parse `train.monitor`. Raises UserError if `text` is not a sum of scores or names an unknown score."""
        weights: dict[str, float] = {}
        position = 0
        while position < len(text) or not weights:
            match = _TERM.match(text, position)
            if match is None or (weights and not match[1]):
                raise UserError(
                    f"Cannot parse train.monitor={text!r} at {text[position:]!r}: write a score, or a sum such as "
                    "'bleu_4 + 0.5 * meteor'"
                )
            sign, factor, name = match.groups()
            if name not in score_names:
                raise unknown_name("score", name, score_names, where=f"train.monitor={text!r}")
            weights[name] = weights.get(name, 0.0) + float(factor or 1) * (-1 if sign == "-" else 1)
            position = match.end()
        return cls(text, weights)

    def value(self, scores: dict[str, float | None]) -> float | None:
        """Return the sum, or None if one of its scores is absent or None."""
        if self.missing(scores):
            return None
        return sum(weight * scores[name] for name, weight in self.weights.items())

    def missing(self, scores: dict[str, float | None]) -> list[str]:
        """Return the scores of the sum that are absent or None."""
        return [name for name in self.weights if scores.get(name) is None]
