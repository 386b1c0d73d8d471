"""Finds and reads the tables of ChestX-ray14."""

import csv
import re
from collections.abc import Collection, Sequence
from dataclasses import dataclass
from pathlib import Path

from data.errors import UserError, cannot_read, unknown_name
from data.ontology import observation_names
from data.sources.distributions import read_table
from data.sources.packed_files import is_archive, list_paths
from data.storage.lines import bounded_lines

IMAGE_NAME = re.compile(r"\d{8}_\d{3}\.(png|jpg|jpeg)", re.ASCII | re.IGNORECASE)
NO_FINDING = "No Finding"
# Finding -> observation that it is an instance of; None: none of the 14 observations.
_OBSERVATIONS = {
    "Atelectasis": "Atelectasis", "Cardiomegaly": "Cardiomegaly", "Consolidation": "Consolidation", "Edema": "Edema",
    "Effusion": "Pleural Effusion", "Emphysema": None, "Fibrosis": None, "Hernia": None,
    "Infiltration": "Lung Opacity", "Mass": "Lung Lesion", "Nodule": "Lung Lesion",
    "Pleural_Thickening": "Pleural Other", "Pneumonia": "Pneumonia", "Pneumothorax": "Pneumothorax",
}  # fmt: skip
# Observations that the findings were not searched for.
_UNKNOWN = ("Enlarged Cardiomediastinum", "Fracture", "Support Devices")
# Other spellings, in the table of boxes.
_SPELLINGS = {"Infiltrate": "Infiltration", "Pleural Thickening": "Pleural_Thickening"}
_ENTRY_COLUMNS = ("Image Index", "Finding Labels", "Patient ID", "View Position")
_BOX_COLUMNS = 6
_DOWNLOAD = "download it again"


@dataclass(frozen=True, slots=True)
class Entry:
    """A row of the table of images."""

    image: str
    findings: tuple[str, ...]
    patient: str
    view: str


@dataclass(frozen=True, slots=True)
class FindingBox:
    """A drawn box, in pixels of the original image."""

    finding: str
    left: float
    top: float
    width: float
    height: float

    def relative_to(self, width: int, height: int) -> dict:
        """Return the entry of a record, for an image of this size."""
        corners = self.left, self.top, self.left + self.width, self.top + self.height
        sides = width, height, width, height
        box = [round(min(max(value / side, 0), 1), 5) for value, side in zip(corners, sides, strict=True)]
        return {"finding": self.finding, "box": box}


@dataclass(frozen=True)
class NihFiles:
    """The files found. images: name -> path; archives: those of images, not searched yet."""

    entries: Path
    boxes: Path
    train_val: Path
    test: Path
    images: dict[str, Path]
    archives: tuple[Path, ...]

    def summary(self) -> list[str]:
        """Return one line per kind of file, part of dataset.yaml."""
        lines = [f"images and findings: {self.entries.name}", f"boxes of findings: {self.boxes.name}"]
        lines += [f"lists of images: {self.train_val.name}, {self.test.name}"]
        lines += [f"images, packed: {path.name}" for path in self.archives]
        return lines + ([f"images: {len(self.images)} files"] if self.images else [])


def find_files(sources: Sequence[Path]) -> NihFiles:
    """Search folders and files. Raises UserError if a source does not exist, or a table or all images are missing."""
    paths = list(list_paths(sources))
    tables = {
        "Data_Entry_2017_v2020.csv": re.compile(r"Data_Entry_2017.*\.csv"),
        "BBox_List_2017.csv": re.compile(r"BBox_List_2017.*\.csv"),
        "train_val_list.txt": re.compile(r"train_val_list.*\.txt"),
        "test_list.txt": re.compile(r"test_list.*\.txt"),
    }
    found = {}
    for name, pattern in tables.items():
        # The newest of several versions: Data_Entry_2017_v2020.csv sorts after Data_Entry_2017.csv.
        matching = sorted((path for path in paths if pattern.fullmatch(path.name)), key=lambda path: path.stem)
        if not matching:
            raise UserError(f"The sources have no {name} of ChestX-ray14: add a --source with it")
        found[name] = matching[-1]
    images: dict[str, Path] = {}
    for path in paths:
        if IMAGE_NAME.fullmatch(path.name):
            images.setdefault(path.name, path)
    archives = tuple(path for path in paths if is_archive(path))
    if not images and not archives:
        raise UserError(
            "The sources have no images of ChestX-ray14: add a --source with images_001/images/ or images_01.tar.gz"
        )
    return NihFiles(*found.values(), images, archives)


def read_entries(path: Path) -> list[Entry]:
    """Read the table of images. Raises UserError if it cannot be read, or has a finding that is not one of the 14."""
    entries = []
    for image, labels, patient, view in read_table(path, _ENTRY_COLUMNS):
        findings = tuple(_spell(label, f"{path}: {image}") for label in labels.split("|") if label.strip())
        entries.append(Entry(image, findings, patient, view.upper()))
    return entries


def read_boxes(path: Path) -> dict[str, list[FindingBox]]:
    """Read the table of boxes, by image. Its header names only the first columns, so they are read by position.

    Raises UserError if it cannot be read or is malformed.
    """
    boxes: dict[str, list[FindingBox]] = {}
    try:
        with path.open(encoding="utf-8-sig", newline="") as file:
            rows = csv.reader(bounded_lines(file, path))
            next(rows, None)
            for row in rows:
                if not any(cell.strip() for cell in row):
                    continue
                where = f"{path} line {rows.line_num}"
                try:
                    image, finding, *numbers = (cell.strip() for cell in row[:_BOX_COLUMNS])
                    left, top, width, height = map(float, numbers)
                except ValueError as error:
                    raise UserError(f"{where} has no image, finding and four numbers: {_DOWNLOAD}") from error
                boxes.setdefault(image, []).append(FindingBox(_spell(finding, where), left, top, width, height))
    except (OSError, UnicodeDecodeError, csv.Error) as error:
        raise cannot_read(path, error, _DOWNLOAD) from error
    return boxes


def read_list(path: Path) -> frozenset[str]:
    """Read a list of images, one name per line. Raises UserError if it cannot be read."""
    try:
        return frozenset(path.read_text(encoding="utf-8-sig").split())
    except (OSError, UnicodeDecodeError) as error:
        raise cannot_read(path, error, _DOWNLOAD) from error


def observations_of(findings: Collection[str]) -> dict[str, int | None]:
    """Return all 14 observations of an image: 1 or 0, or None for those that the findings do not cover.

    Infiltration stands for any opacity. "No Finding" means none of the 14 findings, which include some that are not
    observations (emphysema, fibrosis, hernia).
    """
    present = {_OBSERVATIONS[finding] for finding in findings if finding != NO_FINDING}
    observations = {name: None if name in _UNKNOWN else int(name in present) for name in observation_names()}
    return observations | {NO_FINDING: int(not present)}


def _spell(label: str, where: str) -> str:
    """Return the usual spelling of a finding. Raises UserError if it is unknown."""
    label = _SPELLINGS.get(label.strip(), label.strip())
    if label not in _OBSERVATIONS and label != NO_FINDING:
        raise unknown_name("finding", label, (*_OBSERVATIONS, NO_FINDING), where)
    return label
