"""A comparison as one self-contained page: systems by scores with intervals, sortable, and studies side by side.

The page is well-formed XML and needs no network; its only script sorts the table. It contains reports: store it where
those may be stored.
"""

from collections.abc import Sequence
from html import escape
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from modules.evaluation.comparison import ComparedStudies, Comparison, Row
from modules.evaluation.display import format_report
from modules.evaluation.metrics.directions import arrow
from modules.evaluation.pages.page_style import STYLE
from modules.evaluation.results import write_atomically
from modules.evaluation.score_tables import format_difference, format_interval, format_score

# Number of studies of each kind: worst, best, and those on which the systems differ most.
STUDIES_OF_A_KIND = 5
# Scores of single studies that rank them; a later one breaks ties of those before it.
RANKING_SCORES = ("report_f1", "triple_f1", "rouge_l")

_STYLE = """
th button { font: inherit; font-weight: 600; color: inherit; background: none; border: 0; padding: 0; cursor: pointer; }
th button:focus-visible { outline: 3px solid #0b5cad; outline-offset: 2px; }
th[aria-sort=ascending] button::after { content: " \\25b2"; } th[aria-sort=descending] button::after {
  content: " \\25bc"; }
tbody th { position: sticky; left: 0; background: #fff; }
.interval { display: block; color: #4a5665; font-size: .8rem; }
.texts { display: grid; grid-template-columns: repeat(auto-fit, minmax(min(16rem, 100%), 1fr)); gap: 1rem; }
.texts > div { border-left: .3rem solid #c4ccd6; padding-left: .6rem; }
.texts > .reference { border-color: #17692f; }
.texts p { margin: 0; overflow-wrap: anywhere; }
"""
# Without "<" and "&", so that the page stays well-formed XML. A missing value is last in both orders.
_SCRIPT = """
const body = document.querySelector("#systems tbody");
const heads = [...document.querySelectorAll("#systems thead th")];
heads.forEach((head, column) => head.querySelector("button").addEventListener("click", () => {
  const downwards = head.getAttribute("aria-sort") !== "descending";
  heads.forEach(each => each.removeAttribute("aria-sort"));
  head.setAttribute("aria-sort", downwards ? "descending" : "ascending");
  const key = row => row.children[column].dataset.value;
  const compare = (one, other) => {
    if (key(one) === "" || key(other) === "") { return (key(one) === "") - (key(other) === ""); }
    const order = column === 0 ? key(one).localeCompare(key(other)) : Number(key(one)) - Number(key(other));
    return downwards ? -order : order;
  };
  body.append(...[...body.children].sort(compare));
}));
"""


def write_comparison_page(path: Path, comparison: Comparison) -> None:
    """Write the page of a comparison. Raises UserError if that fails."""
    first = comparison.rows[0].system if comparison.rows else ""
    systems = list(dict.fromkeys(row.system for row in comparison.rows))
    title = f"{len(comparison.studies.generated)} systems on {len(comparison.studies.ids)} reports"
    heading = "".join(f"<li>{escape(line.strip())}</li>" for line in comparison.heading)
    absent = "".join(
        f"<li>{escape(name)} is absent: {escape(reason)}</li>" for name, reason in comparison.absent.items()
    )
    write_atomically(path, [
        '<!DOCTYPE html>\n<html lang="en">\n<head>\n<meta charset="utf-8" />\n',
        '<meta name="viewport" content="width=device-width, initial-scale=1" />\n',
        f"<title>{escape(title)}</title>\n<style>{STYLE}{_STYLE}</style>\n</head>\n<body>\n",
        f'<header>\n<h1>{escape(title)}</h1>\n<ul class="note">{heading}</ul>\n</header>\n<main>\n',
        '<section>\n<h2>Systems</h2>\n<p class="note">Press a heading to sort. Arrows point to better values. Below ',
        "each value: its 95 % bootstrap interval over studies. docs/evaluation.md defines each score.</p>\n",
        _systems_table(comparison.rows, systems),
        f'<ul class="note">{absent}</ul>\n' if absent else "",
        f"<details><summary>Differences to {escape(first)}</summary>\n{_differences_table(comparison.rows)}</details>\n"
        if len(systems) > 1 else "",
        "</section>\n",
        *_studies(comparison.studies),
        f"</main>\n<script>{_SCRIPT}</script>\n</body>\n</html>\n",
    ])


