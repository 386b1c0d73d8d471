"""Searches for the rule that selected the attributes of the SGRRG release.

    python -m data.sources.chest_imagenome.attribute_calibration FOLDER

The release has 849 attributes over the 29 regions, but not their names. This command counts, on the training split of
the prepared data set FOLDER, the attributes per region under every candidate rule, and prints the counts beside the
release's, best rule first. The result is meaningful only for the complete Chest ImaGenome.
"""

import argparse
import sys
from collections import Counter
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from functools import partial
from itertools import product
from pathlib import Path

from data.console import print_to_reader, run_command
from data.errors import UserError
from data.ontology import Anatomy
from data.records import MALFORMED_GRAPH, is_frontal, malformed_graph, read_records

# Attributes per region in the release's configuration for Chest ImaGenome, 849 in total, in the order of the regions.
RELEASE_SIZES = (
    67, 67, 33, 39, 57, 56, 46, 46, 28, 32, 32, 45, 47, 12, 46, 43, 13, 15, 15, 12, 22, 10, 21, 4, 9, 7, 4, 9, 12,
)  # fmt: skip
# The rule "default" of `files/attributes.yaml` with the trainer's minimum count.
DEFAULT_RULE = "no modifiers, yes and no separate, at least 10"

# "other" is not of Chest ImaGenome, but of reports read by `data.text_graph`.
_MODIFIERS = frozenset({"temporal", "severity", "laterality", "other"})
_EXCLUDED_CATEGORIES = {
    "all categories": frozenset(),
    "no modifiers": _MODIFIERS,
    "no modifiers or texture": _MODIFIERS | {"texture"},
    "no modifiers or nlp": _MODIFIERS | {"nlp"},
    "clinical only": _MODIFIERS | {"texture", "nlp"},
}
_NAMING: dict[str, Callable[[str, str, str], str | None]] = {
    "yes and no separate": lambda category, polarity, label: f"{category}|{polarity}|{label}",
    "yes only": lambda category, polarity, label: f"{category}|{label}" if polarity == "yes" else None,
    "yes and no merged": lambda category, polarity, label: f"{category}|{label}",
}
_MIN_COUNTS = (1, 10, 100)
_MAX_COLUMNS = 5


@dataclass(frozen=True)
class Hypothesis:
    """A rule, and the number of attributes that it selects for each region."""

    rule: str
    sizes: tuple[int, ...]

    @property
    def difference(self) -> int:
        """The sum over regions of the absolute difference to the release's sizes."""
        return sum(abs(size - release) for size, release in zip(self.sizes, RELEASE_SIZES, strict=True))


def count_attributes(root: Path) -> list[Counter]:
    """Return, for each region, the number of training studies with each `category|polarity|label`.

    Raises UserError as `read_records` does, for malformed graphs, and if attributes have no names.
    """
    anatomy = Anatomy.load()
    counts = [Counter() for _ in anatomy.regions]
    for record in read_records(root, "train"):
        if record["graph"] is None or not is_frontal(record):
            continue
        try:
            for name, region in record["graph"]["regions"].items():
                counts[anatomy.index(name)].update(region["attributes"])
        except MALFORMED_GRAPH as error:
            raise malformed_graph(record, error) from error
    if any(attribute.count("|") < 2 for count in counts for attribute in count):
        raise UserError(f"The attributes of {root} have no names: give a data set prepared from Chest ImaGenome itself")
    return counts


def rank_hypotheses(counts: Sequence[Counter]) -> list[Hypothesis]:
    """Return every combination of categories, polarities and minimum count, closest to the release first."""
    candidates = []
    for (categories, excluded), (polarities, name), minimum in product(
        _EXCLUDED_CATEGORIES.items(), _NAMING.items(), _MIN_COUNTS
    ):
        rule = f"{categories}, {polarities}, at least {minimum}"
        count_selected = partial(_count_selected, excluded=excluded, name=name, minimum=minimum)
        candidates.append(Hypothesis(rule, tuple(map(count_selected, counts))))
    return sorted(candidates, key=lambda hypothesis: hypothesis.difference)


def _count_selected(
    counts: Counter, excluded: frozenset[str], name: Callable[[str, str, str], str | None], minimum: int
) -> int:
    """Return the number of attributes of one region that a rule selects."""
    merged = Counter()
    for attribute, count in counts.items():
        category, polarity, label = attribute.split("|", 2)
        merged_name = name(category, polarity, label)
        if category not in excluded and merged_name is not None:
            merged[merged_name] += count
    return sum(count >= minimum for count in merged.values())


def format_table(ranked: Sequence[Hypothesis]) -> str:
    """Format the ranked rules, then the sizes per region of the release, the default rule and the best rules."""
    lines = ["difference  attributes  rule"]
    lines += [f"{rule.difference:10}  {sum(rule.sizes):10}  {rule.rule}" for rule in ranked]
    default = next(rule for rule in ranked if rule.rule == DEFAULT_RULE)
    columns = [default, *(rule for rule in ranked if rule is not default)][:_MAX_COLUMNS]
    letters = "abcde"[: len(columns)]
    lines += ["", *(f"{letter}: {rule.rule}" for letter, rule in zip(letters, columns, strict=True))]
    lines.append(f"{'region':26}{'release':>8}" + "".join(f"{letter:>6}" for letter in letters))
    rows = zip(Anatomy.load().names, RELEASE_SIZES, *(rule.sizes for rule in columns), strict=True)
    rows = [*rows, ("sum", sum(RELEASE_SIZES), *(sum(rule.sizes) for rule in columns))]
    lines += [f"{name:26}{release:8}" + "".join(f"{size:6}" for size in sizes) for name, release, *sizes in rows]
    return "\n".join(lines)


def main(arguments: Sequence[str] | None = None) -> int:
    """Run the command. Return 0, or 1 after printing a user error to stderr."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("root", type=Path, metavar="FOLDER", help="a prepared data set")
    try:
        print_to_reader(format_table(rank_hypotheses(count_attributes(parser.parse_args(arguments).root))))
    except UserError as error:
        print(error, file=sys.stderr)
        return 1
    return 0


if __name__ == "__main__":
    sys.exit(run_command(main))
