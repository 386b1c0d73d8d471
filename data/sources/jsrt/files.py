"""Reads the files of the JSRT database and of SCR: raw films, clinical tables, masks and landmarks."""

import io
import re
from collections.abc import Mapping
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray
from PIL import Image

from data.errors import UserError, damaged, reason
from data.images.grey import row_slices, scale_to_8_bits

# Side of a film in pixels, millimetres of a pixel, and the largest of its 12-bit values.
FILM_SIDE = 2048
_PIXEL_MM = 0.175
_MOST = 4095
# Side of the images that SCR's landmarks refer to, in pixels.
_LANDMARK_SIDE = 1024
# Structure of SCR -> the region that it is. The clavicles of SCR are outlined only where they cross the lungs.
STRUCTURES = {"right lung": "right lung", "left lung": "left lung", "heart": "cardiac silhouette"}
_MASK_FORMATS = ("GIF", "PNG", "TIFF", "BMP")
_POINT = re.compile(r"\{\s*(-?\d+(?:\.\d*)?)\s*,\s*(-?\d+(?:\.\d*)?)\s*\}")
_SECTION = re.compile(r"\[([^\]]+)\]")
_FILM_NAME = re.compile(r"(JPC[LN]N\d{3})(\.IMG)?", re.IGNORECASE)


@dataclass(frozen=True, slots=True)
class Nodule:
    """A nodule: its centre in pixels of the film, and its diameter in millimetres."""

    x: float
    y: float
    size_mm: float

    def box(self) -> list[float]:
        """Return its box, xyxy in 0..1."""
        radius = self.size_mm / _PIXEL_MM / 2
        corners = self.x - radius, self.y - radius, self.x + radius, self.y + radius
        return [round(min(max(corner / FILM_SIDE, 0), 1), 5) for corner in corners]


def read_film(content: bytes, name: str) -> NDArray:
    """Return a raw film as 8-bit grey, [2048, 2048] uint8, air dark.

    content   2048 x 2048 big-endian numbers of 12 bits in 16, which grow with the blackness of the film; no header

    Raises UserError if they are not that.
    """
    if len(content) != 2 * FILM_SIDE**2:
        raise damaged(name, f"{len(content)} bytes instead of {2 * FILM_SIDE**2}", "download it again")
    values = np.frombuffer(content, dtype=">u2").reshape(FILM_SIDE, FILM_SIDE)
    if values.max() > _MOST:
        raise damaged(name, f"it has the value {values.max()}, more than 12 bits", "download it again")
    return scale_to_8_bits([_MOST - values[rows].astype(np.int32) for rows in row_slices(values.shape)], values.shape)


def read_nodules(content: bytes, name: str) -> dict[str, Nodule]:
    """Return the nodules in the table of films with a nodule (CLNDAT_EN.txt), by film.

    Its columns, separated by tabs, have no header: film, subtlety, size in mm, age, sex, x, y, malignancy, position,
    diagnosis. Films whose size or position is not a number ("?") are left out. Raises UserError for other lines.
    """
    nodules = {}
    for film, cells in _read_lines(content, name):
        if len(cells) < 7:
            raise UserError(f"{name}: the line of {film} has {len(cells)} columns, not 10: download the file again")
        try:
            size, x, y = (float(cells[column]) for column in (2, 5, 6))
        except ValueError:
            continue
        nodules[film] = Nodule(x, y, size)
    return nodules


def read_film_names(content: bytes, name: str) -> set[str]:
    """Return the films in a clinical table. Raises UserError if it has other lines."""
    return {film for film, _ in _read_lines(content, name)}


def _read_lines(content: bytes, name: str) -> list[tuple[str, list[str]]]:
    """Return the film and the cells of each line."""
    lines = []
    for number, line in enumerate(content.decode("utf-8-sig", errors="replace").splitlines(), start=1):
        cells = [cell.strip() for cell in line.split("\t")]
        if not any(cells):
            continue
        film = _FILM_NAME.fullmatch(cells[0])
        if film is None:
            raise UserError(f"{name} line {number} does not begin with the name of a film: download the file again")
        lines.append((film[1].upper(), cells))
    return lines


def mask_box(content: bytes, name: str) -> list[float]:
    """Return the box around a mask, an image that is white inside of the structure; xyxy in 0..1.

    Raises UserError if it cannot be read or is empty.
    """
    try:
        with Image.open(io.BytesIO(content), formats=_MASK_FORMATS) as image:
            mask = np.asarray(image.convert("L"))
    except Exception as error:  # decoders can raise anything for a damaged file
        raise damaged(name, reason(error), "download it again") from error
    rows, columns = (np.flatnonzero((mask > 127).any(axis=axis)) for axis in (1, 0))
    if not len(rows):
        raise damaged(name, "the mask is empty", "download it again")
    height, width = mask.shape
    corners = columns[0] / width, rows[0] / height, (columns[-1] + 1) / width, (rows[-1] + 1) / height
    return [round(float(corner), 5) for corner in corners]


def landmark_boxes(content: bytes, name: str) -> dict[str, list[float]]:
    """Return the boxes around the outlines in a file of landmarks, structure -> xyxy in 0..1.

    A section for each structure begins with its name in square brackets, perhaps after other words ("[Label=heart]"),
    and contains points {x, y}. Raises UserError if there is no section of a known structure.
    """
    parts = _SECTION.split(content.decode("utf-8-sig", errors="replace"))
    boxes = {}
    for title, body in zip(parts[1::2], parts[2::2], strict=True):
        structure = next((known for known in STRUCTURES if known in title.lower().replace("_", " ")), None)
        points = np.array([[float(x), float(y)] for x, y in _POINT.findall(body)])
        if structure is not None and len(points):
            corners = np.concatenate([points.min(axis=0), points.max(axis=0)]) / _LANDMARK_SIDE
            boxes[structure] = corners.clip(0, 1).round(5).tolist()
    if not boxes:
        raise damaged(name, "it has no outline of a lung or the heart", "download it again")
    return boxes


def region_boxes(outlines: Mapping[str, list[float]]) -> dict[str, dict]:
    """Return the regions of a graph from boxes of structures.

    The right lung is the one on the left of the image, whatever the files call it.
    """
    boxes = {STRUCTURES[structure]: box for structure, box in outlines.items()}
    if {"right lung", "left lung"} <= boxes.keys() and _centre(boxes["right lung"]) > _centre(boxes["left lung"]):
        boxes["right lung"], boxes["left lung"] = boxes["left lung"], boxes["right lung"]
    return {region: {"box": box} for region, box in boxes.items()}


def _centre(box: list[float]) -> float:
    return (box[0] + box[2]) / 2
