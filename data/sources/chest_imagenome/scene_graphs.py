"""Reads the files of Chest ImaGenome: scene graphs, zipped or unpacked, and lists of images."""

import codecs
import math
import warnings
from collections import defaultdict
from collections.abc import Callable, Iterable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass, replace
from functools import cache
from pathlib import Path

import numpy as np

from data.errors import UserError, cannot_read, wrong_format
from data.ontology import CHANGES, Anatomy, combine_changes
from data.sources.distributions import Contents, read_table
from data.sources.mimic_cxr.files import ListedImage
from data.sources.zip_members import ZipMember, list_members, read_member
from data.storage.parse import parse_json

# Images per split in Chest ImaGenome 1.0.0.
KNOWN_IMAGES = {"train": 166_521, "val": 23_953, "test": 47_393}

_SUFFIX = "_SceneGraph.json"
_SPLIT_FILES = {"train": "train", "valid": "val", "test": "test"}
_CORNERS = ("x1", "y1", "x2", "y2")
# Side of the padded square in which the graphs state every box a second time.
_FRAME = 224
# In pixels; larger than any X-ray detector.
_LARGEST_SIDE = 100_000
# Exceptions that malformed documents can cause.
_MALFORMED = (KeyError, TypeError, ValueError, AttributeError, ArithmeticError)


# Scene graphs


def read_scene_graph(document: dict, image_size: tuple[int, int], warn: Callable[[str], None] = warnings.warn) -> dict:
    """Convert the content of one scene-graph file to the `graph` of a record.

    image_size   width and height, in pixels, of the image that the file's `original_*` corners refer to
    warn         called with a short reason for each inconsistency

    If polarities conflict, the last mention wins; a region is abnormal if any of its phrases says so. Entries about
    other than the 29 regions, and entries that the file marks as not being about their region, are left out. Boxes
    are clipped to the image; empty boxes are dropped. A region has its `change` since an earlier study if cues and
    relationships agree on one, and the id of that study's image as `compared_with` if relationships name only one.

    Raises UserError, naming image and position, if the document is malformed.
    """
    name = _image_name(document)
    boxes: dict[str, list[float]] = {}
    phrases: dict[str, list[tuple[int, list[str]]]] = {}
    for place, entry in _list_entries(document, "objects", name):
        with _report_malformed(name, place):
            _add_box(boxes, entry, image_size)
    for place, entry in _list_entries(document, "attributes", name):
        with _report_malformed(name, place):
            _add_phrases(phrases, entry, warn)
    comparisons = _read_comparisons(document, name)
    regions = {}
    for region in _region_names():
        if region in boxes or region in phrases:
            with _report_malformed(name, f"attributes of {region}"):
                regions[region] = {"box": boxes.get(region)} | _summarise(phrases.get(region, []))
            regions[region] |= comparisons.get(region, {})
    return {"regions": regions}


def _read_comparisons(document: dict, name: str) -> dict[str, dict[str, str]]:
    """Return region -> its `change`, and `compared_with`, where they are stated without contradiction."""
    changes: dict[str, list[str]] = defaultdict(list)
    images: dict[str, set[str]] = defaultdict(set)
    for place, entry in _list_entries(document, "attributes", name):
        with _report_malformed(name, place):
            if isinstance(entry["bbox_name"], str) and entry.get(entry["bbox_name"], True):
                for cues in entry.get("comparison_cues", ()):
                    changes[entry["bbox_name"]] += _change_names(cues)
    for place, entry in _list_entries(document, "relationships", name) if document.get("relationships") else ():
        with _report_malformed(name, place):
            changes[entry["bbox_name"]] += _change_names(entry.get("relationship_names", ()))
            if "object_id" in entry:
                images[entry["bbox_name"]].add(entry["object_id"].partition("_")[0])
    found = {}
    for region, stated in changes.items():
        if (change := combine_changes(stated)) is not None:
            found[region] = {"change": change}
            if len(images[region]) == 1:
                found[region]["compared_with"] = images[region].pop()
    return found


def _change_names(cues: Iterable[str]) -> list[str]:
    """Return the changes that cues of the form category|polarity|label affirm."""
    affirmed = (cue.removeprefix("comparison|yes|") for cue in cues if cue.startswith("comparison|yes|"))
    return [change for change in affirmed if change in CHANGES]


@cache
def _region_names() -> tuple[str, ...]:
    return Anatomy.load().names


def _image_name(document: dict) -> str:
    """Return the id of a document's image, for messages."""
    return " ".join(str(document.get("image_id", "?")).split())[:60] if isinstance(document, dict) else "?"


