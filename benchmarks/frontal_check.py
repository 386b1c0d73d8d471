"""How well the check for frontal chest X-rays (`modules.inference.predictor.LEAST_CHEST_AGREEMENT`) tells them from lateral ones.

    python -m benchmarks frontal_check --films FOLDER --phantom data/phantom_two_views

FOLDER holds annotation.json (split -> list of {image_path, view}), images/, and maybe images_without_notes.json (a
list), as the prepared COVID-19 image data collection does; views beginning with L are lateral. The phantom is a
prepared data set with two views.
"""

import argparse
import json
from collections.abc import Iterator
from pathlib import Path

from data.errors import UserError
from data.images.atlas import chest_agreement
from data.images.image_store import read_image_bytes
from data.images.radiograph import read_radiograph
from data.records import SPLITS, is_frontal_view, read_records
from modules.inference.predictor import LEAST_CHEST_AGREEMENT


def add_arguments(commands: argparse._SubParsersAction) -> None:
    """Register the command `frontal_check`."""
    parser = commands.add_parser("frontal_check", help="error rates of the check for frontal chest X-rays")
    parser.add_argument("--films", type=Path, metavar="FOLDER", help="real films with their views")
    parser.add_argument("--phantom", type=Path, metavar="ROOT", help="a prepared data set with two views")
    parser.set_defaults(run=run)


def run(options: argparse.Namespace) -> None:
    """Print how many images of each kind are doubted."""
    sources = []
    if options.films:
        sources.append(("real", films(options.films)))
    if options.phantom:
        sources.append(("phantom", phantoms(options.phantom)))
    if not sources:
        raise UserError("Give --films, --phantom or both")
    print(f"{'images':<18} {'number':>6} {'doubted':>8}   agreement below {LEAST_CHEST_AGREEMENT}")
    for title, images in sources:
        agreements: dict[bool, list[float]] = {True: [], False: []}
        for frontal, content in images:
            agreements[frontal].append(chest_agreement(read_radiograph(content).pixels))
        for frontal, values in agreements.items():
            if values:
                doubted = sum(value < LEAST_CHEST_AGREEMENT for value in values)
                kind = f"{title} {'frontal' if frontal else 'lateral'}"
                print(f"{kind:<18} {len(values):>6} {doubted / len(values):>8.1%}")


def films(folder: Path) -> Iterator[tuple[bool, bytes]]:
    """(frontal, file) of every film. Raises UserError where the folder is of another form."""
    try:
        annotation = json.loads((folder / "annotation.json").read_text(encoding="utf-8"))
        entries = [entry for split in SPLITS for entry in annotation.get(split, ())]
        further = folder / "images_without_notes.json"
        if further.is_file():
            entries += json.loads(further.read_text(encoding="utf-8"))
        for entry in entries:
            yield not entry["view"].startswith("L"), (folder / "images" / entry["image_path"][0]).read_bytes()
    except OSError as error:
        raise UserError(f"Cannot read the films of {folder}: {error}") from error
    except (ValueError, KeyError, TypeError, AttributeError, IndexError) as error:
        raise UserError(f"{folder}/annotation.json does not list films with image_path and view ({error})") from error


def phantoms(root: Path) -> Iterator[tuple[bool, bytes]]:
    """(frontal, file) of every image of a prepared data set."""
    for split in SPLITS:
        for record in read_records(root, split):
            for view, image in zip(record["views"], record["images"], strict=True):
                yield is_frontal_view(view), read_image_bytes(root, image)
