"""Is one system better than another? Paired differences on the same studies, with intervals and p-values.

    python -m modules.compare RUN_A RUN_B [...] [--csv TABLE.csv] [--latex TABLE.tex]
    python -m modules.compare --group full=results/full_1,results/full_2 --group plain=results/plain_1,results/plain_2

A RUN is a run folder, a metrics or predictions file of one, or a table as `modules.score` takes it. Every system is
compared with the first. A group is one system trained with several seeds: its score is the mean of its runs' scores.
"""

import sys
from argparse import ArgumentParser, Namespace, RawDescriptionHelpFormatter
from collections.abc import Sequence
from dataclasses import dataclass, replace
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from data.console import print_to_reader
from data.errors import UserError
from data.text.report_tables import csv_lines, write_lines
from modules.evaluation.evaluator import SCORE_NAMES
from modules.evaluation.metrics.report_observations import TRUTH_NAMES
from modules.evaluation.metrics.text_scores import TEXT_NAMES, Readings, compared_with, text_scores
from modules.evaluation.metrics.weighted import (
    RESAMPLES,
    Interval,
    Score,
    ScoreSet,
    percentile_interval,
    resample_weights,
)
from modules.evaluation.predictions import Predictions, predictions_file
from modules.evaluation.text_protocol import PreparedTexts, add_protocol_options, prepare_texts
from modules.score import add_data_options, add_reading_options, chosen_labeler, predictions_of

MAIN_SCORES = (
    "bleu_1", "bleu_4", "meteor", "rouge_l", "cider", "report_14_micro_f1", "report_14_macro_f1", "report_5_micro_f1",
    "truth_14_micro_f1", "triple_f1", "distinct_reports", "abnormal_as_normal",
)
# Of the evaluation, what must not differ between runs: numbers on other studies say nothing.
_SAME = ("dataset", "split")
_SEED = 77


@dataclass(frozen=True)
class System:
    """A system to compare, with the runs that differ by their seed alone."""

    name: str
    runs: list[Path]


@dataclass(frozen=True)
class Row:
    """One score of one system beside the first system.

    compared_with      what the score compares generated reports with
    value, deviation   mean over the system's runs and their standard deviation (of a sample; None for one run)
    difference         to the first system; None for that itself
    interval           bootstrap 95 % interval of the difference, over studies
    p_value            of the paired randomisation test; None where the systems have different numbers of runs
    """

    score: str
    system: str
    runs: int
    value: float
    deviation: float | None
    compared_with: str
    difference: float | None = None
    interval: Interval | None = None
    p_value: float | None = None


def main(arguments: Sequence[str] | None = None) -> int:
    """Exit status: 0, or 1 after one line on stderr that says what the user can mend."""
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
    add_protocol_options(parser)
    add_data_options(parser)
    add_reading_options(parser)
    options = parser.parse_args(arguments)
    try:
        systems = _systems(options.runs, options.group)
        heading, rows, absent = compare(systems, options)
        if options.csv is not None:
            write_lines(options.csv, csv_lines([_COLUMNS, *(_cells(row) for row in rows)]))
        if options.latex is not None:
            write_lines(options.latex, latex_lines(heading, rows))
    except UserError as error:
        print(error, file=sys.stderr)
        return 1
    lines = [*text_lines(heading, rows), *(f"{name} is absent: {reason}" for name, reason in absent.items())]
    print_to_reader("\n".join(lines))
    return 0