@contextmanager
def _report_malformed(image: str, place: str) -> Iterator[None]:
    """Re-raise the exceptions of malformed documents as a UserError that names the position."""
    try:
        yield
    except _MALFORMED as error:
        why = f"{type(error).__name__}: {error}"
        raise UserError(
            f"The scene graph of image {image} is malformed: {place} ({why}); download the file again"
        ) from error


def _list_entries(document: dict, key: str, image: str) -> Iterator[tuple[str, dict]]:
    """Yield the entries of a list in the document, each with its position."""
    with _report_malformed(image, key):
        entries = document[key]
        if not isinstance(entries, list):
            raise TypeError("not a list")
    for number, entry in enumerate(entries):
        yield f"{key}[{number}]", entry


def _add_box(boxes: dict[str, list[float]], entry: dict, image_size: tuple[int, int]) -> None:
    """Add the entry's box, xyxy in 0..1, to `boxes`; several boxes of a region are joined."""
    width, height = image_size
    corners = [float(entry[f"original_{corner}"]) for corner in _CORNERS]
    if not all(math.isfinite(corner) for corner in corners):
        return
    x1, x2 = (round(min(max(corner / width, 0.0), 1.0), 5) for corner in corners[0::2])
    y1, y2 = (round(min(max(corner / height, 0.0), 1.0), 5) for corner in corners[1::2])
    if x1 >= x2 or y1 >= y2:
        return
    other = boxes.get(entry["bbox_name"], [x1, y1, x2, y2])
    boxes[entry["bbox_name"]] = [min(other[0], x1), min(other[1], y1), max(other[2], x2), max(other[3], y2)]


def _add_phrases(phrases: dict[str, list[tuple[int, list[str]]]], entry: dict, warn: Callable[[str], None]) -> None:
    """Add sentence number and attributes of each phrase of the entry to `phrases`, by region."""
    region = entry["bbox_name"]
    if not isinstance(region, str) or not entry.get(region, True):
        return
    attributes, numbers = entry["attributes"], entry.get("phrase_IDs", [""] * len(entry["attributes"]))
    if len(attributes) != len(numbers):
        warn("attributes and phrases of a region differ in number")
    added = phrases.setdefault(region, [])
    for attribute, number in zip(attributes, numbers, strict=False):
        added.append((_sentence_number(number, len(added)), attribute))


def _sentence_number(phrase_id: str, default: int) -> int:
    """Return the sentence number in a phrase's id ("<study>|<sentence>")."""
    number = phrase_id.rpartition("|")[2]
    return int(number) if number.isdecimal() else default


def _summarise(phrases: list[tuple[int, list[str]]]) -> dict:
    """Combine the phrases about a region: mentioned, abnormal, and attributes with one polarity each."""
    polarities: dict[tuple[str, str], str] = {}
    abnormal = False
    for _, attributes in sorted(phrases, key=lambda phrase: phrase[0]):
        for attribute in attributes:
            category, polarity, label = attribute.split("|", 2)
            polarities[category, label] = polarity
            abnormal = abnormal or attribute == "nlp|yes|abnormal"
    attributes = [f"{category}|{polarity}|{label}" for (category, label), polarity in polarities.items()]
    return {"mentioned": bool(phrases), "abnormal": abnormal, "attributes": attributes}


# The image size that boxes refer to


def original_size(document: dict, stored_size: tuple[int, int]) -> tuple[int, int]:
    """Estimate width and height of the image that the graph's original corners refer to, if no table states them.

    stored_size   width and height of the available image, which may be a smaller copy

    The graph has every box in two frames, the original image and a padded square of 224 pixels; the scale between them
    gives the longer side of the original. If it differs by less than a tenth from the stored one, the image is taken
    as the original. Otherwise the padding gives the aspect ratio; if the stored image's is about equal, it is used.

    Raises UserError, naming image and position, if the document is malformed.
    """
    name = _image_name(document)
    pairs: tuple[list, list] = ([], [])
    for place, entry in _list_entries(document, "objects", name):
        with _report_malformed(name, place):
            for axis, (low, high) in enumerate((("x1", "x2"), ("y1", "y2"))):
                pairs[axis].extend(
                    (float(entry[corner]), float(entry[f"original_{corner}"]))
                    for corner in (low, high)
                    if corner in entry
                )
    fits = [_fit_line(np.array(axis_pairs)) for axis_pairs in pairs]
    if None in fits:
        return stored_size
    (scale_x, left), (scale_y, top) = fits
    scale = (scale_x + scale_y) / 2
    longest = _FRAME / scale
    if abs(longest / max(stored_size) - 1) < 0.1:
        return stored_size
    width, height = ((_FRAME - 2 * max(padding, 0)) / scale for padding in (left, top))
    stored_ratio = stored_size[0] / stored_size[1]
    if abs(width / height / stored_ratio - 1) < 0.05:
        factor = longest / max(stored_size)
        width, height = (side * factor for side in stored_size)
    return max(1, round(width)), max(1, round(height))


