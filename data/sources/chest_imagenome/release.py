"""The files that the authors of SGRRG made from Chest ImaGenome and MIMIC-CXR: annotations, boxes, images.

Their folder has `annotations/` with `report_ann.json` (reports and splits), `box_*.json` (COCO format),
`attribute_anns_id_mhead_ds.json` and `disease_labels.json`, and `images/` or Arrow files. Attributes are numbers
without names there; here they are called `region/number`, as in a converted checkpoint (docs/differences.md).
"""

import json
from array import array
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np

from data.errors import UserError, cannot_read, missing, unknown_name, wrong_format
from data.images.radiograph import read_radiograph
from data.ontology import Anatomy
from data.records import SPLITS
from data.sources.distributions import Contents
from data.sources.fingerprints import path_fingerprint
from data.sources.json_stream import JsonStream
from data.sources.r2gen import SPLIT_NAMES, read_annotation
from data.sources.source import Dropped, PreparedImage, Study
from data.text.label_tables import read_label_table
from data.text.report_labels import label_report

_REPORTS, _ATTRIBUTES, _OBSERVATIONS = "report_ann.json", "attribute_anns_id_mhead_ds.json", "disease_labels.json"
# Exceptions that malformed documents can cause.
_MALFORMED = (KeyError, IndexError, TypeError, ValueError, AttributeError, ArithmeticError)


@dataclass(frozen=True, slots=True)
class ReleasePlan:
    """An image with its report and annotations.

    image       path below `images/`
    row         file, batch and row if it is in an Arrow file; None if it is a file in `images/`
    boxes       [boxes, 5] float32: region and xyxy in 0..1; None if no box file lists the image
    attributes  JSON of the image's entry in the attribute file; None if absent
    """

    id: str
    split: str
    report: str
    image: str
    row: tuple[Path, int, int] | None
    boxes: np.ndarray | None
    attributes: bytes | None


def has_release(contents: Contents) -> bool:
    """Return whether the sources include the authors' files."""
    return contents.file(_REPORTS) is not None


