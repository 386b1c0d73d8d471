"""The number that selects the best checkpoint, parsed from `train.monitor`."""

from collections.abc import Sequence
from dataclasses import dataclass

from data.errors import unknown_name
from modules.settings.weighted_sum import parse_sum


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
        weights = parse_sum(text, "train.monitor")
        for name in weights:
            if name not in score_names:
                raise unknown_name("score", name, score_names, where=f"train.monitor={text!r}")
        return cls(text, weights)

    def value(self, scores: dict[str, float | None]) -> float | None:
        """Return the sum, or None if one of its scores is absent or None."""
        if self.missing(scores):
            return None
        return sum(weight * scores[name] for name, weight in self.weights.items())

    def missing(self, scores: dict[str, float | None]) -> list[str]:
        """Return the scores of the sum that are absent or None."""
        return [name for name in self.weights if scores.get(name) is None]
