"""report.html: an evaluation as one self-contained page with scores, training curves, tables and example studies.

The page is well-formed XML and needs neither scripts nor a network. It contains images and reports: store it where
those may be stored.
"""

import re
from collections.abc import Callable, Mapping, Sequence
from html import escape
from pathlib import Path
from typing import Any

import numpy as np

from data.vocabulary import Vocabularies
from models.outputs import GraphSource
from modules.evaluation.metrics.calibration import RELIABILITY, Bin
from modules.evaluation.metrics.selective import COVERAGES, ERROR_BY_COVERAGE
from modules.evaluation.metrics.text_scores import TEXT_GROUPS
from modules.evaluation.pages.page_style import STYLE
from modules.evaluation.pages.plots import coverage_plot, line_plot, reliability_plot
from modules.evaluation.pages.study_panel import HIGHLIGHT, LEGEND, Case, study_panel
from modules.evaluation.records import Evaluation
from modules.evaluation.results import write_atomically
from modules.evaluation.score_tables import (
    BASELINE_TITLES,
    describe_graph_sources,
    format_difference,
    format_heading,
    format_interval,
    format_score,
)
from modules.evaluation.scoring import SCORE_GROUPS

# Number of studies on the page; of these, how many are the best and the worst.
MAX_STUDIES = 10
MAX_EXTREMES = 3
# Scores that rank the studies; a later one breaks ties of those before it.
RANKING_SCORES = ("report_f1", "triple_f1")
# The main scores; all others are folded.
HEADLINES = (
    "bleu_4", "meteor", "rouge_l", "cider", "report_14_micro_f1", "triple_f1", "region_micro_f1", "attribute_micro_f1",
    "observation_micro_f1", "box_iou", "sentence_error_at_100",
)

# Of a training run: group -> name -> [(optimiser step, value)], as `run_log.read_curves` returns them.
Curves = Mapping[str, Mapping[str, Sequence[tuple[int, float]]]]


