"""Reading chest X-rays from DICOM files, with the grey levels of MIMIC-CXR-JPG.

The grey level of a pixel depends only on its stored value, so it is computed once per value and then looked up for all
pixels (`_to_grey`).
"""

import logging
import re
import warnings
from dataclasses import dataclass
from typing import BinaryIO

import numpy as np
import pydicom
from pydicom.dataset import FileDataset
from pydicom.encaps import get_frame
from pydicom.multival import MultiValue
from pydicom.pixels import apply_color_lut, apply_modality_lut, apply_voi, get_decoder, pixel_array
from pydicom.uid import (
    HTJ2K,
    JPEG2000,
    UID,
    DeflatedExplicitVRLittleEndian,
    DigitalXRayImageStorageForProcessing,
    ExplicitVRBigEndian,
    ExplicitVRLittleEndian,
    HTJ2KLossless,
    HTJ2KLosslessRPCL,
    ImplicitVRLittleEndian,
    JPEG2000Lossless,
    JPEGBaseline8Bit,
    JPEGExtended12Bit,
    JPEGLossless,
    JPEGLosslessSV1,
    JPEGLSLossless,
    JPEGLSNearLossless,
)

from data.errors import UserError, damaged, readable, reason
from data.images.grey import row_slices
from data.images.jpeg_scans import check_scans
from data.images.orientation import UPRIGHT, is_mirrored, patient_orientation, turn_upright

# The largest detectors have about 4300 x 4300 pixels; far more means a damaged header or a decompression bomb.
MAX_PIXELS = 100_000_000
# The same for colours and floating point. With both limits, reading an image takes at most half a GiB.
MAX_LARGE_PIXELS = 50_000_000

# The log messages of pydicom quote the values of elements, which can identify the patient.
logging.getLogger("pydicom").setLevel(logging.CRITICAL)

_PREAMBLE_SIZE = 128
# The file meta information, which contains the transfer syntax, is within this number of bytes.
_META_SIZE = 2048
_JPEG_PACKAGES = "pylibjpeg pylibjpeg-libjpeg"
_JPEG_2000_PACKAGES = "pylibjpeg pylibjpeg-openjpeg"
# Transfer syntax -> packages with which pydicom decodes it. Pillow decodes some of these too, and RLE needs no package.
_PACKAGES = {
    JPEGBaseline8Bit: _JPEG_PACKAGES, JPEGExtended12Bit: _JPEG_PACKAGES, JPEGLossless: _JPEG_PACKAGES,
    JPEGLosslessSV1: _JPEG_PACKAGES, JPEGLSLossless: _JPEG_PACKAGES, JPEGLSNearLossless: _JPEG_PACKAGES,
    JPEG2000Lossless: _JPEG_2000_PACKAGES, JPEG2000: _JPEG_2000_PACKAGES, HTJ2KLossless: _JPEG_2000_PACKAGES,
    HTJ2KLosslessRPCL: _JPEG_2000_PACKAGES, HTJ2K: _JPEG_2000_PACKAGES,
}  # fmt: skip

_JPEG_SYNTAXES = (JPEGBaseline8Bit, JPEGExtended12Bit, JPEGLossless, JPEGLosslessSV1)

# Without these elements, pixels cannot be interpreted.
_REQUIRED = ("Rows", "Columns", "BitsAllocated", "BitsStored", "PixelRepresentation", "PhotometricInterpretation")

# Items of ViewCodeSequence by code (SNOMED CT; SNOMED RT before 2019) or else by meaning.
_VIEW_CODES = {
    "272479007": "PA", "R-10214": "PA", "postero-anterior": "PA",
    "399348003": "AP", "R-10206": "AP", "antero-posterior": "AP",
    "399033003": "FRONTAL", "R-10202": "FRONTAL", "frontal": "FRONTAL",
    "399067008": "LATERAL", "R-102CD": "LATERAL", "lateral": "LATERAL",
    "399173006": "LL", "R-10236": "LL", "left lateral": "LL",
    "399198007": "RL", "R-10232": "RL", "right lateral": "RL",
}  # fmt: skip

# Weights of red, green and blue in thousandths (ITU-R BT.601, as in Pillow).
_LUMA = np.array([299, 587, 114])


