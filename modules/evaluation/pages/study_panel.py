"""One study on `report.html`: the image with boxes, the generated sentences with their regions, and the graph.

Hovering over or focusing a sentence highlights the boxes of the regions that it attends to, with CSS rules only
(`HIGHLIGHT`).
"""

import base64
import io
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from html import escape

import numpy as np
from numpy.typing import NDArray
from PIL import Image

from data.vocabulary import Vocabularies
from modules.evaluation.display import format_report, format_sections
from modules.evaluation.metrics.claims import is_wrong
from modules.evaluation.records import StudyRecord
from modules.evaluation.results import predicted_attributes
from modules.evaluation.sentences import GeneratedSentence

# Colours of regions, distinguishable with most colour blindness (after Okabe and Ito). Their contrast with black text
# and with a black image is above 4.5. The same information is also given in words.
COLOURS = ("#e69f00", "#56b4e9", "#00b386", "#f0e442", "#d98cb8", "#f2762e", "#a78bfa", "#b8c4ce")
_REGIONS = 29
# A sentence highlights at most this many regions, each with at least this part of the largest share of attention.
_MAX_HIGHLIGHTED, _MIN_RELATIVE_SHARE = 3, 0.5

_VERDICTS = {
    True: '<span class="verdict wrong">✗ not supported</span>',
    False: '<span class="verdict right">✓ supported</span>',
    None: '<span class="verdict">makes no claim</span>',
}
# (predicted, in the reference) -> CSS class and sign.
_MARKS = {(True, True): ("agreed", "✓"), (False, True): ("missed", "−"), (True, False): ("added", "+")}

HIGHLIGHT = "".join(
    f".c{number} {{ --colour: {colour}; }}\n" for number, colour in enumerate(COLOURS)
) + "".join(
    f".study:has(.looks{region}:is(:hover, :focus)) .image .region{region} {{ opacity: 1; }}\n"
    f".study:has(.looks{region}:is(:hover, :focus)) .image .region{region} rect {{ stroke-width: 5; }}\n"
    f".study:has(.looks{region}:is(:hover, :focus)) .image .region{region} text {{ visibility: visible; }}\n"
    for region in range(_REGIONS)
)
LEGEND = (
    '<p class="note">Solid boxes: regions of the model\'s graph, coloured if a sentence attends to them most. Dashed '
    "boxes: regions that the reference report mentions. Point at a sentence, or focus it with the Tab key, to see the "
    "regions that it attends to. A sentence is supported if the reference report agrees with everything that it claims "
    'about regions and observations. Graph: <span class="agreed">✓ in both</span>, '
    '<span class="missed">− in the reference only</span>, <span class="added">+ predicted only</span>. Left and right '
    "are the patient's.</p>\n"
)


@dataclass(frozen=True)
class Case:
    """A study to show.

    image    [height, width] uint8, as the network saw it
    reason   why it is shown
    """

    record: StudyRecord
    image: NDArray
    reason: str


def study_panel(case: Case, vocabularies: Vocabularies) -> str:
    """The study as a well-formed `article` element."""
    record = case.record
    colours = _assign_colours(record)
    names = vocabularies.anatomy.names
    sentences, section = "", ""
    for sentence in record.sentences:
        if sentence.section != section:
            section = sentence.section
            sentences += f'<li class="section">{escape(section.capitalize())}</li>\n'
        sentences += _sentence(sentence, record, names, colours)
    if not sentences:
        placeholder = "(empty report)" if record.has_report else "(none: the data set has no report to compare with)"
        sentences = f"<li>{escape(format_report(record.generated)) or placeholder}</li>"
    return (
        f'<article class="study">\n<h3>{escape(record.study_id)} <span class="why">{escape(case.reason)}</span></h3>\n'
        f'<div class="panes">\n<div>{_image(case, names, colours)}</div>\n'
        f'<div><h4>Generated</h4>\n<ol class="sentences">\n{sentences}</ol>\n'
        f"<h4>Reference</h4>\n{_reference(record)}"
        f"{_observations(record, vocabularies)}</div>\n</div>\n"
        f"{_graph_table(record, vocabularies)}</article>\n"
    )