def choose_studies(evaluation: Evaluation) -> list[tuple[int, str]]:
    """Choose up to ten studies to show: the best, the worst, and others evenly spaced over the split.

    Returns (position, reason) of each. Best and worst are by `RANKING_SCORES`, as far as a study has them. If there are
    no more than ten studies, all are chosen.
    """
    count = len(evaluation.records)
    names = [name for name in RANKING_SCORES if name in evaluation.per_study]
    ranked: list[int] = []
    if names and count > MAX_STUDIES:
        columns = [evaluation.per_study[name] for name in names]
        rankable = [study for study in range(count) if np.isfinite(columns[0][study])]
        ranked = sorted(rankable, key=lambda study: [-np.nan_to_num(column[study]) for column in columns])
    extremes = min(MAX_EXTREMES, len(ranked) // 2)

    def describe(study: int) -> str:
        values = {name: evaluation.per_study[name][study] for name in names}
        return ", ".join(f"{name} {value:.2f}" for name, value in values.items() if np.isfinite(value))

    chosen = {study: f"among the best: {describe(study)}" for study in ranked[:extremes]}
    chosen |= {study: f"among the worst: {describe(study)}" for study in ranked[len(ranked) - extremes :]}
    others = [study for study in range(count) if study not in chosen]
    remaining = min(MAX_STUDIES - len(chosen), len(others))
    for place in range(remaining):
        study = others[place * len(others) // remaining]
        chosen[study] = describe(study)
    return list(chosen.items())


def write_report_page(
    path: Path, metrics: Mapping[str, Any], cases: Sequence[Case], vocabularies: Vocabularies, curves: Curves
) -> None:
    """Write the page of an evaluation. Raises UserError if that fails.

    metrics   content of metrics.json
    curves    of the training run; empty without a log
    """
    contents = {
        "Scores": _scores(metrics),
        "Scores of each section": _section_scores(metrics),
        "Effect of the scene graph": _graph_sources(metrics),
        "Effect of the context": _contexts(metrics),
        "Calibration and confidence": _calibration(metrics),
        "By region and by observation": _tables(metrics),
        "Studies": LEGEND + "".join(study_panel(case, vocabularies) for case in cases) if cases else "",
        "Training curves": _training_curves(curves),
    }
    sections = {title: content for title, content in contents.items() if content}
    title = f"{metrics['dataset']}: generated reports"
    links = "".join(f'<a href="#{_anchor(name)}">{escape(name)}</a>' for name in sections)
    write_atomically(path, [
        '<!DOCTYPE html>\n<html lang="en">\n<head>\n<meta charset="utf-8" />\n',
        '<meta name="viewport" content="width=device-width, initial-scale=1" />\n',
        f"<title>{escape(title)}</title>\n<style>{STYLE}{HIGHLIGHT}</style>\n</head>\n<body>\n",
        f"<header>\n<h1>{escape(title)}</h1>\n<p>{escape(format_heading(metrics))}</p>\n",
        f'<nav aria-label="Sections">{links}</nav>\n</header>\n<main>\n',
        *(
            f'<section id="{_anchor(name)}">\n<h2>{escape(name)}</h2>\n{content}</section>\n'
            for name, content in sections.items()
        ),
        "</main>\n</body>\n</html>\n",
    ])


def _scores(metrics: Mapping[str, Any]) -> str:
    return (
        '<p class="note">docs/evaluation.md defines each score. Intervals: bootstrap over studies. The columns beside '
        "the model are baselines: they do not read the image, or copy the report of another study.</p>\n"
        + _scores_and_baselines("scores", metrics, SCORE_GROUPS)
    )


def _section_scores(metrics: Mapping[str, Any]) -> str:
    """The scores of findings and impression; empty for a model that writes one of them."""
    return "".join(
        f"<h3>{escape(name.capitalize())}, of {scored['reports']} studies</h3>\n"
        + _scores_and_baselines(f"scores of the {name}", scored, TEXT_GROUPS)
        for name, scored in metrics.get("sections", {}).items()
    )


def _scores_and_baselines(title: str, scored: Mapping[str, Any], groups: Mapping[str, Sequence[str]]) -> str:
    """The scores of `groups` beside those of the baselines, and why scores are absent."""
    baselines = scored["baselines"]
    titles = [BASELINE_TITLES.get(name, name.replace("_", " ")) for name in baselines]

    def row(name: str) -> str:
        cells = f'<td class="model">{format_score(scored["scores"].get(name))}</td>'
        cells += f"<td>{format_interval(scored['intervals'].get(name))}</td>"
        cells += "".join(f"<td>{format_score(scores.get(name))}</td>" for scores in baselines.values())
        return f'<tr><th scope="row">{escape(name)}</th>{cells}</tr>\n'

    absent = "".join(
        f"<li>{escape(name)} is absent: {escape(reason)}</li>" for name, reason in scored["absent"].items()
    )
    return _score_tables(title, ["score", "model", "95 % interval", *titles], row, groups) + (
        f'<ul class="note">{absent}</ul>\n' if absent else ""
    )


def _graph_sources(metrics: Mapping[str, Any]) -> str:
    """The scores by graph source; empty if there is only one."""
    if "graph_sources" not in metrics:
        return ""
    notes = "".join(f"<li>{escape(note)}</li>" for note in describe_graph_sources(metrics))
    oracle = (
        '<p class="note">With the oracle, the model reads the annotated graph of the reference report: an upper bound, '
        "not a result.</p>\n" if GraphSource.ORACLE in metrics["graph_sources"] else ""
    )
    return f'{oracle}<ul class="note">{notes}</ul>\n' + _comparisons("by graph source", metrics, "graph_sources")


def _contexts(metrics: Mapping[str, Any]) -> str:
    """The scores by what the model was shown of the context; empty if that was one thing only."""
    if "contexts" not in metrics:
        return ""
    note = '<p class="note">Columns: what the model was shown beside the images.</p>\n'
    return note + _comparisons("by context", metrics, "contexts")


def _comparisons(by: str, metrics: Mapping[str, Any], key: str) -> str:
    """The comparison `key` of several evaluations of the same studies: of complete reports, then of each section."""
    return _comparison(f"scores {by}", metrics[key], SCORE_GROUPS) + "".join(
        f"<h3>{escape(name.capitalize())} alone</h3>\n"
        + _comparison(f"scores of the {name} {by}", scored[key], TEXT_GROUPS)
        for name, scored in metrics.get("sections", {}).items()
    )


def _comparison(
    title: str, evaluations: Mapping[str, Mapping[str, Any]], groups: Mapping[str, Sequence[str]]
) -> str:
    """The scores of `groups` of several evaluations, and their differences to the first one's."""
    first, *others = evaluations
    columns = ((name, f"{name} − {first}", "95 % interval") for name in others)
    head = ["score", first, *(column for group in columns for column in group)]

    def row(name: str) -> str:
        cells = f'<td class="model">{format_score(evaluations[first]["scores"][name])}</td>'
        for other in others:
            compared = evaluations[other]
            cells += f"<td>{format_score(compared['scores'][name])}</td>"
            cells += f"<td>{format_difference(compared['difference'][name])}</td>"
            cells += f"<td>{format_interval(compared['interval'][name])}</td>"
        return f'<tr><th scope="row">{escape(name)}</th>{cells}</tr>\n'

    return _score_tables(title, head, row, groups)


def _score_tables(
    title: str, head: Sequence[str], row: Callable[[str], str], groups: Mapping[str, Sequence[str]]
) -> str:
    """The main scores of `groups`, and below them all, folded; `row` returns the table row of a score."""
    rows = []
    main = [name for name in HEADLINES if any(name in names for names in groups.values())]
    for group, names in groups.items():
        rows.append(f'<tr><th class="group" scope="rowgroup" colspan="{len(head)}">{escape(group)}</th></tr>\n')
        rows += [row(name) for name in names]
    return (
        _table(f"Main {title}", head, [row(name) for name in main])
        + f"<details><summary>All {escape(title)}</summary>\n{_table(f'All {title}', head, rows)}</details>\n"
    )


def _training_curves(groups: Curves) -> str:
    parts = []
    for group, curves in groups.items():
        plots = {name: _figure(name, line_plot(points, name, "optimiser step")) for name, points in curves.items()}
        main = {name: plot for name, plot in plots.items() if group != "Validation scores" or name in HEADLINES}
        folded = "".join(plot for name, plot in plots.items() if name not in main)
        parts.append(f'<h4>{escape(group)}</h4>\n<div class="plots">{"".join(main.values())}</div>\n')
        if folded:
            parts.append(
                f'<details><summary>All other {escape(group.lower())}</summary><div class="plots">{folded}</div>'
                "</details>\n"
            )
    return "".join(parts)


def _calibration(metrics: Mapping[str, Any]) -> str:
    scores, curves = metrics["scores"], metrics["curves"]
    plots = ""
    for kind in ("region", "attribute", "observation"):
        bins = curves.get(RELIABILITY.format(kind=kind))
        if bins:
            title = f"{kind.capitalize()}s: expected calibration error {format_score(scores[f'{kind}_ece'])}"
            plots += _figure(title, reliability_plot([Bin(**each) for each in bins], title))
    table = ""
    if ERROR_BY_COVERAGE in curves:
        errors = curves[ERROR_BY_COVERAGE]
        plots += _figure(
            "Sentences: error rate by coverage",
            coverage_plot(errors["by_coverage"], COVERAGES, "Error rate of the most confident sentences"),
        )
        rates = [scores[f"sentence_error_at_{coverage}"] for coverage in COVERAGES]
        cells = "".join(f"<td>{format_score(rate)}</td>" for rate in [*rates, scores["sentence_error_area"]])
        table = (
            f'<p>{errors["wrong"]} of the {errors["sentences"]} generated sentences that make a claim are wrong: the '
            "reference report does not support it. The error rate if only the most confident sentences are kept:</p>\n"
            + _table(
                "Error rate by coverage",
                ["sentences kept", *(f"{coverage} %" for coverage in COVERAGES), "area under the curve"],
                [f'<tr><th scope="row">error rate</th>{cells}</tr>\n'],
            )
        )
    return f'<div class="plots">{plots}</div>\n{table}' if plots else ""


def _tables(metrics: Mapping[str, Any]) -> str:
    """The tables of the evaluation that have rows, each folded."""
    return "".join(
        f"<details><summary>{escape(title[0].upper() + title[1:])}</summary>\n{_value_table(title, rows)}</details>\n"
        for title, rows in metrics["tables"].items() if rows
    )


def _value_table(title: str, rows: Mapping[str, Mapping[str, float | None]]) -> str:
    columns = list(next(iter(rows.values())))
    lines = []
    for name, values in rows.items():
        cells = "".join(_value_cell(column, values.get(column)) for column in columns)
        lines.append(f'<tr><th scope="row">{escape(name)}</th>{cells}</tr>\n')
    return _table(title, ["", *(column.replace("_", " ") for column in columns)], lines)


def _value_cell(column: str, value: float | None) -> str:
    """Counts as they are, scores with three decimals, and F1 with a bar of that length."""
    if value is None or isinstance(value, int):
        return f"<td>{'-' if value is None else value}</td>"
    bar = ""
    if column == "f1":
        bar = f'<span class="measure"><span style="width: {100 * min(max(value, 0), 1):.0f}%"></span></span>'
    return f"<td>{format_score(value)}{bar}</td>"


def _table(title: str, head: Sequence[str], rows: Sequence[str]) -> str:
    """A table that scrolls sideways if the page is too narrow for it."""
    columns = "".join(f'<th scope="col">{escape(name)}</th>' for name in head)
    return (
        f'<div class="scroll" role="region" aria-label="{escape(title)}" tabindex="0"><table>\n'
        f"<thead><tr>{columns}</tr></thead>\n<tbody>\n{''.join(rows)}</tbody></table></div>\n"
    )


def _figure(caption: str, plot: str) -> str:
    return f"<figure><figcaption>{escape(caption)}</figcaption>{plot}</figure>\n"


def _anchor(title: str) -> str:
    return re.sub(r"\W+", "-", title.lower())
