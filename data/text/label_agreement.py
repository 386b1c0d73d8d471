"""Agreement between our labels and those of another labeler."""

from collections.abc import Iterable, Sequence
from dataclasses import dataclass, field

from data.errors import UserError
from data.ontology import observation_names
from data.text.label_tables import LabelTable
from data.text.report_labels import label_report

# The F1 of an observation with fewer positives depends on single reports: the macro average leaves it out.
_MIN_POSITIVES = 20


@dataclass
class Agreement:
    """Counts of positive labels; uncertain counts as positive.

    counts   observation -> [positive in both, only in ours, only in theirs]
    studies  number of studies compared
    """

    counts: dict[str, list[int]] = field(default_factory=lambda: {name: [0, 0, 0] for name in observation_names()})
    studies: int = 0

    def add(self, ours: dict[str, int], theirs: dict[str, int]) -> None:
        """Add the labels of one study."""
        self.studies += 1
        for name, counts in self.counts.items():
            positive_in_ours, positive_in_theirs = ours.get(name, 0) != 0, theirs.get(name, 0) != 0
            counts[0] += positive_in_ours and positive_in_theirs
            counts[1] += positive_in_ours and not positive_in_theirs
            counts[2] += positive_in_theirs and not positive_in_ours

    @property
    def micro_f1(self) -> float:
        """F1 over all observations together."""
        return _f1([sum(counts) for counts in zip(*self.counts.values(), strict=True)])

    @property
    def macro_f1(self) -> float | None:
        """Mean F1 of the observations with enough positives in the other labels; None if there are none."""
        scores = [_f1(counts) for counts in self.counts.values() if counts[0] + counts[2] >= _MIN_POSITIVES]
        return sum(scores) / len(scores) if scores else None

    def table(self) -> str:
        """Return a table for display."""
        lines = [f"{'':28}{'positives':>10}{'precision':>10}{'recall':>10}{'F1':>10}"]
        for name, counts in self.counts.items():
            both, ours, theirs = counts
            precision, recall = (both / (both + errors) if both + errors else 0.0 for errors in (ours, theirs))
            scores = "".join(f"{score:10.3f}" for score in (precision, recall, _f1(counts)))
            lines.append(f"{name:28}{both + theirs:10d}{scores}")
        macro = "-" if self.macro_f1 is None else f"{self.macro_f1:.3f}"
        lines.append(
            f"micro-F1 {self.micro_f1:.3f}, macro-F1 {macro} (observations with at least {_MIN_POSITIVES} positives)"
        )
        return "\n".join(lines)


def measure_agreement(reports: Iterable[tuple[str, str]], labels: LabelTable) -> Agreement:
    """Label the reports, given as (id, text), and compare with `labels`; reports without labels are skipped.

    Raises UserError if none of the reports has labels.
    """
    agreement = Agreement()
    for study_id, report in reports:
        theirs = labels.find(study_id, report)
        if theirs is None:
            # Published labels of IU X-Ray use the first two parts of R2Gen's ids.
            theirs = labels.find("-".join(study_id.split("-")[:2]), report)
        if theirs is not None:
            agreement.add(label_report(report), theirs)
    if not agreement.studies:
        raise UserError("None of the reports has labels: use files with the same ids")
    return agreement


def _f1(counts: Sequence[int]) -> float:
    """Return the F1 of [positive in both, only in ours, only in theirs]; 0 without positives."""
    both, ours, theirs = counts
    return 2 * both / (2 * both + ours + theirs) if both + ours + theirs else 0.0
