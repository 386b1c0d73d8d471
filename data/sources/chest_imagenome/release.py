"""The files that the authors of SGRRG made of Chest ImaGenome and MIMIC-CXR: annotations, boxes, images.

A folder has `annotations/` with `report_ann.json` (reports and splits), `box_*.json` (COCO's form),
`attribute_anns_id_mhead_ds.json` and `disease_labels.json`, and `images/` or Arrow files. Attributes are numbers there,
without names: they are called `region/number`, as in a converted checkpoint (docs/differences.md).
"""

import json
from array import array
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np

from data.errors import UserError
from data.images.radiograph import read_radiograph
from data.ontology import Anatomy
from data.sources.distributions import Contents
from data.sources.fingerprints import path_fingerprint
from data.sources.json_stream import JsonStream
from data.sources.preparation import Dropped, PreparedImage, Study
from data.sources.r2gen import SPLIT_NAMES, read_annotation
from data.text.label_tables import read_label_table
from data.text.report_labels import label_report

_REPORTS, _ATTRIBUTES, _OBSERVATIONS = "report_ann.json", "attribute_anns_id_mhead_ds.json", "disease_labels.json"
# What damaged or invented documents lead to.
_MALFORMED = (KeyError, IndexError, TypeError, ValueError, AttributeError, ArithmeticError)


@dataclass(frozen=True, slots=True)
class ReleasePlan:
    """An image with its report and annotations.

    image       path below `images/`
    row         file, batch and row of an Arrow file that holds it; None: it is a file
    boxes       [N, 5] float32: region and xyxy in 0..1; None: the image stands in no file of boxes
    attributes  JSON of the image's entry in the file of attributes; None: it has none
    """

    id: str
    split: str
    report: str
    image: str
    row: tuple[Path, int, int] | None
    boxes: np.ndarray | None
    attributes: bytes | None


def lies_in(contents: Contents) -> bool:
    """Whether the sources hold the authors' files."""
    return contents.file(_REPORTS) is not None


class ReleaseSource:
    """The images of the authors' files, as `data.sources.preparation.prepare` wants them."""

    name = "chest_imagenome"

    def __init__(self, paths: Sequence[Path], contents: Contents, labels: Path | None = None, image_size: int = 256):
        """Find the files; they are read when the plans are made.

        labels      a label table instead of the authors' file, see `data.text.label_tables`
        image_size  so many pixels of an image's shorter side will be needed

        Raises UserError for sources that lack images or annotations, and for Arrow files without pyarrow.
        """
        self.paths = tuple(paths)
        self._image_size = image_size
        self._reports = contents.file(_REPORTS)
        self._attributes = contents.file(_ATTRIBUTES)
        if self._attributes is None:
            raise UserError(f"There is no {_ATTRIBUTES} beside {self._reports}: add its folder as a --source")
        self._boxes = _box_files(contents)
        self._labels_path = contents.file(_OBSERVATIONS) if labels is None else labels
        self._labels = None if self._labels_path is None else read_label_table(self._labels_path)
        self._images = next((folder for folder in contents.folders if folder.name == "images"), None)
        self._arrows = [path for path in contents.files if path.suffix == ".arrow"]
        if self._images is None and not self._arrows:
            raise UserError(f"There is neither a folder images/ nor an Arrow file beside {self._reports}")
        if self._images is None:
            _import_pyarrow(self._arrows[0])

    def describe(self) -> dict:
        """See `data.sources.preparation.Source`."""
        images = "images/" if self._images is not None else ", ".join(path.name for path in self._arrows)
        return {
            "distributions": [
                f"the authors' processed files: {self._reports.name}, {self._attributes.name}",
                "boxes: " + (", ".join(path.name for path in self._boxes.values()) or "none"),
                "observations: " + (self._labels_path.name if self._labels_path else "our labeler"),
                f"images: {images}",
            ],
            "sources": [[path.name, path_fingerprint(path)] for path in self.paths],
            "labels": None if self._labels_path is None else path_fingerprint(self._labels_path),
        }

    def plans(self) -> Iterator[ReleasePlan]:
        """See `data.sources.preparation.Source`."""
        attributes = read_attributes(self._attributes)
        rows = {} if self._images is not None else _arrow_rows(self._arrows)
        boxes: dict[str, np.ndarray] = {}
        split = ""
        for sample in read_annotation(self._reports):
            if sample.split != split:
                split = sample.split
                boxes = read_boxes(self._boxes[split]) if split in self._boxes else {}
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
        """See `data.sources.preparation.Source`."""
        if self._images is None and plan.row is None:
            return Dropped(plan.id, "missing image")
        path = None if self._images is None else self._images / plan.image
        if path is not None and not path.is_file():
            return Dropped(plan.id, "missing image")
        if not plan.report.strip():
            return Dropped(plan.id, "no report")
        try:
            radiograph = read_radiograph(path or _arrow_image(plan.row), plan.id, at_least=self._image_size)
        except UserError:
            return Dropped(plan.id, "damaged image")
        warnings: list[str] = []
        return Study(
            id=plan.id,
            split=plan.split,
            # The file does not tell views; Chest ImaGenome has frontal images only.
            images=(PreparedImage(radiograph.pixels, "FRONTAL"),),
            report=plan.report,
            observations=self._observations(plan),
            graph=self._graph(plan, warnings),
            warnings=tuple(warnings),
        )

    def _observations(self, plan: ReleasePlan) -> dict[str, int] | None:
        if self._labels is None:
            return label_report(plan.report)
        return self._labels.find(plan.id, plan.report)

    def _graph(self, plan: ReleasePlan, warnings: list[str]) -> dict | None:
        """The image's graph; None for one that stands in no file of boxes and has no attributes either."""
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
            entry = regions.setdefault(names[int(region)], _region())
            known = entry["box"] or corners
            joined = [*map(min, known[:2], corners[:2]), *map(max, known[2:], corners[2:])]
            entry["box"] = [round(corner, 5) for corner in joined]
        predicted = plan.split in self._boxes and "dino" in self._boxes[plan.split].name
        return {"box_source": "file" if predicted else "annotated", "regions": regions}


