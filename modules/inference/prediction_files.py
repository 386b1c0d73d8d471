"""Writes a prediction as JSON and as an image with the regions drawn on it."""

import io
import json
import os
import unicodedata
from collections.abc import Collection
from pathlib import Path
from typing import Any

from numpy.typing import NDArray
from PIL import Image, ImageDraw, ImageFont

from modules.evaluation.results import write_atomically, write_bytes_atomically
from modules.inference.prediction import PredictedRegion, Prediction

NOTICE = "For research only. Not a medical device, not for clinical use: a report may be wrong in any sentence."

# Long side of the overlay, line width and font size, in pixels.
OVERLAY_SIDE = 1024
_LINE_WIDTH, _FONT_SIZE = 3, 16
_NORMAL_COLOUR, _ABNORMAL_COLOUR = (79, 195, 247), (255, 176, 0)
# In bytes. Short enough for any file system, with room for a number and an extension.
_MAX_STEM_LENGTH = 100


def as_json(prediction: Prediction) -> dict[str, Any]:
    """`prediction` as a JSON object.

    notice, name, report, image_size [width, height], warnings
    sections      {section: text}; only of a model that writes findings and impression, whose sentences have a section
    sentences     [{text, regions: {name: share of attention}, confidence}]; with a previous study also
                  changes: {name: change}, if the sentence states any
    regions       {name: {box: [x1, y1, x2, y2] in pixels of the original or null, probability, visible_probability,
                  selected, abnormal, attributes: {attribute: probability}}}; with a previous study also change, if any
    observations  {name: probability}
    """
    return {
        "notice": NOTICE,
        "name": prediction.name,
        "report": prediction.report,
        **({"sections": prediction.sections} if prediction.sections else {}),
        "sentences": [
            {"text": sentence.text, "regions": sentence.regions, "confidence": sentence.confidence}
            | ({"changes": sentence.changes} if sentence.changes else {})
            | ({"section": sentence.section} if sentence.section else {})
            for sentence in prediction.sentences
        ],
        "regions": {
            region.name: {
                "box": None if region.box is None else list(region.box),
                "probability": region.probability,
                "visible_probability": region.visible_probability,
                "selected": region.selected,
                "abnormal": region.abnormal,
                "attributes": region.attributes,
                **({} if region.change is None else {"change": region.change}),
            }
            for region in prediction.regions
        },
        "observations": prediction.observations,
        "image_size": list(prediction.image_size),
        "warnings": prediction.warnings,
    }


def draw_overlay(pixels: NDArray, prediction: Prediction, names: Collection[str] | None = None) -> Image.Image:
    """Draw labelled boxes on the frontal image, scaled to a long side of `OVERLAY_SIDE` pixels.

    pixels  uint8 [height, width], at any resolution
    names   regions to draw, by default those of the graph; abnormal ones are amber, others blue
    """
    scale = OVERLAY_SIDE / max(pixels.shape)
    height, width = (max(1, round(side * scale)) for side in pixels.shape)
    overlay = Image.fromarray(pixels).resize((width, height), Image.Resampling.BILINEAR).convert("RGB")
    draw, font = ImageDraw.Draw(overlay), ImageFont.load_default(_FONT_SIZE)
    with_box = [region for region in prediction.regions if region.box is not None]
    to_draw = [region for region in with_box if (region.selected if names is None else region.name in names)]
    for region in sorted(to_draw, key=lambda region: region.abnormal):  # abnormal ones on top
        _draw_region(draw, font, region, width / prediction.image_size[0], height / prediction.image_size[1])
    return overlay


def _draw_region(
    draw: ImageDraw.ImageDraw, font: ImageFont.ImageFont, region: PredictedRegion, scale_x: float, scale_y: float
) -> None:
    colour = _ABNORMAL_COLOUR if region.abnormal else _NORMAL_COLOUR
    x1, y1, x2, y2 = region.box
    left, top = x1 * scale_x, y1 * scale_y
    draw.rectangle(
        (left, top, max(left, x2 * scale_x - 1), max(top, y2 * scale_y - 1)), outline=colour, width=_LINE_WIDTH
    )
    text_corner = (left + _LINE_WIDTH + 1, top + _LINE_WIDTH)
    draw.rectangle(draw.textbbox(text_corner, region.name, font=font), fill=(0, 0, 0))
    draw.text(text_corner, region.name, fill=colour, font=font)


def png_bytes(image: Image.Image) -> bytes:
    """Encode `image` as PNG."""
    encoded = io.BytesIO()
    image.save(encoded, "PNG")
    return encoded.getvalue()


def file_stem(name: str, taken: set[str]) -> str:
    """A safe file name, without extension, for a study with any `name`: not a path, not hidden, not an option.

    Letters and digits of all scripts are kept. It differs from the names in `taken` even on file systems that ignore
    case, and is added to them.
    """
    name = unicodedata.normalize("NFC", name)
    kept = "".join(character if _is_safe(character) else " " for character in name)
    safe = _truncate("_".join(kept.split()).strip("._-")).strip("._-") or "image"
    stem, number = safe, 1
    while stem.casefold() in taken:
        number += 1
        stem = f"{safe}-{number}"
    taken.add(stem.casefold())
    return stem


def _is_safe(character: str) -> bool:
    """Whether a file name may contain the `character`: of ASCII letters, digits and ._-, of others also symbols."""
    if character.isascii():
        return character.isalnum() or character in "._-"
    try:
        os.fsencode(character)  # the names of a file system need not be in UTF-8
    except UnicodeEncodeError:
        return False
    # Letters, the marks that belong to them, numbers and symbols; neither punctuation nor what changes the direction.
    return unicodedata.category(character)[0] in "LMNS" and not 0xD800 <= ord(character) < 0xE000


def _truncate(name: str) -> str:
    """The start of `name` in at most `_MAX_STEM_LENGTH` bytes of UTF-8."""
    return name.encode()[:_MAX_STEM_LENGTH].decode(errors="ignore")


def write_prediction(folder: Path, stem: str, prediction: Prediction, pixels: NDArray) -> list[Path]:
    """Write STEM.json and STEM.png into `folder`, each one completely or not at all, and return their paths.

    pixels: the frontal image, as for `draw_overlay`. Raises UserError if a file cannot be written.
    """
    paths = [folder / f"{stem}.json", folder / f"{stem}.png"]
    content = json.dumps(as_json(prediction), indent=2, ensure_ascii=False, allow_nan=False)
    write_atomically(paths[0], [content, "\n"])
    write_bytes_atomically(paths[1], [png_bytes(draw_overlay(pixels, prediction))])
    return paths
