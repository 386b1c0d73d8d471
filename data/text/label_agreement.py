"""Agreement of our labels with those of another labeler."""

from collections.abc import Iterable, Sequence
from dataclasses import dataclass, field

from data.errors import UserError
from data.ontology import observation_names
from data.text.label_tables import LabelTable
from data.text.report_labels import label_report

# A macro average over fewer positives says more about single reports than about the labeler.
_FEWEST_POSITIVES = 20


@dataclass
class Agreement:
    """How often our labels agree with others', uncertain taken for positive in both.

    counts   observation -> [both positive, ours alone, theirs alone]
    studies  how many were compared
    """

    counts: dict[str, list[int]] = field(default_factory=lambda: {name: [0, 0, 0] for name in observation_names()})
    studies: int = 0

    def add(self, ours: dict[str, int], theirs: dict[str, int]) -> None:
        """Compare the labels of one study."""
        self.studies += 1
        for name, counts in self.counts.items():
            positive = ours.get(name, 0) != 0, theirs.get(name, 0) != 0
            if any(positive):
                counts[{(True, True): 0, (True, False): 1, (False, True): 2}[positive]] += 1

    @property
    def micro_f1(self) -> float:
        """F1 of all decisions together."""
        return _f1([sum(counts) for counts in zip(*self.counts.values(), strict=True)])

    @property
    def macro_f1(self) -> float | None:
        """Mean F1 of the observations with enough positives; None where none has."""
        scores = [_f1(counts) for counts in self.counts.values() if counts[0] + counts[2] >= _FEWEST_POSITIVES]
        return sum(scores) / len(scores) if scores else None

    def report(self) -> str:
        """A table for people."""
        lines = [f"{'':28}{'positives':>10}{'precision':>10}{'recall':>10}{'F1':>10}"]
        for name, counts in self.counts.items():
            both, ours, theirs = counts
            precision, recall = (both / (both + others) if both + others else 0.0 for others in (ours, theirs))
            scores = "".join(f"{score:10.3f}" for score in (precision, recall, _f1(counts)))
            lines.append(f"{name:28}{both + theirs:10d}{scores}")
        macro = "-" if self.macro_f1 is None else f"{self.macro_f1:.3f}"
        lines.append(
            f"micro-F1 {self.micro_f1:.3f}, macro-F1 {macro} (observations with {_FEWEST_POSITIVES} positives)"
        )
        return "\n".join(lines)


def agreement(reports: Iterable[tuple[str, str]], labels: LabelTable) -> Agreement:
    """The agreement over those of the reports, (id, text), that have labels. Raises UserError where none has."""
    result = Agreement()
    for study, report in reports:
        # Published labels of IU X-Ray go by the first two parts of R2Gen's ids.
        theirs = labels.find(study, report)
        if theirs is None:
            theirs = labels.find("-".join(study.split("-")[:2]), report)
        if theirs is not None:
            result.add(label_report(report), theirs)
    if not result.studies:
        raise UserError("None of the reports has labels: do both files have the same ids?")
    return result


def _f1(counts: Sequence[int]) -> float:
    """F1 of [both positive, ours alone, theirs alone]; 0 without any."""
    both, ours, theirs = counts
    return 2 * both / (2 * both + ours + theirs) if both + ours + theirs else 0.0
