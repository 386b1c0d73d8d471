"""report.html: an evaluation to look at, in one file without links: scores, the run's course, tables, and studies.

The page is well-formed, so any XML parser reads it too, and needs no script. It holds images and reports: keep it where
those may lie.
"""

import re
from collections.abc import Callable, Mapping, Sequence
from html import escape
from pathlib import Path
from typing import Any

import numpy as np

from data.vocabulary import Vocabularies
from models.outputs import GraphSource
from modules.evaluation.evaluator import SCORE_GROUPS, Evaluation
from modules.evaluation.metrics.calibration import RELIABILITY, Bin
from modules.evaluation.metrics.selective import COVERAGES, ERROR_BY_COVERAGE
from modules.evaluation.pages.page_style import STYLE
from modules.evaluation.pages.plots import coverage_plot, line_plot, reliability_plot
from modules.evaluation.pages.study_panel import HIGHLIGHT, LEGEND, Case, study_panel
from modules.evaluation.results import (
    COLUMNS,
    difference_text,
    graph_notes,
    heading,
    interval_text,
    score_text,
    write_atomically,
)

PICTURES = 10
EXTREMES = 3
# What best and worst are chosen by; a later score decides where those before it are equal.
CASE_SCORES = ("report_f1", "triple_f1")
# The scores that are shown without being asked for.
HEADLINES = (
    "bleu_4", "meteor", "rouge_l", "cider", "report_14_micro_f1", "triple_f1", "region_micro_f1", "attribute_micro_f1",
    "observation_micro_f1", "box_iou", "sentence_error_at_100",
)

_Curves = Mapping[str, Mapping[str, Sequence[tuple[int, float]]]]


