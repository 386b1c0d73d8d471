"""A study on `report.html`: the picture with boxes, the generated sentences with where they looked, and the graph.

Hovering or focusing a sentence lifts out the boxes of the regions that it looked at, by rules of style (`HIGHLIGHT`).
"""

import base64
import io
from dataclasses import dataclass
from html import escape

import numpy as np
from numpy.typing import NDArray
from PIL import Image
from torch import Tensor

from data.images.transforms import IMAGENET_DEVIATION, IMAGENET_MEAN
from data.vocabulary import Vocabularies
from modules.evaluation.evaluator import StudyRecord
from modules.evaluation.metrics.claims import is_wrong
from modules.evaluation.results import given_attributes
from modules.evaluation.sentences import GeneratedSentence

# Colours for regions, told apart by most colour-blind eyes (after Okabe and Ito); black text on them and their lines on
# a black picture have a contrast above 4.5. What they mean stands beside them in words.
COLOURS = ("#e69f00", "#56b4e9", "#00b386", "#f0e442", "#d98cb8", "#f2762e", "#a78bfa", "#b8c4ce")
_REGIONS = 29
# Of a sentence: how many regions are lifted out, and the share of the first one's attention that the others must have.
_MOST_LIFTED, _LEAST_SHARE = 3, 0.5

_VERDICTS = {
    True: '<span class="verdict wrong">✗ not supported</span>',
    False: '<span class="verdict right">✓ supported</span>',
    None: '<span class="verdict">claims nothing</span>',
}
_MARKS = {(True, True): ("agreed", "✓"), (False, True): ("missed", "−"), (True, False): ("added", "+")}

HIGHLIGHT = "".join(
    f".c{number} {{ --colour: {colour}; }}\n" for number, colour in enumerate(COLOURS)
) + "".join(
    f".study:has(.looks{region}:is(:hover, :focus)) .picture .region{region} {{ opacity: 1; }}\n"
    f".study:has(.looks{region}:is(:hover, :focus)) .picture .region{region} rect {{ stroke-width: 5; }}\n"
    f".study:has(.looks{region}:is(:hover, :focus)) .picture .region{region} text {{ visibility: visible; }}\n"
    for region in range(_REGIONS)
)
LEGEND = (
    "<p class=\"note\">Boxes: solid, regions of the model's graph, in colour where a sentence looks at them most; "
    "dashed, regions that the reference report mentions. Point at a sentence, or reach it with the Tab key, to see the "
    "regions that it looked at. A sentence is supported where the reference report agrees with all that it claims of "
    "regions and observations. Graph: "
    '<span class="agreed">✓ in both</span>, <span class="missed">− in the reference only</span>, '
    '<span class="added">+ predicted only</span>. Left and right are the patient\'s.</p>\n'
)


@dataclass(frozen=True)
class Case:
    """A study to show.

    picture   [H, W] uint8, as the network saw it
    why       it is shown, in words
    """

    record: StudyRecord
    picture: NDArray
    why: str


def grey_picture(image: Tensor) -> NDArray:
    """[H, W] uint8: the picture that the network saw as `image` [3, H, W], normalised."""
    grey = image[0].numpy() * IMAGENET_DEVIATION[0] + IMAGENET_MEAN[0]
    return (grey * 255).round().clip(0, 255).astype(np.uint8)


def study_panel(case: Case, vocabularies: Vocabularies) -> str:
    """The study as an `article`, well-formed."""
    record = case.record
    colours = _region_colours(record)
    names = vocabularies.anatomy.names
    sentences = "".join(_sentence(sentence, record, names, colours) for sentence in record.sentences)
    if not sentences:
        sentences = f"<li>{escape(record.generated) or '(an empty report)'}</li>"
    return (
        f'<article class="study">\n<h3>{escape(record.study_id)} <span class="why">{escape(case.why)}</span></h3>\n'
        f'<div class="panes">\n<div>{_picture(case, names, colours)}</div>\n'
        f'<div><h4>Generated</h4>\n<ol class="sentences">\n{sentences}</ol>\n'
        f"<h4>Reference</h4>\n<p>{escape(record.reference)}</p>\n{_observations(record, vocabularies)}</div>\n</div>\n"
        f"{_graph_table(record, vocabularies)}</article>\n"
    )


def _lifted_regions(sentence: GeneratedSentence) -> list[int]:
    """The regions that a sentence looked at most, the first one first; none without graph."""
    order = np.argsort(-sentence.regions, kind="stable")[:_MOST_LIFTED]
    least = sentence.regions[order[0]] * _LEAST_SHARE
    return [int(region) for region in order if sentence.regions[region] >= least > 0]


def _region_colours(record: StudyRecord) -> dict[int, int]:
    """Region -> number of its colour, for the region that each sentence looked at most."""
    first = [lifted[0] for lifted in map(_lifted_regions, record.sentences) if lifted]
    return {region: number % len(COLOURS) for number, region in enumerate(dict.fromkeys(first))}


