"""The 14 observations that the text of a report mentions.

    python -m data.labeler REPORTS.csv OUT.csv                    columns id and report -> id and the 14 observations
    python -m data.labeler --iu-xray NLMCXR_reports.tgz OUT.csv   the same for the studies of IU X-Ray, from their XML
    python -m data.labeler --score REPORTS LABELS                 agreement with the labels of somebody else

Values are CheXpert's: 1 present, 0 absent, -1 uncertain, blank where the report does not mention it. REPORTS is a table
like the above or NLMCXR_reports.tgz; LABELS is any table that `data.text.label_tables` reads. Which findings make which
observation is written in `files/lexicon/observations.yaml`.
"""

import sys
from argparse import ArgumentParser
from collections.abc import Iterable, Iterator, Sequence
from pathlib import Path

from data.console import print_to_reader
from data.errors import UserError
from data.ontology import FILES, observation_names
from data.sources.distributions import read_table
from data.sources.iu_xray.reports import IUReport, read_open_i, study_number
from data.text.label_agreement import agreement
from data.text.label_tables import read_label_table
from data.text.report_labels import label_report
from data.text.report_tables import csv_lines, read_reports, write_lines

_IU_SPLITS = FILES / "iu_xray" / "splits.csv"


def _table(reports: Iterable[tuple[str, str]]) -> Iterator[tuple]:
    """The rows of the table of labels, its header first, of (id, report)."""
    yield ("id", *observation_names())
    for study, report in reports:
        labels = label_report(report)
        yield (study, *(labels.get(name, "") for name in observation_names()))


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
