"""How well lungs are found in real films: mean IoU of the left and right lung's boxes with those of annotators.

    python -m benchmarks lung_boxes --data FOLDER [--checkpoint DIR]

FOLDER holds images/ and an annotation.json in R2Gen's layout whose entries carry `boxes_xyxy` (pixels, by "right lung"
and "left lung", the patient's) where an annotator drew them: the COVID-19 image data collection made so. Scored are the
atlas as it is (`files/anatomy.yaml`), the atlas fitted to each image (`data/images/atlas.py`), and with a checkpoint its
localizer. Parts of the fitted atlas were tuned on the training and validation images, so the test images have their own
line.
"""

import argparse
import json
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path

import numpy as np
from numpy.typing import NDArray
from PIL import Image

from data.errors import UserError
from data.images.atlas import atlas_boxes
from data.images.transforms import normalise, squash
from data.ontology import Anatomy
from data.records import SPLITS
from modules.checkpoint import CONFIG, load_checkpoint
from modules.config import load_config
from modules.evaluation.evaluator import inference
from modules.region_boxes import build_box_finder
from modules.runtime import select_device

LUNGS = ("left lung", "right lung")
# An image counts as found where its two lungs reach this IoU on average.
FOUND = 0.5

BoxesOf = Callable[[NDArray], dict[str, list[float]]]


@dataclass
class Film:
    """pixels [H, W] uint8; lungs: the annotator's boxes by name, xyxy in 0..1."""

    split: str
    pixels: NDArray
    lungs: dict[str, NDArray]


def add_arguments(commands: argparse._SubParsersAction) -> None:
    """Register the command `lung_boxes`."""
    parser = commands.add_parser("lung_boxes", help="lung boxes in real films: the atlas, fitted, and the localizer")
    parser.add_argument("--data", type=Path, required=True, metavar="FOLDER", help="holds annotation.json and images/")
    parser.add_argument("--checkpoint", metavar="DIR", help="score the localizer of this checkpoint or run folder too")
    parser.set_defaults(run=run)


def run(options: argparse.Namespace) -> None:
    """Score every way to find boxes and print the table."""
    films = read_films(options.data)
    atlas = {region.name: list(region.box) for region in Anatomy.load().regions}
    ways: dict[str, BoxesOf] = {"atlas": lambda pixels: atlas, "fitted atlas": atlas_boxes}
    if options.checkpoint:
        ways["localizer"] = localizer(options.checkpoint)
    print(f"{'boxes':<14} {'images':<13} {'number':>6} {'mean IoU':>9} {'left':>7} {'right':>7} {f'>{FOUND}':>7}")
    for name, boxes_of in ways.items():
        scores = lung_ious(films, boxes_of)
        tested = np.array([film.split == "test" for film in films])
        for title, chosen in (("all", tested | True), ("train and val", ~tested), ("test", tested)):
            if chosen.any():
                left, right = scores[chosen].mean(0)
                found = (scores[chosen].mean(1) > FOUND).mean()
                print(
                    f"{name:<14} {title:<13} {chosen.sum():>6} {(left + right) / 2:>9.3f} {left:>7.3f} {right:>7.3f} "
                    f"{found:>7.1%}"
                )


def read_films(folder: Path) -> list[Film]:
    """The films of `folder` that have boxes of both lungs. Raises UserError for files missing or of another form."""
    path = folder / "annotation.json"
    films = []
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
                films.append(Film(split, pixels, lungs))
    except OSError as error:
        raise UserError(f"Cannot read the films of {folder}: {error}") from error
    except (ValueError, KeyError, TypeError, AttributeError, IndexError) as error:
        raise UserError(
            f"{path} is not of the form {{split: [{{image_path, boxes_xyxy: {{region: [x1, y1, x2, y2]}}}}]}} "
            f"({type(error).__name__}: {error})"
        ) from error
    if not films:
        raise UserError(f"{path} has no image with boxes_xyxy: give a folder of annotated films")
    return films


def localizer(path: str) -> BoxesOf:
    """The localizer of a checkpoint. Raises UserError for one that cannot be used."""
    checkpoint = load_checkpoint(path)
    config = load_config(checkpoint.directory / CONFIG)
    device = select_device(config.train.device)
    finder = build_box_finder(checkpoint, config).to(device)
    names = checkpoint.vocabularies.anatomy.names

    def boxes_of(pixels: NDArray) -> dict[str, list[float]]:
        squashed = squash(Image.fromarray(pixels), config.data.image_size)
        with inference(finder):
            boxes, _ = finder(normalise(squashed[None].float() / 255).to(device))
        return dict(zip(names, boxes[0].tolist(), strict=True))

    return boxes_of


def lung_ious(films: list[Film], boxes_of: BoxesOf) -> NDArray:
    """[n, 2]: IoU of the left and of the right lung's box, film by film."""
    scores = []
    for film in films:
        found = boxes_of(film.pixels)
        scores.append([_iou(np.array(found[name]), film.lungs[name]) for name in LUNGS])
    return np.array(scores)


def _iou(first: NDArray, second: NDArray) -> float:
    """Intersection over union of two boxes [4] xyxy."""
    inner = np.minimum(first[2:], second[2:]) - np.maximum(first[:2], second[:2])
    shared = inner.clip(min=0).prod()
    areas = (first[2:] - first[:2]).prod() + (second[2:] - second[:2]).prod()
    return float(shared / (areas - shared))