@dataclass(frozen=True)
class DicomImage:
    """The image in a DICOM file.

    pixels    [height, width] uint8, air dark, turned upright as PatientOrientation says
    view      "PA", "AP", "LATERAL", ...; "" if the file does not state it
    warnings  short reasons why the image may not look as a radiologist sees it
    """

    pixels: np.ndarray
    view: str
    warnings: tuple[str, ...]


def looks_like_dicom(head: bytes) -> bool:
    """Whether a file that begins with `head` (at least 132 bytes) is DICOM, with or without the preamble."""
    if head[_PREAMBLE_SIZE : _PREAMBLE_SIZE + 4] == b"DICM":
        return True
    # Older archives omit the preamble: then the first element is in group 2 or 8 and has a small element number.
    return len(head) >= 8 and head[:2] in (b"\x02\x00", b"\x08\x00") and head[3] == 0


def read_dicom(file: BinaryIO, name: str, window: bool = False) -> DicomImage:
    """Read the first frame of a DICOM file.

    As for MIMIC-CXR-JPG, the modality transform is applied, values are scaled from minimum to maximum, inverted for
    MONOCHROME1, converted to 8 bits and histogram-equalised. Padding is ignored in all of this and becomes black. An
    image that is stored turned or mirrored, by its PatientOrientation, is turned upright, with a warning.

    name    of the file in error messages
    window  apply the file's first VOI LUT or window instead of scaling and equalisation; without effect on a file that
            has neither

    Raises UserError if the file is damaged, has no pixels, or needs a package that is not installed.
    """
    # pydicom inflates a deflated file without a size limit. No archive of radiographs uses this syntax.
    is_deflated = DeflatedExplicitVRLittleEndian.encode() in file.read(_META_SIZE)
    file.seek(0)
    if is_deflated:
        raise UserError(f"{name} is a deflated DICOM file, which cannot be read safely: convert it")
    try:
        with warnings.catch_warnings():
            # Many files violate details of the standard, about which pydicom warns.
            warnings.simplefilter("ignore")
            dataset = pydicom.dcmread(file, force=True)
            _check_readable(dataset, name)
            stored = _stored_values(dataset)
            del dataset.PixelData  # as large as `stored`
            orientation, _ = _orientation(dataset)
            pixels = turn_upright(_to_grey(stored, dataset, window), orientation)
            return DicomImage(pixels, _view(dataset), _warnings(dataset, orientation))
    except UserError:
        raise
    # The decoders can raise anything for a damaged file.
    except Exception as error:
        raise damaged(name, reason(error), "replace it") from error


def _check_readable(dataset: FileDataset, name: str) -> None:
    """Raise UserError if `dataset` has no pixels, or pixels that cannot be decoded."""
    if "PixelData" not in dataset:
        raise UserError(f"{name} is a DICOM file without pixels (no image, or truncated): replace it")
    missing = [keyword for keyword in _REQUIRED if dataset.get(keyword) is None]
    if missing:
        raise UserError(f"{name} is a DICOM file without {missing[0]}: replace it")
    dataset.PhotometricInterpretation = _code(dataset, "PhotometricInterpretation")
    if dataset.BitsAllocated > 16:
        raise UserError(f"{name} has {dataset.BitsAllocated} bits per pixel, more than any radiograph: replace it")
    samples = int(dataset.get("SamplesPerPixel") or 1)
    # pydicom converts colours in floating point.
    if dataset.Rows * dataset.Columns * samples > (MAX_PIXELS if samples == 1 else MAX_LARGE_PIXELS):
        raise UserError(f"{name} has {dataset.Columns} x {dataset.Rows} pixels, too many for a radiograph: replace it")
    if "TransferSyntaxUID" not in dataset.file_meta:
        if dataset["PixelData"].is_undefined_length:
            raise UserError(f"{name} is compressed without saying how (no TransferSyntaxUID): replace it")
        dataset.file_meta.TransferSyntaxUID = _uncompressed_syntax(dataset)
    syntax = dataset.file_meta.TransferSyntaxUID
    try:
        decoder = get_decoder(syntax)
    except RuntimeError as error:
        raise UserError(
            f"{name} stores its pixels as {readable(syntax.name)[:120]}, which cannot be read: convert it"
        ) from error
    # Pillow counts as a decoder of JPEG Extended, but only decodes 8 bits.
    is_too_deep = syntax == JPEGExtended12Bit and dataset.BitsStored > 8 and decoder.available_plugins == ("pillow",)
    if is_too_deep or not decoder.is_available:
        raise UserError(f"{name} stores its pixels as {syntax.name}: pip install {_PACKAGES[syntax]} to read it")
    if syntax in _JPEG_SYNTAXES:
        check_scans(_first_frame(dataset), name)


