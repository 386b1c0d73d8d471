"""Guards against reward hacking: scores that must not suffer while the rewards rise.

A model can raise its rewards in unwanted ways: a sentence said several times, one report for many studies, long reports
that mention everything. Validations therefore also compute scores that are not rewarded, and training stops when one of
them has suffered, compared with the weights that reward training started from.
"""

from collections.abc import Mapping
from dataclasses import dataclass

DISTINCT, LENGTH, REPEATED = "distinct_reports", "generated_words_mean", "repeated_sentences"


@dataclass(frozen=True)
class Guards:
    """The limits, as in `RewardConfig`."""

    watch: tuple[str, ...]
    largest_drop: float
    least_distinct: float
    length_factor: float
    most_repeated: float

    @property
    def names(self) -> tuple[str, ...]:
        """The validation scores that the guards compare."""
        return (*self.watch, DISTINCT, LENGTH, REPEATED)

    def broken(self, start: Mapping[str, float], scores: Mapping[str, float | None]) -> list[str]:
        """Say which limits are broken, one clause each. A score that is absent now or was at the start has no limit."""
        lowest = {name: (1 - self.largest_drop) * start[name] for name in self.watch if name in start}
        highest = {}
        if DISTINCT in start:
            lowest[DISTINCT] = self.least_distinct * start[DISTINCT]
        if LENGTH in start:
            lowest[LENGTH] = start[LENGTH] / self.length_factor
            highest[LENGTH] = start[LENGTH] * self.length_factor
        if REPEATED in start:
            highest[REPEATED] = start[REPEATED] + self.most_repeated
        broken = []
        for name in dict.fromkeys((*lowest, *highest)):
            value = scores.get(name)
            if value is None:
                continue
            if value < lowest.get(name, -float("inf")):
                broken.append(f"{name} fell from {start[name]:.4g} to {value:.4g}, below {lowest[name]:.4g}")
            if value > highest.get(name, float("inf")):
                broken.append(f"{name} rose from {start[name]:.4g} to {value:.4g}, above {highest[name]:.4g}")
        return broken