def _reference(record: StudyRecord) -> str:
    """The reference report, its sections apart."""
    texts = {name: texts.reference for name, texts in record.sections.items() if texts.reference is not None}
    lines = format_sections(texts).splitlines() or [format_report(record.reference) or "(none)"]
    return "".join(f"<p>{escape(line)}</p>\n" for line in lines)


def _highlighted_regions(sentence: GeneratedSentence) -> list[int]:
    """The regions that a sentence attends to most, in descending order; empty without a graph."""
    order = np.argsort(-sentence.regions, kind="stable")[:_MAX_HIGHLIGHTED]
    threshold = sentence.regions[order[0]] * _MIN_RELATIVE_SHARE
    return [int(region) for region in order if sentence.regions[region] >= threshold > 0]


def _assign_colours(record: StudyRecord) -> dict[int, int]:
    """Region -> index of its colour, for the regions that are the first choice of a sentence."""
    highlighted = map(_highlighted_regions, record.sentences)
    first_choices = [regions[0] for regions in highlighted if regions]
    return {region: number % len(COLOURS) for number, region in enumerate(dict.fromkeys(first_choices))}


def _sentence(
    sentence: GeneratedSentence, record: StudyRecord, names: Sequence[str], colours: Mapping[int, int]
) -> str:
    regions = _highlighted_regions(sentence)
    classes = ["sentence", *(f"looks{region}" for region in regions)]
    attended = "attends to no region"
    if regions:
        classes.append(f"c{colours[regions[0]]}")
        attended = "attends to " + ", ".join(f"{names[region]} {sentence.regions[region]:.0%}" for region in regions)
    return (
        f'<li class="{" ".join(classes)}" tabindex="0"><span class="text">{escape(format_report(sentence.text))}</span>'
        f'<span class="details"><span class="attended">{escape(attended)}</span> '
        f'<span class="confidence">confidence {sentence.confidence:.2f}</span> '
        f"{_VERDICTS[is_wrong(sentence.text, record.reference)]}</span></li>\n"
    )


def _image(case: Case, names: Sequence[str], colours: Mapping[int, int]) -> str:
    """The image with the boxes of predicted and mentioned regions, and check boxes that show or hide them."""
    file = io.BytesIO()
    Image.fromarray(case.image).save(file, format="PNG", optimize=True)
    data = base64.b64encode(file.getvalue()).decode("ascii")
    height, width = case.image.shape
    annotation, prediction = case.record.annotation, case.record.prediction
    boxes = [
        _box(annotation.boxes[region], names[region], "reference", width, height)
        for region in (annotation.mentioned & annotation.visible).nonzero()[0]
    ]
    # A model without predicted boxes used the annotated ones.
    model_boxes = annotation.boxes if prediction.boxes is None else prediction.boxes
    if prediction.region_selected is not None:
        drawn = prediction.region_selected.copy()
        drawn[list(colours)] = True
        for region in sorted(drawn.nonzero()[0], key=lambda region: region in colours):
            kind = f"predicted region{region}" + (f" coloured c{colours[region]}" if region in colours else "")
            boxes.append(_box(model_boxes[region], names[region], kind, width, height))
    return (
        f'<svg class="image" viewBox="0 0 {width} {height}" role="img" '
        f'aria-label="Frontal radiograph with the boxes of regions">'
        f'<image width="{width}" height="{height}" href="data:image/png;base64,{data}"></image>{"".join(boxes)}</svg>\n'
        '<p class="switches"><label><input type="checkbox" class="show-predicted" checked="checked" /> '
        "regions of the graph</label> "
        '<label><input type="checkbox" class="show-reference" /> regions of the reference</label></p>'
    )