def _first_frame(dataset: FileDataset) -> bytes:
    """Return the compressed first frame of `dataset`, as pydicom decodes it."""
    offsets = (dataset.get("ExtendedOffsetTable"), dataset.get("ExtendedOffsetTableLengths"))
    return get_frame(
        dataset.PixelData, 0, number_of_frames=int(dataset.get("NumberOfFrames") or 1),
        extended_offsets=offsets if all(offsets) else None,
    )


def _uncompressed_syntax(dataset: FileDataset) -> UID:
    """Return the transfer syntax of a `dataset` that does not state it, from how its elements were read."""
    implicit, little_endian = dataset.original_encoding
    if implicit:
        return ImplicitVRLittleEndian
    return ExplicitVRLittleEndian if little_endian else ExplicitVRBigEndian


def _stored_values(dataset: FileDataset) -> np.ndarray:
    """Return the first frame, [height, width] integer; colours are converted to grey."""
    stored = pixel_array(dataset, index=0)
    if dataset.PhotometricInterpretation == "PALETTE COLOR":
        stored = apply_color_lut(stored, dataset)
    if stored.ndim == 2:
        return stored
    grey = np.empty(stored.shape[:2], dtype=np.int32)
    for rows in row_slices(stored.shape):
        grey[rows] = (stored[rows, :, :3] @ _LUMA + 500) // 1000
    return grey


def _to_grey(stored: np.ndarray, dataset: FileDataset, window: bool) -> np.ndarray:
    """Convert stored values [height, width] to 8-bit grey [height, width].

    Builds a lookup table with one entry per stored value from the minimum to the maximum of the image.
    """
    low, high = int(stored.min()), int(stored.max())
    counts = sum(
        np.bincount(_entries(stored[rows], low).ravel(), minlength=high - low + 1) for rows in row_slices(stored.shape)
    )
    stored_values = np.arange(low, high + 1, dtype=np.int32)
    is_padding = _find_padding(stored_values, dataset)
    if not counts[~is_padding].any():
        # The whole image cannot be padding: the element is wrong.
        is_padding[:] = False
    counts[is_padding] = 0

    values = apply_modality_lut(stored_values, dataset).astype(np.float64)
    windowed = _apply_window(values, dataset) if window else None
    brightness = _scale(values, counts > 0) if windowed is None else windowed
    if dataset.PhotometricInterpretation == "MONOCHROME1":
        brightness = 1 - brightness
    # Values that do not occur can be out of range.
    table = (brightness.clip(0, 1) * 255).round().astype(np.uint8)
    if windowed is None:
        table = _equalise(table, counts)
    table[is_padding] = 0
    grey = np.empty(stored.shape, dtype=np.uint8)
    for rows in row_slices(stored.shape):
        grey[rows] = table[_entries(stored[rows], low)]
    return grey


def _entries(stored: np.ndarray, low: int) -> np.ndarray:
    """Return the table entry of each pixel, if the first one is that of the stored value `low`."""
    return stored.astype(np.int32) - low


def _find_padding(stored_values: np.ndarray, dataset: FileDataset) -> np.ndarray:
    """Return which of the stored values, [values], mark padding around the image, [values] bool."""
    limits = [dataset.get(keyword) for keyword in ("PixelPaddingValue", "PixelPaddingRangeLimit")]
    first, last = (None if limit is None else _restore_sign(int(limit), dataset) for limit in limits)
    if first is None:
        return np.zeros(len(stored_values), dtype=bool)
    last = first if last is None else last
    return (stored_values >= min(first, last)) & (stored_values <= max(first, last))


def _restore_sign(value: int, dataset: FileDataset) -> int:
    """Return a padding value with its sign: some writers store negative padding values as unsigned numbers."""
    if dataset.PixelRepresentation == 1 and value >= 1 << (dataset.BitsAllocated - 1):
        return value - (1 << dataset.BitsAllocated)
    return value


def _scale(values: np.ndarray, occurs: np.ndarray) -> np.ndarray:
    """Scale `values` [values] such that the minimum of those that occur becomes 0 and their maximum 1."""
    low, high = values[occurs].min(), values[occurs].max()
    return (values - low) / (high - low) if high > low else np.zeros_like(values)


