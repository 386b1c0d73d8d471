"""Measures boxes of lungs and hearts in real X-rays: mean IoU with those of annotators.

    python -m benchmarks lung_boxes --data FOLDER [--checkpoint DIR] [--weights FILE]

FOLDER is `../shared/real` or one of its data sets that `benchmarks/real/films.py` reads. Scored are the atlas
(`files/anatomy.yaml`), the atlas fitted to each image (`data/images/atlas.py`), the shipped localizer, both together,
which is what `data.prepare` uses (`data/localizer/shipped.py`), and on request other weights of the localizer and the
localizer of a checkpoint. Parts of the fitted atlas were tuned on the training and validation images of covid_cxr, so
the others have separate lines; the shipped localizer has been trained on none of the images. Intervals are 95 %
bootstrap intervals over the images.
"""

import argparse
from collections.abc import Callable
from functools import partial
from pathlib import Path

import numpy as np
from numpy.typing import NDArray
from PIL import Image

from benchmarks.real.films import HEART, LUNGS, AnnotatedImage, read_annotated_images
from data.errors import missing
from data.images.atlas import atlas_boxes
from data.images.network_input import normalise, to_unit_range
from data.images.transforms import squash
from data.localizer.shipped import find_boxes, localize
from data.ontology import Anatomy
from modules.checkpoint import load_checkpoint
from modules.evaluation.evaluator import inference
from modules.inference.region_boxes import build_box_finder
from modules.runtime import select_device

# Lungs whose mean IoU exceeds this count as found.
FOUND_IOU = 0.5
RESAMPLES = 2000

BoxFinder = Callable[[NDArray], dict[str, list[float]]]


def add_arguments(commands: argparse._SubParsersAction) -> None:
    """Register the command `lung_boxes`."""
    parser = commands.add_parser("lung_boxes", help="boxes of lungs and hearts in real X-rays: atlases and localizers")
    parser.add_argument("--data", type=Path, required=True, metavar="FOLDER", help="X-rays with boxes: ../shared/real")
    parser.add_argument("--checkpoint", metavar="DIR", help="also score the localizer of this checkpoint or run folder")
    parser.add_argument("--weights", type=Path, metavar="FILE", help="also score a file of python -m data.localizer")
    parser.set_defaults(run=run)


def run(options: argparse.Namespace) -> None:
    """Score every source of boxes and print the table."""
    images = read_annotated_images(options.data)
    atlas = {region.name: list(region.box) for region in Anatomy.load().regions}
    finders: dict[str, BoxFinder] = {
        "atlas": lambda pixels: atlas, "fitted atlas": atlas_boxes, "shipped localizer": localize,
        "both": find_boxes,
    }
    if options.weights:
        if not options.weights.is_file():
            raise missing("file of weights", options.weights, "make it with python -m data.localizer --out FILE")
        finders["--weights"] = partial(localize, path=options.weights)
    if options.checkpoint:
        finders["checkpoint"] = load_localizer(options.checkpoint)
    print(f"{'boxes':<18} {'data set':<10} {'images':<14}{format_header()}")
    groups = list(dict.fromkeys((image.data_set, image.group) for image in images))
    for name, finder in finders.items():
        scores = region_ious(images, finder)
        for data_set in dict.fromkeys(data_set for data_set, _ in groups):
            parts = [group for each, group in groups if each == data_set]
            for title in ("all", *parts) if len(parts) > 1 else ("all",):
                chosen = [image.data_set == data_set and title in ("all", image.group) for image in images]
                print(f"{name:<18} {data_set:<10} {title:<14}{format_row(scores[chosen])}")


def format_header() -> str:
    """Return the names of the columns of `format_row`."""
    columns = ("number", "lungs", "left", "right", f">{FOUND_IOU}", "heart")
    intervals = (f"{name:>14}" for name in ("lungs 95 %", "heart 95 %"))
    return "".join((*(f"{column:>8}" for column in columns), *intervals))


def format_row(scores: NDArray) -> str:
    """Return the numbers of a row, for IoUs [n, 3] of left lung, right lung and heart (NaN if not annotated)."""
    left, right = scores[:, :2].mean(0)
    lungs = scores[:, :2].mean(1)
    hearts = scores[~np.isnan(scores[:, 2]), 2]
    heart = f"{hearts.mean():>8.3f}" if len(hearts) else f"{'-':>8}"
    means = f"{len(scores):>8}{lungs.mean():>8.3f}{left:>8.3f}{right:>8.3f}{(lungs > FOUND_IOU).mean():>8.1%}{heart}"
    return f"{means}{_format_interval(lungs):>14}{_format_interval(hearts):>14}"


def _format_interval(values: NDArray) -> str:
    """Return the 95 % bootstrap interval of the mean of `values` [n]; "-" of fewer than two."""
    if len(values) < 2:
        return "-"
    drawn = np.random.default_rng(0).integers(len(values), size=(RESAMPLES, len(values)))
    low, high = np.quantile(values[drawn].mean(1), [0.025, 0.975])
    return f"{low:.3f}-{high:.3f}"


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


def region_ious(images: list[AnnotatedImage], find_boxes: BoxFinder) -> NDArray:
    """Return the IoU [n, 3] of the boxes of left lung, right lung and heart, per image; NaN if not annotated."""
    scores = []
    for image in images:
        boxes = find_boxes(image.pixels)
        scores.append(
            [
                _iou(np.array(boxes[name]), image.boxes[name]) if name in image.boxes else np.nan
                for name in (*LUNGS, HEART)
            ]
        )
    return np.array(scores)


def _iou(first: NDArray, second: NDArray) -> float:
    """Return the intersection over union of two boxes [4] xyxy."""
    inner = np.minimum(first[2:], second[2:]) - np.maximum(first[:2], second[:2])
    shared = inner.clip(min=0).prod()
    areas = (first[2:] - first[:2]).prod() + (second[2:] - second[:2]).prod()
    return float(shared / (areas - shared))