def _region(mentioned: bool = False, abnormal: bool = False, attributes: Sequence[str] = ()) -> dict:
    return {"box": None, "mentioned": mentioned, "abnormal": abnormal, "attributes": list(attributes)}


def _box_files(contents: Contents) -> dict[str, Path]:
    """Split -> the file of its boxes, annotated ones rather than a detector's."""
    found = {}
    for split in ("train", "val", "test"):
        path = contents.file(f"box_{split}.json", f"box_{split}_dino_th05.json")
        if path is not None:
            found[split] = path
    return found


# Annotations


def read_attributes(path: Path) -> dict[tuple[str, str], bytes]:
    """Split and image id -> the image's entry in the file of attributes, as compact JSON.

    Raises UserError, naming the file, for one that is not of the expected form.
    """
    entries: dict[tuple[str, str], bytes] = {}
    with JsonStream(path) as stream:
        for part in stream.members():
            if part != "annotations":
                stream.value()
                continue
            for split in stream.members():
                if split not in SPLIT_NAMES:
                    raise UserError(f"{path}: '{split[:40]}' is no split: expected train, val, test")
                for image in stream.members():
                    entries[SPLIT_NAMES[split], image] = json.dumps(stream.value(), separators=(",", ":")).encode()
    return entries


def region_attributes(entry: Any, where: str) -> dict[str, dict]:
    """Regions with mentioned, abnormal and attributes, without boxes, of an image's entry in the file of attributes.

    Raises UserError, naming `where`, for an entry of another form.
    """
    names = Anatomy.load().names
    regions = {}
    try:
        listed = entry["region_label"]
        for region, abnormal in zip(listed["region_label"], listed["region_abnormal_labels"], strict=True):
            name = names[_number(region, len(names))]
            numbers = dict.fromkeys(_number(number) for number in entry[name]["att_labels"])
            regions[name] = _region(True, bool(abnormal), [f"{name}/{number}" for number in numbers])
    except _MALFORMED as error:
        raise UserError(
            f"The attributes of {where} are malformed ({type(error).__name__}: {error}): fetch the file again"
        ) from error
    return regions


def _number(value: Any, below: int | None = None) -> int:
    """A number that counts from 0. Raises ValueError for anything else."""
    if isinstance(value, bool) or not isinstance(value, int) or value < 0 or (below is not None and value >= below):
        raise ValueError(f"{str(value)[:40]} is no number of a region or attribute")
    return value


