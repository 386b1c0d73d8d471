"""`python -m data.sources.chest_imagenome.attribute_calibration FOLDER`: which rule makes the attribute vocabulary of the SGRRG release?

The release has 849 attributes over the 29 regions, but not their names. This counts, on the training split of a
prepared data set, how many attributes each region has under every rule that could have chosen them, and prints the
sizes beside the release's, the nearest rule first. For an answer, the data set must be the whole of Chest ImaGenome.
"""

import argparse
import sys
from collections import Counter
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from functools import partial
from itertools import product
from pathlib import Path

from data.console import print_to_reader
from data.errors import UserError
from data.ontology import Anatomy
from data.records import MALFORMED_GRAPH, is_frontal, malformed_graph, read_records

# Attributes of each region in the release's configuration for Chest ImaGenome, 849 in all, in the order of the regions.
RELEASE_SIZES = (
    67, 67, 33, 39, 57, 56, 46, 46, 28, 32, 32, 45, 47, 12, 46, 43, 13, 15, 15, 12, 22, 10, 21, 4, 9, 7, 4, 9, 12,
)  # fmt: skip
# What `files/attributes.yaml` calls "default" and the trainer's smallest count.
DEFAULT_RULE = "no modifiers, yes and no apart, at least 10"

_MODIFIERS = frozenset({"temporal", "severity", "laterality"})
_LEFT_OUT = {
    "all categories": frozenset(),
    "no modifiers": _MODIFIERS,
    "no modifiers or texture": _MODIFIERS | {"texture"},
    "no modifiers or nlp": _MODIFIERS | {"nlp"},
    "clinical alone": _MODIFIERS | {"texture", "nlp"},
}
_POLARITIES: dict[str, Callable[[str, str, str], str | None]] = {
    "yes and no apart": lambda category, polarity, label: f"{category}|{polarity}|{label}",
    "yes alone": lambda category, polarity, label: f"{category}|{label}" if polarity == "yes" else None,
    "yes and no as one": lambda category, polarity, label: f"{category}|{label}",
}
_LEAST_COUNTS = (1, 10, 100)
_SHOWN = 5


@dataclass(frozen=True)
class Hypothesis:
    """A rule, and how many attributes it gives to each region."""

    rule: str
    sizes: tuple[int, ...]

    @property
    def difference(self) -> int:
        """The sum over regions of how far the sizes are from the release's."""
        return sum(abs(size - release) for size, release in zip(self.sizes, RELEASE_SIZES, strict=True))


def count_attributes(root: Path) -> list[Counter]:
    """For each region, how many training studies have each `category|polarity|label`.

    Raises UserError as `read_records` does, for a malformed graph, and where attributes have no names.
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


def hypotheses(counts: Sequence[Counter]) -> list[Hypothesis]:
    """The sizes under every combination of categories, polarities and smallest count, nearest to the release first."""
    found = []
    for (categories, left_out), (polarities, name), least in product(
        _LEFT_OUT.items(), _POLARITIES.items(), _LEAST_COUNTS
    ):
        rule = f"{categories}, {polarities}, at least {least}"
        found.append(Hypothesis(rule, tuple(map(partial(_size, left_out=left_out, name=name, least=least), counts))))
    return sorted(found, key=lambda hypothesis: hypothesis.difference)


def _size(counts: Counter, left_out: frozenset[str], name: Callable[[str, str, str], str | None], least: int) -> int:
    """How many attributes of one region a rule keeps."""
    merged = Counter()
    for attribute, count in counts.items():
        category, polarity, label = attribute.split("|", 2)
        merged_name = name(category, polarity, label)
        if category not in left_out and merged_name is not None:
            merged[merged_name] += count
    return sum(count >= least for count in merged.values())


def table(found: Sequence[Hypothesis]) -> str:
    """The rules with their sums, then the sizes by region of the release, of the default rule and of the nearest."""
    lines = ["difference  attributes  rule"]
    lines += [f"{rule.difference:10}  {sum(rule.sizes):10}  {rule.rule}" for rule in found]
    default = next(rule for rule in found if rule.rule == DEFAULT_RULE)
    shown = [default, *(rule for rule in found if rule is not default)][:_SHOWN]
    lines += ["", *(f"{letter}: {rule.rule}" for letter, rule in zip("abcde", shown, strict=False))]
    lines.append(
        f"{'region':26}{'release':>8}" + "".join(f"{letter:>6}" for letter, _ in zip("abcde", shown, strict=False))
    )
    rows = zip(Anatomy.load().names, RELEASE_SIZES, *(rule.sizes for rule in shown), strict=True)
    rows = [*rows, ("sum", sum(RELEASE_SIZES), *(sum(rule.sizes) for rule in shown))]
    lines += [f"{name:26}{release:8}" + "".join(f"{size:6}" for size in sizes) for name, release, *sizes in rows]
    return "\n".join(lines)


def main(arguments: Sequence[str] | None = None) -> int:
    """Exit status: 0, or 1 after one line on stderr that says what the user can mend."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("root", type=Path, metavar="FOLDER", help="a prepared data set")
    try:
        print_to_reader(table(hypotheses(count_attributes(parser.parse_args(arguments).root))))
    except UserError as error:
        print(error, file=sys.stderr)
        return 1
    return 0


if __name__ == "__main__":
    sys.exit(main())
