"""From a source to a prepared data set: built by all cores, packed, resumable, with a summary at the end.

A source lists its studies as light plans, in an order that is always the same. Worker processes build them: read the
images, the report and the annotations. This module packs every `STUDIES_PER_SHARD` plans into one part: a tar shard of
images and the records that refer to it. A part counts as finished once its `.json` is there; whatever happens before
then leaves nothing behind that counts, and the same command goes on with the first part that is not finished. The
number of workers does not change a byte.

Everything lies in a folder `.NAME.unfinished` beside the data set until it is complete:

    settings.yaml            what is being prepared; other settings are refused
    parts/00003.jsonl .json  records and counts of the fourth part
    dataset/                 the data set, renamed to its place at the very end
"""

import fcntl
import hashlib
import json
import os
import shutil
from argparse import ArgumentParser
from collections import Counter
from collections.abc import Iterable, Iterator, Sequence, Sized
from contextlib import closing, contextmanager
from dataclasses import dataclass, field
from functools import partial
from itertools import groupby, islice
from pathlib import Path
from typing import Any, Protocol

import numpy as np
import yaml

from data.console import Progress
from data.errors import UserError
from data.images import boxes as box_annotation
from data.images.image_store import IMAGE_SIDE, JPEG_QUALITY, ShardWriter, encode_image
from data.records import SPLITS
from data.sources.fingerprints import vocabulary_fingerprints
from data.worker_pool import available_cores, ordered_map

# Counts up when the same sources and options give another data set than before.
VERSION = 1
# Some 60 MiB of images with a short side of 256 pixels; what a kill loses at most.
STUDIES_PER_SHARD = 2048
_STUDIES_PER_JOB = 4


class Plan(Protocol):
    """A study to be built: small and picklable, and whatever else its source wants to know of it."""

    id: str
    split: str


@dataclass
class PreparedImage:
    """An image at any resolution.

    pixels   uint8 [H, W], gray
    view     "PA", "AP", "FRONTAL", "LATERAL" or "" where nobody recorded it
    """

    pixels: np.ndarray
    view: str


@dataclass
class Study:
    """A study as its record will hold it.

    images         at least one; the frontal one first, if there is one
    report         raw text
    observations   name -> 1, 0 or -1 of those that are known; None: nothing is
    graph          {"box_source": ..., "regions": ...}; None: there is none
    warnings       short reasons why something of it was left out, to be counted: no report text, no paths
    """

    id: str
    split: str
    images: tuple[PreparedImage, ...]
    report: str
    observations: dict[str, int] | None
    graph: dict | None
    warnings: tuple[str, ...] = ()


@dataclass
class Dropped:
    """A study that cannot be used, and a short reason to be counted: no report text, no paths."""

    id: str
    reason: str


class Source(Protocol):
    """Where a data set comes from. A source that has a length tells how many plans there are, for the time left.

    name    of the data set: "iu_xray", ...
    paths   the files and folders that it reads; nothing is ever written into them
    """

    name: str
    paths: Sequence[Path]

    def describe(self) -> dict:
        """What dataset.yaml says about the source, in plain YAML, without paths of this machine.

        Whatever decides the result belongs here: a data set is gone on with only where all of it is as it was. Keys
        that mean something to `prepare`:

        distributions   list of lines: what was recognised; printed
        expected        name -> number that is known; compared with the studies by split ("train", "val", "test") and
                        with `found`, and printed where it differs
        found           name -> number of that name; may grow until all plans are made, like `expected`
        """
        ...

    def plans(self) -> Iterator[Plan | Dropped]:
        """The studies, always in the same order; called once, in the main process.

        A study that is known to be unusable may be dropped here. Of several plans with one id the first counts.
        """
        ...

    def build(self, plan: Any) -> Study | Dropped:
        """The study of a plan; called in a worker process, so that files are to be opened here.

        The worker has the source as it was before `plans`: what comes to be known there goes into the plan. What is
        damaged is dropped, or left out with a warning; a UserError ends the preparation.
        """
        ...


def add_common_arguments(parser: ArgumentParser) -> None:
    """Declare the options that all sources have in common."""
    parser.add_argument(
        "--source",
        type=Path,
        action="append",
        required=True,
        metavar="PATH",
        help="file or folder of the original download; may be given several times",
    )
    parser.add_argument("--out", type=Path, required=True, help="folder to write")
    parser.add_argument(
        "--image-size",
        type=int,
        default=IMAGE_SIDE,
        help="short side of the stored images in pixels; smaller ones stay (%(default)s)",
    )
    parser.add_argument("--workers", type=int, default=None, help="processes (one a core)")
    parser.add_argument(
        "--labels",
        type=Path,
        default=None,
        metavar="FILE",
        help="observations by another labeler, instead of the data set's default",
    )
    parser.add_argument(
        "--boxes",
        type=Path,
        default=None,
        metavar="FILE|CHECKPOINT",
        help="boxes of regions: JSON lines, or a checkpoint whose localizer finds them",
    )


