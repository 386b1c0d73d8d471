"""Annotation files in R2Gen's layout: `{"train": [...], "val": [...], "test": [...]}`, for IU X-Ray and for MIMIC-CXR.

IU X-Ray has one sample a study, whose images lie in a folder of the study's id; MIMIC-CXR has one sample an image,
whose id is the image's.
"""

import json
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path, PurePosixPath
from typing import Any

from data.errors import UserError
from data.records import SPLITS

# How the splits are called by those who made such files.
SPLIT_NAMES = {"train": "train", "val": "val", "valid": "val", "validate": "val", "validation": "val", "test": "test"}
_REMEDY = "fetch the file again"


@dataclass(frozen=True)
class R2GenSample:
    """One sample of an annotation file.

    split                  "train", "val" or "test"
    images                 paths relative to the folder of images, which the file does not name
    study_id, subject_id   of MIMIC-CXR, digits; empty where the file has none
    """

    id: str
    split: str
    report: str
    images: tuple[str, ...]
    study_id: str = ""
    subject_id: str = ""


def read_annotation(path: Path) -> list[R2GenSample]:
    """The samples of an annotation file, in its order: train, val, test.

    Raises UserError, naming file, sample and key, for a file that cannot be read or has another form, an id that
    stands there twice, and an image path that leads out of its folder.
    """
    splits = _read_splits(path)
    samples = []
    seen = set()
    for split in SPLITS:
        for where, entry in splits[split]:
            sample = _read_sample(entry, split, where)
            if sample.id in seen:
                raise UserError(f"{where}: the id {sample.id} stands there twice; {_REMEDY}")
            seen.add(sample.id)
            samples.append(sample)
    return samples


def _read_splits(path: Path) -> dict[str, list[tuple[str, Any]]]:
    """By split: every entry of the file with the place it stands at, for messages."""
    try:
        document = json.loads(path.read_text(encoding="utf-8-sig"))
    except OSError as error:
        raise UserError(f"Cannot read {path} ({error.strerror}): give a file that is there") from error
    except (ValueError, RecursionError) as error:
        raise UserError(f"{path} is not JSON: {_REMEDY}") from error
    if not isinstance(document, dict):
        raise UserError(f"{path} is not a JSON object with the keys train, val and test: {_REMEDY}")
    splits: dict[str, list[tuple[str, Any]]] = {split: [] for split in SPLITS}
    for name, entries in document.items():
        if name not in SPLIT_NAMES:
            raise UserError(f"{path}: '{name[:40]}' is no split: expected {', '.join(SPLITS)}")
        if not isinstance(entries, list):
            raise UserError(f"{path}: '{name}' is no list of samples; {_REMEDY}")
        splits[SPLIT_NAMES[name]] += [(f"{path} {name}[{index}]", entry) for index, entry in enumerate(entries)]
    return splits


def _read_sample(entry: Any, split: str, where: str) -> R2GenSample:
    """One sample, its keys checked. What else an entry holds is left aside."""
    if not isinstance(entry, dict):
        raise UserError(f"{where} is not a JSON object: {_REMEDY}")
    for key in ("id", "report", "image_path"):
        if key not in entry:
            raise UserError(f"{where} lacks the key '{key}': {_REMEDY}")
    if not isinstance(entry["report"], str):
        raise UserError(f"{where}: 'report' is no text; {_REMEDY}")
    identifier = _identifier(entry, "id", where)
    if not identifier:
        raise UserError(f"{where}: 'id' is empty; {_REMEDY}")
    return R2GenSample(
        id=identifier,
        split=split,
        report=entry["report"],
        images=tuple(_image_paths(entry["image_path"], where)),
        study_id=_identifier(entry, "study_id", where),
        subject_id=_identifier(entry, "subject_id", where),
    )


def _identifier(entry: dict, key: str, where: str) -> str:
    """A text or a whole number as text; empty where the key is absent."""
    value = entry.get(key, "")
    if isinstance(value, bool) or not isinstance(value, str | int):
        raise UserError(f"{where}: '{key}' is neither a text nor a whole number; {_REMEDY}")
    return str(value).strip()


def _image_paths(paths: Any, where: str) -> Iterator[str]:
    """The paths of a sample's images, checked to stay in the folder of images. A lone path need not be a list."""
    if isinstance(paths, str):
        paths = [paths]
    if not isinstance(paths, list) or not all(isinstance(path, str) and path for path in paths):
        raise UserError(f"{where}: 'image_path' is no list of paths; {_REMEDY}")
    for path in paths:
        parts = PurePosixPath(path.replace("\\", "/"))
        if parts.is_absolute() or ".." in parts.parts or "\0" in path:
            raise UserError(f"{where}: 'image_path' leads out of the folder of images; {_REMEDY}")
        yield str(parts)
