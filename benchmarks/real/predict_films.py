"""Runs `main_predict.py` on folders of real X-rays: does any image end in an error, and how many are doubted?

    python -m benchmarks predict_films --checkpoint results/demo --data ../shared/real [--beam-size 1]

Every image in the list of a folder (`benchmarks/frontal_check.py` has the layouts) is given to the script. A result is
doubted if it warns that the image does not look like a frontal chest radiograph.
"""

import argparse
import json
import subprocess
import sys
import tempfile
from collections.abc import Sequence
from contextlib import closing
from dataclasses import dataclass, field
from pathlib import Path

from benchmarks.frontal_check import frontal_views, list_of_images
from data.console import Progress
from data.errors import UserError
from modules.inference.image_doubts import NOT_FRONTAL

# Images of one call of main_predict.py.
CALL_SIZE = 200


@dataclass
class Outcome:
    """What became of images of one kind.

    images, predicted, doubted   numbers of all, of those with a result, and of those with the warning
    failed                       names of the images without a result
    """

    images: int = 0
    predicted: int = 0
    doubted: int = 0
    failed: list[str] = field(default_factory=list)


def add_arguments(commands: argparse._SubParsersAction) -> None:
    """Register the command `predict_films`."""
    parser = commands.add_parser("predict_films", help="main_predict.py on real X-rays: errors and warnings")
    parser.add_argument("--checkpoint", required=True, metavar="DIR", help="a checkpoint, or a run folder (its best)")
    parser.add_argument("--data", type=Path, required=True, metavar="FOLDER", help="lists of images: ../shared/real")
    parser.add_argument("--beam-size", type=int, metavar="N", help="beams (default: as the checkpoint was tested)")
    parser.set_defaults(run=run)


def run(options: argparse.Namespace) -> None:
    """Predict every folder and print the table. Raises UserError, after it, if an image has no result."""
    folders = [folder for folder in (options.data, *sorted(options.data.glob("*"))) if list_of_images(folder)]
    if not folders:
        raise UserError(f"{options.data} contains no list of X-rays beside images/: give the folder of the data sets")
    settings = ["--checkpoint", options.checkpoint]
    if options.beam_size is not None:
        settings += ["--beam-size", str(options.beam_size)]
    print(f"{'images':<20}{'number':>8}{'predicted':>11}{'doubted':>9}")
    failed = []
    for folder in folders:
        for is_frontal, outcome in predict_folder(folder, settings).items():
            title = f"{folder.resolve().name} {'frontal' if is_frontal else 'lateral'}"
            share = f"{outcome.doubted / max(outcome.predicted, 1):.1%}"
            print(f"{title:<20}{outcome.images:>8}{outcome.predicted:>11}{outcome.doubted:>9}{share:>8}", flush=True)
            failed += [f"{folder.name}/{name}" for name in outcome.failed]
    if failed:
        raise UserError(f"{len(failed)} images have no result, {failed[0]} among them: see the messages above")


def predict_folder(folder: Path, settings: Sequence[str]) -> dict[bool, Outcome]:
    """Predict the images of a folder; return what became of its frontal (True) and lateral images (False)."""
    views = frontal_views(folder)
    names = list(views)
    warnings: dict[str, list[str]] = {}
    with closing(Progress(folder.name, "images", len(names))) as progress:
        for start in range(0, len(names), CALL_SIZE):
            chosen = names[start : start + CALL_SIZE]
            warnings |= predict_images([folder / "images" / name for name in chosen], settings)
            progress.advance(len(chosen))
    outcomes: dict[bool, Outcome] = {}
    for name, is_frontal in views.items():
        outcome = outcomes.setdefault(is_frontal, Outcome())
        outcome.images += 1
        if name in warnings:
            outcome.predicted += 1
            outcome.doubted += NOT_FRONTAL in warnings[name]
        else:
            outcome.failed.append(name)
    return outcomes


def predict_images(images: Sequence[Path], settings: Sequence[str]) -> dict[str, list[str]]:
    """Call main_predict.py; return the warnings of every image that has a result, by the name of its file."""
    with tempfile.TemporaryDirectory() as folder:
        command = [sys.executable, "main_predict.py", *settings, "--out", folder, *map(str, images)]
        subprocess.run(command, stdout=subprocess.DEVNULL, check=False)  # a missing result says that it failed
        results = [json.loads(path.read_text(encoding="utf-8")) for path in Path(folder).glob("*.json")]
    return {result["name"]: result["warnings"] for result in results}