def read_boxes(path: Path) -> dict[str, np.ndarray]:
    """Image id -> boxes [N, 5] float32 of a file in COCO's form: region, and xyxy in 0..1 of the image.

    Left out are boxes that are ignored, smaller than a pixel, outside the image or of no region, as the authors do.
    Raises UserError, naming file and place, for a file of another form.
    """
    images: dict[str, tuple[float, float, array]] = {}
    # Region, x, y, width and height of each annotation, in the file's order; a region of -1 is left out.
    annotations = array("f")
    names = Anatomy.load().names
    regions: dict[Any, int] = {}
    categories = array("i")
    category_ids: dict[str, int] = {}
    place = ""
    try:
        with JsonStream(path) as stream:
            for part in stream.members():
                if part not in ("images", "annotations", "categories"):
                    stream.value()
                    continue
                for position in stream.items():
                    place, entry = f"{part}[{position}]", stream.value()
                    if part == "images":
                        size = float(entry["width"]), float(entry["height"])
                        images[str(entry["id"])] = (*size, array("q", entry["ann_ids"]))
                    elif part == "annotations":
                        categories.append(category_ids.setdefault(json.dumps(entry["category_id"]), len(category_ids)))
                        usable = entry["area"] > 0 and not entry.get("ignore")
                        annotations.extend(float(number) for number in (entry["bbox"] if usable else (0, 0, 0, 0)))
                        if len(annotations) != 4 * len(categories):
                            raise ValueError("a box needs four numbers")
                    elif position < len(names):
                        # Some files have other names than ours: the release itself goes by position.
                        regions[category_ids.setdefault(json.dumps(entry["id"]), len(category_ids))] = position
        place = "images"
        boxes = np.frombuffer(annotations, dtype=np.float32).reshape(-1, 4)
        lookup = np.array([regions.get(number, -1) for number in range(len(category_ids))], dtype=np.int64)
        region_of = lookup[np.array(categories, dtype=np.int64)]
        return {image: _relative(boxes, region_of, *rest) for image, rest in images.items()}
    except _MALFORMED as error:
        reason = f"{type(error).__name__}: {error}"
        raise UserError(f"{path}: {place} is malformed ({reason}): fetch the file again") from error


def _relative(boxes: np.ndarray, regions: np.ndarray, width: float, height: float, positions: array) -> np.ndarray:
    """[N, 5]: region and xyxy in 0..1 of an image's usable boxes. Raises ValueError for a size that is none."""
    if not (0 < width < float("inf") and 0 < height < float("inf")):
        raise ValueError(f"an image of {width} x {height}")
    chosen = np.array(positions, dtype=np.int64)
    if (chosen < 0).any():
        raise ValueError("a negative place among ann_ids")
    size = np.array([width, height], dtype=np.float32)
    low, extent = boxes[chosen, :2], boxes[chosen, 2:]
    corners = np.concatenate([low / size, (low + extent) / size], axis=1).clip(0, 1)
    usable = (regions[chosen] >= 0) & (extent >= 1).all(axis=1) & (corners[:, 2:] > corners[:, :2]).all(axis=1)
    return np.concatenate([regions[chosen, None], corners], axis=1)[usable].astype(np.float32)


# Arrow files


def _import_pyarrow(path: Path) -> Any:
    """pyarrow. Raises UserError where it is not installed: it is large, and needed for these files alone."""
    try:
        import pyarrow
    except ImportError as error:
        raise UserError(
            f"{path} needs pyarrow: pip install pyarrow, or give the folder images/ with annotations/ instead"
        ) from error
    return pyarrow


def _arrow_rows(paths: Sequence[Path]) -> dict[str, tuple[Path, int, int]]:
    """Image id -> file, batch and row. Raises UserError for a file that is no Arrow file or has no such columns."""
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
            raise UserError(f"{path} is no Arrow file with the columns image_id and image: fetch it again") from error
    return rows


def _arrow_image(place: tuple[Path, int, int]) -> bytes:
    """The encoded image at a place. Raises UserError where it cannot be read."""
    path, batch, row = place
    pyarrow = _import_pyarrow(path)
    try:
        with pyarrow.memory_map(str(path)) as file:
            return pyarrow.ipc.open_file(file).get_batch(batch).column("image")[row].as_py()
    except (OSError, KeyError, ValueError, pyarrow.ArrowException) as error:
        raise UserError(f"{path}: cannot read image {row} of batch {batch}: fetch it again") from error
