"""A chest X-ray out of a DICOM file, in the grey values that MIMIC-CXR-JPG would give it.

Every step from stored values to grey depends on the value alone, so that it is worked out once for each value that can
occur and then looked up for all pixels.
"""

import logging
import warnings
from dataclasses import dataclass
from typing import BinaryIO

import numpy as np
import pydicom
from pydicom.dataset import FileDataset
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

from data.errors import UserError

# The largest detectors have about 4300 x 4300 pixels; far more is a damaged header or a decompression bomb.
MOST_PIXELS = 100_000_000

# What pydicom logs quotes the values of elements, which can tell who the patient is.
logging.getLogger("pydicom").setLevel(logging.CRITICAL)

_PREAMBLE = 128
# File meta information, which names the transfer syntax, lies within so many bytes.
_META = 2048
_JPEG_PACKAGES = "pylibjpeg pylibjpeg-libjpeg"
_JPEG_2000_PACKAGES = "pylibjpeg pylibjpeg-openjpeg"
# Transfer syntax -> the packages that pydicom decodes it with; Pillow does some of them too, and RLE needs none.
_PACKAGES = {
    JPEGBaseline8Bit: _JPEG_PACKAGES, JPEGExtended12Bit: _JPEG_PACKAGES, JPEGLossless: _JPEG_PACKAGES,
    JPEGLosslessSV1: _JPEG_PACKAGES, JPEGLSLossless: _JPEG_PACKAGES, JPEGLSNearLossless: _JPEG_PACKAGES,
    JPEG2000Lossless: _JPEG_2000_PACKAGES, JPEG2000: _JPEG_2000_PACKAGES, HTJ2KLossless: _JPEG_2000_PACKAGES,
    HTJ2KLosslessRPCL: _JPEG_2000_PACKAGES, HTJ2K: _JPEG_2000_PACKAGES,
}  # fmt: skip

# Without these elements pixels mean nothing.
_NEEDED = ("Rows", "Columns", "BitsAllocated", "BitsStored", "PixelRepresentation", "PhotometricInterpretation")

# Items of ViewCodeSequence by code (SNOMED CT, and SNOMED RT before 2019) or, failing that, by meaning.
_VIEW_CODES = {
    "272479007": "PA", "R-10214": "PA", "postero-anterior": "PA",
    "399348003": "AP", "R-10206": "AP", "antero-posterior": "AP",
    "399033003": "FRONTAL", "R-10202": "FRONTAL", "frontal": "FRONTAL",
    "399067008": "LATERAL", "R-102CD": "LATERAL", "lateral": "LATERAL",
    "399173006": "LL", "R-10236": "LL", "left lateral": "LL",
    "399198007": "RL", "R-10232": "RL", "right lateral": "RL",
}  # fmt: skip

# Red, green and blue in grey, in thousandths (ITU-R 601, as Pillow does it).
_LUMA = np.array([299, 587, 114])


@dataclass(frozen=True)
class DicomImage:
    """What a DICOM file shows.

    pixels    [H, W] uint8, air dark
    view      ViewPosition in capitals, or what other elements say ("PA", "AP", "LATERAL", ...); "" for nothing
    warnings  short reasons to doubt the picture
    """

    pixels: np.ndarray
    view: str
    warnings: tuple[str, ...]


def looks_like_dicom(head: bytes) -> bool:
    """Whether a file that begins with `head` (132 bytes or more) is DICOM, with or without the standard's preamble."""
    if head[_PREAMBLE : _PREAMBLE + 4] == b"DICM":
        return True
    # Older archives leave the preamble out: then the first element is of group 2 or 8, with a small element number.
    return len(head) >= 8 and head[:2] in (b"\x02\x00", b"\x08\x00") and head[3] == 0


def read_dicom(file: BinaryIO, name: str, window: bool = False) -> DicomImage:
    """The picture in the DICOM `file`, which error messages call `name`; of several frames the first.

    Stored values go through the modality transform, are stretched from their least to their greatest, inverted where
    the file is MONOCHROME1, brought to 8 bits and equalised: so MIMIC-CXR-JPG was made. Padding takes no part in this
    and becomes black.

    window   instead of stretching and equalising, show the values as the file's first VOI LUT or window does; a file
             that has neither is read as without `window`

    Raises UserError for a file that is damaged, has no pixels, or stores them in a way that needs a further package.
    """
    # Inflating happens while the file is read, without bounds; no archive of radiographs stores them so.
    deflated = DeflatedExplicitVRLittleEndian.encode() in file.read(_META)
    file.seek(0)
    if deflated:
        raise UserError(f"{name} is a deflated DICOM file, which cannot be read safely: convert it")
    try:
        with warnings.catch_warnings():
            # Files in the wild break the standard's small print all the time, which pydicom then mentions.
            warnings.simplefilter("ignore")
            dataset = pydicom.dcmread(file, force=True)
            _check(dataset, name)
            stored = _stored_values(dataset)
            return DicomImage(_grey(stored, dataset, window), _view(dataset), _doubts(dataset))
    except UserError:
        raise
    # A damaged file can lead the decoders anywhere.
    except Exception as error:
        raise UserError(f"{name} is a damaged DICOM file ({short_reason(error)}): replace it") from error