def prepare(
    source: Source, out: str | Path, image_size: int, workers: int | None = None, boxes: str | Path | None = None
) -> dict:
    """Prepare the data set of `source` in the folder `out`; returns the content of its dataset.yaml.

    image_size   short side of the stored images in pixels; smaller images stay as they are
    workers      processes; None: one a core
    boxes        boxes that replace those of the graphs, see `data.images.boxes`

    Goes on where an earlier call with the same settings was interrupted, and changes nothing where the data set is
    there already. Raises UserError for an `out` that lies in a source, holds something else, is being prepared by
    another process or cannot be written, for other settings than those of an interrupted call, and where no study is
    left.
    """
    out = Path(out)
    workers = available_cores() if workers is None else workers
    _check(source, out, image_size, workers)
    settings = _settings(source, image_size, boxes)
    for line in settings.get("distributions", ()):
        print(f"{source.name}: {line}")
    unfinished = out.parent / f".{out.name}.unfinished"
    found = _found_already(out, settings)
    try:
        if found is None:
            unfinished.mkdir(parents=True, exist_ok=True)
            with locked(unfinished, out):
                begin(unfinished, settings)
                _pack(source, unfinished, image_size, workers)
                found = _complete(source, unfinished, out, settings, boxes)
            _print_summary(out, found)
        else:
            print(f"{out} holds this data set already")
        shutil.rmtree(unfinished, ignore_errors=True)
    except OSError as error:
        where = f"{error.filename}: " if error.filename else ""
        raise UserError(
            f"Preparing {out} stopped ({where}{error.strerror or error}): mend that and run the same command again"
        ) from error
    return found


# Before the work


def _check(source: Source, out: Path, image_size: int, workers: int) -> None:
    if image_size < 32:
        raise UserError(f"image-size is {image_size}: give at least 32")
    if workers < 1:
        raise UserError(f"workers is {workers}: give a number from 1 on")
    for path in source.paths:
        if out.resolve().is_relative_to(path.resolve()):
            raise UserError(f"--out {out} lies in the source {path}, which stays untouched: give another --out")


def _settings(source: Source, image_size: int, boxes: str | Path | None) -> dict:
    """All that decides the result, as YAML gives it back."""
    described = {key: value for key, value in source.describe().items() if key not in ("expected", "found")}
    settings = {
        "name": source.name,
        "version": VERSION,
        "image_size": image_size,
        "jpeg_quality": JPEG_QUALITY,
        **described,
        "vocabularies": vocabulary_fingerprints(),
    }
    if boxes is not None:
        settings["boxes"] = box_annotation.describe_boxes(Path(boxes))
    return yaml.safe_load(yaml.safe_dump(settings, sort_keys=False))


def _found_already(out: Path, settings: dict) -> dict | None:
    """The content of dataset.yaml where `out` holds the data set of these settings; None where it holds nothing.

    Raises UserError where it holds something else.
    """
    if not out.exists() or (out.is_dir() and not any(out.iterdir())):
        return None
    remedy = "delete it or give another --out"
    try:
        found = yaml.safe_load((out / "dataset.yaml").read_text(encoding="utf-8"))
    except (OSError, yaml.YAMLError, UnicodeDecodeError) as error:
        raise UserError(f"{out} exists and is no prepared data set: {remedy}") from error
    if not isinstance(found, dict) or found.get("name") != settings["name"]:
        raise UserError(f"{out} holds another data set: {remedy}")
    if differing := _differing(found, settings):
        raise UserError(f"{out} was prepared with another {differing}: {remedy}")
    return found


def _differing(found: dict, settings: dict) -> str:
    """The names of the settings that `found` has otherwise, to be read; empty where all agree."""
    names = []
    for key, value in settings.items():
        other = found.get(key)
        if isinstance(value, dict) and isinstance(other, dict):
            names += [f"{key}.{name}" for name in {**value, **other} if value.get(name) != other.get(name)]
        elif value != other:
            names.append(key)
    return ", ".join(names)


