"""Turning stored images upright, as every viewer does, by the orientation that their files state.

An orientation is one of the eight values of EXIF's Orientation (CIPA DC-008, 4.6.5): 1 upright; 3 turned by 180
degrees; 6 and 8 lying on a side; 2, 4, 5 and 7 their mirror images. DICOM states the same in other words: the
directions of the rows and of the columns in the patient (PatientOrientation; PS3.3, C.7.6.1.1.1).
"""

import re

import numpy as np
from numpy.typing import NDArray
from PIL import ExifTags, Image

UPRIGHT = 1
# Orientation -> (transpose, flip up and down, flip left and right), in this order, that make the image upright.
_STEPS = {
    1: (False, False, False), 2: (False, False, True), 3: (False, True, True), 4: (False, True, False),
    5: (True, False, False), 6: (True, False, True), 7: (True, True, True), 8: (True, True, False),
}  # fmt: skip
_ORIENTATIONS = {steps: orientation for orientation, steps in _STEPS.items()}
# The first letter of a direction dominates: "LH" runs to the patient's left and a little to the head.
_DIRECTION = re.compile(r"[LRAPHF]{1,3}")
_OPPOSITE = {"L": "R", "R": "L", "A": "P", "P": "A"}


def is_on_side(orientation: int) -> bool:
    """Whether width and height are exchanged when an image of this orientation is turned upright."""
    return _STEPS[orientation][0]


def is_mirrored(orientation: int) -> bool:
    """Whether an image of this orientation is a mirror image."""
    return orientation in (2, 4, 5, 7)


def turn_upright(pixels: NDArray, orientation: int) -> NDArray:
    """Return `pixels` [height, width, ...], stored with this orientation, upright."""
    transpose, up_down, left_right = _STEPS[orientation]
    if transpose:
        pixels = pixels.swapaxes(0, 1)
    if up_down:
        pixels = pixels[::-1]
    if left_right:
        pixels = pixels[:, ::-1]
    return np.ascontiguousarray(pixels)


def exif_orientation(image: Image.Image) -> int:
    """Return the orientation in the EXIF data of a Pillow image; 1 if there is none or it is damaged.

    Call it after the pixels are loaded: PNG files may state it behind them, and Pillow turns TIFF files itself.
    """
    try:
        orientation = image.getexif().get(ExifTags.Base.Orientation, UPRIGHT)
    except Exception:  # damaged EXIF data can raise anything, and viewers ignore it
        return UPRIGHT
    return _valid(orientation)


def exif_orientation_of_bytes(exif: bytes) -> int:
    """Return the orientation in EXIF data as JPEG files contain it; 1 if there is none or it is damaged."""
    try:
        content = Image.Exif()
        content.load(exif)
        return _valid(content.get(ExifTags.Base.Orientation, UPRIGHT))
    except Exception:  # as above
        return UPRIGHT


def _valid(orientation: object) -> int:
    return orientation if isinstance(orientation, int) and orientation in _STEPS else UPRIGHT


def patient_orientation(row: str, column: str) -> tuple[int, str]:
    """Return the orientation of a DICOM image, and the direction in the patient from left to right once it is upright.

    row, column   directions of the rows (from left to right) and of the columns (from top to bottom) as stored: letters
                  for the patient's Left, Right, Anterior, Posterior, Head and Feet, e.g. "L" and "F" for an upright
                  frontal image

    Upright, the columns run to the feet, and the rows of a frontal image to the patient's left. A lateral image is
    turned without mirroring it, because both sides are in use. The direction is "L", "R", "A" or "P"; the result is
    (1, "") for directions that are absent, malformed or those of another plane.
    """
    if not (_DIRECTION.fullmatch(row) and _DIRECTION.fullmatch(column)):
        return UPRIGHT, ""
    across, down = row[0], column[0]
    transpose = across in "HF"
    if transpose:
        across, down = down, across
    if down not in "HF" or across in "HF":
        return UPRIGHT, ""
    up_down = down == "H"
    left_right = across == "R" if across in "LR" else transpose != up_down
    return _ORIENTATIONS[transpose, up_down, left_right], _OPPOSITE[across] if left_right else across