def compare(systems: Sequence[System], options: Namespace) -> tuple[list[str], list[Row], dict[str, str]]:
    """What was compared, in lines; the rows, by score, then by system; and why scores are absent, by name.

    Raises UserError for fewer than two systems, and where runs differ in studies, references, labels, split or, with no
    protocol named, in the protocol of their evaluations.
    """
    if len(systems) < 2:
        raise UserError("Comparing takes two systems: give two runs, or --group NAME=RUN,RUN twice")
    if options.resamples < 1:
        raise UserError("--resamples takes 1 or more")
    names = _chosen_scores(options.scores)
    first, *others = predictions_of([path for system in systems for path in system.runs], options)
    same = _SAME if options.protocol is not None else (*_SAME, "protocol")
    runs = [first, *(_aligned(run, first, same) for run in others)]
    texts = [prepare_texts(run, options) for run in runs]
    for run, text in zip(runs, texts, strict=True):
        if text.scored_references != texts[0].scored_references:
            raise UserError(
                f"{run.path} compares other references than {first.path} (another protocol, vocabulary or cut): "
                "give --protocol to compare the same"
            )
    owners = np.repeat(np.arange(len(systems)), [len(system.runs) for system in systems])
    scores = _joint_scores(runs, texts, options)
    heading = _heading(systems, runs, owners, texts[0], options)
    units = np.arange(len(first)) if first.studies is None else first.studies
    rows, absent = [], {}
    for name in names:
        found = []
        if name in scores.scores:
            compared = compared_with(name, texts[0].words)
            found = _rows(name, compared, scores.scores[name], systems, owners, units, options.resamples)
            rows += found
        if not found:
            absent[name] = scores.absent.get(name) or scores.scores[name].undefined
    return heading, rows, absent


def _systems(runs: Sequence[Path], groups: Sequence[str]) -> list[System]:
    """The systems of the command line. Raises UserError for a group that is none, and for a name given twice."""
    systems = [System(run.name if run.is_dir() else str(run), [run]) for run in runs]
    for group in groups:
        name, sign, paths = group.partition("=")
        members = [Path(path) for path in paths.split(",") if path]
        if not sign or not name or not members:
            raise UserError(f"--group {group}: write NAME=RUN,RUN,RUN")
        if len({predictions_file(path).resolve() for path in members}) < len(members):
            raise UserError(f"--group {group} has a run twice: give every seed's run once")
        systems.append(System(name, members))
    names = [system.name for system in systems]
    if len(set(names)) != len(names):
        systems = [System(str(run), [run]) for run in runs] + systems[len(runs) :]
        if len({system.name for system in systems}) != len(names):
            raise UserError(f"Two systems have one name among {', '.join(names)}: every system needs its own")
    return systems


def _chosen_scores(wanted: Sequence[str] | None) -> tuple[str, ...]:
    if wanted is None:
        return MAIN_SCORES
    if list(wanted) == ["all"]:
        return TEXT_NAMES
    for name in wanted:
        if name in SCORE_NAMES and name not in TEXT_NAMES:
            raise UserError(
                f"{name} is of what a model read off the image, which texts do not tell: see metrics.json of each run"
            )
        if name not in TEXT_NAMES:
            raise UserError(f"There is no score '{name}' of texts; there are {', '.join(TEXT_NAMES)}")
    return tuple(wanted)


def _aligned(run: Predictions, first: Predictions, same: Sequence[str]) -> Predictions:
    """`run` in the order of `first`.

    Raises UserError where both are not about the same studies, references and labels, or their evaluations differ in
    what must be the `same`.
    """
    for key in same:
        ours, theirs = first.evaluation.get(key), run.evaluation.get(key)
        if ours is not None and theirs is not None and ours != theirs:
            mend = "name a --protocol to compare by" if key == "protocol" else "compare runs with the same"
            raise UserError(f"{run.path} has the {key} {theirs}, {first.path} has {ours}: {mend}")
    if set(run.ids) != set(first.ids):
        missing = sorted(set(first.ids) ^ set(run.ids))[0]
        raise UserError(f"{run.path} and {first.path} are not about the same studies: only one of them has {missing}")
    positions = {name: position for position, name in enumerate(run.ids)}
    order = [positions[name] for name in first.ids]

    def sort(values: list | None) -> list | None:
        return None if values is None else [values[position] for position in order]

    ordered = Predictions(
        run.path, list(first.ids), sort(run.references), sort(run.generated), sort(run.scored_references),
        sort(run.labels), None if run.studies is None else run.studies[order], run.evaluation,
    )
    pairs = {"another reference": (first.references, ordered.references)}
    if first.studies is not None:
        # Equal ids in equal order: equal names of studies have equal numbers.
        pairs["another study"] = (first.studies.tolist(), ordered.studies.tolist())
    if first.labels is not None and ordered.labels is not None:
        pairs["other labels of the data set"] = (first.labels, ordered.labels)
    for what, both in pairs.items():
        for name, ours, theirs in zip(first.ids, *both, strict=True):
            if ours != theirs:
                raise UserError(f"{run.path} has {what} for {name} than {first.path}: they must be the same")
    return ordered