class ReleaseSource:
    """The images of the authors' files, a `data.sources.source.Source`."""

    name = "chest_imagenome"

    def __init__(self, paths: Sequence[Path], contents: Contents, labels: Path | None = None, image_size: int = 256):
        """Find the files; they are read later, by `plans`.

        labels      label table that replaces the authors' file, see `data.text.label_tables`
        image_size  images may be read at a lower resolution, with at least this short side in pixels

        Raises UserError if images or annotations are missing, and if Arrow files need pyarrow, which is not installed.
        """
        self.paths = tuple(paths)
        self._image_size = image_size
        self._reports = contents.file(_REPORTS)
        self._attributes = contents.file(_ATTRIBUTES)
        if self._attributes is None:
            raise missing(_ATTRIBUTES, self._reports.parent, "add its folder as a --source")
        self._boxes = _box_files(contents)
        self._labels_path = contents.file(_OBSERVATIONS) if labels is None else labels
        self._labels = None if self._labels_path is None else read_label_table(self._labels_path)
        self._images = next((folder for folder in contents.folders if folder.name == "images"), None)
        self._arrows = [path for path in contents.files if path.suffix == ".arrow"]
        if self._images is None and not self._arrows:
            raise UserError(
                f"The sources have neither a folder images/ nor an Arrow file for {self._reports}: add one to --source"
            )
        if self._images is None:
            _import_pyarrow(self._arrows[0])

    def describe(self) -> dict:
        """See `Source`."""
        images = "images/" if self._images is not None else ", ".join(path.name for path in self._arrows)
        return {
            "distributions": [
                f"the authors' processed files: {self._reports.name}, {self._attributes.name}",
                "boxes: " + (", ".join(path.name for path in self._boxes.values()) or "none"),
                "observations: " + (self._labels_path.name if self._labels_path else "our labeler"),
                f"images: {images}",
            ],
            "list": "sgrrg",
            "sources": [[path.name, path_fingerprint(path)] for path in self.paths],
            "labels": None if self._labels_path is None else path_fingerprint(self._labels_path),
        }

    def plans(self) -> Iterator[ReleasePlan]:
        """See `Source`."""
        attributes = read_attributes(self._attributes)
        rows = {} if self._images is not None else _index_arrow_files(self._arrows)
        boxes: dict[str, np.ndarray] = {}
        split = ""
        for sample in read_annotation(self._reports):
            if sample.split != split:
                split = sample.split
                boxes = read_coco_boxes(self._boxes[split]) if split in self._boxes else {}
            yield ReleasePlan(
                id=sample.id,
                split=split,
                report=sample.report,
                image=sample.images[0] if sample.images else "",
                row=rows.get(sample.id),
                boxes=boxes.get(sample.id),
                attributes=attributes.get((split, sample.id)),
            )

    def build(self, plan: ReleasePlan) -> Study | Dropped:
        """See `Source`."""
        if self._images is None and plan.row is None:
            return Dropped(plan.id, "missing image")
        path = None if self._images is None else self._images / plan.image
        if path is not None and not path.is_file():
            return Dropped(plan.id, "missing image")
        if not plan.report.strip():
            return Dropped(plan.id, "no report")
        try:
            radiograph = read_radiograph(path or _read_arrow_image(plan.row), plan.id, min_side=self._image_size)
        except UserError:
            return Dropped(plan.id, "damaged image")
        warnings: list[str] = []
        return Study(
            id=plan.id,
            split=plan.split,
            # The file does not state views; Chest ImaGenome contains only frontal images.
            images=(PreparedImage(radiograph.pixels, "FRONTAL"),),
            report=plan.report,
            observations=self._find_observations(plan),
            graph=self._build_graph(plan, warnings),
            warnings=tuple(warnings),
        )

    def _find_observations(self, plan: ReleasePlan) -> dict[str, int] | None:
        if self._labels is None:
            return label_report(plan.report)
        return self._labels.find(plan.id, plan.report)

    def _build_graph(self, plan: ReleasePlan, warnings: list[str]) -> dict | None:
        """Return the image's graph; None if the image has neither an entry in a box file nor attributes."""
        if plan.boxes is None and plan.attributes is None:
            warnings.append("no scene graph")
            return None
        regions: dict[str, dict] = {}
        try:
            if plan.attributes is not None:
                regions = region_attributes(json.loads(plan.attributes), f"image {plan.id}")
        except UserError:
            warnings.append("damaged attributes")
        names = Anatomy.load().names
        for region, *corners in () if plan.boxes is None else plan.boxes.tolist():
            entry = regions.setdefault(names[int(region)], _region_entry())
            other = entry["box"] or corners
            joined = [*map(min, other[:2], corners[:2]), *map(max, other[2:], corners[2:])]
            entry["box"] = [round(corner, 5) for corner in joined]
        predicted = plan.split in self._boxes and "dino" in self._boxes[plan.split].name
        return {"box_source": "file" if predicted else "annotated", "regions": regions}


def _region_entry(mentioned: bool = False, abnormal: bool = False, attributes: Sequence[str] = ()) -> dict:
    return {"box": None, "mentioned": mentioned, "abnormal": abnormal, "attributes": list(attributes)}


def _box_files(contents: Contents) -> dict[str, Path]:
    """Return split -> its box file, preferring annotated boxes to a detector's."""
    found = {}
    for split in SPLITS:
        path = contents.file(f"box_{split}.json", f"box_{split}_dino_th05.json")
        if path is not None:
            found[split] = path
    return found


# Annotations


