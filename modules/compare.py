"""Compares systems on the same studies: paired differences with intervals and p-values.

    python -m modules.compare RUN_A RUN_B [...] [--csv TABLE.csv] [--latex TABLE.tex] [--html PAGE.html]
    python -m modules.compare --group full=results/full_1,results/full_2 --group plain=results/plain_1,results/plain_2

A RUN is a run folder, its metrics or predictions file, or a table as for `modules.score`. Every system is compared with
the first. A group is one system trained with several seeds: its score is the mean over its runs.
"""

import sys
from argparse import ArgumentParser, RawDescriptionHelpFormatter
from collections.abc import Sequence
from pathlib import Path

from data.console import print_to_reader, run_command
from data.errors import UserError, unknown_name, wrong_value
from data.text.report_tables import csv_lines, write_lines
from modules.evaluation.comparison import System, compare_systems
from modules.evaluation.comparison_tables import csv_rows, latex_table, text_table
from modules.evaluation.metrics.packages.package_options import add_package_options
from modules.evaluation.metrics.text_scores import TEXT_NAMES
from modules.evaluation.metrics.weighted import RESAMPLES
from modules.evaluation.pages.comparison_page import write_comparison_page
from modules.evaluation.predictions import add_data_options, predictions_path
from modules.evaluation.scoring import SCORE_NAMES
from modules.evaluation.text_protocol import add_protocol_options
from modules.evaluation.text_scoring import add_reading_options

# Compared unless --scores names others.
MAIN_SCORES = (
    "bleu_1", "bleu_4", "meteor", "rouge_l", "cider", "report_14_micro_f1", "report_14_macro_f1", "report_5_micro_f1",
    "truth_14_micro_f1", "triple_f1", "distinct_reports", "abnormal_as_normal",
)


def main(arguments: Sequence[str] | None = None) -> int:
    """Return the exit status: 0, or 1 after a one-line message on stderr about an error that the user can fix."""
    parser = ArgumentParser(
        prog="python -m modules.compare", description=__doc__, formatter_class=RawDescriptionHelpFormatter
    )
    parser.add_argument("runs", nargs="*", type=Path, metavar="RUN", help="a system of one run")
    parser.add_argument("--group", action="append", default=[], metavar="NAME=RUN,RUN", help="a system of several runs")
    parser.add_argument(
        "--scores", nargs="+", metavar="NAME", help="scores to compare, or all; default: the main ones"
    )
    parser.add_argument("--resamples", type=int, default=RESAMPLES, metavar="N", help="for intervals and p-values")
    parser.add_argument("--csv", type=Path, metavar="FILE", help="write the table as CSV")
    parser.add_argument("--latex", type=Path, metavar="FILE", help="write the table as LaTeX (booktabs)")
    parser.add_argument(
        "--html", type=Path, metavar="FILE", help="write one page: a table to sort, worst and best studies"
    )
    add_protocol_options(parser)
    add_data_options(parser)
    add_reading_options(parser)
    add_package_options(parser)
    options = parser.parse_args(arguments)
    try:
        systems = parse_systems(options.runs, options.group)
        comparison = compare_systems(systems, parse_scores(options.scores), options)
        if options.csv is not None:
            write_lines(options.csv, csv_lines(csv_rows(comparison), for_spreadsheets=True))
        if options.latex is not None:
            write_lines(options.latex, latex_table(comparison))
        if options.html is not None:
            write_comparison_page(options.html, comparison)
    except UserError as error:
        print(error, file=sys.stderr)
        return 1
    print_to_reader("\n".join(text_table(comparison)))
    return 0


def parse_systems(runs: Sequence[Path], groups: Sequence[str]) -> list[System]:
    """Return the systems of the command line. Raises UserError for a malformed group or a repeated name."""
    systems = [System(run.name if run.is_dir() else str(run), [run]) for run in runs]
    for group in groups:
        name, sign, paths = group.partition("=")
        members = [Path(path) for path in paths.split(",") if path]
        if not sign or not name or not members:
            raise wrong_value("--group", group, "write NAME=RUN,RUN,RUN")
        if len({predictions_path(path).resolve() for path in members}) < len(members):
            raise UserError(f"--group {group} has a run twice: give the run of each seed once")
        systems.append(System(name, members))
    names = [system.name for system in systems]
    if len(set(names)) != len(names):
        # Run folders of the same name are told apart by their paths.
        systems = [System(str(run), [run]) for run in runs] + systems[len(runs) :]
        if len({system.name for system in systems}) != len(names):
            raise UserError(f"Two systems have one name among {', '.join(names)}: give each a different name")
    return systems


def parse_scores(names: Sequence[str] | None) -> Sequence[str]:
    """Return the scores to compare. Raises UserError for a name that is not a score of texts."""
    if names is None:
        return MAIN_SCORES
    if list(names) == ["all"]:
        return TEXT_NAMES
    for name in names:
        if name in SCORE_NAMES and name not in TEXT_NAMES:
            raise UserError(
                f"--scores: {name} cannot be computed from texts, it scores predictions from the image: see "
                "metrics.json of each run"
            )
        if name not in TEXT_NAMES:
            raise unknown_name("score", name, TEXT_NAMES, "--scores")
    return names


if __name__ == "__main__":
    sys.exit(run_command(main))
