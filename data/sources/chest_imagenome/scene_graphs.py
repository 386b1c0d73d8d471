"""The files of Chest ImaGenome: scene graphs, zipped or unpacked, and its lists of images."""

import json
import math
import warnings
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass, replace
from functools import cache
from pathlib import Path

import numpy as np

from data.errors import UserError
from data.ontology import Anatomy
from data.sources.distributions import Contents, read_table
from data.sources.mimic_cxr.files import ListedImage, listed_image
from data.sources.zip_members import ZipMember, list_members, read_member

# Images by split as Chest ImaGenome 1.0.0 lists them.
KNOWN_IMAGES = {"train": 166_521, "val": 23_953, "test": 47_393}

_SUFFIX = "_SceneGraph.json"
_SPLIT_FILES = {"train": "train", "valid": "val", "test": "test"}
_CORNERS = ("x1", "y1", "x2", "y2")
# The side of the square frame that the graphs have beside the original one.
_FRAME = 224
# In pixels; more than any detector has.
_LARGEST_SIDE = 100_000
# What damaged or invented documents lead to.
_MALFORMED = (KeyError, TypeError, ValueError, AttributeError, ArithmeticError)


# Scene graphs


def read_scene_graph(document: dict, image_size: tuple[int, int], warn: Callable[[str], None] = warnings.warn) -> dict:
    """A record's `graph` from the content of one scene-graph file.

    `image_size` is width and height, in pixels, of the image that the file's `original_*` corners refer to. Of
    conflicting polarities the last mention wins; a region is abnormal if any of its phrases calls it so. What is about
    none of the 29 regions is left out, and so are entries that the file itself marks as not being about their region.
    Boxes are cut at the image's border; a region whose box is empty then has none. `warn` gets a short reason for
    whatever had to be mended.

    Raises UserError, naming image and place, for a document of another form.
    """
    name = _image_of(document)
    boxes: dict[str, list[float]] = {}
    phrases: dict[str, list[tuple[int, list[str]]]] = {}
    for place, entry in _entries(document, "objects", name):
        with _naming(name, place):
            _add_box(boxes, entry, image_size)
    for place, entry in _entries(document, "attributes", name):
        with _naming(name, place):
            _add_phrases(phrases, entry, warn)
    regions = {}
    for region in _region_names():
        if region in boxes or region in phrases:
            with _naming(name, f"attributes of {region}"):
                regions[region] = {"box": boxes.get(region)} | _summary(phrases.get(region, []))
    return {"regions": regions}


@cache
def _region_names() -> tuple[str, ...]:
    return Anatomy.load().names


def _image_of(document: dict) -> str:
    """The id of a document's image, for messages."""
    return " ".join(str(document.get("image_id", "?")).split())[:60] if isinstance(document, dict) else "?"


@contextmanager
def _naming(image: str, place: str) -> Iterator[None]:
    """Turns what a malformed document leads to into a UserError that names the place."""
    try:
        yield
    except _MALFORMED as error:
        reason = f"{type(error).__name__}: {error}"
        raise UserError(
            f"The scene graph of image {image} is malformed: {place} ({reason}); fetch the file again"
        ) from error


def _entries(document: dict, key: str, image: str) -> Iterator[tuple[str, dict]]:
    """The entries of a list of the document, each with its place."""
    with _naming(image, key):
        entries = document[key]
        if not isinstance(entries, list):
            raise TypeError("no list")
    for number, entry in enumerate(entries):
        yield f"{key}[{number}]", entry


def _add_box(boxes: dict[str, list[float]], entry: dict, image_size: tuple[int, int]) -> None:
    """Put the entry's box, xyxy in 0..1, into `boxes`, joined with one that its region has already."""
    width, height = image_size
    corners = [float(entry[f"original_{corner}"]) for corner in _CORNERS]
    if not all(math.isfinite(corner) for corner in corners):
        return
    x1, x2 = (round(min(max(corner / width, 0.0), 1.0), 5) for corner in corners[0::2])
    y1, y2 = (round(min(max(corner / height, 0.0), 1.0), 5) for corner in corners[1::2])
    if x1 >= x2 or y1 >= y2:
        return
    known = boxes.get(entry["bbox_name"], [x1, y1, x2, y2])
    boxes[entry["bbox_name"]] = [min(known[0], x1), min(known[1], y1), max(known[2], x2), max(known[3], y2)]