def _heading(
    systems: Sequence[System], runs: Sequence[Predictions], owners: NDArray, texts: PreparedTexts, options: Namespace
) -> list[str]:
    """What was compared, what was done to the texts, and of each run what its evaluation says."""
    evaluated = runs[0].evaluation
    where = f"{evaluated['dataset']}, split {evaluated['split']}, " if {"dataset", "split"} <= set(evaluated) else ""
    lines = [
        f"{where}{len(runs[0])} reports; protocol {texts.words}; observations by {options.labeler}; "
        f"{options.resamples} resamples of studies; differences to {systems[0].name}",
        *(f"  {what}: {how}" for what, how in texts.applied.items()),
    ]
    for run, owner in zip(runs, owners, strict=True):
        settings = {"graph": "graph_source", "boxes": "box_source", "seed": "seed"}
        said = [f"{name} {run.evaluation[key]}" for name, key in settings.items() if key in run.evaluation]
        lines.append(f"  {systems[owner].name}: {run.path}" + (f" ({', '.join(said)})" if said else ""))
    first, *others = systems
    lines += [
        f"  {other.name} has no p-values: its runs ({len(other.runs)}) and those of {first.name} ({len(first.runs)}) "
        "make no pairs to exchange reports in"
        for other in others if len(other.runs) != len(first.runs)
    ]
    return lines


def _joint_scores(runs: Sequence[Predictions], texts: Sequence[PreparedTexts], options: Namespace) -> ScoreSet:
    """The scores of all reports of all runs together, run after run: weights choose whose reports count."""
    labeler = chosen_labeler(options)
    references, generated = (
        Readings.of([report for text in texts for report in getattr(text, name)], labeler, options.workers)
        for name in ("references", "generated")
    )
    scored_references = [report for text in texts for report in text.scored_references]
    without = [run for run in runs if run.labels is None]
    truth = known = certain = None
    if not without:
        labels = [each for run in runs for each in run.labels]
        joint = replace(runs[0], labels=labels)
        (truth, known), (certain, _) = joint.truth(), joint.truth(uncertain=False)
    scores = text_scores(
        references, generated, scored_references, truth, known, not options.no_meteor, texts[0].frequencies, certain
    )
    if 0 < len(without) < len(runs):
        reason = f"{without[0].path} has no labels of the data set, which other runs have: give --labels"
        scores.absent |= dict.fromkeys(TRUTH_NAMES, reason)
    return scores


def _rows(
    name: str, compared: str, score: Score, systems: Sequence[System], owners: NDArray, units: NDArray, resamples: int
) -> list[Row]:
    """The rows of one score; none where it is undefined for a run.

    owners [runs] int: the system of every run; units [N] int: the study of every report
    """
    studies = len(units)

    def of_runs(weights: NDArray) -> NDArray:
        """[runs, B]: the score of every run for weights [B, N] of the studies."""
        return np.stack([score.of(_placed(weights, run, len(owners))) for run in range(len(owners))])

    whole = of_runs(np.ones((1, studies)))[:, 0]
    if np.isnan(whole).any():
        return []
    resampled = np.concatenate(
        [of_runs(weights) for weights in resample_weights(units, resamples)], axis=1
    )
    rows = []
    for number, system in enumerate(systems):
        values = whole[owners == number]
        deviation = float(values.std(ddof=1)) if len(values) > 1 else None
        if number == 0:
            rows.append(Row(name, system.name, len(values), float(values.mean()), deviation, compared))
            continue
        difference = values.mean() - whole[owners == 0].mean()
        differences = resampled[owners == number].mean(axis=0) - resampled[owners == 0].mean(axis=0)
        if score.centred:
            differences = differences - np.nanmean(differences) + difference
        pairs = list(zip(np.flatnonzero(owners == 0), np.flatnonzero(owners == number), strict=False))
        paired = len(values) == (owners == 0).sum()
        rows.append(Row(
            name, system.name, len(values), float(values.mean()), deviation, compared, float(difference),
            percentile_interval(differences) if units.max() > 0 else None,
            _p_value(score, pairs, len(owners), units, float(difference), resamples) if paired else None,
        ))
    return rows


