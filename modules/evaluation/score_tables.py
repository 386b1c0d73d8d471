"""The scores of metrics.json as text, for the console and for model cards."""

from collections.abc import Mapping, Sequence
from typing import Any

from models.outputs import GraphSource
from modules.evaluation.scoring import SCORE_GROUPS, SCORE_NAMES

# Baselines as tables name them: name in metrics.json -> title.
BASELINE_TITLES = {
    "blind": "image-blind", "most_frequent_report": "most frequent", "random_report": "random",
    "nearest_image": "nearest image",
}


def format_score_table(metrics: Mapping[str, Any]) -> str:
    """The scores of metrics.json with their intervals, beside those of the baselines, then why scores are absent."""
    baselines = metrics["baselines"]
    rows = [["score", "model", "95 % interval", *(BASELINE_TITLES.get(name, name) for name in baselines)]]
    for title, names in SCORE_GROUPS.items():
        rows.append([f"-- {title}"])
        rows += [
            [
                name, format_score(metrics["scores"].get(name)), format_interval(metrics["intervals"].get(name)),
                *(format_score(scores.get(name)) for scores in baselines.values()),
            ]
            for name in names
        ]
    absent = [f"  {name} is absent: {reason}" for name, reason in metrics["absent"].items()]
    return "\n".join([format_heading(metrics), "", *_align_columns(rows), *absent])


def format_graph_table(metrics: Mapping[str, Any]) -> str:
    """The `graph_sources` of metrics.json as text, with columns for each graph source."""
    first, *others = metrics["graph_sources"]
    rows = [["score", first, *(column for source in others for column in (source, "difference", "95 % interval"))]]
    for name in SCORE_NAMES:
        row = [name, format_score(metrics["scores"][name])]
        for source in others:
            compared = metrics["graph_sources"][source]
            row += [
                format_score(compared["scores"][name]), format_difference(compared["difference"][name]),
                format_interval(compared["interval"][name]),
            ]
        rows.append(row)
    return "\n".join(["Effect of the scene graph", *describe_graph_sources(metrics), "", *_align_columns(rows)])


def describe_graph_sources(metrics: Mapping[str, Any]) -> list[str]:
    """One line per graph source: its boxes, and for `oracle` the number of annotated graphs."""
    return [
        f"{source}: boxes {compared['box_source']}"
        + (f"; {compared['annotated_graphs']} of {metrics['studies']} studies have an annotated graph"
           if source == GraphSource.ORACLE else "")
        for source, compared in metrics["graph_sources"].items()
    ]


def format_heading(metrics: Mapping[str, Any]) -> str:
    """One line that says what was evaluated, with the settings that the scores depend on."""
    listed = f" (list {metrics['list']})" if metrics.get("list") else ""  # older metrics.json have none
    thresholds = ", tuned thresholds" if metrics.get("thresholds") == "tuned" else ""
    without_graph = " (of a model without graph)" if metrics["graph_in"] == "none" else ""
    return (
        f"{metrics['dataset']}{listed}, split {metrics['split']}, {metrics['studies']} studies; "
        f"graph {metrics['graph_source']}{without_graph}, boxes {metrics['box_source']}{thresholds}, "
        f"beam {metrics['beam_size']}, protocol {metrics['protocol']}, seed {metrics['seed']}"
    )


def format_score(value: float | None) -> str:
    """Three decimals; a dash for None."""
    return "-" if value is None else f"{value:.3f}"


def format_interval(interval: Sequence[float] | None) -> str:
    """Both bounds with three decimals; empty for None."""
    return "" if interval is None else f"[{interval[0]:.3f}, {interval[1]:.3f}]"


def format_difference(value: float | None) -> str:
    """Sign and three decimals; a dash for None."""
    return "-" if value is None else f"{value:+.3f}"


def _align_columns(rows: Sequence[Sequence[str]]) -> list[str]:
    """The rows as lines: the first column left-aligned, the others right-aligned; a row of one cell is a title."""
    full_rows = [row for row in rows if len(row) > 1]
    widths = [max(len(row[column]) for row in full_rows) for column in range(len(full_rows[0]))]
    return [
        "  ".join(
            cell.rjust(width) if column else cell.ljust(width)
            for column, (cell, width) in enumerate(zip(row, widths, strict=False))
        ).rstrip()
        for row in rows
    ]
