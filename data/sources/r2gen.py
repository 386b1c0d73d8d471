"""Annotation files in R2Gen's layout: `{"train": [...], "val": [...], "test": [...]}`, for IU X-Ray and MIMIC-CXR.

IU X-Ray has one sample per study, with its images in a folder named after the study's id. MIMIC-CXR has one sample per
image, with the image's id.
"""

import math
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path, PurePosixPath
from typing import Any

from data.errors import UserError, cannot_read, unknown_name, wrong_format
from data.records import SPLITS
from data.sources.missing_texts import text_or_empty
from data.storage.parse import parse_json

# The names of the splits in annotation files.
SPLIT_NAMES = {"train": "train", "val": "val", "valid": "val", "validate": "val", "validation": "val", "test": "test"}
_FIX = "download the file again"


@dataclass(frozen=True)
class R2GenSample:
    """One sample of an annotation file.

    split                  "train", "val" or "test"
    report                 "" if missing: null, NaN, blank, or a word that stands for it
    images                 paths relative to the folder of images
    study_id, subject_id   of MIMIC-CXR, digits; "" if absent
    """

    id: str
    split: str
    report: str
    images: tuple[str, ...]
    study_id: str = ""
    subject_id: str = ""


def read_annotation(path: Path) -> list[R2GenSample]:
    """Read the samples of an annotation file, by split (train, val, test) and then in the order of the file.

    Raises UserError, naming file, sample and key, if the file cannot be read or is malformed, an id occurs twice, or an
    image path leads out of its folder.
    """
    splits = _read_splits(path)
    samples = []
    seen = set()
    for split in SPLITS:
        for where, entry in splits[split]:
            sample = _read_sample(entry, split, where)
            if sample.id in seen:
                raise UserError(f"{where}: the id {sample.id} occurs twice; {_FIX}")
            seen.add(sample.id)
            samples.append(sample)
    return samples


def _read_splits(path: Path) -> dict[str, list[tuple[str, Any]]]:
    """Return split -> its entries, each with its position in the file for messages."""
    try:
        text = path.read_text(encoding="utf-8-sig")
    except OSError as error:
        raise cannot_read(path, error, "give an existing file") from error
    except UnicodeDecodeError as error:
        raise wrong_format(path, "JSON in UTF-8", _FIX) from error
    document = parse_json(text, str(path), _FIX)
    if not isinstance(document, dict):
        raise wrong_format(path, "a JSON object with the keys train, val and test", _FIX)
    splits: dict[str, list[tuple[str, Any]]] = {split: [] for split in SPLITS}
    for name, entries in document.items():
        if name not in SPLIT_NAMES:
            raise unknown_name("split", name[:40], SPLITS, str(path))
        if not isinstance(entries, list):
            raise wrong_format(f"{path}: '{name}'", "a list of samples", _FIX)
        splits[SPLIT_NAMES[name]] += [(f"{path} {name}[{index}]", entry) for index, entry in enumerate(entries)]
    return splits


def _read_sample(entry: Any, split: str, where: str) -> R2GenSample:
    """Return one sample after checking its keys; further keys are ignored."""
    if not isinstance(entry, dict):
        raise wrong_format(where, "a JSON object", _FIX)
    for key in ("id", "report", "image_path"):
        if key not in entry:
            raise UserError(f"{where} has no key '{key}': {_FIX}")
    identifier = _read_identifier(entry, "id", where)
    if not identifier:
        raise UserError(f"{where}: 'id' is empty; {_FIX}")
    return R2GenSample(
        id=identifier,
        split=split,
        report=_read_report(entry["report"], where),
        images=tuple(_read_image_paths(entry["image_path"], where)),
        study_id=_read_identifier(entry, "study_id", where),
        subject_id=_read_identifier(entry, "subject_id", where),
    )


def _read_report(value: Any, where: str) -> str:
    """Return the report of a sample; "" if it is missing, which pandas writes as NaN, null or a word."""
    if value is None or (isinstance(value, float) and math.isnan(value)):
        return ""
    if not isinstance(value, str):
        raise wrong_format(f"{where}: 'report'", "a string", _FIX)
    return text_or_empty(value)


def _read_identifier(entry: dict, key: str, where: str) -> str:
    """Return a string or an integer as text; "" if the key is absent."""
    value = entry.get(key, "")
    if isinstance(value, bool) or not isinstance(value, str | int):
        raise wrong_format(f"{where}: '{key}'", "a string or an integer", _FIX)
    return str(value).strip()


def _read_image_paths(paths: Any, where: str) -> Iterator[str]:
    """Yield the paths of a sample's images, checked to stay in the folder of images. One path may be a string."""
    if isinstance(paths, str):
        paths = [paths]
    if not isinstance(paths, list) or not all(isinstance(path, str) and path for path in paths):
        raise wrong_format(f"{where}: 'image_path'", "a list of paths", _FIX)
    for path in paths:
        parts = PurePosixPath(path.replace("\\", "/"))
        if parts.is_absolute() or ".." in parts.parts or "\0" in path:
            raise UserError(f"{where}: 'image_path' leads out of the folder of images; {_FIX}")
        yield str(parts)
