"""What an evaluation leaves behind: metrics.json, predictions.jsonl and the table on the console."""

import json
import math
import os
from collections.abc import Iterable, Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import yaml
from numpy.typing import NDArray

from data.errors import UserError
from data.vocabulary import Vocabularies
from models.outputs import GraphSource
from modules.evaluation.evaluator import SCORE_GROUPS, SCORE_NAMES, StudyRecord
from modules.evaluation.metrics.weighted import Interval, percentile_interval

# Shares of a sentence's attention below this are left out of predictions.jsonl.
SMALLEST_SHARE = 0.01
# Baselines by their names in metrics.json, as people read them.
COLUMNS = {
    "blind": "image-blind", "most_frequent_report": "most frequent", "random_report": "random",
    "nearest_image": "nearest image",
}


def result_path(
    folder: Path, name: str, graph_source: GraphSource, split: str, plain: GraphSource = GraphSource.PREDICTED
) -> Path:
    """Where the result `name` (metrics.json, ...) of an evaluation lies: metrics.json for the test split with the graph
    source `plain`, metrics_oracle.json, metrics_val.json, metrics_val_oracle.json for others, so that none replaces
    another.
    """
    stem, suffix = os.path.splitext(name)
    parts = [stem]
    if split != "test":
        parts.append(split)
    if graph_source != plain:
        parts.append(str(graph_source))
    return folder / ("_".join(parts) + suffix)


def dataset_name(root: Path) -> str:
    """The name that the prepared data set in `root` gives itself, else its folder's."""
    description = yaml.safe_load((root / "dataset.yaml").read_text(encoding="utf-8"))
    return str(description.get("name") or root.name)


def write_atomically(path: Path, lines: Iterable[str]) -> None:
    """Write `lines`, each with its line end, to `path`: all or nothing. Raises UserError where the disk refuses."""
    write_bytes_atomically(path, (line.encode() for line in lines))


def write_bytes_atomically(path: Path, chunks: Iterable[bytes]) -> None:
    """Write `chunks` to `path` as `write_atomically` does."""
    temporary = path.with_name(f".{path.name}.{os.getpid()}.tmp")
    try:
        path.parent.mkdir(parents=True, exist_ok=True)
        try:
            with temporary.open("wb") as file:
                file.writelines(chunks)
            temporary.replace(path)
        finally:
            temporary.unlink(missing_ok=True)
    except OSError as error:
        raise UserError(f"Cannot write {path} ({error.strerror}): free space, or choose another folder") from error


def write_metrics(path: Path, metrics: Mapping[str, Any]) -> None:
    """Write metrics.json. Raises UserError where the disk does not take it."""
    write_atomically(path, [json.dumps(metrics, indent=2, ensure_ascii=False, allow_nan=False), "\n"])


def write_predictions(path: Path, records: Sequence[StudyRecord], vocabularies: Vocabularies) -> None:
    """Write predictions.jsonl, one study a line in study order. Raises UserError where the disk does not take it."""
    lines = (
        json.dumps(prediction_entry(record, vocabularies), ensure_ascii=False, allow_nan=False) + "\n"
        for record in records
    )
    write_atomically(path, lines)


def prediction_entry(record: StudyRecord, vocabularies: Vocabularies) -> dict[str, Any]:
    """One study of predictions.jsonl.

    id, reference (full cleaned report), scored_reference (what the protocol compares with), generated;
    score         summed log-probability / number of generated tokens; null for a text that no model wrote
    sentences     [{text, regions: {name: share}, confidence}] of the generated report, in order: how much each looked
                  at the sub-graphs of regions (shares of 0.01 and more), and how sure the model is of it
    regions       {name: {box: [x1, y1, x2, y2] in 0..1 or null, probability, visible_probability, selected}}, all
                  regions; probability is "the report will speak of it"; null what the model does not predict
    attributes    {region: {attribute: probability}}, those given to the regions of the graph: the selected ones, or
                  with an oracle graph the annotated ones
    observations  {name: probability}; empty without an observation head
    labels        {name: 0 or 1}: the data set's own observations, those that are known
    """
    prediction, score = record.prediction, record.log_probability
    names = vocabularies.anatomy.names
    regions = {
        name: {
            "box": _numbers(prediction.boxes, region),
            "probability": _numbers(prediction.region_probabilities, region),
            "visible_probability": _numbers(prediction.visible_probabilities, region),
            "selected": prediction.region_selected is not None and bool(prediction.region_selected[region]),
        }
        for region, name in enumerate(names)
    }
    attributes: dict[str, dict[str, float]] = {}
    for region, attribute, probability in given_attributes(record, vocabularies):
        attributes.setdefault(names[region], {})[attribute] = round(probability, 6)
    observations = {}
    if prediction.observation_probabilities is not None:
        observations = {
            name: _numbers(prediction.observation_probabilities, position)
            for position, name in enumerate(vocabularies.observations)
        }
    return {
        "id": record.study_id,
        "reference": record.reference,
        "scored_reference": record.scored_reference,
        "generated": record.generated,
        "score": score if score is not None and math.isfinite(score) else None,
        "sentences": [
            {
                "text": sentence.text,
                "regions": {
                    names[region]: round(float(sentence.regions[region]), 6)
                    for region in np.flatnonzero(sentence.regions >= SMALLEST_SHARE)
                },
                "confidence": round(sentence.confidence, 6),
            }
            for sentence in record.sentences
        ],
        "regions": regions,
        "attributes": attributes,
        "observations": observations,
        "labels": {
            name: int(record.annotation.observations[position])
            for position, name in enumerate(vocabularies.observations)
            if record.annotation.observations_known[position]
        },
    }


