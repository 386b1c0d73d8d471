"""The rows of a comparison as text, CSV and LaTeX."""

from collections.abc import Sequence

from modules.evaluation.comparison import Comparison, Row
from modules.evaluation.metrics.directions import arrow

CSV_COLUMNS = (
    "score", "system", "runs", "value", "deviation", "difference", "low", "high", "p", "compared_with",
    "higher_is_better", "verdict",
)

_LATEX_ESCAPES = {letter: f"\\{letter}" for letter in "_%&#${}"} | {
    "\\": r"\textbackslash{}", "^": r"\textasciicircum{}", "~": r"\textasciitilde{}",
}
_LATEX_ARROWS = {"": "", arrow(True): r" $\uparrow$", arrow(False): r" $\downarrow$"}


def csv_rows(comparison: Comparison) -> list[tuple[object, ...]]:
    """The header and one row per score and system; a cell is blank if it has no value."""
    return [CSV_COLUMNS, *(_csv_cells(row) for row in comparison.rows)]


def text_table(comparison: Comparison) -> list[str]:
    """The lines of the table for the console: heading, rows, and why scores or intervals are absent.

    An arrow points to better values; a system is better or worse than the first if the interval leaves out 0.
    """
    table = [("score", "system", "value", "difference", "95 % interval", "p", "")]
    table += [(*_display_cells(row, "+-", arrow(row.higher_is_better)), row.verdict) for row in comparison.rows]
    widths = [max(len(cells[column]) for cells in table) for column in range(len(table[0]))]
    padded = ([cell.ljust(width) for cell, width in zip(cells, widths, strict=True)] for cells in table)
    notes = [f"{name} is absent: {reason}" for name, reason in comparison.absent.items()]
    notes += [
        f"{name} has no intervals and p-values: {reason}"
        for name, reason in comparison.no_interval.items() if name not in comparison.absent
    ]
    return [*comparison.heading, "", *("  ".join(cells).rstrip() for cells in padded), *notes]


def latex_table(comparison: Comparison) -> list[str]:
    """The lines of the table in LaTeX, for the package booktabs."""
    lines = [
        *(f"% {line}" for line in comparison.heading), r"\begin{tabular}{llrrrr}", r"\toprule",
        r"score & system & value & difference & 95\,\% interval & $p$ \\", r"\midrule",
    ]
    for row in comparison.rows:
        _, system, *numbers = _display_cells(row, r"$\pm$", "")
        score = _escape_latex(row.score) + _LATEX_ARROWS[arrow(row.higher_is_better)]
        lines.append(" & ".join([score, _escape_latex(system), *numbers]) + r" \\")
    return [*lines, r"\bottomrule", r"\end{tabular}"]


def _csv_cells(row: Row) -> tuple[object, ...]:
    low, high = row.interval or (None, None)
    numbers = (row.value, row.deviation, row.difference, low, high, row.p_value)
    texts = ("" if number is None else f"{number:.6f}" for number in numbers)
    higher = "" if row.higher_is_better is None else str(row.higher_is_better).lower()
    return (row.score, row.system, row.runs, *texts, row.compared_with, higher, row.verdict)


def _display_cells(row: Row, plus_minus: str, better: str) -> Sequence[str]:
    """score with the arrow `better`, system, value, difference, interval and p for display."""
    value = f"{row.value:.3f}" + ("" if row.deviation is None else f" {plus_minus} {row.deviation:.3f}")
    difference = "" if row.difference is None else f"{row.difference:+.3f}"
    interval = "" if row.interval is None else f"{row.interval[0]:+.3f} to {row.interval[1]:+.3f}"
    score = f"{row.score} {better}".rstrip()
    return score, row.system, value, difference, interval, "" if row.p_value is None else f"{row.p_value:.3f}"


def _escape_latex(text: str) -> str:
    return "".join(_LATEX_ESCAPES.get(letter, letter) for letter in text)