def _apply_window(values: np.ndarray, dataset: FileDataset) -> np.ndarray | None:
    """Return the brightness, 0..1, of `values` [values] by the file's VOI LUT or window; None if it has neither."""
    if dataset.get("VOILUTSequence"):
        depth = dataset.VOILUTSequence[0].LUTDescriptor[2]
        return apply_voi(values.round().clip(-(1 << 16), 1 << 16).astype(np.int32), dataset) / ((1 << depth) - 1)
    centre, width = _first(dataset.get("WindowCenter")), _first(dataset.get("WindowWidth"))
    if centre is None or width is None or width <= 0:
        return None
    centre, width = float(centre), float(width)
    function = _code(dataset, "VOILUTFunction")
    if function == "SIGMOID":
        return (1 + np.tanh(2 * (values - centre) / width)) / 2
    if re.fullmatch(r"LINEAR[ _-]?EXACT", function):
        return ((values - centre) / width + 0.5).clip(0, 1)
    return ((values - (centre - 0.5)) / max(width - 1, 1e-6) + 0.5).clip(0, 1)


def _first(value: object) -> object:
    """Return the first value of an element with one or several values; None if it is empty."""
    if isinstance(value, MultiValue):
        return value[0] if value else None
    return value


def _code(dataset: FileDataset, keyword: str) -> str:
    """Return the first value of an element in capitals, as codes are defined; "" if absent.

    Some writers use small letters, pad with spaces or NUL, or repeat the code for each window.
    """
    return _as_code(_first(dataset.get(keyword)))


def _as_code(value: object) -> str:
    return "" if value is None else str(value).strip(" \0\t\r\n").upper()


def _equalise(table: np.ndarray, counts: np.ndarray) -> np.ndarray:
    """Equalise the histogram: return `table` [values] with grey levels in proportion to the number of darker pixels.

    counts  [values] number of pixels per entry of the table; the darkest level that occurs becomes 0
    """
    histogram = np.bincount(table, weights=counts, minlength=256)
    darkest = histogram[np.flatnonzero(histogram)[0]]
    others = histogram.sum() - darkest
    if others == 0:
        return table
    levels = ((histogram.cumsum() - darkest) * (255 / others)).round().clip(0, 255).astype(np.uint8)
    return levels[table]


def _orientation(dataset: FileDataset) -> tuple[int, str]:
    """Return how the image is stored, and the direction of its rows once upright: `orientation.patient_orientation`."""
    directions = dataset.get("PatientOrientation")
    if not isinstance(directions, MultiValue) or len(directions) != 2:
        return UPRIGHT, ""
    return patient_orientation(*map(_as_code, directions))


def _view(dataset: FileDataset) -> str:
    """Return the view from the first element that states it, in capitals."""
    position = _code(dataset, "ViewPosition")
    if position:
        return position
    for item in dataset.get("ViewCodeSequence") or ():
        meaning = str(item.get("CodeMeaning") or "").strip()
        view = _VIEW_CODES.get(str(item.get("CodeValue") or ""), _VIEW_CODES.get(meaning.lower(), meaning.upper()))
        if view:
            return view
    # If rows run towards the patient's left or right, the image was taken from the front or the back.
    directions = dataset.get("PatientOrientation")
    row_direction = _orientation(dataset)[1] or _as_code(_first(directions))[:1]
    return {"L": "FRONTAL", "R": "FRONTAL", "A": "LATERAL", "P": "LATERAL"}.get(row_direction, "")


def _warnings(dataset: FileDataset, orientation: int) -> tuple[str, ...]:
    """Return reasons why the image may not look as a radiologist sees it."""
    is_for_processing = (
        _code(dataset, "PresentationIntentType") == "FOR PROCESSING"
        or dataset.get("SOPClassUID") == DigitalXRayImageStorageForProcessing
    )
    # The texts are counted in the dataset.yaml of prepared data sets.
    conditions = (
        ("meant for processing, not for presentation", is_for_processing),
        ("first of several frames", int(dataset.get("NumberOfFrames") or 1) > 1),
        ("annotation burnt in", _code(dataset, "BurnedInAnnotation") == "YES"),
        ("field of view mirrored", _code(dataset, "FieldOfViewHorizontalFlip") == "YES"),
        ("stored as a mirror image, mirrored back", is_mirrored(orientation)),
        ("stored turned, turned upright", orientation != UPRIGHT and not is_mirrored(orientation)),
    )
    return tuple(warning for warning, applies in conditions if applies)