def _sentence(
    sentence: GeneratedSentence, record: StudyRecord, names: tuple[str, ...], colours: dict[int, int]
) -> str:
    lifted = _lifted_regions(sentence)
    classes = ["sentence", *(f"looks{region}" for region in lifted)]
    looked = "looked at no graph"
    if lifted:
        classes.append(f"c{colours[lifted[0]]}")
        looked = "looked at " + ", ".join(f"{names[region]} {sentence.regions[region]:.0%}" for region in lifted)
    return (
        f'<li class="{" ".join(classes)}" tabindex="0"><span class="text">{escape(sentence.text)}</span>'
        f'<span class="told"><span class="looked">{escape(looked)}</span> '
        f'<span class="confidence">confidence {sentence.confidence:.2f}</span> '
        f"{_VERDICTS[is_wrong(sentence.text, record.reference)]}</span></li>\n"
    )


def _picture(case: Case, names: tuple[str, ...], colours: dict[int, int]) -> str:
    """The picture with the boxes of the graph's and of the mentioned regions, and what switches them on and off."""
    file = io.BytesIO()
    Image.fromarray(case.picture).save(file, format="PNG", optimize=True)
    data = base64.b64encode(file.getvalue()).decode("ascii")
    height, width = case.picture.shape
    annotation, prediction = case.record.annotation, case.record.prediction
    boxes = [
        _box(annotation.boxes[region], names[region], "reference", width, height)
        for region in (annotation.mentioned & annotation.visible).nonzero()[0]
    ]
    # Without boxes of its own the model was given the annotated ones.
    given = annotation.boxes if prediction.boxes is None else prediction.boxes
    if prediction.region_selected is not None:
        shown = prediction.region_selected.copy()
        shown[list(colours)] = True
        for region in sorted(shown.nonzero()[0], key=lambda region: region in colours):
            kind = f"predicted region{region}" + (f" coloured c{colours[region]}" if region in colours else "")
            boxes.append(_box(given[region], names[region], kind, width, height))
    return (
        f'<svg class="picture" viewBox="0 0 {width} {height}" role="img" '
        f'aria-label="Frontal radiograph with the boxes of regions">'
        f'<image width="{width}" height="{height}" href="data:image/png;base64,{data}"></image>{"".join(boxes)}</svg>\n'
        '<p class="switches"><label><input type="checkbox" class="show-predicted" checked="checked" /> '
        "regions of the graph</label> "
        '<label><input type="checkbox" class="show-reference" /> regions of the reference</label></p>'
    )


def _box(box: NDArray, name: str, kind: str, width: int, height: int) -> str:
    x1, y1, x2, y2 = np.clip(box.astype(float), 0, 1) * (width, height, width, height)
    size = width / 24
    # A name begins or ends at the side of its box from where it stays in the picture.
    anchor, at = ("start", x1 + size / 4) if x1 < width / 2 else ("end", x2 - size / 4)
    return (
        f'<g class="{kind}"><rect x="{x1:.2f}" y="{y1:.2f}" width="{max(0.0, x2 - x1):.2f}" '
        f'height="{max(0.0, y2 - y1):.2f}"><title>{escape(name)}</title></rect>'
        f'<text x="{at:.2f}" y="{y1 + size:.2f}" text-anchor="{anchor}" font-size="{size:.1f}" '
        f'stroke-width="{size / 6:.1f}">{escape(name)}</text></g>'
    )


def _graph_table(record: StudyRecord, vocabularies: Vocabularies) -> str:
    """Regions and attributes that the model predicts or the reference has, each marked as agreed, missed or added."""
    annotation, prediction = record.annotation, record.prediction
    if prediction.region_selected is None and not annotation.graph_known:
        return '<p class="note">There is neither a predicted graph nor a reference graph.</p>\n'
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
        rows.append(f'<tr><th scope="row">{marked}</th><td>{probability}</td><td>{attributes}</td></tr>\n')
    unknown = "" if annotation.graph_known else '<p class="note">This study has no reference graph.</p>\n'
    return (
        '<details><summary>Scene graph</summary>\n<div class="scroll"><table class="graph">\n<tr><th scope="col">region'
        f'</th><th scope="col">probability</th><th scope="col">attributes</th></tr>\n{"".join(rows)}</table></div>\n'
        f"{unknown}</details>\n"
    )


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
    return f"<h4>Observations read off the image</h4>\n<p>{', '.join(named) or 'none'}</p>\n"


def _marked(text: str, predicted: bool, reference: bool) -> str:
    kind, sign = _MARKS[predicted, reference]
    return f'<span class="{kind}">{sign} {escape(text)}</span>'


def _readable(attribute: str) -> str:
    """`category|polarity|label` in words; another name (`region/id`, of a converted checkpoint) as it is."""
    parts = attribute.split("|", 2)
    if len(parts) < 3:
        return attribute
    return f"no {parts[2]}" if parts[1] == "no" else parts[2]
