"""The 14 observations that the text of a report mentions.

    python -m data.labeler REPORTS.csv OUT.csv                    columns id and report -> id and the 14 observations
    python -m data.labeler --iu-xray NLMCXR_reports.tgz OUT.csv   the same for the studies of IU X-Ray, from their XML
    python -m data.labeler --score REPORTS LABELS                 agreement with the labels of somebody else

Values are CheXpert's: 1 present, 0 absent, -1 uncertain, blank where the report does not mention it. REPORTS is a table
like the above or NLMCXR_reports.tgz; LABELS is any table that `data.label_tables` reads. Which findings make which
observation is written in `files/lexicon/observations.yaml`.
"""

import sys
from argparse import ArgumentParser
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass, field
from functools import cache
from pathlib import Path

from data.console import print_to_reader
from data.errors import UserError
from data.label_tables import LabelTable, read_label_table
from data.lexicon import Lexicon, read_lexicon_file
from data.negation import ABSENT, PRESENT, UNCERTAIN
from data.report_tables import csv_lines, read_reports, write_lines
from data.sources.distributions import read_table
from data.sources.iu_xray_reports import IUReport, read_open_i, study_number
from data.text_graph import Finding, read_report
from data.vocabulary import OBSERVATIONS

NO_FINDING, SUPPORT_DEVICES = "No Finding", "Support Devices"
_VALUES = {PRESENT: 1, UNCERTAIN: -1, ABSENT: 0}
_IU_SPLITS = Path(__file__).resolve().parent.parent / "files" / "iu_xray" / "splits.csv"
# A macro average over fewer positives says more about single reports than about the labeler.
_FEWEST_POSITIVES = 20


def label_report(text: str) -> dict[str, int]:
    """Observation -> 1, 0 or -1, for those that `text` mentions.

    Of several mentions, present wins over uncertain, and uncertain over absent. No Finding is 1 where the report has
    nothing present or uncertain that speaks against it; it is never 0 or -1. A text without words mentions nothing.
    """
    rules = _rules()
    values: dict[str, set[int]] = {}
    sentences = read_report(text)
    findings = [finding for sentence in sentences for finding in sentence.findings]
    for finding in findings:
        for observation in rules.observations_of(finding):
            values.setdefault(observation, set()).add(_VALUES[finding.polarity])
    if sentences and not any(rules.against_no_finding(finding) for finding in findings):
        values[NO_FINDING] = {1}
    strongest = {name: next(value for value in (1, -1, 0) if value in found) for name, found in values.items()}
    return {name: strongest[name] for name in OBSERVATIONS if name in strongest}


@dataclass(frozen=True)
class _Rules:
    """What `files/lexicon/observations.yaml` says; the findings by name."""

    by_finding: dict[str, tuple[str, ...]]
    not_when_chronic: frozenset[str]
    others_against: frozenset[str]

    def observations_of(self, finding: Finding) -> tuple[str, ...]:
        """The observations that `finding` is about."""
        names = self.by_finding.get(finding.name, ())
        if finding.temporal == "chronic":
            return tuple(name for name in names if name not in self.not_when_chronic)
        return names

    def against_no_finding(self, finding: Finding) -> bool:
        """Whether No Finding does not hold beside `finding`."""
        if finding.polarity == ABSENT:
            return False
        names = self.observations_of(finding)
        return any(name != SUPPORT_DEVICES for name in names) or finding.name in self.others_against


@cache
def _rules() -> _Rules:
    content = read_lexicon_file("observations")
    known = Lexicon.load().findings
    by_finding: dict[str, tuple[str, ...]] = {}
    for observation, findings in content["from findings"].items():
        for finding in findings:
            by_finding[known[finding].name] = (*by_finding.get(finding, ()), observation)
    others = frozenset(known[finding].name for finding in content["against no finding"])
    return _Rules(by_finding, frozenset(content["not when chronic"]), others)


# Tables


def _table(reports: Iterable[tuple[str, str]]) -> Iterator[tuple]:
    """The rows of the table of labels, its header first, of (id, report)."""
    yield ("id", *OBSERVATIONS)
    for study, report in reports:
        labels = label_report(report)
        yield (study, *(labels.get(name, "") for name in OBSERVATIONS))


def _iu_xray_reports(archive: Path) -> list[tuple[str, IUReport]]:
    """R2Gen's study id and report of every study of IU X-Ray. Raises UserError for an archive that lacks one."""
    if not archive.exists():
        raise UserError(f"Cannot read {archive}: it is not there")
    by_number = read_open_i(archive).by_number
    studies = []
    for study, _ in read_table(_IU_SPLITS, ("id", "split")):
        report = by_number.get(study_number(study))
        if report is None:
            raise UserError(f"{archive} lacks the report of study {study}: fetch NLMCXR_reports.tgz again")
        studies.append((study, report))
    return studies


def _findings_and_impression(report: IUReport) -> str:
    """What CheXpert's labelers read."""
    return f"{report.findings} {report.impression}".strip()


# Agreement


@dataclass
class Agreement:
    """How often our labels agree with others', uncertain taken for positive in both.

    counts   observation -> [both positive, ours alone, theirs alone]
    studies  how many were compared
    """

    counts: dict[str, list[int]] = field(default_factory=lambda: {name: [0, 0, 0] for name in OBSERVATIONS})
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


def _print_agreement(reports: Path, labels: Path) -> None:
    """The agreement of one table, or on IU X-Ray's findings and impression and on its findings alone."""
    table = read_label_table(labels)
    if reports.suffix == ".csv":
        texts = {"": read_reports(reports)}
    else:
        studies = _iu_xray_reports(reports)
        texts = {
            " on findings and impression": ((study, _findings_and_impression(report)) for study, report in studies),
            " on findings alone": ((study, report.findings) for study, report in studies),
        }
    for name, rows in texts.items():
        result = agreement(rows, table)
        print_to_reader(f"{result.studies} studies{name}, uncertain as positive\n{result.report()}\n")


def main(arguments: Sequence[str] | None = None) -> int:
    """Do what the command line asks for; returns the exit status."""
    parser = ArgumentParser(prog="python -m data.labeler", description="The 14 observations of reports.")
    parser.add_argument("reports", type=Path, metavar="REPORTS", help="CSV with columns id and report")
    parser.add_argument("other", type=Path, metavar="OUT.csv|LABELS", help="table to write, or to compare with")
    what = parser.add_mutually_exclusive_group()
    what.add_argument("--iu-xray", action="store_true", help="REPORTS is NLMCXR_reports.tgz: label R2Gen's studies")
    what.add_argument("--score", action="store_true", help="agreement with LABELS; REPORTS may be that archive")
    parsed = parser.parse_args(arguments)
    try:
        if parsed.score:
            _print_agreement(parsed.reports, parsed.other)
        elif parsed.iu_xray:
            studies = _iu_xray_reports(parsed.reports)
            rows = _table((study, _findings_and_impression(report)) for study, report in studies)
            write_lines(parsed.other, csv_lines(rows))
        else:
            write_lines(parsed.other, csv_lines(_table(read_reports(parsed.reports))))
    except UserError as error:
        print(error, file=sys.stderr)
        return 1
    return 0


if __name__ == "__main__":
    sys.exit(main())
