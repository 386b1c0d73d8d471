"""Chest ImaGenome scene graphs."""

import math
import warnings
from functools import cache

from data.errors import UserError
from data.vocabulary import Anatomy

_CORNERS = ("original_x1", "original_y1", "original_x2", "original_y2")


def read_scene_graph(document: dict, image_size: tuple[int, int]) -> dict:
    """A record's `graph` from the content of one scene-graph file.

    `image_size` is width and height, in pixels, of the image that the file's `original_*` corners refer to. Of
    conflicting polarities the last mention wins; a region is abnormal if any of its phrases calls it so. What is about
    none of the 29 regions is left out, and so are entries that the file itself marks as not being about their region.
    Boxes are cut at the image's border; a region whose box is empty then has none.

    Raises UserError for a document of another form.
    """
    name = document.get("image_id", "?") if isinstance(document, dict) else "?"
    try:
        boxes = _read_boxes(document["objects"], image_size)
        phrases = _phrases_by_region(document["attributes"])
        regions = {}
        for region in _region_names():
            if region in boxes or region in phrases:
                regions[region] = {"box": boxes.get(region)} | _summary(phrases.get(region, []))
        return {"regions": regions}
    except (KeyError, TypeError, ValueError, AttributeError) as error:
        raise UserError(
            f"The scene graph of image {name} is malformed ({type(error).__name__}: {error}): fetch the file again"
        ) from error


@cache
def _region_names() -> tuple[str, ...]:
    return Anatomy.load().names


def _read_boxes(objects: list[dict], image_size: tuple[int, int]) -> dict[str, list[float]]:
    """Region -> xyxy in 0..1; boxes of the same region are joined."""
    width, height = image_size
    boxes: dict[str, list[float]] = {}
    for entry in objects:
        corners = [float(entry[corner]) for corner in _CORNERS]
        if not all(math.isfinite(corner) for corner in corners):
            continue
        x1, x2 = (min(max(corner / width, 0.0), 1.0) for corner in corners[0::2])
        y1, y2 = (min(max(corner / height, 0.0), 1.0) for corner in corners[1::2])
        if x1 >= x2 or y1 >= y2:
            continue
        known = boxes.get(entry["bbox_name"], [x1, y1, x2, y2])
        joined = [min(known[0], x1), min(known[1], y1), max(known[2], x2), max(known[3], y2)]
        boxes[entry["bbox_name"]] = [round(corner, 5) for corner in joined]
    return boxes


def _phrases_by_region(entries: list[dict]) -> dict[str, list[tuple[int, list[str]]]]:
    """Region -> (number of the sentence, its attributes) for every phrase about it."""
    phrases: dict[str, list[tuple[int, list[str]]]] = {}
    for entry in entries:
        region = entry["bbox_name"]
        if not isinstance(region, str) or not entry.get(region, True):
            continue
        attributes, numbers = entry["attributes"], entry.get("phrase_IDs", [""] * len(entry["attributes"]))
        if len(attributes) != len(numbers):
            warnings.warn(f"{entry.get('object_id', region)}: attributes and phrases differ in number", stacklevel=3)
        known = phrases.setdefault(region, [])
        for attribute, number in zip(attributes, numbers, strict=False):
            known.append((_sentence_number(number, len(known)), attribute))
    return phrases


def _sentence_number(phrase_id: str, otherwise: int) -> int:
    """The number that ends a phrase's id ("<study>|<sentence>")."""
    number = phrase_id.rpartition("|")[2]
    return int(number) if number.isdecimal() else otherwise


def _summary(phrases: list[tuple[int, list[str]]]) -> dict:
    """What the phrases about a region come to: mentioned, abnormal, and attributes with one polarity each."""
    polarities: dict[tuple[str, str], str] = {}
    abnormal = False
    for _, attributes in sorted(phrases, key=lambda phrase: phrase[0]):
        for attribute in attributes:
            category, polarity, label = attribute.split("|", 2)
            polarities[category, label] = polarity
            abnormal = abnormal or attribute == "nlp|yes|abnormal"
    attributes = [f"{category}|{polarity}|{label}" for (category, label), polarity in polarities.items()]
    return {"mentioned": bool(phrases), "abnormal": abnormal, "attributes": attributes}
