"""Measures the input pipeline against the training step that it feeds, for JPEG and PNG images of 256 pixels.

    python -m benchmarks data [--json FILE] [--threads 2] [--repeats 5] [--studies 256]

Synthetic images are written to a temporary folder and read as in training: decoded and collated as one byte per pixel;
`ours` does this in the training process. `network_input` is what the device then does, here on the CPU: rotating to 224
pixels and normalising. `training_step` is the step without the trunk (the shortest possible on this machine, see
`train_step`) over the same number of studies: a faster loader never makes it wait. `sample_ms` is the time per study.
Workers live for all epochs, so their start is not measured. The floor is the time to read the pixels of the batches
from memory once.
"""

import argparse
import json
import tempfile
from collections.abc import Callable
from functools import partial
from pathlib import Path

import numpy as np
import yaml
from PIL import Image, ImageFilter

from benchmarks.support.measure import OURS, Contender, add_common_arguments, compare, require_at_least, start_report
from benchmarks.support.workload import TINY, Sizes
from benchmarks.train_step import build_ours
from data.dataset import StudyDataset
from data.images.network_input import to_network_input
from data.images.transforms import Augmentation
from data.loaders import StudyLoader, training_loader
from data.ontology import Anatomy
from data.vocabulary_builder import build_vocabularies

STUDIES = 256
SIDE, IMAGE_SIZE, ROTATE, MAX_TOKENS = 256, 224, 10.0, 100
STEP, NETWORK_INPUT = "training_step", "network_input"
FORMATS = ("jpg", "png")


def add_arguments(commands: argparse._SubParsersAction) -> None:
    """Register the command `data`."""
    parser = commands.add_parser("data", help="images per second of the loader, against the training step")
    add_common_arguments(parser)
    parser.add_argument("--studies", type=int, help=f"number of studies (default: {STUDIES}, or 4 batches with --tiny)")
    parser.set_defaults(run=run)


def run(options: argparse.Namespace) -> None:
    """Measure and print the loader and the training step over the same number of studies."""
    sizes = TINY if options.tiny else Sizes()
    require_at_least(sizes.batch, options, "studies")
    report = start_report("data", options)
    studies = (options.studies or (4 * sizes.batch if options.tiny else STUDIES)) // sizes.batch * sizes.batch
    with tempfile.TemporaryDirectory() as folder:
        for form in FORMATS:
            root = write_studies(Path(folder) / form, studies, form)
            contenders = [
                Contender(OURS, partial(build_loader, root, sizes.batch, workers=0)),
                Contender("loader_2_workers", partial(build_loader, root, sizes.batch, workers=2)),
                Contender("loader_cached", partial(build_loader, root, sizes.batch, workers=0, cached=True)),
                Contender(NETWORK_INPUT, partial(build_network_input, root, sizes.batch)),
                Contender(STEP, partial(build_steps, sizes, studies)),
            ]
            case = compare(
                f"{studies} studies of {SIDE} px {form}, batch {sizes.batch}", contenders, options.repeats,
                options.threads,
            )
            case.floor_seconds = report.rates.floor(0, studies * SIDE**2)
            case.notes["images per second"] = {name: round(studies / case.median(name), 1) for name in case.seconds}
            case.notes["sample_ms"] = {name: round(1000 * case.median(name) / studies, 2) for name in case.seconds}
            report.add(case)
    report.write(options.json)


def build_steps(sizes: Sizes, studies: int) -> Callable[[], None]:
    """Return a function that runs the training steps of one epoch of `studies` studies."""
    step = build_ours(sizes)

    def steps() -> None:
        for _ in range(studies // sizes.batch):
            step()

    return steps


def build_loader(root: Path, batch: int, workers: int, cached: bool = False) -> Callable[[], None]:
    """Return one epoch of the training loader over the data set `root`; `cached` keeps the images in memory."""
    loader = _loader(root, batch, workers, cached)

    def epoch() -> None:
        for _ in loader:
            pass

    epoch()
    return epoch


def build_network_input(root: Path, batch: int) -> Callable[[], None]:
    """Return the device's part of loading one epoch, on the CPU."""
    batches = list(_loader(root, batch, workers=0))

    def convert() -> None:
        for each in batches:
            to_network_input(each)

    convert()
    return convert


def _loader(root: Path, batch: int, workers: int, cached: bool = False) -> StudyLoader:
    vocabularies = build_vocabularies(root, "corrected", 1, 1, distinct_special_tokens=True)
    dataset = StudyDataset(
        root, "train", vocabularies, "corrected", IMAGE_SIZE, MAX_TOKENS, views=1, uncertain="positive",
        augmentation=Augmentation(rotate=ROTATE, translate=0.0, scale=0.0, intensity=0.0), cache_images=cached,
    )
    return training_loader(dataset, batch, seed=0, workers=workers)


def write_studies(root: Path, studies: int, form: str) -> Path:
    """Write a prepared data set with `studies` synthetic images of 256 pixels to the folder `root`; return `root`."""
    (root / "images").mkdir(parents=True)
    generator = np.random.default_rng(0)
    anatomy = Anatomy.load()
    with (root / "records.jsonl").open("w", encoding="utf-8") as file:
        for number in range(studies):
            pixels = generator.integers(0, 256, size=(SIDE // 4, SIDE // 4), dtype=np.uint8)
            image = Image.fromarray(pixels).resize((SIDE, SIDE), Image.Resampling.BICUBIC)
            name = f"images/{number}.{form}"
            image.filter(ImageFilter.GaussianBlur(1)).save(root / name)
            regions = {
                region.name: {"box": list(region.box), "mentioned": True, "abnormal": False,
                              "attributes": ["anatomicalfinding|yes|atelectasis"]}
                for region in anatomy.regions
            }
            record = {
                "id": str(number), "split": "train", "images": [name], "views": ["PA"],
                "report": "The lungs are clear. " * 12, "observations": {}, "graph": {"regions": regions},
            }
            file.write(json.dumps(record) + "\n")
    description = {"name": "benchmark", "image_size": SIDE, "counts": {"train": studies}, "seed": 0}
    (root / "dataset.yaml").write_text(yaml.safe_dump(description), encoding="utf-8")
    return root
