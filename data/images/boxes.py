"""Files of region boxes: JSON lines {"id": study, "boxes": {region: [x1, y1, x2, y2]}}."""

import json
import math
from collections.abc import Mapping, Sequence
from pathlib import Path

import numpy as np

from data.errors import UserError, cannot_read, reason
from data.ontology import Anatomy
from data.records import MALFORMED_GRAPH
from data.storage.lines import bounded_lines

# Detectors may draw a box a little beyond the image. Coordinates far beyond it are pixels, which would be clipped away.
_LARGEST_EXCESS = 0.5


def read_boxes(path: Path, option: str, anatomy: Anatomy) -> dict[str, np.ndarray]:
    """Read a boxes file; return study id -> boxes, float32 [R, 4], xyxy in 0..1, NaN for regions without a box.

    Arrays keep the boxes of hundreds of thousands of studies within 0.2 GiB. Raises UserError, naming the file as the
    value of `option`, if it cannot be read or is malformed.
    """
    studies = {}
    try:
        with path.open("rb") as file:
            for number, line in enumerate(bounded_lines(file, f"{option}={path}"), start=1):
                try:
                    entry = json.loads(line)
                    for corners in entry["boxes"].values():
                        _check_corners(corners)
                    studies[entry["id"]] = boxes_array(entry["boxes"], anatomy)
                except (*MALFORMED_GRAPH, RecursionError) as error:
                    raise UserError(
                        f"{option}={path} line {number} ({reason(error)}) is not of the form "
                        '{"id": study, "boxes": {region: [x1, y1, x2, y2]}}'
                    ) from error
    except OSError as error:
        raise cannot_read(f"{option}={path}", error, "give a file of boxes") from error
    return studies


def _check_corners(corners: Sequence[float]) -> None:
    """Raise ValueError unless all coordinates are finite numbers, and fractions of the image."""
    for value in corners:
        if type(value) not in (int, float) or not math.isfinite(value):
            raise ValueError(f"the coordinate {value!r} is not a finite number")
        if not -_LARGEST_EXCESS <= value <= 1 + _LARGEST_EXCESS:
            raise ValueError(f"the coordinate {value:g} is not a fraction of the image, from 0 to 1")


def boxes_array(boxes: Mapping[str, Sequence[float]], anatomy: Anatomy) -> np.ndarray:
    """Return the boxes of one study, region -> [x1, y1, x2, y2], as float32 [R, 4]; NaN for regions without a box."""
    array = np.full((len(anatomy.regions), 4), np.nan, dtype=np.float32)
    for name, (x1, y1, x2, y2) in boxes.items():
        array[anatomy.index(name)] = x1, y1, x2, y2
    return array
