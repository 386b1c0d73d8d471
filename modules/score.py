"""Scores generated reports of any system from their texts, without a model or images.

    python -m modules.score PREDICTIONS.csv [--protocol r2gen|full] [--out SCORES.json]

PREDICTIONS.csv has the columns id, reference and generated; a predictions.jsonl or a run folder also works.
docs/evaluation.md defines every score.
"""

import json
import sys
from argparse import ArgumentParser, RawDescriptionHelpFormatter
from collections.abc import Sequence
from pathlib import Path

from data.console import print_to_reader
from data.errors import UserError
from data.text.report_tables import write_lines
from modules.evaluation.metrics.weighted import RESAMPLES
from modules.evaluation.predictions import add_data_options
from modules.evaluation.text_protocol import add_protocol_options
from modules.evaluation.text_scoring import add_reading_options, format_text_scores, score_predictions


def main(arguments: Sequence[str] | None = None) -> int:
    """Return the exit status: 0, or 1 after a one-line message on stderr about an error that the user can fix."""
    parser = ArgumentParser(
        prog="python -m modules.score", description=__doc__, formatter_class=RawDescriptionHelpFormatter
    )
    parser.add_argument("predictions", type=Path, metavar="PREDICTIONS", help="CSV, predictions.jsonl or run folder")
    add_protocol_options(parser)
    add_reading_options(parser)
    add_data_options(parser)
    parser.add_argument("--radgraph", type=Path, metavar="DIR", help="add RadGraph F1 with the model in DIR")
    parser.add_argument("--radeval", nargs="+", metavar="METRIC", help="add these metrics of the package RadEval")
    parser.add_argument("--resamples", type=int, default=RESAMPLES, metavar="N", help="of studies, for intervals")
    parser.add_argument("--out", type=Path, metavar="FILE.json", help="write scores, intervals and tables")
    options = parser.parse_args(arguments)
    try:
        results = score_predictions(options)
        if options.out is not None:
            write_lines(options.out, [json.dumps(results, indent=2, ensure_ascii=False, allow_nan=False)])
    except UserError as error:
        print(error, file=sys.stderr)
        return 1
    print_to_reader(format_text_scores(results))
    return 0


if __name__ == "__main__":
    sys.exit(main())
