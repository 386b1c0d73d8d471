"""Prepares the data set of a source: `prepare`, and the options that the commands of all sources share.

Studies are built by all cores and written in parts (`data.sources.parts`), in a work folder beside the data set
(`data.sources.work_folder`) until everything is complete. An interrupted preparation is resumed by the same command.
"""

import shutil
from argparse import ArgumentParser
from collections.abc import Sequence
from pathlib import Path

import yaml

from data.errors import UserError, reason, wrong_value
from data.images.boxes import read_boxes
from data.images.image_store import IMAGE_SIDE, JPEG_QUALITY
from data.ontology import Anatomy
from data.processes.worker_pool import available_cores
from data.records import SPLITS
from data.sources.boxes import describe_boxes, describe_extra_boxes, replace_boxes
from data.sources.fingerprints import vocabulary_fingerprints
from data.sources.parts import join_records, read_shard_entries, read_totals, write_parts
from data.sources.priors import link_priors
from data.sources.source import Source
from data.sources.work_folder import differing_settings, lock, start_or_resume, work_folder
from data.storage.prepared_files import write_description, write_manifest
from data.storage.statistics import write_derived_files

# Increase when the same sources and options give a different data set than before.
VERSION = 1
# Keys of `Source.describe` that follow from the others, or are not known before the studies are listed.
_NOT_SETTINGS = ("list", "expected", "found")
_SMALLEST_IMAGE = 32
_OTHER_OUT = "delete it, or choose another --out"


def add_common_arguments(parser: ArgumentParser) -> None:
    """Declare the options that all sources with reports share."""
    add_source_argument(parser)
    add_output_arguments(parser)
    parser.add_argument(
        "--labels",
        type=Path,
        default=None,
        metavar="FILE",
        help="observations of another labeler, instead of the data set's default",
    )
    parser.add_argument(
        "--boxes",
        type=Path,
        default=None,
        metavar="FILE",
        help="boxes of regions as JSON lines, as python -m modules.region_boxes writes them",
    )


def add_source_argument(parser: ArgumentParser) -> None:
    """Declare the option for the original download."""
    parser.add_argument(
        "--source",
        type=Path,
        action="append",
        required=True,
        metavar="PATH",
        help="file or folder of the original download; may be repeated",
    )


def add_output_arguments(parser: ArgumentParser) -> None:
    """Declare the options about the folder to write."""
    parser.add_argument("--out", type=Path, required=True, help="folder to write")
    parser.add_argument(
        "--image-size",
        type=int,
        default=IMAGE_SIDE,
        help="short side of the stored images in pixels; smaller images keep their size (default: %(default)s)",
    )
    parser.add_argument("--workers", type=int, default=None, help="number of processes (default: one per core)")


def prepare(
    source: Source, out: str | Path, image_size: int, workers: int | None = None, boxes: str | Path | None = None
) -> dict:
    """Prepare the data set of `source` in the folder `out`; return the content of its dataset.yaml.

    image_size   short side of the stored images in pixels; smaller images keep their size
    workers      number of processes; None for one per core
    boxes        file of boxes that replace those of the graphs, see `data.images.boxes.read_boxes`

    An interrupted call with the same settings is resumed; a finished data set is left as it is. Raises UserError if
    `out` is inside a source, contains something else, is being prepared by another process or cannot be written, if
    the settings differ from those of the interrupted call, if no study is usable, and if the source states a prior that
    is not an earlier study of the same patient in the same split.
    """
    out = Path(out)
    boxes = None if boxes is None else Path(boxes)
    workers = available_cores() if workers is None else workers
    _check_arguments(source, out, image_size, workers, boxes)
    settings = _settings(source, image_size, boxes)
    for line in settings.get("distributions", ()):
        print(f"{source.name}: {line}")
    folder = work_folder(out)
    description = find_prepared(out, source.name)
    if description is not None and (differences := differing_settings(description, settings)):
        raise UserError(f"{out} was prepared with different settings ({differences}): {_OTHER_OUT}")
    try:
        if description is None:
            folder.mkdir(parents=True, exist_ok=True)
            with lock(folder, out):
                start_or_resume(folder, settings)
                write_parts(source, folder, image_size, workers)
                description = _complete(source, folder, out, settings, boxes)
            _print_summary(out, description)
        else:
            print_already_prepared(out, description, settings)
        shutil.rmtree(folder, ignore_errors=True)
    except OSError as error:
        where = f"{error.filename}: " if error.filename else ""
        raise UserError(
            f"Preparing {out} stopped ({where}{reason(error)}): fix that and run the same command again"
        ) from error
    return description


