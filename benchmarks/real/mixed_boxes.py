"""Trains a localizer with annotated real images mixed in, and scores it on images that it has not seen.

    python -m benchmarks mixed_boxes --data ../shared/real --out FILE.safetensors [--steps N]

The shipped localizer is continued with three quarters of every batch from JSRT's training split and covid_seg, and
scored on JSRT's validation split, before and after. The weights are made from those data sets, so they are for
measurements; --out may not be inside the project's files/.
"""

import argparse
from functools import partial
from pathlib import Path

import numpy as np
import torch
from PIL import Image

from benchmarks.lung_boxes import format_header, format_row, region_ious
from benchmarks.real.films import AnnotatedImage, read_annotated_images
from data.errors import UserError, cannot_write, wrong_value
from data.images.transforms import squash
from data.localizer.shipped import load_network, localize, save_network
from data.localizer.training import FILM_SIDE, Films, LocalizerSettings, simulate_films, train
from data.ontology import FILES, Anatomy

FILMS, STEPS, RATE = 300, 1000, 1.5e-3


def add_arguments(commands: argparse._SubParsersAction) -> None:
    """Register the command `mixed_boxes`."""
    parser = commands.add_parser("mixed_boxes", help="a localizer with real images mixed in, on images it has not seen")
    parser.add_argument("--data", type=Path, required=True, metavar="FOLDER", help="contains jsrt and covid_seg")
    parser.add_argument("--out", type=Path, required=True, metavar="FILE", help="weights to write, outside files/")
    parser.add_argument("--steps", type=int, default=STEPS, help="optimiser steps (default: %(default)s)")
    parser.add_argument("--films", type=int, default=FILMS, help="simulated chests (default: %(default)s)")
    parser.add_argument("--seed", type=int, default=0, help="of chests and order (default: %(default)s)")
    parser.set_defaults(run=run)


def run(options: argparse.Namespace) -> None:
    """Train, write the weights and print the scores on the validation split."""
    for name in ("steps", "films"):
        if getattr(options, name) < 1:
            raise wrong_value(f"--{name}", getattr(options, name), "must be at least 1")
    if options.out.resolve().is_relative_to(FILES.resolve()):
        raise UserError(f"--out {options.out}: weights made from these images are not shipped: choose another folder")
    images = [image for name in ("jsrt", "covid_seg") for image in read_annotated_images(options.data / name)]
    unseen = [image for image in images if image.group == "val"]
    seen = [image for image in images if image.group != "val"]
    if not unseen:
        raise UserError(f"{options.data / 'jsrt'} has no images of the split val: give a folder with some")
    settings = LocalizerSettings(films=options.films, steps=options.steps, rate=RATE, seed=options.seed)
    network = train(simulate_films(settings), settings, annotated=as_films(seen), start=load_network())
    try:
        save_network(network, options.out)
    except OSError as error:
        raise cannot_write(options.out, error, "choose another --out") from error
    print(f"{len(seen)} images mixed in, scored on JSRT's val")
    print(f"{'':<10}{format_header()}")
    for title, finder in (("shipped", localize), ("mixed", partial(localize, path=options.out))):
        print(f"{title:<10}{format_row(region_ious(unseen, finder))}")


def as_films(images: list[AnnotatedImage]) -> Films:
    """Return annotated images as the training takes them; regions that are not annotated are unknown."""
    names = Anatomy.load().names
    pixels = torch.stack([squash(Image.fromarray(image.pixels), FILM_SIDE) for image in images]).numpy() / 255
    boxes = np.array([[image.boxes.get(name, np.zeros(4)) for name in names] for image in images], dtype=np.float32)
    visible = np.array([[name in image.boxes for name in names] for image in images])
    return Films(pixels.astype(np.float16), boxes, visible)
