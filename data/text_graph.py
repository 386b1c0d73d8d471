"""Report text to the scene graph that it describes (`data/text/report_graph.py`).

    python -m data.text_graph REPORTS.csv OUT.jsonl   the content of every sentence; columns id and report
    python -m data.text_graph --groups                the sentence group of every region
"""

import json
import sys
from argparse import ArgumentParser
from collections.abc import Sequence
from pathlib import Path

from data.console import print_to_reader
from data.errors import UserError
from data.text.report_graph import groups, read_report
from data.text.report_tables import read_reports, write_lines


def _line(study: str, report: str) -> str:
    """The output about one report."""
    said = [
        {
            "text": sentence.text,
            "regions": list(sentence.regions),
            "attributes": sentence.attributes,
            "polarity": sentence.polarity,
        }
        for sentence in read_report(report)
    ]
    return json.dumps({"id": study, "sentences": said}, ensure_ascii=False)


def main(arguments: Sequence[str] | None = None) -> int:
    """Do what the command line asks for; returns the exit status."""
    parser = ArgumentParser(prog="python -m data.text_graph", description="Reports to the scene graphs they describe.")
    parser.add_argument("reports", type=Path, nargs="?", metavar="REPORTS.csv", help="columns id and report")
    parser.add_argument("out", type=Path, nargs="?", metavar="OUT.jsonl", help="file to write, a report a line")
    parser.add_argument("--groups", action="store_true", help="print every region and its group, a tab between")
    parsed = parser.parse_args(arguments)
    try:
        if parsed.groups:
            print_to_reader("\n".join(f"{region}\t{group}" for region, group in groups().items()))
        elif parsed.out is None:
            raise UserError("Give the files REPORTS.csv and OUT.jsonl, or --groups")
        else:
            write_lines(parsed.out, (_line(study, report) for study, report in read_reports(parsed.reports)))
    except UserError as error:
        print(error, file=sys.stderr)
        return 1
    return 0


if __name__ == "__main__":
    sys.exit(main())