def read_attributes(path: Path) -> dict[tuple[str, str], bytes]:
    """Read the attribute file; return (split, image id) -> the image's entry as compact JSON.

    Raises UserError, naming the file, if it is malformed.
    """
    entries: dict[tuple[str, str], bytes] = {}
    with JsonStream(path) as stream:
        for part in stream.members():
            if part != "annotations":
                stream.value()
                continue
            for split in stream.members():
                if split not in SPLIT_NAMES:
                    raise unknown_name("split", split[:40], SPLITS, str(path))
                for image in stream.members():
                    entries[SPLIT_NAMES[split], image] = json.dumps(stream.value(), separators=(",", ":")).encode()
    return entries


def region_attributes(entry: Any, where: str) -> dict[str, dict]:
    """Convert an image's entry in the attribute file to regions with mentioned, abnormal and attributes, without boxes.

    Raises UserError, naming `where`, if the entry is malformed.
    """
    names = Anatomy.load().names
    regions = {}
    try:
        listed = entry["region_label"]
        for region, abnormal in zip(listed["region_label"], listed["region_abnormal_labels"], strict=True):
            name = names[_check_index(region, len(names))]
            numbers = dict.fromkeys(_check_index(number) for number in entry[name]["att_labels"])
            regions[name] = _region_entry(True, bool(abnormal), [f"{name}/{number}" for number in numbers])
    except _MALFORMED as error:
        raise UserError(
            f"The attributes of {where} are malformed ({type(error).__name__}: {error}): download the file again"
        ) from error
    return regions


def _check_index(value: Any, size: int | None = None) -> int:
    """Return `value` if it is an index, less than `size` if given. Raises ValueError otherwise."""
    if isinstance(value, bool) or not isinstance(value, int) or value < 0 or (size is not None and value >= size):
        raise ValueError(f"{str(value)[:40]} is not an index of a region or attribute")
    return value


def read_coco_boxes(path: Path) -> dict[str, np.ndarray]:
    """Read a box file in COCO format; return image id -> boxes [boxes, 5] float32: region, and xyxy in 0..1 of the
    image.

    As in the authors' code, boxes that are ignored, smaller than a pixel, outside the image, or not of one of the
    regions are left out. Raises UserError, naming file and position, if the file is malformed.
    """
    content = _CocoBoxes(len(Anatomy.load().names))
    place = ""
    try:
        with JsonStream(path) as stream:
            for part in stream.members():
                add = content.readers.get(part)
                if add is None:
                    stream.value()
                    continue
                for position in stream.items():
                    place, entry = f"{part}[{position}]", stream.value()
                    add(entry, position)
        place = "images"
        return content.by_image()
    except _MALFORMED as error:
        why = f"{type(error).__name__}: {error}"
        raise UserError(f"{path}: {place} is malformed ({why}): download the file again") from error


class _CocoBoxes:
    """Collects the entries of a box file in compact arrays. Malformed entries raise one of `_MALFORMED`."""

    def __init__(self, region_count: int):
        self.readers = {
            "images": self._add_image,
            "annotations": self._add_annotation,
            "categories": self._add_category,
        }
        self._region_count = region_count
        # Image id -> width, height, and positions of its annotations.
        self._images: dict[str, tuple[float, float, array]] = {}
        # Of each annotation: x, y, width, height; and the number of its category.
        self._boxes = array("f")
        self._categories = array("i")
        # JSON of a category's id -> its number; number -> region.
        self._category_numbers: dict[str, int] = {}
        self._regions: dict[int, int] = {}

    def _add_image(self, entry: dict, _: int) -> None:
        size = float(entry["width"]), float(entry["height"])
        self._images[str(entry["id"])] = (*size, array("q", entry["ann_ids"]))

    def _add_annotation(self, entry: dict, _: int) -> None:
        self._categories.append(self._number_of(entry["category_id"]))
        usable = entry["area"] > 0 and not entry.get("ignore")
        self._boxes.extend(float(number) for number in (entry["bbox"] if usable else (0, 0, 0, 0)))
        if len(self._boxes) != 4 * len(self._categories):
            raise ValueError("a box must have four numbers")

    def _add_category(self, entry: dict, position: int) -> None:
        # Some files use other names than ours. The authors' code identifies regions by position.
        if position < self._region_count:
            self._regions[self._number_of(entry["id"])] = position

    def _number_of(self, category_id: Any) -> int:
        return self._category_numbers.setdefault(json.dumps(category_id), len(self._category_numbers))

    def by_image(self) -> dict[str, np.ndarray]:
        """Return the boxes of each image, see `read_coco_boxes`."""
        boxes = np.frombuffer(self._boxes, dtype=np.float32).reshape(-1, 4)
        lookup = [self._regions.get(number, -1) for number in range(len(self._category_numbers))]
        regions = np.array(lookup, dtype=np.int64)[np.array(self._categories, dtype=np.int64)]
        return {image: _normalise_boxes(boxes, regions, *rest) for image, rest in self._images.items()}