@contextmanager
def locked(folder: Path, out: Path) -> Iterator[None]:
    """Holds the folder of unfinished work on `out` against other processes until this one ends, however it ends.

    Raises UserError where another process holds it.
    """
    with (folder / "lock").open("wb") as file:
        try:
            fcntl.lockf(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except (BlockingIOError, PermissionError) as error:
            raise UserError(f"Another process is preparing {out}: wait for it, or give another --out") from error
        yield


def begin(unfinished: Path, settings: dict) -> None:
    """Start the work of these settings in the folder, or go on with it.

    Raises UserError where other settings were begun there, naming them, and where it cannot be told which.
    """
    images = unfinished / "dataset" / "images"
    if not images.is_dir():
        # Nothing was done, or the end of it was: then the parts describe a data set that is elsewhere by now.
        shutil.rmtree(unfinished / "parts", ignore_errors=True)
        images.mkdir(parents=True)
    (unfinished / "parts").mkdir(exist_ok=True)
    path = unfinished / "settings.yaml"
    if not path.exists():
        _write_yaml(path, settings)
    try:
        found = yaml.safe_load(path.read_text(encoding="utf-8"))
    except (yaml.YAMLError, UnicodeDecodeError):
        found = None
    if not isinstance(found, dict):
        raise UserError(f"{path} is damaged: delete the folder {unfinished}")
    if differing := _differing(found, settings):
        raise UserError(
            f"{unfinished} holds an interrupted preparation with another {differing}: "
            "repeat that command, delete the folder, or give another --out"
        )


# The work


@dataclass
class _Built:
    """What a worker hands back of a study: its record without the images' references, or why it was dropped."""

    id: str
    record: dict | None = None
    images: list[bytes] = field(default_factory=list)
    warnings: tuple[str, ...] = ()
    dropped: str | None = None


@dataclass
class _Part:
    """The files of one part, and what is counted of it."""

    unfinished: Path
    number: int

    @property
    def shard(self) -> str:
        """The path of its images below the data set's folder."""
        return f"images/{self.number:05d}.tar"

    @property
    def records(self) -> Path:
        """Its records."""
        return self.unfinished / f"parts/{self.number:05d}.jsonl"

    @property
    def state(self) -> Path:
        """Its counts; where this file is, the part is finished."""
        return self.unfinished / f"parts/{self.number:05d}.json"


def _pack(source: Source, unfinished: Path, image_size: int, workers: int) -> None:
    """Build all studies that are not in a finished part."""
    progress = Progress(source.name, "studies", len(source) if isinstance(source, Sized) else None)
    jobs = _jobs(source, unfinished, progress)
    with closing(progress), closing(ordered_map(partial(_build, source, image_size), jobs, workers)) as results:
        for number, built in groupby(results, key=lambda result: result[0]):
            _write_part(_Part(unfinished, number), (study for _, studies in built for study in studies), progress)


def _jobs(source: Source, unfinished: Path, progress: Progress) -> Iterator[tuple[int, list[Plan | Dropped]]]:
    """The number of a part and some plans of it, for every part that is not finished."""
    for number, plans in enumerate(_batched(_without_repetition(source.plans()), STUDIES_PER_SHARD)):
        state = _Part(unfinished, number).state
        if not state.exists():
            yield from ((number, job) for job in _batched(plans, _STUDIES_PER_JOB))
        elif json.loads(state.read_text(encoding="utf-8"))["plans"] == _digest(plan.id for plan in plans):
            progress.found_done(len(plans))
        else:
            raise UserError(f"The source lists other studies than when {unfinished} was begun: delete that folder")


def _without_repetition(plans: Iterable[Plan | Dropped]) -> Iterator[Plan | Dropped]:
    """The plans, those with an id that was there before dropped."""
    known = set()
    for plan in plans:
        yield plan if plan.id not in known else Dropped(plan.id, "a study of this id came before")
        known.add(plan.id)


def _batched(items: Iterable[Any], size: int) -> Iterator[list[Any]]:
    items = iter(items)
    while batch := list(islice(items, size)):
        yield batch


def _digest(ids: Iterable[str]) -> str:
    digest = hashlib.sha256()
    for study_id in ids:
        digest.update(json.dumps(study_id).encode())
    return digest.hexdigest()


def _build(source: Source, image_size: int, job: tuple[int, list[Plan | Dropped]]) -> tuple[int, list[_Built]]:
    """Build the studies of a job, in a worker process."""
    number, plans = job
    return number, [_build_study(source, image_size, plan) for plan in plans]


def _build_study(source: Source, image_size: int, plan: Plan | Dropped) -> _Built:
    study = plan if isinstance(plan, Dropped) else source.build(plan)
    if isinstance(study, Dropped):
        return _Built(plan.id, dropped=study.reason)
    if not study.images:
        return _Built(plan.id, warnings=study.warnings, dropped="no image")
    record = {
        "id": study.id,
        "split": study.split,
        "images": [],
        "views": [image.view for image in study.images],
        "report": study.report,
        "observations": study.observations,
        "graph": study.graph,
    }
    images = [encode_image(image.pixels, image_size) for image in study.images]
    return _Built(plan.id, record, images, study.warnings)


def _write_part(part: _Part, studies: Iterable[_Built], progress: Progress) -> None:
    """Write the images and records of a part, then its counts."""
    counts, dropped, warnings = Counter(), Counter(), Counter()
    ids = []
    shard_path = part.unfinished / "dataset" / part.shard
    with _written(shard_path) as shard_file, _written(part.records) as records_file:
        shard = ShardWriter(shard_file, part.shard)
        for study in studies:
            ids.append(study.id)
            warnings.update(study.warnings)
            if study.record is None:
                dropped[study.dropped] += 1
            else:
                counts[study.record["split"]] += 1
                counts["images"] += len(study.images)
                study.record["images"] = [
                    shard.add(study.id, position, encoded) for position, encoded in enumerate(study.images)
                ]
                records_file.write(json.dumps(study.record).encode() + b"\n")
            progress.advance(1)
        shard.close()
    state = {"plans": _digest(ids), "counts": counts, "dropped": dropped, "warnings": warnings}
    with _written(part.state) as file:
        file.write(json.dumps(state).encode())


@contextmanager
def _written(path: Path) -> Iterator[Any]:
    """A binary file that gets its name once it is complete and on the disk."""
    temporary = path.with_name(f"{path.name}.partial")
    with temporary.open("wb") as file:
        yield file
        file.flush()
        os.fsync(file.fileno())
    temporary.replace(path)


# After the work


def _complete(source: Source, unfinished: Path, out: Path, settings: dict, boxes: str | Path | None) -> dict:
    """Put the parts together, add boxes, write dataset.yaml, and move the data set to its place."""
    dataset = unfinished / "dataset"
    states = [json.loads(path.read_text(encoding="utf-8")) for path in sorted(unfinished.glob("parts/*.json"))]
    totals = {
        key: sum((Counter(state[key]) for state in states), Counter()) for key in ("counts", "dropped", "warnings")
    }
    counts = {split: totals["counts"][split] for split in SPLITS}
    if not sum(counts.values()):
        reasons = ", ".join(f"{reason}: {count}" for reason, count in sorted(totals["dropped"].items()))
        raise UserError(
            f"No study of {source.name} can be used ({reasons or 'the source lists none'}): "
            f"look at --source, and delete {unfinished}"
        )
    with _written(dataset / "records.jsonl") as records:
        for path in sorted(unfinished.glob("parts/*.jsonl")):
            with path.open("rb") as part:
                shutil.copyfileobj(part, records)
    description = settings | {
        "counts": counts,
        "images": totals["counts"]["images"],
        "dropped": dict(sorted(totals["dropped"].items())),
        "warnings": dict(sorted(totals["warnings"].items())),
        **_expectations(source, counts),
    }
    _write_yaml(dataset / "dataset.yaml", description)
    if boxes is not None:
        description["graphs_with_given_boxes"] = box_annotation.replace_boxes(
            dataset, Path(boxes), unfinished / "boxes.jsonl"
        )
        _write_yaml(dataset / "dataset.yaml", description)
    if out.is_dir():
        out.rmdir()
    dataset.rename(out)
    return description


def _expectations(source: Source, counts: dict[str, int]) -> dict:
    """`expected`: every known number, and `found`: what there is instead."""
    described = source.describe()
    expected, found = described.get("expected", {}), counts | described.get("found", {})
    return {"expected": expected, "found": {name: found.get(name, 0) for name in expected}}


def _write_yaml(path: Path, content: dict) -> None:
    with _written(path) as file:
        file.write(yaml.safe_dump(content, sort_keys=False).encode())


def _print_summary(out: Path, description: dict) -> None:
    counts = description["counts"]
    by_split = ", ".join(f"{count} {split}" for split, count in counts.items())
    print(f"{out}: {sum(counts.values())} studies ({by_split}), {description['images']} images")
    for title in ("dropped", "warnings"):
        for reason, count in description[title].items():
            print(f"  {title}: {reason}: {count}")
    for name, number in description["expected"].items():
        if description["found"][name] != number:
            print(f"  differs: {name}: {description['found'][name]} instead of {number}")