def chosen_studies(evaluation: Evaluation) -> list[tuple[int, str]]:
    """(position, why) of up to ten studies: the best, the worst, and others evenly spaced over the split.

    Best and worst are by `CASE_SCORES` of each study, as far as they are known. Ten studies or fewer are all chosen.
    """
    count = len(evaluation.records)
    known = [name for name in CASE_SCORES if name in evaluation.per_study]
    ranked: list[int] = []
    if known and count > PICTURES:
        columns = [evaluation.per_study[name] for name in known]
        counted = [study for study in range(count) if np.isfinite(columns[0][study])]
        ranked = sorted(counted, key=lambda study: [-np.nan_to_num(column[study]) for column in columns])
    extremes = min(EXTREMES, len(ranked) // 2)

    def scored(study: int) -> str:
        values = {name: evaluation.per_study[name][study] for name in known}
        return ", ".join(f"{name} {value:.2f}" for name, value in values.items() if np.isfinite(value))

    chosen = {study: f"among the best: {scored(study)}" for study in ranked[:extremes]}
    chosen |= {study: f"among the worst: {scored(study)}" for study in ranked[len(ranked) - extremes :]}
    others = [study for study in range(count) if study not in chosen]
    shown = min(PICTURES - len(chosen), len(others))
    for place in range(shown):
        study = others[place * len(others) // shown]
        chosen[study] = scored(study)
    return list(chosen.items())


def write_report_page(
    path: Path, metrics: Mapping[str, Any], cases: Sequence[Case], vocabularies: Vocabularies, course: _Curves
) -> None:
    """Write the page of an evaluation.

    metrics   metrics.json
    course    of the run: group -> name -> [(optimiser step, value)] (`run_log.read_curves`)
    Raises UserError where the disk does not take it.
    """
    sections = {
        "Scores": _scores(metrics),
        "What the graph is worth": _graph_sources(metrics),
        "Calibration and confidence": _calibration(metrics),
        "By region and by observation": _tables(metrics),
        "Studies": LEGEND + "".join(study_panel(case, vocabularies) for case in cases) if cases else "",
        "Course of the run": _course(course),
    }
    shown = {title: content for title, content in sections.items() if content}
    title = f"{metrics['dataset']}: generated reports"
    links = "".join(f'<a href="#{_anchor(name)}">{escape(name)}</a>' for name in shown)
    write_atomically(path, [
        '<!DOCTYPE html>\n<html lang="en">\n<head>\n<meta charset="utf-8" />\n',
        '<meta name="viewport" content="width=device-width, initial-scale=1" />\n',
        f"<title>{escape(title)}</title>\n<style>{STYLE}{HIGHLIGHT}</style>\n</head>\n<body>\n",
        f"<header>\n<h1>{escape(title)}</h1>\n<p>{escape(heading(metrics))}</p>\n",
        f'<nav aria-label="Sections">{links}</nav>\n</header>\n<main>\n',
        *(
            f'<section id="{_anchor(name)}">\n<h2>{escape(name)}</h2>\n{content}</section>\n'
            for name, content in shown.items()
        ),
        "</main>\n</body>\n</html>\n",
    ])


def _scores(metrics: Mapping[str, Any]) -> str:
    baselines = metrics["baselines"]
    head = ["score", "model", "95 % interval", *(COLUMNS.get(name, name.replace("_", " ")) for name in baselines)]

    def row(name: str) -> str:
        cells = f'<td class="model">{score_text(metrics["scores"].get(name))}</td>'
        cells += f"<td>{interval_text(metrics['intervals'].get(name))}</td>"
        cells += "".join(f"<td>{score_text(scores.get(name))}</td>" for scores in baselines.values())
        return f'<tr><th scope="row">{escape(name)}</th>{cells}</tr>\n'

    absent = "".join(
        f"<li>{escape(name)} is absent: {escape(reason)}</li>" for name, reason in metrics["absent"].items()
    )
    return (
        '<p class="note">Each score is defined in docs/evaluation.md. Intervals: bootstrap over studies. The columns '
        "beside the model answer without reading the image, or with the report of another study.</p>\n"
        + _score_tables("scores", head, row)
        + (f'<ul class="note">{absent}</ul>\n' if absent else "")
    )


def _graph_sources(metrics: Mapping[str, Any]) -> str:
    """The scores by graph source, if several were asked for."""
    if "graph_sources" not in metrics:
        return ""
    first, *others = metrics["graph_sources"]
    columns = ((source, f"{source} − {first}", "95 % interval") for source in others)
    head = ["score", first, *(column for group in columns for column in group)]

    def row(name: str) -> str:
        cells = f'<td class="model">{score_text(metrics["scores"][name])}</td>'
        for source in others:
            compared = metrics["graph_sources"][source]
            cells += f"<td>{score_text(compared['scores'][name])}</td>"
            cells += f"<td>{difference_text(compared['difference'][name])}</td>"
            cells += f"<td>{interval_text(compared['interval'][name])}</td>"
        return f'<tr><th scope="row">{escape(name)}</th>{cells}</tr>\n'

    notes = "".join(f"<li>{escape(note)}</li>" for note in graph_notes(metrics))
    oracle = (
        '<p class="note">With the oracle the model reads the graph of the reference report: an upper bound, no result.'
        "</p>\n" if GraphSource.ORACLE in metrics["graph_sources"] else ""
    )
    return f'{oracle}<ul class="note">{notes}</ul>\n' + _score_tables("scores by graph source", head, row)


def _score_tables(title: str, head: Sequence[str], row: Callable[[str], str]) -> str:
    """The headlines, and folded below them all scores in their groups; `row` makes the row of a score."""
    rows = []
    for group, names in SCORE_GROUPS.items():
        rows.append(f'<tr><th class="group" scope="rowgroup" colspan="{len(head)}">{escape(group)}</th></tr>\n')
        rows += [row(name) for name in names]
    return (
        _table(f"Main {title}", head, [row(name) for name in HEADLINES])
        + f"<details><summary>All {escape(title)}</summary>\n{_table(f'All {title}', head, rows)}</details>\n"
    )


def _course(course: _Curves) -> str:
    parts = []
    for group, curves in course.items():
        plots = {name: _figure(name, line_plot(points, name, "optimiser step")) for name, points in curves.items()}
        shown = {name: plot for name, plot in plots.items() if group != "Validation scores" or name in HEADLINES}
        hidden = "".join(plot for name, plot in plots.items() if name not in shown)
        parts.append(f'<h4>{escape(group)}</h4>\n<div class="plots">{"".join(shown.values())}</div>\n')
        if hidden:
            parts.append(
                f'<details><summary>All other {escape(group.lower())}</summary><div class="plots">{hidden}</div>'
                "</details>\n"
            )
    return "".join(parts)


def _calibration(metrics: Mapping[str, Any]) -> str:
    scores, curves = metrics["scores"], metrics["curves"]
    plots = ""
    for kind in ("region", "attribute", "observation"):
        bins = curves.get(RELIABILITY.format(kind=kind))
        if bins:
            title = f"{kind.capitalize()}s: expected calibration error {score_text(scores[f'{kind}_ece'])}"
            plots += _figure(title, reliability_plot([Bin(**each) for each in bins], title))
    table = ""
    if ERROR_BY_COVERAGE in curves:
        errors = curves[ERROR_BY_COVERAGE]
        plots += _figure(
            "Sentences: error rate of those kept",
            coverage_plot(errors["by_coverage"], COVERAGES, "Error rate of the most confident sentences"),
        )
        rates = [scores[f"sentence_error_at_{coverage}"] for coverage in COVERAGES]
        cells = "".join(f"<td>{score_text(rate)}</td>" for rate in [*rates, scores["sentence_error_area"]])
        table = (
            f'<p>Of {errors["sentences"]} generated sentences that claim something, {errors["wrong"]} are wrong: the '
            "reference does not support what they claim. The error rate when only the most confident are kept:</p>\n"
            + _table(
                "Error rate by coverage",
                ["sentences kept", *(f"{coverage} %" for coverage in COVERAGES), "area under the curve"],
                [f'<tr><th scope="row">error rate</th>{cells}</tr>\n'],
            )
        )
    return f'<div class="plots">{plots}</div>\n{table}' if plots else ""


def _tables(metrics: Mapping[str, Any]) -> str:
    """Every table of the evaluation that has rows, each folded."""
    return "".join(
        f"<details><summary>{escape(title[0].upper() + title[1:])}</summary>\n{_value_table(title, rows)}</details>\n"
        for title, rows in metrics["tables"].items() if rows
    )


def _value_table(title: str, rows: Mapping[str, Mapping[str, float | None]]) -> str:
    columns = list(next(iter(rows.values())))
    lines = []
    for name, values in rows.items():
        cells = "".join(_value(column, values.get(column)) for column in columns)
        lines.append(f'<tr><th scope="row">{escape(name)}</th>{cells}</tr>\n')
    return _table(title, ["", *(column.replace("_", " ") for column in columns)], lines)


def _value(column: str, value: float | None) -> str:
    """A cell: counts as they are, scores with three decimals, an F1 with a bar of its length."""
    if value is None or isinstance(value, int):
        return f"<td>{'-' if value is None else value}</td>"
    bar = ""
    if column == "f1":
        bar = f'<span class="measure"><span style="width: {100 * min(max(value, 0), 1):.0f}%"></span></span>'
    return f"<td>{score_text(value)}{bar}</td>"


def _table(title: str, head: Sequence[str], rows: Sequence[str]) -> str:
    """A table that scrolls by itself where the page is too narrow for it."""
    columns = "".join(f'<th scope="col">{escape(name)}</th>' for name in head)
    return (
        f'<div class="scroll" role="region" aria-label="{escape(title)}" tabindex="0"><table>\n'
        f"<thead><tr>{columns}</tr></thead>\n<tbody>\n{''.join(rows)}</tbody></table></div>\n"
    )


def _figure(caption: str, plot: str) -> str:
    return f"<figure><figcaption>{escape(caption)}</figcaption>{plot}</figure>\n"


def _anchor(title: str) -> str:
    return re.sub(r"\W+", "-", title.lower())
