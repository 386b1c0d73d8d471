"""A prediction as files: JSON for programs, and the picture with the regions drawn on it."""

import io
import json
import re
from collections.abc import Collection
from pathlib import Path
from typing import Any

from numpy.typing import NDArray
from PIL import Image, ImageDraw, ImageFont

from modules.evaluation.results import write_atomically, write_bytes_atomically
from modules.inference.predictor import PredictedRegion, Prediction

NOTICE = "For research only. Not a medical device, not for clinical use: a report may be wrong in any sentence."

# Long side of the overlay in pixels, and what its boxes look like.
OVERLAY_SIDE = 1024
_NORMAL, _ABNORMAL = (79, 195, 247), (255, 176, 0)
_LINE, _LETTERS = 3, 16
# The longest name that any file system takes leaves room for an ending and a number.
_LONGEST_STEM = 100


def as_json(prediction: Prediction) -> dict[str, Any]:
    """`prediction` as plain JSON.

    notice, name, report, image_size [width, height], warnings
    sentences     [{text, regions: {name: share of attention}, confidence}]
    regions       {name: {box: [x1, y1, x2, y2] in pixels of the original or null, probability, visible_probability,
                  selected, abnormal, attributes: {attribute: probability}}}
    observations  {name: probability}
    """
    return {
        "notice": NOTICE,
        "name": prediction.name,
        "report": prediction.report,
        "sentences": [
            {"text": sentence.text, "regions": sentence.regions, "confidence": sentence.confidence}
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
            }
            for region in prediction.regions
        },
        "observations": prediction.observations,
        "image_size": list(prediction.image_size),
        "warnings": prediction.warnings,
    }


def draw_overlay(picture: NDArray, prediction: Prediction, names: Collection[str] | None = None) -> Image.Image:
    """The frontal `picture` (uint8 [H, W], at any resolution) with named boxes, its long side `OVERLAY_SIDE` pixels.

    names: regions to draw; None: those of the graph. Abnormal ones are amber, others blue.
    """
    scale = OVERLAY_SIDE / max(picture.shape)
    height, width = (max(1, round(side * scale)) for side in picture.shape)
    drawn = Image.fromarray(picture).resize((width, height), Image.Resampling.BILINEAR).convert("RGB")
    pen, font = ImageDraw.Draw(drawn), ImageFont.load_default(_LETTERS)
    boxed = [region for region in prediction.regions if region.box is not None]
    chosen = [region for region in boxed if (region.selected if names is None else region.name in names)]
    for region in sorted(chosen, key=lambda region: region.abnormal):  # abnormal ones on top
        _draw(pen, font, region, width / prediction.image_size[0], height / prediction.image_size[1])
    return drawn


def _draw(pen: ImageDraw.ImageDraw, font: ImageFont.ImageFont, region: PredictedRegion, across: float, down: float):
    colour = _ABNORMAL if region.abnormal else _NORMAL
    x1, y1, x2, y2 = region.box
    corners = (x1 * across, y1 * down, max(x1 * across, x2 * across - 1), max(y1 * down, y2 * down - 1))
    pen.rectangle(corners, outline=colour, width=_LINE)
    place = (corners[0] + _LINE + 1, corners[1] + _LINE)
    pen.rectangle(pen.textbbox(place, region.name, font=font), fill=(0, 0, 0))
    pen.text(place, region.name, fill=colour, font=font)


def png_bytes(image: Image.Image) -> bytes:
    """`image` as a PNG file."""
    encoded = io.BytesIO()
    image.save(encoded, "PNG")
    return encoded.getvalue()


def file_stem(name: str, taken: set[str]) -> str:
    """A file name without ending for a study called `name`, whatever is in that: no folder, no hidden file, no option.

    It is unlike those `taken`, also where a file system ignores case, and joins them.
    """
    safe = re.sub(r"[^A-Za-z0-9._-]+", "_", name).strip("._-")[:_LONGEST_STEM].strip("._-") or "image"
    stem, number = safe, 1
    while stem.lower() in taken:
        number += 1
        stem = f"{safe}-{number}"
    taken.add(stem.lower())
    return stem


def write_prediction(folder: Path, stem: str, prediction: Prediction, picture: NDArray) -> list[Path]:
    """Write STEM.json and STEM.png into `folder`; returns their paths.

    picture: the frontal image as `draw_overlay` takes it. Each file is there as a whole or not at all. Raises UserError
    where the disk refuses.
    """
    paths = [folder / f"{stem}.json", folder / f"{stem}.png"]
    content = json.dumps(as_json(prediction), indent=2, ensure_ascii=False, allow_nan=False)
    write_atomically(paths[0], [content, "\n"])
    write_bytes_atomically(paths[1], [png_bytes(draw_overlay(picture, prediction))])
    return paths
