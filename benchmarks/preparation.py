"""Measures the preparation of a data set: images per second, memory of all processes, projected time for MIMIC-CXR.

    python -m benchmarks prepare [--images 20000] [--full-size-images 200] [--threads 2] [--json FILE]

Phantom images are simulated and prepared like a data set of reports and images: read, reduced, annotated with the graph
and the labels of their report and the boxes of the fitted atlas, and packed. A few hundred different images are listed
repeatedly under new ids. `phantom` reads PNG of 256 pixels in any number, to show that memory does not depend on it.
`full_size` reads JPEG of the size of MIMIC-CXR-JPG, for the projection. `--threads` is the number of workers. Every
preparation runs once, regardless of `--repeats`; there is no arithmetic floor.

Memory is proportional set size (PSS), which counts shared memory once. CPU seconds are meaningful even if other work
slows the machine.
"""

import argparse
import json
import multiprocessing
import resource
import signal
import tempfile
import time
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from functools import partial
from multiprocessing.connection import Connection
from pathlib import Path

import numpy as np
from PIL import Image

from benchmarks.support.measure import Case, Contender, add_common_arguments, compare, require_at_least, start_report
from data.images.radiograph import read_radiograph
from data.sources.phantom.dataset import PhantomSettings, prepare_phantom
from data.sources.preparation import prepare
from data.sources.report_graph import build_report_graph
from data.sources.source import Dropped, PreparedImage, Study
from data.text.report_labels import label_report

IMAGE_SIZE = 256
MIMIC_IMAGES, MIMIC_SIZE = 377_110, (2544, 3056)
IMAGES, TINY_IMAGES = 20_000, 40
FULL_SIZE_IMAGES, TINY_FULL_SIZE_IMAGES = 200, 4
DISTINCT, DISTINCT_FULL_SIZE = 200, 20
PHANTOM, FULL_SIZE = "phantom", "full_size"
# Standard deviation of the noise, in grey levels: it makes a JPEG of quality 95 as large as those of MIMIC-CXR-JPG,
# 1.5 MB on average.
_NOISE = 2.0
_SECONDS_BETWEEN_SAMPLES = 0.5


@dataclass(frozen=True)
class _Plan:
    """A study to prepare: an image file and its report."""

    id: str
    split: str
    image: Path
    report: str


@dataclass
class ListedSource:
    """A source of `studies` studies, which repeats the images and reports in the file `listing`."""

    listing: Path
    studies: int
    name: str = "images"

    @property
    def paths(self) -> tuple[Path, ...]:
        """See `data.sources.source.Source`."""
        return (self.listing.parent,)

    def __len__(self) -> int:
        return self.studies

    def describe(self) -> dict:
        """See `data.sources.source.Source`."""
        return {"options": {"studies": self.studies}}

    def plans(self) -> Iterator[_Plan]:
        """See `data.sources.source.Source`."""
        listed = json.loads(self.listing.read_text(encoding="utf-8"))
        for number in range(self.studies):
            image, report = listed[number % len(listed)]
            yield _Plan(f"image-{number:06d}", "train", self.listing.parent / image, report)

    def build(self, plan: _Plan) -> Study | Dropped:
        """See `data.sources.source.Source`."""
        pixels = read_radiograph(plan.image, min_side=IMAGE_SIZE).pixels
        images = (PreparedImage(pixels, "PA"),)
        graph = build_report_graph(plan.report, pixels)
        return Study(plan.id, plan.split, images, plan.report, label_report(plan.report), graph)


@dataclass(frozen=True)
class Usage:
    """Peak PSS in MiB and CPU seconds of a preparation, of all its processes together."""

    peak_mib: float
    cpu_seconds: float


def add_arguments(commands: argparse._SubParsersAction) -> None:
    """Register the command `prepare`."""
    parser = commands.add_parser("prepare", help="rate and memory of preparing a data set")
    add_common_arguments(parser)
    parser.add_argument(
        "--images", type=int, help=f"number of phantom images (default: {IMAGES:,}, or {TINY_IMAGES} with --tiny)"
    )
    parser.add_argument(
        "--full-size-images", type=int,
        help=f"images of MIMIC-CXR's size (default: {FULL_SIZE_IMAGES}, or {TINY_FULL_SIZE_IMAGES} with --tiny)",
    )
    parser.set_defaults(run=run)


def run(options: argparse.Namespace) -> None:
    """Prepare both kinds of images; print rates, memory and the projection."""
    require_at_least(1, options, "images", "full_size_images")
    report = start_report("prepare", options)
    defaults = (TINY_IMAGES, TINY_FULL_SIZE_IMAGES) if options.tiny else (IMAGES, FULL_SIZE_IMAGES)
    images = {PHANTOM: options.images or defaults[0], FULL_SIZE: options.full_size_images or defaults[1]}
    with tempfile.TemporaryDirectory() as folder:
        phantom = write_phantoms(Path(folder) / "phantom", 10 if options.tiny else DISTINCT, options.threads)
        listings = {PHANTOM: phantom, FULL_SIZE: write_full_size(phantom, 2 if options.tiny else DISTINCT_FULL_SIZE)}
        contenders = [
            Contender(name, partial(build_preparation, listing, images[name], options.threads), runs=1)
            for name, listing in listings.items()
        ]
        case = compare(f"{options.threads} workers", contenders, 1, options.threads)
    _add_notes(case, images)
    report.add(case)
    report.write(options.json)