def choose_studies(studies: ComparedStudies) -> dict[str, list[int]]:
    """Choose studies to show: kind ("Worst", "Best", "Most different") -> positions; a study is of one kind only.

    Worst and best are by the mean over the systems of `RANKING_SCORES`, most different by the range of the first one.
    Studies without a score are left out.
    """
    names = [name for name in RANKING_SCORES if name in studies.per_study]
    if not names:
        return {}
    values = [studies.per_study[name] for name in names]
    ranks: list[NDArray] = [value.mean(axis=0) for value in values]
    rankable = [position for position in range(len(studies.ids)) if np.isfinite(ranks[0][position])]
    ranked = sorted(rankable, key=lambda position: [float(np.nan_to_num(rank[position])) for rank in ranks])
    count = min(STUDIES_OF_A_KIND, (len(ranked) + 1) // 2)
    chosen = {"Worst": ranked[:count], "Best": ranked[count:][::-1][:count]}
    ranges = np.ptp(values[0], axis=0)
    taken = {position for positions in chosen.values() for position in positions}
    different = sorted(set(ranked) - taken, key=lambda position: (-ranges[position], position))
    chosen["Most different"] = [position for position in different if ranges[position] > 0][:STUDIES_OF_A_KIND]
    return {kind: positions for kind, positions in chosen.items() if positions}


def _systems_table(rows: Sequence[Row], systems: Sequence[str]) -> str:
    """One row for each system, one column for each score."""
    scores = list(dict.fromkeys(row.score for row in rows))
    cells = {(row.system, row.score): row for row in rows}
    directions = {row.score: arrow(row.higher_is_better) for row in rows}
    head = "".join(
        f'<th scope="col"><button type="button">{escape(name)}</button> {directions.get(name, "")}</th>'
        for name in ("system", *scores)
    )
    lines = []
    for system in systems:
        line = f'<th scope="row" data-value="{escape(system)}">{escape(system)}</th>'
        lines.append(f"<tr>{line}{''.join(_score_cell(cells.get((system, score))) for score in scores)}</tr>\n")
    return (
        '<div class="scroll" role="region" aria-label="Systems by scores" tabindex="0"><table id="systems">\n'
        f"<thead><tr>{head}</tr></thead>\n<tbody>\n{''.join(lines)}</tbody></table></div>\n"
    )


def _score_cell(row: Row | None) -> str:
    if row is None:
        return '<td data-value="">-</td>'
    deviation = "" if row.deviation is None else f" ± {row.deviation:.3f}"
    interval = format_interval(row.value_interval)
    return (
        f'<td data-value="{row.value!r}">{format_score(row.value)}{deviation}<span class="interval">'
        f"{escape(interval)}</span></td>"
    )


def _differences_table(rows: Sequence[Row]) -> str:
    head = "".join(f'<th scope="col">{name}</th>' for name in ("score", "system", "difference", "95 % interval", "p"))
    lines = "".join(
        f'<tr><th scope="row">{escape(row.score)}</th><td>{escape(row.system)}</td>'
        f"<td>{format_difference(row.difference)}</td><td>{escape(format_interval(row.interval))}</td>"
        f"<td>{format_score(row.p_value)}</td></tr>\n"
        for row in rows if row.difference is not None
    )
    return (
        '<div class="scroll" role="region" aria-label="Differences" tabindex="0"><table>\n'
        f"<thead><tr>{head}</tr></thead>\n<tbody>\n{lines}</tbody></table></div>\n"
    )


def _studies(studies: ComparedStudies) -> list[str]:
    """The sections of the chosen studies; a system of several runs is shown by its first one."""
    return [
        f"<section>\n<h2>{escape(kind)} studies</h2>\n"
        + "".join(_study(studies, position) for position in positions) + "</section>\n"
        for kind, positions in choose_studies(studies).items()
    ]


def _study(studies: ComparedStudies, position: int) -> str:
    texts = [f'<div class="reference"><h4>reference</h4>{_paragraph(studies.references[position])}</div>']
    for number, (system, reports) in enumerate(studies.generated.items()):
        scores = (
            f"{name} {studies.per_study[name][number, position]:.2f}" for name in RANKING_SCORES
            if name in studies.per_study and np.isfinite(studies.per_study[name][number, position])
        )
        texts.append(
            f'<div><h4>{escape(system)}</h4>{_paragraph(reports[position])}'
            f'<p class="note">{escape(", ".join(scores))}</p></div>'
        )
    name = escape(studies.ids[position])
    return f'<article class="study"><h3>{name}</h3><div class="texts">{"".join(texts)}</div></article>\n'


def _paragraph(report: str) -> str:
    """A report as a paragraph; characters that XML does not allow are left out."""
    text = "".join(letter for letter in format_report(report) if letter.isprintable() or letter in "\n\t")
    return f"<p>{escape(text) or '(empty)'}</p>"
