"""Measures lung boxes in real X-rays: mean IoU of the boxes of the left and right lung with those of annotators.

    python -m benchmarks lung_boxes --data FOLDER [--checkpoint DIR]

FOLDER contains images/ and an annotation.json in R2Gen's format, as prepared from the COVID-19 image data collection.
Annotated entries have `boxes_xyxy`, in pixels, by "right lung" and "left lung" (the patient's). Scored are the atlas
(`files/anatomy.yaml`), the atlas fitted to each image (`data/images/atlas.py`) and, with a checkpoint, its localizer.
Parts of the fitted atlas were tuned on the training and validation images, so the test images have a separate line.
"""

import argparse
import json
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path

import numpy as np
from numpy.typing import NDArray
from PIL import Image

from data.errors import UserError, cannot_read
from data.images.atlas import atlas_boxes
from data.images.network_input import normalise, to_unit_range
from data.images.transforms import squash
from data.ontology import Anatomy
from data.records import SPLITS
from modules.checkpoint import load_checkpoint
from modules.evaluation.evaluator import inference
from modules.inference.region_boxes import build_box_finder
from modules.runtime import select_device

LUNGS = ("left lung", "right lung")
# Minimum mean IoU at which the lungs of an image count as found.
FOUND_IOU = 0.5

BoxFinder = Callable[[NDArray], dict[str, list[float]]]


@dataclass
class AnnotatedImage:
    """An X-ray with lung boxes.

    pixels   [height, width] uint8
    lungs    the annotator's boxes by name, xyxy in 0..1
    """

    split: str
    pixels: NDArray
    lungs: dict[str, NDArray]


def add_arguments(commands: argparse._SubParsersAction) -> None:
    """Register the command `lung_boxes`."""
    parser = commands.add_parser("lung_boxes", help="lung boxes in real X-rays: atlas, fitted atlas, localizer")
    parser.add_argument("--data", type=Path, required=True, metavar="FOLDER", help="has annotation.json and images/")
    parser.add_argument("--checkpoint", metavar="DIR", help="also score the localizer of this checkpoint or run folder")
    parser.set_defaults(run=run)


def run(options: argparse.Namespace) -> None:
    """Score every source of boxes and print the table."""
    images = read_annotated_images(options.data)
    atlas = {region.name: list(region.box) for region in Anatomy.load().regions}
    finders: dict[str, BoxFinder] = {"atlas": lambda pixels: atlas, "fitted atlas": atlas_boxes}
    if options.checkpoint:
        finders["localizer"] = load_localizer(options.checkpoint)
    print(f"{'boxes':<14} {'images':<13} {'number':>6} {'mean IoU':>9} {'left':>7} {'right':>7} {f'>{FOUND_IOU}':>7}")
    for name, find_boxes in finders.items():
        scores = lung_ious(images, find_boxes)
        is_test = np.array([image.split == "test" for image in images])
        for title, chosen in (("all", is_test | True), ("train and val", ~is_test), ("test", is_test)):
            if chosen.any():
                left, right = scores[chosen].mean(0)
                found = (scores[chosen].mean(1) > FOUND_IOU).mean()
                print(
                    f"{name:<14} {title:<13} {chosen.sum():>6} {(left + right) / 2:>9.3f} {left:>7.3f} {right:>7.3f} "
                    f"{found:>7.1%}"
                )


def read_annotated_images(folder: Path) -> list[AnnotatedImage]:
    """Read the images of `folder` that have boxes of both lungs.

    Raises UserError if a file is missing or has another format, and if no image has boxes.
    """
    path = folder / "annotation.json"
    images = []
    try:
        annotation = json.loads(path.read_text(encoding="utf-8"))
        for split in SPLITS:
            for entry in annotation.get(split, ()):
                if not entry.get("boxes_xyxy"):
                    continue
                with Image.open(folder / "images" / entry["image_path"][0]) as image:
                    pixels = np.asarray(image.convert("L"))
                height, width = pixels.shape
                scale = np.array([width, height, width, height])
                lungs = {name: np.array(entry["boxes_xyxy"][name], dtype=float) / scale for name in LUNGS}
                images.append(AnnotatedImage(split, pixels, lungs))
    except OSError as error:
        raise cannot_read(error.filename or folder, error, "--data needs annotation.json and images/") from error
    except (ValueError, KeyError, TypeError, AttributeError, IndexError) as error:
        raise UserError(
            f"{path} does not have the form {{split: [{{image_path, boxes_xyxy: {{region: [x1, y1, x2, y2]}}}}]}} "
            f"({type(error).__name__}: {error})"
        ) from error
    if not images:
        raise UserError(f"{path} has no image with boxes_xyxy: give a folder of annotated images")
    return images


def load_localizer(path: str) -> BoxFinder:
    """Load the localizer of a checkpoint. Raises UserError if it cannot be used."""
    checkpoint = load_checkpoint(path)
    config = checkpoint.config
    device = select_device(config.train.device)
    finder = build_box_finder(checkpoint, config).to(device)
    names = checkpoint.vocabularies.anatomy.names

    def find_boxes(pixels: NDArray) -> dict[str, list[float]]:
        squashed = squash(Image.fromarray(pixels), config.data.image_size)
        with inference(finder):
            boxes, _ = finder(normalise(to_unit_range(squashed[None].to(device))))
        return dict(zip(names, boxes[0].tolist(), strict=True))

    return find_boxes


def lung_ious(images: list[AnnotatedImage], find_boxes: BoxFinder) -> NDArray:
    """Return the IoU [n, 2] of the box of the left and of the right lung, per image."""
    scores = []
    for image in images:
        boxes = find_boxes(image.pixels)
        scores.append([_iou(np.array(boxes[name]), image.lungs[name]) for name in LUNGS])
    return np.array(scores)


def _iou(first: NDArray, second: NDArray) -> float:
    """Return the intersection over union of two boxes [4] xyxy."""
    inner = np.minimum(first[2:], second[2:]) - np.maximum(first[:2], second[:2])
    shared = inner.clip(min=0).prod()
    areas = (first[2:] - first[:2]).prod() + (second[2:] - second[:2]).prod()
    return float(shared / (areas - shared))
