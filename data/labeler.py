"""Command that labels reports with the 14 CheXpert observations.

    python -m data.labeler REPORTS.csv OUT.csv                    columns id and report -> id and the 14 observations
    python -m data.labeler --iu-xray NLMCXR_reports.tgz OUT.csv   the same for the studies of IU X-Ray, from their XML
    python -m data.labeler --score REPORTS LABELS                 agreement with the labels of another labeler

Labels are 1 (present), 0 (absent), -1 (uncertain) or blank (not mentioned). REPORTS is a table as above or
NLMCXR_reports.tgz; LABELS is any table that `data.text.label_tables` reads. `files/lexicon/observations.yaml` maps
findings to observations.
"""

import sys
from argparse import ArgumentParser
from collections.abc import Iterable, Iterator, Sequence
from pathlib import Path

from data.console import print_to_reader, run_command
from data.errors import UserError, missing
from data.ontology import FILES, observation_names
from data.sources.distributions import read_table
from data.sources.iu_xray.reports import IUReport, read_open_i, study_number
from data.text.label_agreement import measure_agreement
from data.text.label_tables import read_label_table
from data.text.report_labels import label_report
from data.text.report_tables import csv_lines, read_reports, write_lines

_IU_SPLITS = FILES / "iu_xray" / "splits.csv"


def _label_rows(reports: Iterable[tuple[str, str]]) -> Iterator[tuple]:
    """Yield the header and the rows of the table of labels for reports given as (id, text)."""
    yield ("id", *observation_names())
    for study_id, report in reports:
        labels = label_report(report)
        yield (study_id, *(labels.get(name, "") for name in observation_names()))


def _iu_xray_reports(archive: Path) -> list[tuple[str, IUReport]]:
    """Read R2Gen's study id and the report of every study of IU X-Ray. Raises UserError if a report is missing."""
    if not archive.exists():
        raise missing("archive of reports", archive, "download NLMCXR_reports.tgz from Open-i")
    by_number = read_open_i(archive).by_number
    studies = []
    for study_id, _ in read_table(_IU_SPLITS, ("id", "split")):
        report = by_number.get(study_number(study_id))
        if report is None:
            raise UserError(f"{archive} lacks the report of study {study_id}: download NLMCXR_reports.tgz again")
        studies.append((study_id, report))
    return studies


def _findings_and_impression(report: IUReport) -> str:
    """Return the text that CheXpert's labeler reads."""
    return f"{report.findings} {report.impression}".strip()


def _print_agreement(reports: Path, labels: Path) -> None:
    """Print the agreement for a table; for IU X-Ray, for findings and impression and for findings alone."""
    table = read_label_table(labels)
    if reports.suffix == ".csv":
        texts = {"": read_reports(reports)}
    else:
        studies = _iu_xray_reports(reports)
        texts = {
            " on findings and impression": ((name, _findings_and_impression(report)) for name, report in studies),
            " on findings alone": ((name, report.findings) for name, report in studies),
        }
    for name, rows in texts.items():
        agreement = measure_agreement(rows, table)
        print_to_reader(f"{agreement.studies} studies{name}, uncertain as positive\n{agreement.table()}\n")


def main(arguments: Sequence[str] | None = None) -> int:
    """Run the command; returns the exit status."""
    parser = ArgumentParser(prog="python -m data.labeler", description="Label reports with CheXpert's observations.")
    parser.add_argument("reports", type=Path, metavar="REPORTS", help="CSV file with columns id and report")
    parser.add_argument("other", type=Path, metavar="OUT.csv|LABELS", help="table to write, or labels to compare with")
    mode = parser.add_mutually_exclusive_group()
    mode.add_argument("--iu-xray", action="store_true", help="REPORTS is NLMCXR_reports.tgz: label R2Gen's studies")
    mode.add_argument("--score", action="store_true", help="print the agreement with LABELS")
    parsed = parser.parse_args(arguments)
    try:
        if parsed.score:
            _print_agreement(parsed.reports, parsed.other)
        elif parsed.iu_xray:
            studies = _iu_xray_reports(parsed.reports)
            rows = _label_rows((study_id, _findings_and_impression(report)) for study_id, report in studies)
            write_lines(parsed.other, csv_lines(rows))
        else:
            write_lines(parsed.other, csv_lines(_label_rows(read_reports(parsed.reports)), for_spreadsheets=True))
    except UserError as error:
        print(error, file=sys.stderr)
        return 1
    return 0


if __name__ == "__main__":
    sys.exit(run_command(main))
