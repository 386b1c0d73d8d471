"""The scores of metrics.json as text, for the console and for model cards."""

from collections.abc import Mapping, Sequence
from typing import Any

from data.sections.marked_text import BOTH, IMPRESSION
from models.outputs import GraphSource
from modules.evaluation.metrics.text_scores import TEXT_GROUPS, TEXT_NAMES
from modules.evaluation.scoring import SCORE_GROUPS, SCORE_NAMES

# Baselines as tables name them: name in metrics.json -> title.
BASELINE_TITLES = {
    "blind": "image-blind", "most_frequent_report": "most frequent", "random_report": "random",
    "nearest_image": "nearest image",
}
# What models write, if not the findings alone: `data.sections` -> words.
WRITTEN = {IMPRESSION: "impressions", BOTH: "findings and impressions"}


def format_score_table(metrics: Mapping[str, Any]) -> str:
    """The scores of metrics.json with their intervals, beside those of the baselines, then why scores are absent."""
    return "\n".join([format_heading(metrics), "", *_score_lines(metrics, SCORE_GROUPS)])


def format_section_table(metrics: Mapping[str, Any], section: str) -> str:
    """The scores of one of the `sections` of metrics.json, as `format_score_table` has those of complete reports."""
    scored = metrics["sections"][section]
    heading = f"The {section} alone, over the {scored['reports']} studies that have it"
    return "\n".join([heading, "", *_score_lines(scored, TEXT_GROUPS)])


def _score_lines(scored: Mapping[str, Any], groups: Mapping[str, Sequence[str]]) -> list[str]:
    """The scores of `groups` beside those of the baselines, and why scores are absent."""
    baselines = scored["baselines"]
    rows = [["score", "model", "95 % interval", *(BASELINE_TITLES.get(name, name) for name in baselines)]]
    for title, names in groups.items():
        rows.append([f"-- {title}"])
        rows += [
            [
                name, format_score(scored["scores"].get(name)), format_interval(scored["intervals"].get(name)),
                *(format_score(scores.get(name)) for scores in baselines.values()),
            ]
            for name in names
        ]
    return [*_align_columns(rows), *(f"  {name} is absent: {reason}" for name, reason in scored["absent"].items())]


def format_graph_table(metrics: Mapping[str, Any]) -> str:
    """The `graph_sources` of metrics.json as text, with columns for each graph source."""
    described, lines = describe_graph_sources(metrics), _comparison_lines(metrics, "graph_sources")
    return "\n".join(["Effect of the scene graph", *described, *lines])


def format_context_table(metrics: Mapping[str, Any]) -> str:
    """The `contexts` of metrics.json as text, with columns for each part of the context that was shown."""
    return "\n".join(["Effect of the context", *_comparison_lines(metrics, "contexts")])


def _comparison_lines(metrics: Mapping[str, Any], key: str) -> list[str]:
    """The comparison `key` of several evaluations of the same studies: of complete reports, then of each section."""
    lines = ["", *_difference_lines(metrics[key], SCORE_NAMES)]
    for section, scored in metrics.get("sections", {}).items():
        lines += ["", f"The {section} alone", "", *_difference_lines(scored[key], TEXT_NAMES)]
    return lines


def _difference_lines(compared: Mapping[str, Mapping[str, Any]], names: Sequence[str]) -> list[str]:
    """The scores `names` of several evaluations, and their differences to the first one's."""
    first, *others = compared
    rows = [["score", first, *(column for name in others for column in (name, "difference", "95 % interval"))]]
    for score in names:
        row = [score, format_score(compared[first]["scores"][score])]
        for name in others:
            row += [
                format_score(compared[name]["scores"][score]), format_difference(compared[name]["difference"][score]),
                format_interval(compared[name]["interval"][score]),
            ]
        rows.append(row)
    return _align_columns(rows)


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
    context = ""
    if "context" in metrics:
        context = f", context {metrics['context']['shown']} of {' and '.join(metrics['context']['reads'])}"
    writes = f", {WRITTEN[metrics['writes']]}" if "writes" in metrics else ""
    return (
        f"{metrics['dataset']}{listed}, split {metrics['split']}, {metrics['studies']} studies; "
        f"graph {metrics['graph_source']}{without_graph}{context}{writes}, boxes {metrics['box_source']}{thresholds}, "
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