def short_reason(error: Exception) -> str:
    """What a decoder's `error` says, in one printable line."""
    return _one_line(str(error)) or type(error).__name__


def _one_line(text: str) -> str:
    """`text` from a file, fit for one line of an error message."""
    return "".join(character for character in " ".join(text.split()) if character.isprintable())[:120]


def _check(dataset: FileDataset, name: str) -> None:
    """Raise UserError where `dataset` has no pixels that can be decoded here."""
    if "PixelData" not in dataset:
        raise UserError(f"{name} is a DICOM file without pixels (no image, or cut short): replace it")
    lacking = [keyword for keyword in _NEEDED if dataset.get(keyword) is None]
    if lacking:
        raise UserError(f"{name} is a DICOM file without {lacking[0]}: replace it")
    if dataset.BitsAllocated > 16:
        raise UserError(f"{name} has {dataset.BitsAllocated} bits a pixel: radiographs have at most 16")
    if dataset.Rows * dataset.Columns > MOST_PIXELS:
        raise UserError(f"{name} has {dataset.Columns} x {dataset.Rows} pixels, too many for a radiograph: replace it")
    if "TransferSyntaxUID" not in dataset.file_meta:
        if dataset["PixelData"].is_undefined_length:
            raise UserError(f"{name} is compressed without saying how (no TransferSyntaxUID): replace it")
        dataset.file_meta.TransferSyntaxUID = _uncompressed_syntax(dataset)
    syntax = dataset.file_meta.TransferSyntaxUID
    try:
        decoder = get_decoder(syntax)
    except RuntimeError as error:
        kind = _one_line(syntax.name)
        raise UserError(f"{name} stores its pixels as {kind}, which cannot be read: convert it") from error
    # Pillow counts as a decoder of JPEG Extended, but knows its 8 bits only.
    too_deep = syntax == JPEGExtended12Bit and dataset.BitsStored > 8 and decoder.available_plugins == ("pillow",)
    if too_deep or not decoder.is_available:
        raise UserError(f"{name} stores its pixels as {syntax.name}: pip install {_PACKAGES[syntax]} to read it")


def _uncompressed_syntax(dataset: FileDataset) -> UID:
    """The transfer syntax of a `dataset` that does not state it, from the way its elements were read."""
    implicit, little_endian = dataset.original_encoding
    if implicit:
        return ImplicitVRLittleEndian
    return ExplicitVRLittleEndian if little_endian else ExplicitVRBigEndian


def _stored_values(dataset: FileDataset) -> np.ndarray:
    """[H, W] integer: the first frame, colours as grey."""
    stored = pixel_array(dataset, index=0)
    if dataset.PhotometricInterpretation == "PALETTE COLOR":
        stored = apply_color_lut(stored, dataset)
    if stored.ndim == 3:
        stored = (stored[..., :3] @ _LUMA + 500) // 1000
    return stored


def _grey(stored: np.ndarray, dataset: FileDataset, window: bool) -> np.ndarray:
    """[H, W] uint8 for the `stored` values [H, W]."""
    low = int(stored.min())
    positions = stored.astype(np.int32) - low
    counts = np.bincount(positions.ravel())
    candidates = np.arange(low, low + len(counts), dtype=np.int32)
    padding = _is_padding(candidates, dataset)
    counts[padding] = 0
    if not counts.any():
        # Padding everywhere cannot be meant: the element is wrong.
        padding[:] = False
        counts = np.bincount(positions.ravel())

    values = apply_modality_lut(candidates, dataset).astype(np.float64)
    shown = _windowed(values, dataset) if window else None
    levels = _stretched(values, counts > 0) if shown is None else shown
    if dataset.PhotometricInterpretation == "MONOCHROME1":
        levels = 1 - levels
    # A value that does not occur can lie beyond those that do.
    table = (levels.clip(0, 1) * 255).round().astype(np.uint8)
    if shown is None:
        table = _equalisation(table, counts)[table]
    table[padding] = 0
    return table[positions]


