"""report.html: ten test images with what the model saw and wrote, beside the reference; one file without links.

The page is well-formed, so any XML parser reads it too. It holds images and reports: keep it where those may lie.
"""

import base64
import io
from collections.abc import Mapping, Sequence
from html import escape
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray
from PIL import Image
from torch import Tensor

from data.transforms import IMAGENET_DEVIATION, IMAGENET_MEAN
from data.vocabulary import Vocabularies
from modules.evaluator import SCORE_NAMES, StudyRecord
from modules.results import given_attributes, heading, score_text, write_atomically

PICTURES = 10

_STYLE = """
body { font: 15px/1.45 system-ui, sans-serif; margin: 2rem auto; max-width: 72rem; padding: 0 1rem; color: #1c2430; }
h2 { border-top: 1px solid #c8cfd8; padding-top: 1rem; font-size: 1.1rem; }
table { border-collapse: collapse; margin: .6rem 0; }
th, td { padding: .15rem .7rem; text-align: left; vertical-align: top; border-bottom: 1px solid #e3e7ec; }
.scores td + td, .scores th + th { text-align: right; font-variant-numeric: tabular-nums; }
.study { display: grid; grid-template-columns: 22rem 1fr; gap: 1.5rem; align-items: start; }
svg { width: 100%; background: #000; }
rect { fill: none; stroke-width: 2; vector-effect: non-scaling-stroke; }
rect.predicted { stroke: #ffb000; }
rect.reference { stroke: #4fc3f7; stroke-dasharray: 5 4; }
.agreed { color: #1b7a3d; } .missed { color: #1769aa; } .added { color: #b26a00; }
.reports { display: grid; grid-template-columns: 1fr 1fr; gap: 1rem; }
.note { color: #5b6675; font-size: .9rem; }
@media (max-width: 60rem) { .study, .reports { grid-template-columns: 1fr; } }
"""


