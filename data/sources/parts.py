"""Builds the studies of a source in worker processes and writes them in parts.

A part is one tar shard of images with the records that refer to it, from `STUDIES_PER_SHARD` plans. It is finished
once its `.json` exists; an interrupted preparation resumes with the first unfinished part. The number of workers does
not change a byte.

    dataset/images/00003.tar   images of the fourth part
    parts/00003.jsonl          its records
    parts/00003.json           its counts, with size and SHA-256 of both files, written last

A resumed preparation builds again a part that is not the one of its state, and one of an earlier version without them.
"""

import hashlib
import json
import shutil
import sys
from collections import Counter
from collections.abc import Iterable, Iterator, Sized
from contextlib import closing
from dataclasses import dataclass, field
from functools import partial
from itertools import groupby, islice
from pathlib import Path
from typing import Any

from data.console import Progress
from data.errors import UserError, reason
from data.images.image_store import ShardWriter, encode_image
from data.processes.worker_pool import ordered_map
from data.records import CONTEXT_KEYS
from data.sources.source import Dropped, Plan, Source
from data.storage.atomic_files import atomic_file
from data.storage.manifest import MALFORMED_MANIFEST, FileEntry, file_entry, seal, unseal

# About 60 MiB of images with a short side of 256 pixels. A kill loses at most this much work.
STUDIES_PER_SHARD = 2048
_STUDIES_PER_JOB = 4


@dataclass
class _Built:
    """What a worker returns for a study: its record, still without image references, or why it was dropped."""

    id: str
    record: dict | None = None
    images: list[bytes] = field(default_factory=list)
    warnings: tuple[str, ...] = ()
    dropped: str | None = None


@dataclass
class _Part:
    """The files of one part."""

    folder: Path
    number: int

    @property
    def shard(self) -> str:
        """Path of its images relative to the data set."""
        return f"images/{self.number:05d}.tar"

    @property
    def records(self) -> Path:
        """Its records."""
        return self.folder / f"parts/{self.number:05d}.jsonl"

    @property
    def state(self) -> Path:
        """Its counts and digests; the part is finished if this file exists."""
        return self.folder / f"parts/{self.number:05d}.json"

    def files(self) -> dict[str, Path]:
        """Its images and records, by their names in the state."""
        return {"shard": self.folder / "dataset" / self.shard, "records": self.records}


def write_parts(source: Source, folder: Path, image_size: int, workers: int) -> None:
    """Build all studies that are not in a finished part, and write their parts into the work folder."""
    progress = Progress(source.name, "studies", len(source) if isinstance(source, Sized) else None)
    jobs = _unfinished_jobs(source, folder, progress)
    with closing(progress), closing(ordered_map(partial(_build_job, source, image_size), jobs, workers)) as results:
        for number, built in groupby(results, key=lambda result: result[0]):
            _write_part(_Part(folder, number), (study for _, studies in built for study in studies), progress)


def read_totals(folder: Path) -> dict[str, Counter]:
    """Return "counts" (split or "images" -> number), "dropped" and "warnings" (reason -> number) over all parts."""
    states = [_read_state(path) for path in sorted(folder.glob("parts/*.json"))]
    return {key: sum((Counter(state[key]) for state in states), Counter()) for key in ("counts", "dropped", "warnings")}


def read_shard_entries(folder: Path) -> dict[str, FileEntry]:
    """Return size and digest of every shard, by its path relative to the data set."""
    states = {int(path.stem): _read_state(path) for path in folder.glob("parts/*.json")}
    return {_Part(folder, number).shard: FileEntry(**state["files"]["shard"]) for number, state in states.items()}


def join_records(folder: Path) -> None:
    """Write the records of all parts to `dataset/records.jsonl`."""
    with atomic_file(folder / "dataset" / "records.jsonl") as records:
        for path in sorted(folder.glob("parts/*.jsonl")):
            with path.open("rb") as part:
                shutil.copyfileobj(part, records)


def _unfinished_jobs(source: Source, folder: Path, progress: Progress) -> Iterator[tuple[int, list[Plan | Dropped]]]:
    """Yield a part's number and a few of its plans, for all parts that are not finished."""
    for number, plans in enumerate(_batched(_drop_repeated(source.plans()), STUDIES_PER_SHARD)):
        part = _Part(folder, number)
        if not part.state.exists() or not _is_intact(part):
            yield from ((number, job) for job in _batched(plans, _STUDIES_PER_JOB))
        elif _read_state(part.state)["plans"] == _digest(plan.id for plan in plans):
            progress.skip(len(plans))
        else:
            raise UserError(
                f"The source lists different studies than when {folder} was started: delete that folder, "
                "then run the same command again"
            )


def _is_intact(part: _Part) -> bool:
    """Whether the files of a finished part are those of its state; if not, a line on stderr says so."""
    try:
        expected = _read_state(part.state)["files"]
        for name, path in part.files().items():
            with path.open("rb") as file:
                if file_entry(file)._asdict() != expected[name]:
                    raise ValueError(f"{path} has another content")
    except (OSError, *MALFORMED_MANIFEST) as error:
        print(f"Part {part.state} cannot be used ({reason(error)}): its studies are built again", file=sys.stderr)
        part.state.unlink(missing_ok=True)
        return False
    return True


def _read_state(path: Path) -> dict:
    """Return the state of a part. Raises one of MALFORMED_MANIFEST if it is not the one that was written."""
    return unseal(path.read_bytes())


def _drop_repeated(plans: Iterable[Plan | Dropped]) -> Iterator[Plan | Dropped]:
    """Drop plans whose id occurred before."""
    seen = set()
    for plan in plans:
        yield plan if plan.id not in seen else Dropped(plan.id, "a study of this id came before")
        seen.add(plan.id)


def _batched(items: Iterable[Any], size: int) -> Iterator[list[Any]]:
    items = iter(items)
    while batch := list(islice(items, size)):
        yield batch


def _digest(ids: Iterable[str]) -> str:
    digest = hashlib.sha256()
    for study_id in ids:
        digest.update(json.dumps(study_id).encode())
    return digest.hexdigest()


def _build_job(source: Source, image_size: int, job: tuple[int, list[Plan | Dropped]]) -> tuple[int, list[_Built]]:
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
        **{key: getattr(study, key) for key in CONTEXT_KEYS},
    }
    if study.finding_boxes:
        record["finding_boxes"] = list(study.finding_boxes)
    images = [encode_image(image.pixels, image_size) for image in study.images]
    return _Built(plan.id, record, images, study.warnings)


def _write_part(part: _Part, studies: Iterable[_Built], progress: Progress) -> None:
    """Write the images and records of a part, then its counts."""
    counts, dropped, warnings = Counter(), Counter(), Counter()
    ids = []
    shard_path = part.folder / "dataset" / part.shard
    with atomic_file(shard_path) as shard_file, atomic_file(part.records) as records_file:
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
    files = {}
    for name, path in part.files().items():
        with path.open("rb") as file:
            files[name] = file_entry(file)._asdict()
    state = {"plans": _digest(ids), "files": files, "counts": counts, "dropped": dropped, "warnings": warnings}
    with atomic_file(part.state) as file:
        file.write(seal(state))
