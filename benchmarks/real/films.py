"""Real X-rays with boxes of lungs and hearts, in the three layouts of `../shared/real`.

    covid_cxr  annotation.json: split -> list of {image_path: [name], boxes_xyxy: {region: box} or null}
    jsrt       annotations.json: list of {image, width, height, boxes: {"right lung": box, ...}, split}
    covid_seg  annotations.json: list of {image, width, height, boxes: {right_lung: box, ...}, covid_cxr_split}

Boxes are xyxy in pixels; images are in the folder images/.
"""

import json
from dataclasses import dataclass
from pathlib import Path

import numpy as np
from numpy.typing import NDArray
from PIL import Image

from data.errors import UserError, cannot_read
from data.records import SPLITS

LUNGS = ("left lung", "right lung")
HEART = "cardiac silhouette"
FOLDERS = ("covid_cxr", "jsrt", "covid_seg")


@dataclass(frozen=True)
class AnnotatedImage:
    """An X-ray with boxes.

    data_set  name of its folder
    group     its part of the data set, e.g. "train"
    pixels    [height, width] uint8
    boxes     the annotator's boxes by region, xyxy in 0..1: both lungs, and the heart if it is annotated
    """

    data_set: str
    group: str
    pixels: NDArray
    boxes: dict[str, NDArray]


def read_annotated_images(folder: Path) -> list[AnnotatedImage]:
    """Read the images that have boxes of both lungs from `folder`, or from its subfolders `FOLDERS`.

    Raises UserError if a file is missing or has another format, and if no image has boxes.
    """
    inner = [folder / name for name in FOLDERS if (folder / name).is_dir()]
    return [image for each in inner or [folder] for image in _read_folder(each)]


def _read_folder(folder: Path) -> list[AnnotatedImage]:
    path = folder / "annotations.json"
    read = _read_list
    if not path.exists():
        path, read = folder / "annotation.json", _read_splits
    try:
        images = read(folder, json.loads(path.read_text(encoding="utf-8")))
    except OSError as error:
        raise cannot_read(error.filename or folder, error, "--data needs annotation.json and images/") from error
    except (ValueError, KeyError, TypeError, AttributeError, IndexError) as error:
        raise UserError(
            f"{path} does not have the form {{split: [{{image_path, boxes_xyxy: {{region: [x1, y1, x2, y2]}}}}]}} or "
            f"[{{image, boxes: {{region: [x1, y1, x2, y2]}}}}] ({type(error).__name__}: {error})"
        ) from error
    if not images:
        raise UserError(f"{path} has no image with boxes of both lungs: give a folder of annotated images")
    return images


def _read_splits(folder: Path, annotation: dict) -> list[AnnotatedImage]:
    """Read the layout of covid_cxr; parts of the fitted atlas were tuned on its first two splits."""
    images = []
    for split in SPLITS:
        for entry in annotation.get(split, ()):
            if entry.get("boxes_xyxy"):
                group = "test" if split == "test" else "train and val"
                boxes = {name: entry["boxes_xyxy"][name] for name in LUNGS}
                images.append(_read_image(folder, entry["image_path"][0], group, boxes))
    return images


def _read_list(folder: Path, entries: list) -> list[AnnotatedImage]:
    """Read the layout of jsrt or covid_seg; some images of the latter are in covid_cxr too."""
    images = []
    for entry in entries:
        boxes = {name.replace("_", " "): box for name, box in entry["boxes"].items()}
        if not all(name in boxes for name in LUNGS):
            continue
        tuned = entry.get("covid_cxr_split") in ("train", "val")
        group = entry.get("split") or ("in covid_cxr" if tuned else "others")
        images.append(
            _read_image(folder, entry["image"], group, {name: boxes[name] for name in (*LUNGS, HEART) if name in boxes})
        )
    return images


def _read_image(folder: Path, name: str, group: str, boxes: dict[str, list[float]]) -> AnnotatedImage:
    with Image.open(folder / "images" / name) as image:
        pixels = np.asarray(image.convert("L"))
    height, width = pixels.shape
    scale = np.array([width, height, width, height])
    scaled = {region: np.array(box, dtype=float).reshape(4) / scale for region, box in boxes.items()}
    return AnnotatedImage(folder.resolve().name, group, pixels, scaled)