def _is_padding(candidates: np.ndarray, dataset: FileDataset) -> np.ndarray:
    """[N] bool: which of the stored values `candidates` [N] mark what lies outside the picture."""
    bounds = [dataset.get(keyword) for keyword in ("PixelPaddingValue", "PixelPaddingRangeLimit")]
    first, last = (None if bound is None else _with_sign(int(bound), dataset) for bound in bounds)
    if first is None:
        return np.zeros(len(candidates), dtype=bool)
    last = first if last is None else last
    return (candidates >= min(first, last)) & (candidates <= max(first, last))


def _with_sign(value: int, dataset: FileDataset) -> int:
    """`value` as the pixels mean it: some writers store a negative padding value as an unsigned number."""
    if dataset.PixelRepresentation == 1 and value >= 1 << (dataset.BitsAllocated - 1):
        return value - (1 << dataset.BitsAllocated)
    return value


def _stretched(values: np.ndarray, occurs: np.ndarray) -> np.ndarray:
    """[N] `values` [N] from 0 for the least that `occurs` [N] to 1 for the greatest."""
    low, high = values[occurs].min(), values[occurs].max()
    return (values - low) / (high - low) if high > low else np.zeros_like(values)


def _windowed(values: np.ndarray, dataset: FileDataset) -> np.ndarray | None:
    """[N] the brightness 0..1 that the file's VOI LUT or window gives `values` [N]; None for a file without one."""
    if dataset.get("VOILUTSequence"):
        depth = dataset.VOILUTSequence[0].LUTDescriptor[2]
        return apply_voi(values.round().clip(-(1 << 16), 1 << 16).astype(np.int32), dataset) / ((1 << depth) - 1)
    centre, width = _first(dataset.get("WindowCenter")), _first(dataset.get("WindowWidth"))
    if centre is None or width is None or width <= 0:
        return None
    centre, width = float(centre), float(width)
    function = dataset.get("VOILUTFunction") or "LINEAR"
    if function == "SIGMOID":
        return (1 + np.tanh(2 * (values - centre) / width)) / 2
    if function == "LINEAR_EXACT":
        return ((values - centre) / width + 0.5).clip(0, 1)
    return ((values - (centre - 0.5)) / max(width - 1, 1e-6) + 0.5).clip(0, 1)


def _first(value: object) -> object:
    """The first of several values, or the only one; None for none."""
    if isinstance(value, MultiValue):
        return value[0] if value else None
    return value


def _equalisation(table: np.ndarray, counts: np.ndarray) -> np.ndarray:
    """[256] uint8: the grey level for each level of `table` [N], which `counts` [N] pixels have, after equalisation.

    The levels then cover 0 to 255 in proportion to the pixels that are darker, the least one that occurs being 0.
    """
    histogram = np.bincount(table, weights=counts, minlength=256)
    darkest = histogram[np.flatnonzero(histogram)[0]]
    others = histogram.sum() - darkest
    if others == 0:
        return np.arange(256, dtype=np.uint8)
    return ((histogram.cumsum() - darkest) * (255 / others)).round().clip(0, 255).astype(np.uint8)


def _view(dataset: FileDataset) -> str:
    """The projection, by the first element that tells."""
    position = str(_first(dataset.get("ViewPosition")) or "").strip().upper()
    if position:
        return position
    for item in dataset.get("ViewCodeSequence") or ():
        meaning = str(item.get("CodeMeaning") or "").strip()
        view = _VIEW_CODES.get(str(item.get("CodeValue") or ""), _VIEW_CODES.get(meaning.lower(), meaning.upper()))
        if view:
            return view
    # Where rows run towards the patient's left or right, the picture was taken from the front or the back.
    rows = str(_first(dataset.get("PatientOrientation")) or "")[:1].upper()
    return {"L": "FRONTAL", "R": "FRONTAL", "A": "LATERAL", "P": "LATERAL"}.get(rows, "")


def _doubts(dataset: FileDataset) -> tuple[str, ...]:
    """Reasons to doubt that the picture looks as a radiologist would see it."""
    for_processing = (
        dataset.get("PresentationIntentType") == "FOR PROCESSING"
        or dataset.get("SOPClassUID") == DigitalXRayImageStorageForProcessing
    )
    doubts = (
        ("meant for processing, not for presentation", for_processing),
        ("first of several frames", int(dataset.get("NumberOfFrames") or 1) > 1),
        ("annotation burnt in", dataset.get("BurnedInAnnotation") == "YES"),
        ("field of view mirrored", dataset.get("FieldOfViewHorizontalFlip") == "YES"),
    )
    return tuple(doubt for doubt, present in doubts if present)