def _add_notes(case: Case, images: dict[str, int]) -> None:
    """Add rates, memory and the projection. `compare` measures the peak of a single process, so it is replaced."""
    usages: dict[str, Usage] = case.results
    case.peak_mib = {name: usage.peak_mib for name, usage in usages.items()}
    case.notes["images"] = images
    case.notes["images per second"] = {name: round(images[name] / case.median(name), 1) for name in images}
    cpu = {name: usage.cpu_seconds / images[name] for name, usage in usages.items()}
    case.notes["CPU milliseconds per image"] = {name: round(1000 * seconds, 1) for name, seconds in cpu.items()}
    case.notes[f"MIMIC-CXR ({MIMIC_IMAGES:,} images): hours with these workers"] = round(
        MIMIC_IMAGES / images[FULL_SIZE] * case.median(FULL_SIZE) / 3600, 2
    )
    case.notes["MIMIC-CXR: hours of one free core"] = round(MIMIC_IMAGES * cpu[FULL_SIZE] / 3600, 2)


def write_phantoms(folder: Path, count: int, workers: int) -> Path:
    """Write a phantom data set of `count` studies to `folder`; return the listing of its images and reports."""
    prepare_phantom(folder, PhantomSettings(studies=count, image_size=IMAGE_SIZE), workers)
    records = map(json.loads, (folder / "records.jsonl").read_text(encoding="utf-8").splitlines())
    return _write_listing(folder, [(record["images"][0], record["report"]) for record in records])


def write_full_size(listing: Path, count: int) -> Path:
    """Write the first `count` images of a listing at MIMIC-CXR's size; return their listing."""
    folder = listing.parent / "full_size"
    folder.mkdir()
    generator = np.random.default_rng(0)
    listed = []
    for image, report in json.loads(listing.read_text(encoding="utf-8"))[:count]:
        with Image.open(listing.parent / image) as small:
            pixels = np.asarray(small.resize(MIMIC_SIZE, Image.Resampling.BICUBIC), dtype=np.float32)
        pixels = pixels + generator.normal(0, _NOISE, size=pixels.shape)
        name = f"{Path(image).stem}.jpg"
        Image.fromarray(pixels.clip(0, 255).astype(np.uint8)).save(folder / name, quality=95)
        listed.append((name, report))
    return _write_listing(folder, listed)


def _write_listing(folder: Path, listed: list[tuple[str, str]]) -> Path:
    path = folder / "listing.json"
    path.write_text(json.dumps(listed), encoding="utf-8")
    return path


def build_preparation(listing: Path, images: int, workers: int) -> Callable[[], Usage]:
    """Return a function that prepares `images` studies of the listing in another process, and measures it."""

    def prepare_measured() -> Usage:
        context = multiprocessing.get_context("spawn")
        with tempfile.TemporaryDirectory() as out:
            ours, theirs = context.Pipe()
            process = context.Process(target=_prepare, args=(listing, images, workers, Path(out) / "data", theirs))
            process.start()
            theirs.close()
            peak = 0.0
            try:
                while not ours.poll(_SECONDS_BETWEEN_SAMPLES):
                    peak = max(peak, proportional_mib(process.pid))
                cpu_seconds = ours.recv()
            except EOFError as error:
                raise RuntimeError("The preparation failed: see the traceback above") from error
            finally:
                process.kill()
                process.join()
        return Usage(peak, cpu_seconds)

    return prepare_measured


def _prepare(listing: Path, images: int, workers: int, out: Path, connection: Connection) -> None:
    """Prepare a data set, and send the CPU seconds of this process and its workers."""
    signal.signal(signal.SIGINT, signal.SIG_IGN)  # Ctrl-C reaches all processes, but the parent ends this one
    before = time.process_time()
    prepare(ListedSource(listing, images), out, IMAGE_SIZE, workers)
    children = resource.getrusage(resource.RUSAGE_CHILDREN)
    connection.send(time.process_time() - before + children.ru_utime + children.ru_stime)


def proportional_mib(process: int) -> float:
    """Return the PSS of a process and all its descendants; 0 if the system does not report it."""
    try:
        lines = Path(f"/proc/{process}/smaps_rollup").read_text(encoding="ascii").splitlines()
        children = [
            int(child)
            for task in Path(f"/proc/{process}/task").iterdir()
            for child in (task / "children").read_text(encoding="ascii").split()
        ]
    except OSError:
        return 0.0
    own = next((int(line.split()[1]) for line in lines if line.startswith("Pss:")), 0) / 1024
    return own + sum(map(proportional_mib, children))
