"""Scores generated reports of any system from their texts, without a model or images.

    python -m modules.score PREDICTIONS.csv [--protocol r2gen|full] [--out SCORES.json]
    python -m modules.score predicted_reports.csv --references gt_reports.csv
    python -m modules.score REXRANK.json --section findings
    python -m modules.score results/demo --format rexrank

PREDICTIONS.csv has the columns id, reference and generated, or others named with --columns; JSON lines, Parquet,
ReXrank's JSON, predictions.jsonl and a run folder work as well. docs/evaluation.md defines every score,
docs/rexrank.md shows the formats.
"""

import json
import sys
from argparse import ArgumentParser, Namespace, RawDescriptionHelpFormatter
from collections.abc import Sequence
from pathlib import Path

from data.console import print_to_reader, run_command
from data.errors import UserError
from data.text.report_tables import write_lines
from modules.evaluation.formats.reading import FormatOptions
from modules.evaluation.formats.writing import FORMATS, default_output, write_reports
from modules.evaluation.metrics.packages.package_options import add_package_options
from modules.evaluation.metrics.weighted import RESAMPLES
from modules.evaluation.predictions import add_data_options, read_predictions
from modules.evaluation.text_protocol import add_protocol_options
from modules.evaluation.text_scoring import add_reading_options, format_text_scores, score_predictions


def main(arguments: Sequence[str] | None = None) -> int:
    """Return the exit status: 0, or 1 after a one-line message on stderr about an error that the user can fix."""
    parser = ArgumentParser(
        prog="python -m modules.score", description=__doc__, formatter_class=RawDescriptionHelpFormatter
    )
    parser.add_argument("predictions", type=Path, metavar="PREDICTIONS", help="a file of reports, or a run folder")
    add_protocol_options(parser)
    add_reading_options(parser)
    add_data_options(parser)
    add_package_options(parser)
    parser.add_argument("--resamples", type=int, default=RESAMPLES, metavar="N", help="of studies, for intervals")
    parser.add_argument(
        "--format", choices=FORMATS, help="also write the reports as ReXrank's JSON, or as the two CSVs of "
        "CXR-Report-Metric, and print where",
    )
    parser.add_argument("--format-out", type=Path, metavar="PATH", help="where; default: beside PREDICTIONS")
    parser.add_argument("--out", type=Path, metavar="FILE.json", help="write scores, intervals and tables")
    options = parser.parse_args(arguments)
    try:
        results = score_predictions(options)
        written = convert_reports(options) if options.format is not None else []
        if options.out is not None:
            write_lines(options.out, [json.dumps(results, indent=2, ensure_ascii=False, allow_nan=False)])
    except UserError as error:
        print(error, file=sys.stderr)
        return 1
    print_to_reader("\n".join([format_text_scores(results), *(f"written: {path}" for path in written)]))
    return 0


def convert_reports(options: Namespace) -> list[Path]:
    """Write the reports in the format of --format; return the files. Raises UserError if that fails."""
    predictions = read_predictions(options.predictions, options.studies, FormatOptions.from_options(options))
    out = options.format_out or default_output(options.format, predictions.path)
    return write_reports(options.format, out, predictions.ids, predictions.references, predictions.generated)


if __name__ == "__main__":
    sys.exit(run_command(main))