def _placed(weights: NDArray, run: int, runs: int) -> NDArray:
    """[B, runs * N]: weights [B, N] for the reports of one run, 0 for those of the others."""
    count, studies = weights.shape
    placed = np.zeros((count, runs, studies))
    placed[:, run] = weights
    return placed.reshape(count, -1)


def _p_value(
    score: Score, pairs: Sequence[tuple[int, int]], runs: int, units: NDArray, difference: float, permutations: int
) -> float:
    """Two-sided p-value of the paired randomisation test (Noreen, 1989; Riezler and Maxwell, ACL workshop 2005).

    If the systems were equal, the reports of both could be exchanged study by study: how often is the difference then
    as large as `difference`? A study (units [N] int: that of every report) is exchanged with all its reports and in all
    pairs of runs at once. The observed exchange counts as a draw.
    """
    generator = np.random.default_rng(_SEED)
    as_large, rows = 0, max(1, 4_000_000 // (runs * len(units)))
    for start in range(0, permutations, rows):
        sides = generator.integers(0, 2, size=(min(rows, permutations - start), int(units.max()) + 1))
        kept = sides.astype(np.float64)[:, units]
        drawn = np.zeros(len(kept))
        for first, other in pairs:
            exchanged = 1 - kept
            drawn += score.of(_placed(kept, other, runs) + _placed(exchanged, first, runs))
            drawn -= score.of(_placed(kept, first, runs) + _placed(exchanged, other, runs))
        drawn = np.nan_to_num(drawn / len(pairs))
        as_large += int((np.abs(drawn) >= abs(difference) - 1e-12).sum())
    return (as_large + 1) / (permutations + 1)


# Tables

_COLUMNS = ("score", "system", "runs", "value", "deviation", "difference", "low", "high", "p", "compared_with")


def _cells(row: Row) -> tuple[object, ...]:
    """The cells of a row in the order of the columns; blank where there is nothing."""
    low, high = row.interval or (None, None)
    numbers = (row.value, row.deviation, row.difference, low, high, row.p_value)
    texts = ("" if number is None else f"{number:.6f}" for number in numbers)
    return (row.score, row.system, row.runs, *texts, row.compared_with)


def _shown(row: Row, plus_minus: str, dash: str) -> tuple[str, ...]:
    """score, system, value, difference, interval, p for people."""
    value = f"{row.value:.3f}" + ("" if row.deviation is None else f" {plus_minus} {row.deviation:.3f}")
    difference = "" if row.difference is None else f"{row.difference:+.3f}"
    interval = "" if row.interval is None else f"{row.interval[0]:+.3f} {dash} {row.interval[1]:+.3f}"
    return row.score, row.system, value, difference, interval, "" if row.p_value is None else f"{row.p_value:.3f}"


def text_lines(heading: Sequence[str], rows: Sequence[Row]) -> list[str]:
    """The table for the console."""
    table = [("score", "system", "value", "difference", "95 % interval", "p")]
    table += [_shown(row, "+-", "to") for row in rows]
    widths = [max(len(cells[column]) for cells in table) for column in range(len(table[0]))]
    padded = ([cell.ljust(width) for cell, width in zip(cells, widths, strict=True)] for cells in table)
    return [*heading, "", *("  ".join(cells).rstrip() for cells in padded)]


def latex_lines(heading: Sequence[str], rows: Sequence[Row]) -> list[str]:
    """The table as LaTeX, for the package booktabs."""
    lines = [
        *(f"% {line}" for line in heading), r"\begin{tabular}{llrrrr}", r"\toprule",
        r"score & system & value & difference & 95\,\% interval & $p$ \\", r"\midrule",
    ]
    for row in rows:
        score, system, *numbers = _shown(row, r"$\pm$", "to")
        lines.append(" & ".join([_escaped(score), _escaped(system), *numbers]) + r" \\")
    return [*lines, r"\bottomrule", r"\end{tabular}"]


_IN_LATEX = {letter: f"\\{letter}" for letter in "_%&#${}"} | {
    "\\": r"\textbackslash{}", "^": r"\textasciicircum{}", "~": r"\textasciitilde{}",
}


def _escaped(text: str) -> str:
    """`text` with the characters that mean something to LaTeX as themselves."""
    return "".join(_IN_LATEX.get(letter, letter) for letter in text)


if __name__ == "__main__":
    sys.exit(main())