def _add_phrases(phrases: dict[str, list[tuple[int, list[str]]]], entry: dict, warn: Callable[[str], None]) -> None:
    """Put number of the sentence and attributes of every phrase of the entry into `phrases`, by region."""
    region = entry["bbox_name"]
    if not isinstance(region, str) or not entry.get(region, True):
        return
    attributes, numbers = entry["attributes"], entry.get("phrase_IDs", [""] * len(entry["attributes"]))
    if len(attributes) != len(numbers):
        warn("attributes and phrases of a region differ in number")
    known = phrases.setdefault(region, [])
    for attribute, number in zip(attributes, numbers, strict=False):
        known.append((_sentence_number(number, len(known)), attribute))


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


# The size that a graph's boxes refer to


def original_size(document: dict, stored_size: tuple[int, int]) -> tuple[int, int]:
    """Width and height of the image that the graph's original corners refer to, where no table states them.

    `stored_size` is that of the image at hand, which may be a smaller copy. The graph has every box in two frames, the
    original one and a padded square of 224, and the scale between them tells the longer side of the original: within a
    tenth of the stored one the image counts as the original itself. A copy in the original's proportions gives these.

    Raises UserError, naming image and place, for a document of another form.
    """
    name = _image_of(document)
    pairs: tuple[list, list] = ([], [])
    for place, entry in _entries(document, "objects", name):
        with _naming(name, place):
            for axis, (low, high) in enumerate((("x1", "x2"), ("y1", "y2"))):
                pairs[axis].extend(
                    (float(entry[corner]), float(entry[f"original_{corner}"]))
                    for corner in (low, high)
                    if corner in entry
                )
    fits = [_line(np.array(axis_pairs)) for axis_pairs in pairs]
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


def _line(pairs: np.ndarray) -> tuple[float, float] | None:
    """Slope and offset of the line through (framed, original) pairs [N, 2], as framed = slope * original + offset.

    None for too few or unusable pairs, and for a slope that no radiograph has.
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

    archive  scene_graph.zip; None: they lie unpacked in `folder`
    """

    archive: Path | None
    folder: Path | None

    @classmethod
    def find(cls, contents: Contents) -> "SceneGraphs | None":
        """The graphs among the sources' contents, the archive rather than files; None where there are none."""
        archive = contents.file("scene_graph.zip")
        if archive is not None:
            return cls(archive, None)
        folders = [folder for folder in contents.folders if folder.name == "scene_graph"]
        nested = [folder / "scene_graph" for folder in folders if (folder / "scene_graph").is_dir()]
        return cls(None, (nested or folders)[0]) if folders else None

    def members(self) -> dict[str, ZipMember]:
        """Image id -> where the archive holds its graph; empty without an archive."""
        if self.archive is None:
            return {}
        return {
            Path(member.name).name.removesuffix(_SUFFIX): member
            for member in list_members(self.archive)
            if member.name.endswith(_SUFFIX)
        }

    def read(self, image: str, member: ZipMember | None) -> dict | None:
        """The document of an image; None where there is none.

        Raises UserError, naming the file, for one that cannot be read or is no JSON object.
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
                raise UserError(f"Cannot read {path}: {error.strerror}") from error
        return None if content is None else parse_document(content, where)


def parse_document(content: bytes, where: str) -> dict:
    """The JSON object in a file's bytes. Raises UserError, naming the file, where they hold something else."""
    try:
        document = json.loads(content.decode("utf-8-sig"))
    except (ValueError, RecursionError) as error:
        raise UserError(f"{where} is not JSON: fetch the file again") from error
    if not isinstance(document, dict):
        raise UserError(f"{where} is not a JSON object: fetch the file again")
    return document


def split_tables(contents: Contents) -> dict[str, Path]:
    """Our name of the split -> the table that lists its images, for those that the sources hold."""
    found: dict[str, Path] = {}
    for path in contents.files:
        stem = path.name.split(".")[0]
        if path.parent.name == "splits" and stem in _SPLIT_FILES:
            found.setdefault(_SPLIT_FILES[stem], path)
    return {split: found[split] for split in KNOWN_IMAGES if split in found}


def read_splits(tables: dict[str, Path], avoided: Path | None) -> Iterator[ListedImage]:
    """The images of the split tables; those that the table `avoided` lists are unwanted.

    The tables are read by the names of their columns: only some of them begin with the numbers of their rows.
    Raises UserError as `read_table`, and for ids that are none.
    """
    columns = ("dicom_id", "study_id", "subject_id")
    avoided_rows = () if avoided is None else read_table(avoided, columns[:1])
    avoided_ids = {name.removesuffix(".dcm") for (name,) in avoided_rows}
    for split, path in tables.items():
        for image, study, subject, view in read_table(path, (*columns, "ViewPosition")):
            listed = listed_image(path, image, study, subject, split, view)
            yield replace(listed, unwanted="in images_to_avoid.csv") if listed.id in avoided_ids else listed