def _normalise_boxes(
    boxes: np.ndarray, regions: np.ndarray, width: float, height: float, positions: array
) -> np.ndarray:
    """Return region and xyxy in 0..1 of an image's usable boxes, [boxes, 5] float32.

    boxes      x, y, width and height of all annotations, [annotations, 4], in pixels
    regions    of all annotations, [annotations]; -1 if it is not one of the regions
    positions  of the image's annotations

    Raises ValueError for an impossible image size and for negative positions.
    """
    if not (0 < width < float("inf") and 0 < height < float("inf")):
        raise ValueError(f"an image of {width} x {height}")
    chosen = np.array(positions, dtype=np.int64)
    if (chosen < 0).any():
        raise ValueError("a negative position among ann_ids")
    size = np.array([width, height], dtype=np.float32)
    low, extent = boxes[chosen, :2], boxes[chosen, 2:]
    corners = np.concatenate([low / size, (low + extent) / size], axis=1).clip(0, 1)
    usable = (regions[chosen] >= 0) & (extent >= 1).all(axis=1) & (corners[:, 2:] > corners[:, :2]).all(axis=1)
    return np.concatenate([regions[chosen, None], corners], axis=1)[usable].astype(np.float32)


# Arrow files


def _import_pyarrow(path: Path) -> Any:
    """Import pyarrow, which only these files need. Raises UserError if it is not installed."""
    try:
        import pyarrow
    except ImportError as error:
        raise UserError(
            f"{path} needs pyarrow: pip install pyarrow, or give the folder images/ with annotations/ instead"
        ) from error
    return pyarrow


def _index_arrow_files(paths: Sequence[Path]) -> dict[str, tuple[Path, int, int]]:
    """Return image id -> file, batch and row. Raises UserError if a file is not an Arrow file or lacks a column."""
    rows = {}
    for path in paths:
        pyarrow = _import_pyarrow(path)
        try:
            with pyarrow.memory_map(str(path)) as file:
                reader = pyarrow.ipc.open_file(file)
                for batch in range(reader.num_record_batches):
                    for row, image in enumerate(reader.get_batch(batch).column("image_id").to_pylist()):
                        rows[image] = path, batch, row
        except (OSError, KeyError, ValueError, pyarrow.ArrowException) as error:
            raise wrong_format(
                path, "an Arrow file with the columns image_id and image", "download the file again"
            ) from error
    return rows


def _read_arrow_image(row_of_batch: tuple[Path, int, int]) -> bytes:
    """Return the encoded image in a row. Raises UserError if it cannot be read."""
    path, batch, row = row_of_batch
    pyarrow = _import_pyarrow(path)
    try:
        with pyarrow.memory_map(str(path)) as file:
            return pyarrow.ipc.open_file(file).get_batch(batch).column("image")[row].as_py()
    except (OSError, KeyError, ValueError, pyarrow.ArrowException) as error:
        raise cannot_read(f"image {row} of batch {batch} in {path}", error, "download the file again") from error
