"""What a report costs whoever has images of their own: the first one, one after the other, and a folder at a time.

    python -m benchmarks predict --checkpoint results/demo --images data/phantom/images [--count 100] [--threads 2]

Seconds by the clock and by the processor (all threads together), with reading the image, without drawing and writing.
"""

import argparse
import time
from collections.abc import Callable
from pathlib import Path

import torch

from benchmarks.measure import at_least
from data.errors import UserError
from modules.inference.predictor import Predictor


def add_arguments(commands: argparse._SubParsersAction) -> None:
    """Register the command `predict`."""
    parser = commands.add_parser("predict", help="seconds a report: the first, one by one, and a folder at a time")
    parser.add_argument("--checkpoint", required=True, metavar="DIR", help="a checkpoint, or a run folder (its best)")
    parser.add_argument("--images", required=True, type=Path, metavar="FOLDER", help="holds image files")
    parser.add_argument("--count", type=int, default=100, metavar="N", help="so many images (%(default)s)")
    parser.add_argument("--threads", type=int, default=2, metavar="N", help="of PyTorch (%(default)s)")
    parser.set_defaults(run=run)


def run(options: argparse.Namespace) -> None:
    """Measure and print a line for each way. Raises UserError where there is no image."""
    at_least(1, options, "threads", "count")
    torch.set_num_threads(options.threads)
    if not options.images.is_dir():
        raise UserError(f"--images {options.images}: there is no such folder")
    images = sorted(path for path in options.images.iterdir() if path.is_file())[: options.count]
    if not images:
        raise UserError(f"{options.images} holds no image: give a folder of image files")
    predictors: list[Predictor] = []
    ways: dict[str, tuple[int, Callable[[], object]]] = {
        "loading the model": (1, lambda: predictors.append(Predictor(options.checkpoint, device="cpu"))),
        "first report": (1, lambda: predictors[0].predict(images[:1])),
        "one by one, an image": (len(images), lambda: [predictors[0].predict([image]) for image in images]),
        "as a folder, an image": (len(images), lambda: predictors[0].predict(images)),
    }
    print(f"{options.checkpoint}, {len(images)} images of {options.images}, CPU, {options.threads} threads")
    print(f"{'':<24} {'seconds':>9} {'processor':>10}")
    for name, (share, work) in ways.items():
        clock, processor = time.perf_counter(), time.process_time()
        work()
        clock, processor = time.perf_counter() - clock, time.process_time() - processor
        print(f"{name:<24} {clock / share:>9.4f} {processor / share:>10.4f}", flush=True)
