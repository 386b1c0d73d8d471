"""The files of an evaluation: where they are, and how metrics.json and predictions.jsonl are written."""

import json
import math
import os
from collections.abc import Iterable, Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from data.errors import cannot_write
from data.ontology import CHANGES
from data.storage.atomic_files import private_temporary
from data.vocabulary import Vocabularies
from models.outputs import GraphSource
from modules.evaluation.records import StudyRecord
from modules.evaluation.sentences import GeneratedSentence

# predictions.jsonl leaves out regions with a smaller share of a sentence's attention.
MIN_SHARE = 0.01


def run_folder(checkpoint: Path) -> Path:
    """Return the folder of the run that wrote the `checkpoint` folder."""
    return checkpoint.parent if checkpoint.name in ("best", "last") else checkpoint


def results_folder(checkpoint: Path, trained_on: Path | None, tested_on: Path) -> Path:
    """Return the run folder of the `checkpoint`, or its subfolder on_NAME if tested on a data set of another name.

    trained_on   None if the training had several data sets: then every data set has its subfolder
    """
    folder = run_folder(checkpoint)
    if trained_on is not None and tested_on.name == trained_on.name:
        return folder
    return folder / f"on_{tested_on.name}"


def result_path(
    folder: Path, name: str, graph_source: GraphSource, split: str,
    default_source: GraphSource = GraphSource.PREDICTED,
) -> Path:
    """Return the path of the result `name` (metrics.json, ...); no two evaluations share one.

    The test split with `default_source` has the plain name. Others have a suffix: metrics_oracle.json,
    metrics_val.json, metrics_val_oracle.json.
    """
    stem, suffix = os.path.splitext(name)
    parts = [stem]
    if split != "test":
        parts.append(split)
    if graph_source != default_source:
        parts.append(str(graph_source))
    return folder / ("_".join(parts) + suffix)


def write_atomically(path: Path, lines: Iterable[str]) -> None:
    """Write `lines`, which include their line ends, completely or not at all. Raises UserError if that fails."""
    write_bytes_atomically(path, (line.encode() for line in lines))


def write_bytes_atomically(path: Path, chunks: Iterable[bytes]) -> None:
    """Write `chunks` to `path` as `write_atomically` does."""
    try:
        path.parent.mkdir(parents=True, exist_ok=True)
        with private_temporary(path) as file:
            file.writelines(chunks)
            file.flush()
            Path(file.name).replace(path)
    except OSError as error:
        raise cannot_write(path, error) from error


def write_metrics(path: Path, metrics: Mapping[str, Any]) -> None:
    """Write metrics.json. Raises UserError if that fails."""
    write_atomically(path, [json.dumps(metrics, indent=2, ensure_ascii=False, allow_nan=False), "\n"])


def write_predictions(path: Path, records: Sequence[StudyRecord], vocabularies: Vocabularies) -> None:
    """Write predictions.jsonl, one line per study in dataset order. Raises UserError if that fails."""
    lines = (
        json.dumps(prediction_entry(record, vocabularies), ensure_ascii=False, allow_nan=False) + "\n"
        for record in records
    )
    write_atomically(path, lines)


def prediction_entry(record: StudyRecord, vocabularies: Vocabularies) -> dict[str, Any]:
    """Return the line of predictions.jsonl for one study.

    id                study
    reference         complete cleaned reference report
    scored_reference  the reference as the protocol cuts it
    generated         generated report; it and the references are null for a study without a report. Of a report in
                      sections, these texts have those of the reference, joined
    sections          {section: {reference, scored_reference, generated}} of a report in sections, where the references
                      are null if the study lacks the section; absent if reports have none
    score             summed log-probability / number of generated tokens; null if no model wrote it
    sentences         of the generated report, in order: [{text, regions: {name: share}, confidence}], where share is
                      that of its attention to the region's sub-graph, if at least 0.01; with its section, if any
    regions           all regions: {name: {box: [x1, y1, x2, y2] in 0..1, probability, visible_probability, selected}},
                      where probability is that the report mentions the region; null for what the model does not predict
    changes           {region: change since the previous study} that the report was given; only of a model that reads it
    attributes        {region: {attribute: probability}}, predicted for the regions of the graph: the selected ones, or
                      with an oracle graph the annotated ones
    observations      {name: probability}; empty without an observation head
    labels            {name: 0 or 1}: the known observations of the data set
    """
    prediction, score = record.prediction, record.log_probability
    names = vocabularies.anatomy.names
    attributes: dict[str, dict[str, float]] = {}
    for region, attribute, probability in predicted_attributes(record, vocabularies):
        attributes.setdefault(names[region], {})[attribute] = round(probability, 6)
    observations = {}
    if prediction.observation_probabilities is not None:
        observations = {
            name: _round(prediction.observation_probabilities, position)
            for position, name in enumerate(vocabularies.observations)
        }
    return {
        "id": record.study_id,
        "reference": record.reference if record.has_report else None,
        "scored_reference": record.scored_reference if record.has_report else None,
        "generated": record.generated if record.has_report else None,
        **({"sections": {name: vars(texts) for name, texts in record.sections.items()}} if record.sections else {}),
        "score": score if score is not None and math.isfinite(score) else None,
        "sentences": [_sentence_entry(sentence, names) for sentence in record.sentences],
        "regions": {
            name: {
                "box": _round(prediction.boxes, region),
                "probability": _round(prediction.region_probabilities, region),
                "visible_probability": _round(prediction.visible_probabilities, region),
                "selected": prediction.region_selected is not None and bool(prediction.region_selected[region]),
            }
            for region, name in enumerate(names)
        },
        **({} if prediction.stated_change is None else {"changes": named_changes(prediction.stated_change, names)}),
        "attributes": attributes,
        "observations": observations,
        "labels": {
            name: int(record.annotation.observations[position])
            for position, name in enumerate(vocabularies.observations)
            if record.annotation.observations_known[position]
        },
    }


def named_changes(changes: NDArray, regions: Sequence[str]) -> dict[str, str]:
    """Return region -> its change, without the regions that have none; changes [R]."""
    return {regions[region]: CHANGES[changes[region]] for region in np.flatnonzero(changes >= 0)}


def predicted_attributes(record: StudyRecord, vocabularies: Vocabularies) -> list[tuple[int, str, float]]:
    """Return the predicted attributes of a study: (index of the region, attribute, probability)."""
    prediction = record.prediction
    if prediction.attributes is None:
        return []
    names, probabilities = vocabularies.attributes.by_region, prediction.attribute_probabilities
    return [
        (region, names[region][slot], float(probabilities[region, slot]))
        for region, slot in zip(*prediction.attributes.nonzero(), strict=True)
    ]


def _sentence_entry(sentence: GeneratedSentence, names: Sequence[str]) -> dict[str, Any]:
    return {
        "text": sentence.text,
        "regions": {
            names[region]: round(float(sentence.regions[region]), 6)
            for region in np.flatnonzero(sentence.regions >= MIN_SHARE)
        },
        "confidence": round(sentence.confidence, 6),
        **({"section": sentence.section} if sentence.section else {}),
    }


def _round(array: NDArray | None, position: int) -> float | list[float] | None:
    """Element `position` of `array` as plain numbers with six decimals; None without an array."""
    if array is None:
        return None
    value = array[position].astype(float).round(6)
    return value.tolist()