def find_prepared(out: Path, name: str) -> dict | None:
    """Return the content of dataset.yaml if `out` is the data set `name`; None if `out` is empty or does not exist.

    Raises UserError if it is anything else.
    """
    if not out.exists() or (out.is_dir() and not any(out.iterdir())):
        return None
    try:
        found = yaml.safe_load((out / "dataset.yaml").read_text(encoding="utf-8"))
    except (OSError, yaml.YAMLError, ValueError, RecursionError) as error:
        raise UserError(f"{out} exists and is not a prepared data set: {_OTHER_OUT}") from error
    if not isinstance(found, dict) or found.get("name") != name:
        raise UserError(f"{out} holds another data set: {_OTHER_OUT}")
    return found


def print_already_prepared(out: Path, description: dict, settings: dict) -> None:
    """Print in one line that `out` needs no work, and how its boxes differ from those that the command asks for."""
    difference = describe_extra_boxes(description, settings)
    print(f"{out} holds this data set already" + (f", but {difference}" if difference else ""))


# Before the work


def check_outside_sources(sources: Sequence[Path], out: Path) -> None:
    """Raise UserError if `out` is inside one of the `sources`."""
    for path in sources:
        if out.resolve().is_relative_to(path.resolve()):
            raise UserError(f"--out {out} is inside the source {path}, which is never changed: choose another --out")


def _check_arguments(source: Source, out: Path, image_size: int, workers: int, boxes: Path | None) -> None:
    if image_size < _SMALLEST_IMAGE:
        raise wrong_value("--image-size", image_size, f"must be at least {_SMALLEST_IMAGE}")
    if workers < 1:
        raise wrong_value("--workers", workers, "must be at least 1")
    check_outside_sources(source.paths, out)
    if boxes is not None and boxes.is_dir():
        raise UserError(
            f"--boxes {boxes} is a folder, but needs a file: run python -m data.prepare {source.name} ... --out {out} "
            f"without --boxes, then python -m modules.region_boxes --checkpoint {boxes} --data {out}"
        )


def _settings(source: Source, image_size: int, boxes: Path | None) -> dict:
    """Return everything that determines the result, as it reads back from YAML."""
    described = {key: value for key, value in source.describe().items() if key not in _NOT_SETTINGS}
    settings = {
        "name": source.name,
        "version": VERSION,
        "image_size": image_size,
        "jpeg_quality": JPEG_QUALITY,
        **described,
        "vocabularies": vocabulary_fingerprints(),
    }
    if boxes is not None:
        settings["boxes"] = describe_boxes(boxes, "file")
    return yaml.safe_load(yaml.safe_dump(settings, sort_keys=False))


# After the work


def _complete(source: Source, folder: Path, out: Path, settings: dict, boxes: Path | None) -> dict:
    """Join the parts, write dataset.yaml and manifest, replace the boxes, index, and move the data set to its place."""
    dataset = folder / "dataset"
    totals = read_totals(folder)
    counts = {split: totals["counts"][split] for split in SPLITS}
    if not sum(counts.values()):
        reasons = ", ".join(f"{why}: {count}" for why, count in sorted(totals["dropped"].items()))
        raise UserError(
            f"No study of {source.name} can be used ({reasons or 'the source lists none'}): "
            f"check --source, and delete {folder}"
        )
    join_records(folder)
    priors = link_priors(dataset, totals["warnings"])
    described = source.describe()
    listed = {"list": described["list"]} if "list" in described else {}
    description = settings | listed | {
        "counts": counts,
        "images": totals["counts"]["images"],
        "dropped": dict(sorted(totals["dropped"].items())),
        "warnings": dict(sorted(totals["warnings"].items())),
        **_compare_expected(described, counts),
    }
    if priors:
        description["studies_with_prior"] = priors
    write_description(dataset, description)
    write_manifest(dataset, read_shard_entries(folder))
    if boxes is not None:
        given = read_boxes(boxes, "--boxes", Anatomy.load())
        description["graphs_with_given_boxes"] = replace_boxes(dataset, given, settings["boxes"], f"--boxes {boxes}")
    else:
        write_derived_files(dataset)
    if out.is_dir():
        out.rmdir()
    dataset.rename(out)
    return description


def _compare_expected(described: dict, counts: dict[str, int]) -> dict:
    """Return `expected`, the published numbers, and `found`, the actual number for each."""
    expected, found = described.get("expected", {}), counts | described.get("found", {})
    return {"expected": expected, "found": {name: found.get(name, 0) for name in expected}}


def _print_summary(out: Path, description: dict) -> None:
    counts = description["counts"]
    by_split = ", ".join(f"{count} {split}" for split, count in counts.items())
    listed = f", list {description['list']}" if "list" in description else ""
    print(f"{out}: {sum(counts.values())} studies ({by_split}), {description['images']} images{listed}")
    if "studies_with_prior" in description:
        print(f"  studies with a prior: {description['studies_with_prior']}")
    for title in ("dropped", "warnings"):
        for why, count in description[title].items():
            print(f"  {title}: {why}: {count}")
    for name, number in description["expected"].items():
        if description["found"][name] != number:
            print(f"  differs: {name}: {description['found'][name]} instead of {number}")
