"""How well `modules.inference.image_doubts.MIN_CHEST_AGREEMENT` separates frontal chest X-rays from lateral ones.

    python -m benchmarks frontal_check --films FOLDER --phantom data/phantom_two_views

FOLDER contains images/ and a list of them: annotation.json (split -> list of {image_path, view}) with optionally
images_without_notes.json (a list), as prepared from the COVID-19 image data collection; annotations.json (a list of
{image, view}); or labels.csv with the columns image and view. Views that begin with L are lateral. FOLDER may also
contain such folders, as `../shared/real` does. The phantom is a prepared data set with two views.
"""

import argparse
import json
from collections.abc import Iterator
from pathlib import Path

from data.errors import UserError, cannot_read
from data.images.image_store import read_image_bytes
from data.images.lungs import chest_agreement
from data.images.radiograph import read_radiograph
from data.records import SPLITS, is_frontal_view, read_records
from data.text.report_tables import read_table
from modules.inference.image_doubts import MIN_CHEST_AGREEMENT


def add_arguments(commands: argparse._SubParsersAction) -> None:
    """Register the command `frontal_check`."""
    parser = commands.add_parser("frontal_check", help="error rates of the check for frontal chest X-rays")
    parser.add_argument("--films", type=Path, metavar="FOLDER", help="real X-rays with their views")
    parser.add_argument("--phantom", type=Path, metavar="ROOT", help="a prepared data set with two views")
    parser.set_defaults(run=run)


def run(options: argparse.Namespace) -> None:
    """Print the share of images of each kind that the check flags."""
    sources = []
    if options.films:
        inner = sorted(folder for folder in options.films.glob("*") if list_of_images(folder) is not None)
        if list_of_images(options.films) is not None or not inner:
            sources.append(("real", read_xrays(options.films)))
        else:
            sources += [(folder.name, read_xrays(folder)) for folder in inner]
    if options.phantom:
        sources.append(("phantom", read_phantoms(options.phantom)))
    if not sources:
        raise UserError("No images to check: give --films, --phantom or both")
    print(f"{'images':<18} {'number':>6} {'flagged':>8}   agreement below {MIN_CHEST_AGREEMENT}")
    for title, images in sources:
        agreements: dict[bool, list[float]] = {True: [], False: []}
        for frontal, content in images:
            agreements[frontal].append(chest_agreement(read_radiograph(content).pixels))
        for frontal, values in agreements.items():
            if values:
                flagged = sum(value < MIN_CHEST_AGREEMENT for value in values)
                kind = f"{title} {'frontal' if frontal else 'lateral'}"
                print(f"{kind:<18} {len(values):>6} {flagged / len(values):>8.1%}")


def read_xrays(folder: Path) -> Iterator[tuple[bool, bytes]]:
    """Yield (is frontal, content) of every X-ray. Raises UserError if `folder` cannot be read or has another layout."""
    views = frontal_views(folder)
    try:
        for name, frontal in views.items():
            yield frontal, (folder / "images" / name).read_bytes()
    except OSError as error:
        raise cannot_read(error.filename or folder, error, "--films needs the listed images in images/") from error


def frontal_views(folder: Path) -> dict[str, bool]:
    """Return whether each image that the list of `folder` names is frontal.

    Raises UserError if `folder` cannot be read or has another layout.
    """
    path = list_of_images(folder) or folder / "annotation.json"
    try:
        return {name: not view.startswith("L") for name, view in _read_list(path)}
    except OSError as error:
        raise cannot_read(error.filename or folder, error, "--films needs annotation.json and images/") from error
    except (ValueError, KeyError, TypeError, AttributeError, IndexError) as error:
        raise UserError(f"{path} does not list images with image_path and view ({error})") from error


def list_of_images(folder: Path) -> Path | None:
    """Return the file of `folder` that lists its images; None if it has none."""
    named = (folder / name for name in ("labels.csv", "annotations.json", "annotation.json"))
    return next((path for path in named if path.is_file() and (folder / "images").is_dir()), None)


def _read_list(path: Path) -> list[tuple[str, str]]:
    """Return name and view of every listed image; images of annotations.json without a view are frontal."""
    if path.suffix == ".csv":
        return [(row["image"], row["view"]) for row in read_table(path, ("image", "view"))]
    content = json.loads(path.read_text(encoding="utf-8"))
    if path.name == "annotations.json":
        return [(entry["image"], entry.get("view") or "PA") for entry in content]
    entries = [entry for split in SPLITS for entry in content.get(split, ())]
    additional = path.with_name("images_without_notes.json")
    if additional.is_file():
        entries += json.loads(additional.read_text(encoding="utf-8"))
    return [(entry["image_path"][0], entry["view"]) for entry in entries]


def read_phantoms(root: Path) -> Iterator[tuple[bool, bytes]]:
    """Yield (is frontal, content) of every image of a prepared data set."""
    for split in SPLITS:
        for record in read_records(root, split):
            for view, image in zip(record["views"], record["images"], strict=True):
                yield is_frontal_view(view), read_image_bytes(root, image)