def _fit_line(pairs: np.ndarray) -> tuple[float, float] | None:
    """Fit framed = slope * original + offset to (framed, original) [pairs, 2]; return slope and offset.

    None if there are too few or unusable pairs, or if the slope is impossible for a radiograph.
    """
    if len(pairs) < 4 or not np.isfinite(pairs).all() or np.abs(pairs).max() > _LARGEST_SIDE:
        return None
    framed, original = pairs.T
    spread = original - original.mean()
    if np.square(spread).sum() == 0:
        return None
    slope = float((spread * framed).sum() / np.square(spread).sum())
    if slope < _FRAME / _LARGEST_SIDE:
        return None
    return slope, float(framed.mean() - slope * original.mean())


# Files


@dataclass(frozen=True)
class SceneGraphs:
    """The scene graphs of a distribution.

    archive  scene_graph.zip; None if they are unpacked in `folder`
    """

    archive: Path | None
    folder: Path | None

    @classmethod
    def find(cls, contents: Contents) -> "SceneGraphs | None":
        """Find the graphs in the sources, preferring the archive to unpacked files; None if absent."""
        archive = contents.file("scene_graph.zip")
        if archive is not None:
            return cls(archive, None)
        folders = [folder for folder in contents.folders if folder.name == "scene_graph"]
        nested = [folder / "scene_graph" for folder in folders if (folder / "scene_graph").is_dir()]
        return cls(None, (nested or folders)[0]) if folders else None

    def members(self) -> dict[str, ZipMember]:
        """Return image id -> position of its graph in the archive; empty without an archive."""
        if self.archive is None:
            return {}
        return {
            Path(member.name).name.removesuffix(_SUFFIX): member
            for member in list_members(self.archive)
            if member.name.endswith(_SUFFIX)
        }

    def read(self, image: str, member: ZipMember | None) -> dict | None:
        """Return the document of an image; None if absent.

        Raises UserError, naming the file, if it cannot be read or is not a JSON object.
        """
        if self.archive is not None:
            where = f"{self.archive}: {image}{_SUFFIX}"
            content = None if member is None else read_member(self.archive, member)
        else:
            path = self.folder / f"{image}{_SUFFIX}"
            where = str(path)
            try:
                content = path.read_bytes() if path.is_file() else None
            except OSError as error:
                raise cannot_read(path, error) from error
        return None if content is None else parse_document(content, where)


def parse_document(content: bytes, where: str) -> dict:
    """Parse the bytes of a file as a JSON object. Raises UserError, naming the file, if they are anything else."""
    document = parse_json(content.removeprefix(codecs.BOM_UTF8), where, "download the file again")
    if not isinstance(document, dict):
        raise wrong_format(where, "a JSON object", "download the file again")
    return document


def split_tables(contents: Contents) -> dict[str, Path]:
    """Return split ("train", "val", "test") -> the table that lists its images, for the tables in the sources."""
    found: dict[str, Path] = {}
    for path in contents.files:
        stem = path.name.split(".")[0]
        if path.parent.name == "splits" and stem in _SPLIT_FILES:
            found.setdefault(_SPLIT_FILES[stem], path)
    return {split: found[split] for split in KNOWN_IMAGES if split in found}


def read_splits(tables: dict[str, Path], avoided: Path | None) -> Iterator[ListedImage]:
    """Yield the images of the split tables; those listed in the table `avoided` are marked as unwanted.

    Columns are found by name, since only some of the tables start with a column of row numbers. Raises UserError as
    `read_table` and `ListedImage.from_row` do.
    """
    columns = ("dicom_id", "study_id", "subject_id")
    avoided_rows = () if avoided is None else read_table(avoided, columns[:1])
    avoided_ids = {name.removesuffix(".dcm") for (name,) in avoided_rows}
    for split, path in tables.items():
        for image, study, subject, view in read_table(path, (*columns, "ViewPosition")):
            listed = ListedImage.from_row(path, image, study, subject, split, view)
            yield replace(listed, unwanted="in images_to_avoid.csv") if listed.id in avoided_ids else listed
