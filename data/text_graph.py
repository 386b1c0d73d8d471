"""Command that extracts regions, attributes, polarity and change from the sentences of reports.

    python -m data.text_graph REPORTS.csv OUT.jsonl           one line per report, with the content of its sentences;
                                                              REPORTS.csv has the columns id and report
    python -m data.text_graph REPORTS.csv OUT.jsonl --graph   the same with the scene graph, as in a prepared data set
    python -m data.text_graph --groups                        the sentence group of every region
"""

import json
import sys
from argparse import ArgumentParser
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from data.console import print_to_reader, run_command
from data.errors import UserError
from data.text.report_graph import read_report, region_groups, scene_graph
from data.text.report_tables import read_reports, write_lines


def _json_line(study_id: str, report: str, with_graph: bool) -> str:
    """Return the output line of one report."""
    sentences = read_report(report)
    content: dict[str, Any] = {
        "id": study_id,
        "sentences": [
            {
                "text": sentence.text,
                "regions": list(sentence.regions),
                "attributes": sentence.attributes,
                "polarity": sentence.polarity,
                "changes": {region: changes for region in sentence.regions if (changes := sentence.changes_of(region))},
            }
            for sentence in sentences
        ],
    }
    if with_graph:
        content["graph"] = scene_graph(sentences)
    return json.dumps(content, ensure_ascii=False)


def main(arguments: Sequence[str] | None = None) -> int:
    """Run the command; returns the exit status."""
    parser = ArgumentParser(prog="python -m data.text_graph", description="Extract the content of report sentences.")
    parser.add_argument("reports", type=Path, nargs="?", metavar="REPORTS.csv", help="table with columns id and report")
    parser.add_argument("out", type=Path, nargs="?", metavar="OUT.jsonl", help="file to write, one line per report")
    parser.add_argument("--graph", action="store_true", help="add the scene graph of every report")
    parser.add_argument("--groups", action="store_true", help="print every region and its group, separated by a tab")
    parsed = parser.parse_args(arguments)
    try:
        if parsed.groups:
            print_to_reader("\n".join(f"{region}\t{group}" for region, group in region_groups().items()))
        elif parsed.out is None:
            raise UserError("Specify the files REPORTS.csv and OUT.jsonl, or --groups")
        else:
            reports = read_reports(parsed.reports)
            write_lines(parsed.out, (_json_line(study_id, report, parsed.graph) for study_id, report in reports))
    except UserError as error:
        print(error, file=sys.stderr)
        return 1
    return 0


if __name__ == "__main__":
    sys.exit(run_command(main))