def _box(box: NDArray, name: str, kind: str, width: int, height: int) -> str:
    x1, y1, x2, y2 = np.clip(box.astype(float), 0, 1) * (width, height, width, height)
    size = width / 24
    # The name is aligned with the edge of the box that keeps it inside the image.
    anchor, text_x = ("start", x1 + size / 4) if x1 < width / 2 else ("end", x2 - size / 4)
    return (
        f'<g class="{kind}"><rect x="{x1:.2f}" y="{y1:.2f}" width="{max(0.0, x2 - x1):.2f}" '
        f'height="{max(0.0, y2 - y1):.2f}"><title>{escape(name)}</title></rect>'
        f'<text x="{text_x:.2f}" y="{y1 + size:.2f}" text-anchor="{anchor}" font-size="{size:.1f}" '
        f'stroke-width="{size / 6:.1f}">{escape(name)}</text></g>'
    )


def _graph_table(record: StudyRecord, vocabularies: Vocabularies) -> str:
    """Predicted and annotated regions and attributes, each marked as agreed, missed or added."""
    annotation, prediction = record.annotation, record.prediction
    if prediction.region_selected is None and not annotation.graph_known:
        return '<p class="note">There is neither a predicted graph nor a reference graph.</p>\n'
    regions = len(vocabularies.anatomy.names)
    selected = np.zeros(regions, dtype=bool) if prediction.region_selected is None else prediction.region_selected
    predicted: dict[int, set[str]] = {}
    for region, attribute, _ in predicted_attributes(record, vocabularies):
        predicted.setdefault(region, set()).add(attribute)
    rows = []
    for region, name in enumerate(vocabularies.anatomy.names):
        mentioned = bool(annotation.mentioned[region])
        if not mentioned and not selected[region]:
            continue
        attribute_names = vocabularies.attributes.by_region[region]
        references = {attribute_names[slot] for slot in annotation.attributes[region].nonzero()[0] if mentioned}
        attributes = ", ".join(
            _mark(_readable_attribute(attribute), attribute in predicted.get(region, set()), attribute in references)
            for attribute in sorted(predicted.get(region, set()) | references)
        )
        probabilities = prediction.region_probabilities
        probability = "" if probabilities is None else f"{probabilities[region]:.2f}"
        marked = _mark(name, bool(selected[region]), mentioned)
        rows.append(f'<tr><th scope="row">{marked}</th><td>{probability}</td><td>{attributes}</td></tr>\n')
    unknown = "" if annotation.graph_known else '<p class="note">This study has no reference graph.</p>\n'
    return (
        '<details><summary>Scene graph</summary>\n<div class="scroll"><table class="graph">\n<tr><th scope="col">region'
        f'</th><th scope="col">probability</th><th scope="col">attributes</th></tr>\n{"".join(rows)}</table></div>\n'
        f"{unknown}</details>\n"
    )


def _observations(record: StudyRecord, vocabularies: Vocabularies) -> str:
    """The predicted and annotated observations, marked as in the graph table."""
    annotation, prediction = record.annotation, record.prediction
    if prediction.observations is None:
        return ""
    positive = annotation.observations & annotation.observations_known
    marked = [
        f"{_mark(name, bool(prediction.observations[position]), bool(positive[position]))} "
        f"({prediction.observation_probabilities[position]:.2f})"
        for position, name in enumerate(vocabularies.observations)
        if prediction.observations[position] or positive[position]
    ]
    return f"<h4>Observations read off the image</h4>\n<p>{', '.join(marked) or 'none'}</p>\n"


def _mark(text: str, predicted: bool, reference: bool) -> str:
    kind, sign = _MARKS[predicted, reference]
    return f'<span class="{kind}">{sign} {escape(text)}</span>'


def _readable_attribute(attribute: str) -> str:
    """`category|polarity|label` in words; other names (`region/id` of a converted checkpoint) unchanged."""
    parts = attribute.split("|", 2)
    if len(parts) < 3:
        return attribute
    return f"no {parts[2]}" if parts[1] == "no" else parts[2]