def chosen_studies(count: int) -> list[int]:
    """Positions of up to ten studies, evenly spaced over `count`."""
    shown = min(PICTURES, count)
    return [position * count // shown for position in range(shown)]


def grey_picture(image: Tensor) -> NDArray:
    """[H, W] uint8: the picture that the network saw as `image` [3, H, W], normalised."""
    grey = image[0].numpy() * IMAGENET_DEVIATION[0] + IMAGENET_MEAN[0]
    return (grey * 255).round().clip(0, 255).astype(np.uint8)


def write_report_page(
    path: Path,
    metrics: Mapping[str, Any],
    records: Sequence[StudyRecord],
    pictures: Sequence[NDArray],
    vocabularies: Vocabularies,
) -> None:
    """Write the page for the studies `records` with their `pictures` [H, W] uint8, under the score table of `metrics`.

    Raises UserError where the disk does not take it.
    """
    title = f"{metrics['dataset']}: generated reports"
    studies = (
        _study(record, picture, vocabularies) for record, picture in zip(records, pictures, strict=True)
    )
    write_atomically(path, [
        '<!DOCTYPE html>\n<html lang="en">\n<head>\n<meta charset="utf-8" />\n',
        '<meta name="viewport" content="width=device-width, initial-scale=1" />\n',
        f"<title>{escape(title)}</title>\n<style>{_STYLE}</style>\n</head>\n<body>\n<h1>{escape(title)}</h1>\n",
        f"<p>{escape(heading(metrics))}</p>\n",
        _score_table(metrics),
        '<p class="note">Boxes: solid, regions that the model selects; dashed, regions that the reference report '
        'mentions. Graph: <span class="agreed">in both</span>, <span class="missed">in the reference only</span>, '
        '<span class="added">predicted only</span>. Left and right are the patient\'s.</p>\n',
        *studies,
        "</body>\n</html>\n",
    ])


def _score_table(metrics: Mapping[str, Any]) -> str:
    columns = {"model": metrics["scores"], **metrics["baselines"]}
    head = "".join(f"<th>{escape(name.replace('_', ' '))}</th>" for name in ("score", *columns))
    rows = ""
    for name in SCORE_NAMES:
        cells = "".join(f"<td>{score_text(scores.get(name))}</td>" for scores in columns.values())
        rows += f"<tr><td>{name}</td>{cells}</tr>\n"
    absent = "".join(
        f"<li>{escape(name)} is absent: {escape(reason)}</li>" for name, reason in metrics["absent"].items()
    )
    return f'<table class="scores">\n<tr>{head}</tr>\n{rows}</table>\n' + (
        f'<ul class="note">{absent}</ul>\n' if absent else ""
    )


def _study(record: StudyRecord, picture: NDArray, vocabularies: Vocabularies) -> str:
    return (
        f'<h2>{escape(record.study_id)}</h2>\n<div class="study">\n'
        f"<div>{_picture(record, picture, vocabularies)}</div>\n"
        f'<div>\n<div class="reports"><div><b>Generated</b><p>{escape(record.generated)}</p></div>'
        f"<div><b>Reference</b><p>{escape(record.reference)}</p></div></div>\n"
        f"{_graph_table(record, vocabularies)}{_observations(record, vocabularies)}</div>\n</div>\n"
    )


def _picture(record: StudyRecord, picture: NDArray, vocabularies: Vocabularies) -> str:
    """The picture with the boxes of selected and of mentioned regions over it."""
    file = io.BytesIO()
    Image.fromarray(picture).save(file, format="PNG", optimize=True)
    data = base64.b64encode(file.getvalue()).decode("ascii")
    height, width = picture.shape
    names = vocabularies.anatomy.names
    annotation, prediction = record.annotation, record.prediction
    boxes = [
        _box(annotation.boxes[region], names[region], "reference", width, height)
        for region in (annotation.mentioned & annotation.visible).nonzero()[0]
    ]
    if prediction.boxes is not None and prediction.region_selected is not None:
        boxes += [
            _box(prediction.boxes[region], names[region], "predicted", width, height)
            for region in prediction.region_selected.nonzero()[0]
        ]
    return (
        f'<svg viewBox="0 0 {width} {height}" role="img">'
        f'<image width="{width}" height="{height}" href="data:image/png;base64,{data}"></image>{"".join(boxes)}</svg>'
    )


def _box(box: NDArray, name: str, kind: str, width: int, height: int) -> str:
    x1, y1, x2, y2 = np.clip(box.astype(float), 0, 1) * (width, height, width, height)
    return (
        f'<rect class="{kind}" x="{x1:.2f}" y="{y1:.2f}" width="{max(0.0, x2 - x1):.2f}" '
        f'height="{max(0.0, y2 - y1):.2f}"><title>{escape(name)} ({kind})</title></rect>'
    )


def _graph_table(record: StudyRecord, vocabularies: Vocabularies) -> str:
    """Regions and attributes that the model predicts or the reference has, each marked as agreed, missed or added."""
    annotation, prediction = record.annotation, record.prediction
    if prediction.region_selected is None and not annotation.graph_known:
        return ""
    regions = len(vocabularies.anatomy.names)
    selected = np.zeros(regions, dtype=bool) if prediction.region_selected is None else prediction.region_selected
    given: dict[int, set[str]] = {}
    for region, attribute, _ in given_attributes(record, vocabularies):
        given.setdefault(region, set()).add(attribute)
    rows = []
    for region, name in enumerate(vocabularies.anatomy.names):
        told = bool(annotation.mentioned[region])
        if not told and not selected[region]:
            continue
        attribute_names = vocabularies.attributes.by_region[region]
        references = {attribute_names[slot] for slot in annotation.attributes[region].nonzero()[0] if told}
        predicted = given.get(region, set())
        attributes = ", ".join(
            _marked(_readable(attribute), attribute in predicted, attribute in references)
            for attribute in sorted(predicted | references)
        )
        probabilities = prediction.region_probabilities
        probability = "" if probabilities is None else f"{probabilities[region]:.2f}"
        marked = _marked(name, bool(selected[region]), told)
        rows.append(f"<tr><td>{marked}</td><td>{probability}</td><td>{attributes}</td></tr>\n")
    unknown = "" if annotation.graph_known else '<p class="note">This study has no reference graph.</p>\n'
    return f"<table>\n<tr><th>region</th><th>p</th><th>attributes</th></tr>\n{''.join(rows)}</table>\n{unknown}"


def _observations(record: StudyRecord, vocabularies: Vocabularies) -> str:
    """The observations that are predicted or in the reference, marked like the graph."""
    annotation, prediction = record.annotation, record.prediction
    if prediction.observations is None:
        return ""
    positive = annotation.observations & annotation.observations_known
    named = [
        f"{_marked(name, bool(prediction.observations[position]), bool(positive[position]))} "
        f"({prediction.observation_probabilities[position]:.2f})"
        for position, name in enumerate(vocabularies.observations)
        if prediction.observations[position] or positive[position]
    ]
    return f"<p><b>Observations</b> {', '.join(named) or 'none'}</p>\n"


def _marked(text: str, predicted: bool, reference: bool) -> str:
    kind = {(True, True): "agreed", (False, True): "missed", (True, False): "added"}[predicted, reference]
    return f'<span class="{kind}">{escape(text)}</span>'


def _readable(attribute: str) -> str:
    """`category|polarity|label` in words; another name (`region/id`, of a converted checkpoint) as it is."""
    parts = attribute.split("|", 2)
    if len(parts) < 3:
        return attribute
    return f"no {parts[2]}" if parts[1] == "no" else parts[2]