def given_attributes(record: StudyRecord, vocabularies: Vocabularies) -> list[tuple[int, str, float]]:
    """The attributes that the model gives: (position of the region, attribute, probability)."""
    prediction = record.prediction
    if prediction.attributes is None:
        return []
    names, probabilities = vocabularies.attributes.by_region, prediction.attribute_probabilities
    return [
        (region, names[region][slot], float(probabilities[region, slot]))
        for region, slot in zip(*prediction.attributes.nonzero(), strict=True)
    ]


def score_table(metrics: Mapping[str, Any]) -> str:
    """The scores of metrics.json with their intervals, beside its baselines, as text; below it what is absent, and why.
    """
    baselines = metrics["baselines"]
    rows = [["score", "model", "95 % interval", *(COLUMNS.get(name, name) for name in baselines)]]
    for title, names in SCORE_GROUPS.items():
        rows.append([f"-- {title}"])
        rows += [
            [
                name, score_text(metrics["scores"].get(name)), interval_text(metrics["intervals"].get(name)),
                *(score_text(scores.get(name)) for scores in baselines.values()),
            ]
            for name in names
        ]
    absent = [f"  {name} is absent: {reason}" for name, reason in metrics["absent"].items()]
    return "\n".join([heading(metrics), "", *_aligned(rows), *absent])


def graph_comparison(
    by_source: Mapping[str, Mapping[str, Any]], resampled: Mapping[str, Mapping[str, NDArray]]
) -> dict[str, dict[str, Any]]:
    """What the scene graph is worth: graph source -> box_source, annotated_graphs, scores, their difference to those
    of the first source (None where either is absent) and its interval (None where either has none).

    by_source   graph source -> its metrics.json
    resampled   graph source -> its scores in resamples (`Scored.resampled`), which are the same for all sources
    """
    first, resampled_first = next(iter(by_source.values()))["scores"], next(iter(resampled.values()))

    def interval(values: Mapping[str, NDArray], name: str) -> Interval | None:
        both = name in values and name in resampled_first
        return percentile_interval(values[name] - resampled_first[name]) if both else None

    return {
        source: {
            "box_source": metrics["box_source"],
            "annotated_graphs": metrics["annotated_graphs"],
            "scores": metrics["scores"],
            "difference": {
                name: None if value is None or first[name] is None else value - first[name]
                for name, value in metrics["scores"].items()
            },
            "interval": {name: interval(resampled[source], name) for name in metrics["scores"]},
        }
        for source, metrics in by_source.items()
    }


def graph_table(metrics: Mapping[str, Any]) -> str:
    """The `graph_sources` of metrics.json (`graph_comparison`) as text, columns for each graph source."""
    first, *others = metrics["graph_sources"]
    rows = [["score", first, *(column for source in others for column in (source, "difference", "95 % interval"))]]
    for name in SCORE_NAMES:
        row = [name, score_text(metrics["scores"][name])]
        for source in others:
            compared = metrics["graph_sources"][source]
            row += [
                score_text(compared["scores"][name]), difference_text(compared["difference"][name]),
                interval_text(compared["interval"][name]),
            ]
        rows.append(row)
    return "\n".join(["What the graph is worth", *graph_notes(metrics), "", *_aligned(rows)])


def graph_notes(metrics: Mapping[str, Any]) -> list[str]:
    """What is to be known of each of the `graph_sources`, a line each."""
    return [
        f"{source}: boxes {compared['box_source']}"
        + (f"; {compared['annotated_graphs']} of {metrics['studies']} studies have an annotated graph"
           if source == GraphSource.ORACLE else "")
        for source, compared in metrics["graph_sources"].items()
    ]


def _aligned(rows: Sequence[Sequence[str]]) -> list[str]:
    """The rows as lines, the first column to the left and the others to the right; a row of one cell is a title."""
    full = [row for row in rows if len(row) > 1]
    widths = [max(len(row[column]) for row in full) for column in range(len(full[0]))]
    return [
        "  ".join(
            cell.rjust(width) if column else cell.ljust(width)
            for column, (cell, width) in enumerate(zip(row, widths, strict=False))
        ).rstrip()
        for row in rows
    ]


def heading(metrics: Mapping[str, Any]) -> str:
    """One line that says what was evaluated, and how."""
    without = " (of a model without graph)" if metrics["graph_in"] == "none" else ""
    return (
        f"{metrics['dataset']}, split {metrics['split']}, {metrics['studies']} studies; "
        f"graph {metrics['graph_source']}{without}, boxes {metrics['box_source']}, beam {metrics['beam_size']}, "
        f"protocol {metrics['protocol']}, seed {metrics['seed']}"
    )


def score_text(value: float | None) -> str:
    """A score for people: three decimals, a dash for none."""
    return "-" if value is None else f"{value:.3f}"


def interval_text(interval: Sequence[float] | None) -> str:
    """The bounds of an interval for people; nothing for none."""
    return "" if interval is None else f"[{interval[0]:.3f}, {interval[1]:.3f}]"


def difference_text(value: float | None) -> str:
    """A difference for people: its sign and three decimals, a dash for none."""
    return "-" if value is None else f"{value:+.3f}"


def _numbers(array: Any, position: int) -> float | list[float] | None:
    """Element `position` of a numpy array as plain numbers of six decimals; None without an array."""
    if array is None:
        return None
    value = array[position].astype(float).round(6)
    return value.tolist()
