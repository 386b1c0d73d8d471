"""What an evaluation leaves behind: metrics.json, predictions.jsonl and the table on the console."""

import json
import math
import os
from collections.abc import Iterable, Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import yaml

from data.errors import UserError
from data.vocabulary import Vocabularies
from models.outputs import GraphSource
from modules.evaluator import SCORE_NAMES, StudyRecord

# Shares of a sentence's attention below this are left out of predictions.jsonl.
SMALLEST_SHARE = 0.01
# Baselines by their names in metrics.json, as people read them.
_COLUMNS = {"blind": "image-blind", "nearest_image": "nearest image"}


def result_path(folder: Path, name: str, graph_source: GraphSource, split: str) -> Path:
    """Where the result `name` (metrics.json, ...) of an evaluation lies: metrics.json for the test split with a
    predicted graph, metrics_oracle.json, metrics_val.json, metrics_val_oracle.json for others, so that none replaces
    another.
    """
    stem, suffix = os.path.splitext(name)
    parts = [stem]
    if split != "test":
        parts.append(split)
    if graph_source != GraphSource.PREDICTED:
        parts.append(str(graph_source))
    return folder / ("_".join(parts) + suffix)


def dataset_name(root: Path) -> str:
    """The name that the prepared data set in `root` gives itself, else its folder's."""
    description = yaml.safe_load((root / "dataset.yaml").read_text(encoding="utf-8"))
    return str(description.get("name") or root.name)


def write_atomically(path: Path, lines: Iterable[str]) -> None:
    """Write `lines`, each with its line end, to `path`: all or nothing. Raises UserError where the disk refuses."""
    temporary = path.with_name(f".{path.name}.{os.getpid()}.tmp")
    try:
        path.parent.mkdir(parents=True, exist_ok=True)
        try:
            with temporary.open("w", encoding="utf-8") as file:
                file.writelines(lines)
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
    """The scores of metrics.json beside its baselines as text, with what is absent and why below."""
    columns = {"model": metrics["scores"]}
    columns |= {_COLUMNS.get(name, name): scores for name, scores in metrics["baselines"].items()}
    rows = [["score", *columns]]
    rows += [[name, *(score_text(scores.get(name)) for scores in columns.values())] for name in SCORE_NAMES]
    widths = [max(len(row[column]) for row in rows) for column in range(len(rows[0]))]
    lines = [heading(metrics), ""]
    for row in rows:
        first, *rest = (cell.ljust(width) if column == 0 else cell.rjust(width)
                        for column, (cell, width) in enumerate(zip(row, widths, strict=True)))
        lines.append("  ".join([first, *rest]))
    lines += [f"  {name} is absent: {reason}" for name, reason in metrics["absent"].items()]
    return "\n".join(lines)


def heading(metrics: Mapping[str, Any]) -> str:
    """One line that says what was evaluated, and how."""
    return (
        f"{metrics['dataset']}, split {metrics['split']}, {metrics['studies']} studies; "
        f"graph {metrics['graph_source']}, boxes {metrics['box_source']}, beam {metrics['beam_size']}, "
        f"protocol {metrics['protocol']}, seed {metrics['seed']}"
    )


def score_text(value: float | None) -> str:
    """A score for people: three decimals, a dash for none."""
    return "-" if value is None else f"{value:.3f}"


def _numbers(array: Any, position: int) -> float | list[float] | None:
    """Element `position` of a numpy array as plain numbers of six decimals; None without an array."""
    if array is None:
        return None
    value = array[position].astype(float).round(6)
    return value.tolist()
