"""Measures the time per report: of the first one, one by one, and a folder at once.

    python -m benchmarks predict --checkpoint results/demo --images data/phantom/images [--count 100] [--threads 2]

Wall-clock and processor seconds (of all threads), including reading the image, without drawing and writing results.
"""

import argparse
import time
from collections.abc import Callable
from pathlib import Path

import torch

from benchmarks.support.measure import require_at_least
from data.errors import UserError, missing
from modules.inference.predictor import Predictor


def add_arguments(commands: argparse._SubParsersAction) -> None:
    """Register the command `predict`."""
    parser = commands.add_parser("predict", help="seconds per report: the first, one by one, and a folder at once")
    parser.add_argument("--checkpoint", required=True, metavar="DIR", help="a checkpoint, or a run folder (its best)")
    parser.add_argument("--images", required=True, type=Path, metavar="FOLDER", help="folder of image files")
    parser.add_argument("--count", type=int, default=100, metavar="N", help="number of images (default: %(default)s)")
    parser.add_argument("--threads", type=int, default=2, metavar="N", help="PyTorch threads (default: %(default)s)")
    parser.set_defaults(run=run)


def run(options: argparse.Namespace) -> None:
    """Measure and print one line per way. Raises UserError if there are no images."""
    require_at_least(1, options, "threads", "count")
    torch.set_num_threads(options.threads)
    if not options.images.is_dir():
        raise missing("folder", options.images, "give --images a folder of image files")
    images = sorted(path for path in options.images.iterdir() if path.is_file())[: options.count]
    if not images:
        raise UserError(f"{options.images} is empty: give --images a folder of image files")
    predictors: list[Predictor] = []
    ways: dict[str, tuple[int, Callable[[], object]]] = {
        "loading the model": (1, lambda: predictors.append(Predictor(options.checkpoint, device="cpu"))),
        "first report": (1, lambda: predictors[0].predict(images[:1])),
        "one by one, per image": (len(images), lambda: [predictors[0].predict([image]) for image in images]),
        "as a folder, per image": (len(images), lambda: predictors[0].predict(images)),
    }
    print(f"{options.checkpoint}, {len(images)} images of {options.images}, CPU, {options.threads} threads")
    print(f"{'':<24} {'seconds':>9} {'processor':>10}")
    for name, (count, work) in ways.items():
        clock, processor = time.perf_counter(), time.process_time()
        work()
        clock, processor = time.perf_counter() - clock, time.process_time() - processor
        print(f"{name:<24} {clock / count:>9.4f} {processor / count:>10.4f}", flush=True)
