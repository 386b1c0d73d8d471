"""Measures what grows with the number of studies, on a synthetic data set of MIMIC-CXR's size.

    python -m benchmarks scale [--studies 276000] [--json FILE] [--threads 2] [--data FOLDER]

The records have reports and graphs as long as MIMIC-CXR's, from the phantom's grammar with a long tail of rare words.
All images are one small JPEG, in several tar shards. The set is written to a temporary folder, or to FOLDER, which is
kept and used again. Everything runs once, regardless of `--repeats`, in processes that have imported the program.

    index_seconds       indexing and counting, which data.prepare does, or else the first start; index_cpu_seconds
    startup_seconds     from the configuration to the first batch of 16 studies in the same process;
                        startup_cpu_seconds
    rank_mib            peak resident memory of that process, after reading 20,000 more records in random order;
                        import_mib: before the start, when it has imported the program
    rank_private_mib    of its memory at the end, what it shares with no other rank: libraries, index and records are
                        mapped files, which all ranks and workers of a machine share
    sample_ms           CPU time of one study: image, report and graph as tensors
    collate_ms          CPU time of assembling the batch, per study
    score_ms_per_study  all scores of the test split, with their intervals
"""

import argparse
import json
import multiprocessing
import shutil
import tempfile
import time
from collections.abc import Callable
from concurrent.futures import ProcessPoolExecutor
from contextlib import closing
from pathlib import Path
from typing import Any

import numpy as np
import torch
import yaml

from benchmarks.support.measure import (
    add_common_arguments,
    peak_mib,
    private_mib,
    require_at_least,
    start_report,
    write_json,
)
from data.batch import Batch
from data.collate import collate
from data.console import Progress
from data.errors import UserError
from data.images.image_store import ShardWriter, encode_image
from data.loaders import evaluation_loader, training_loader
from data.ontology import Anatomy, observation_names
from data.records import SPLITS
from data.sources.phantom.findings import draw_findings, observations_of
from data.sources.phantom.reports import write_report
from data.storage.statistics import write_derived_files
from data.text.report_graph import read_report, scene_graph
from modules.builders import build_criterion, build_dataset, build_vocabularies
from modules.config import load_config
from modules.evaluation.records import Prediction, StudyRecord, annotations_from_batch
from modules.evaluation.scoring import score_records, scoring_workers
from modules.evaluation.sentences import GeneratedSentence

STUDIES, TINY_STUDIES = 276_000, 300
CONFIG = Path(__file__).resolve().parents[1] / "configs" / "mimic_cxr.yaml"
BATCH, SAMPLES, RANDOM_READS = 16, 512, 20_000
IMAGE_SIDE, SHARDS = 256, 8
_NOISE = 3.0
# MIMIC-CXR's shares of the splits.
SPLIT_SHARES = (0.9784, 0.0077, 0.0139)
# Different reports and graphs; boxes and one rare word differ in every record.
DISTINCT_REPORTS, RARE_WORDS = 2_000, 20_000
ROWS = {
    "index_seconds": "s", "index_cpu_seconds": "s", "startup_seconds": "s", "startup_cpu_seconds": "s",
    "rank_mib": "MiB", "import_mib": "MiB", "rank_private_mib": "MiB", "sample_ms": "ms", "collate_ms": "ms",
    "score_ms_per_study": "ms",
}


def add_arguments(commands: argparse._SubParsersAction) -> None:
    """Register the command `scale`."""
    parser = commands.add_parser("scale", help="start, memory, loading and scoring with 276,000 studies")
    add_common_arguments(parser)
    parser.add_argument(
        "--studies", type=int, help=f"number of studies (default: {STUDIES:,}, or {TINY_STUDIES} with --tiny)"
    )
    parser.add_argument("--data", type=Path, metavar="FOLDER", help="write the data set there, or use it")
    parser.set_defaults(run=run)


def run(options: argparse.Namespace) -> None:
    """Write the data set, measure and print all rows."""
    require_at_least(100, options, "studies")
    studies = options.studies or (TINY_STUDIES if options.tiny else STUDIES)
    report = start_report("scale", options)
    with tempfile.TemporaryDirectory() as temporary:
        root = options.data or Path(temporary) / "data"
        write_data_set(root, studies)
        rows: dict[str, Any] = {}
        for measure in (measure_index, measure_start, measure_scores):
            rows |= run_alone(measure, root, options.threads)
    print(f"\n{studies:,} studies, {rows['scored_studies']:,} of them scored")
    for name, unit in ROWS.items():
        print(f"  {name:20}{rows[name]:>10.2f} {unit}")
    if options.json is not None:
        write_json(options.json, report.describe() | {"studies": studies} | rows)


def run_alone(measure: Callable[[Path], dict[str, Any]], root: Path, threads: int) -> dict[str, Any]:
    """Return `measure(root)`, run in a new process that uses `threads` threads."""
    with ProcessPoolExecutor(1, multiprocessing.get_context("spawn"), torch.set_num_threads, (threads,)) as pool:
        return pool.submit(measure, root).result()


# The measurements


def measure_index(root: Path) -> dict[str, float]:
    """Index and count the data set from scratch."""
    shutil.rmtree(root / "index", ignore_errors=True)
    start, cpu_start = time.perf_counter(), time.process_time()
    write_derived_files(root)
    return {"index_seconds": time.perf_counter() - start, "index_cpu_seconds": time.process_time() - cpu_start}


def measure_start(root: Path) -> dict[str, float]:
    """Start as main_train.py does, without the model; then read samples and random records."""
    import_mib = peak_mib()
    start, cpu_start = time.perf_counter(), time.process_time()
    config = load_config(CONFIG, [f"data.root={root}"])
    vocabularies = build_vocabularies(config)
    build_criterion(config, vocabularies)
    training = build_dataset(config, vocabularies, "train", train=True)
    build_dataset(config, vocabularies, "val")
    pad_id = vocabularies.tokenizer.pad_id
    next(iter(training_loader(training, BATCH, seed=0, epoch=0, pad_id=pad_id)))
    rows = {"startup_seconds": time.perf_counter() - start, "startup_cpu_seconds": time.process_time() - cpu_start}
    torch.set_num_threads(1)  # as in a loader process
    order = np.random.default_rng(0).permutation(len(training))
    batches = np.split(order[:SAMPLES], range(BATCH, min(SAMPLES, len(order)), BATCH))
    reading = collating = 0.0  # CPU seconds, which other work on the machine hardly changes
    for indices in batches:
        start = time.process_time()
        samples = [training[index] for index in indices.tolist()]
        read = time.process_time()
        collate(samples, pad_id=pad_id)
        reading, collating = reading + read - start, collating + time.process_time() - read
    count = sum(map(len, batches))
    rows |= {"sample_ms": 1000 * reading / count, "collate_ms": 1000 * collating / count}
    for index in order[:RANDOM_READS].tolist():
        training.records[index]
    return rows | {"rank_mib": peak_mib(), "import_mib": import_mib, "rank_private_mib": private_mib()}


def measure_scores(root: Path) -> dict[str, float]:
    """Score invented predictions for the test split: the reports of other studies, random graphs."""
    config = load_config(CONFIG, [f"data.root={root}"])
    vocabularies = build_vocabularies(config)
    test = build_dataset(config, vocabularies, "test")
    loader = evaluation_loader(test, BATCH, workers=0, rank=0, world_size=1, pad_id=0, pin_memory=False)
    generator = np.random.default_rng(0)
    records = [record for batch in loader for record in _records(batch, generator)]
    start = time.perf_counter()
    score_records(records, meteor=shutil.which("java") is not None, workers=scoring_workers(len(records)))
    seconds = time.perf_counter() - start
    return {"score_ms_per_study": 1000 * seconds / len(records), "scored_studies": len(records)}


def _records(batch: Batch, generator: np.random.Generator) -> list[StudyRecord]:
    """Return the studies of a batch; each gets the report of the next one, and random probabilities."""
    records = []
    annotations = annotations_from_batch(batch)
    for position, (study_id, reference) in enumerate(zip(batch.study_ids, batch.references, strict=True)):
        annotation = annotations[position]
        generated = batch.references[(position + 1) % len(batch)]
        selected, attributes, observations = (
            generator.random(labels.shape)
            for labels in (annotation.mentioned, annotation.attributes, annotation.observations)
        )
        attributes[selected <= 0.5] = 0
        prediction = Prediction(
            region_probabilities=selected, region_selected=selected > 0.5, boxes=annotation.boxes,
            visible_probabilities=annotation.visible.astype(float), visible=annotation.visible,
            attribute_probabilities=attributes, attributes=attributes > 0.9,
            observation_probabilities=observations, observations=observations > 0.5,
        )
        attention = np.eye(len(selected))[generator.integers(len(selected))]
        sentences = [
            GeneratedSentence(f"{text} .", attention, -1.0, float(generator.random()))
            for text in generated.removesuffix(" .").split(" . ")
        ]
        records.append(
            StudyRecord(study_id, reference, reference, annotation, generated, -1.0, prediction, sentences)
        )
    return records


# The data set


def write_data_set(root: Path, studies: int) -> None:
    """Write the prepared data set with `studies` studies to `root`, without index; leave a finished one as it is.

    Raises UserError if `root` holds something else.
    """
    description = {"name": "scale", "studies": studies, "image_size": IMAGE_SIDE}
    splits = np.random.default_rng(0).choice(len(SPLITS), size=studies, p=SPLIT_SHARES)
    splits[: len(SPLITS)] = range(len(SPLITS))  # none is empty
    counts = {split: int((splits == position).sum()) for position, split in enumerate(SPLITS)}
    path = root / "dataset.yaml"
    if path.exists():
        if yaml.safe_load(path.read_text(encoding="utf-8")) == description | {"counts": counts}:
            return
        raise UserError(f"--data {root} holds another data set: delete it, or choose another folder")
    (root / "images").mkdir(parents=True, exist_ok=True)
    generator = np.random.default_rng(1)
    references = _write_shards(root, generator)
    pool = [_draw_report(number) for number in range(min(studies, DISTINCT_REPORTS))]
    names = Anatomy.load().names
    boxes = Anatomy.load().boxes.double().numpy()  # [R, 4]
    with (root / "records.jsonl").open("w", encoding="utf-8") as file, closing(
        Progress("Writing the data set", "studies", studies)
    ) as progress:
        for number, split in enumerate(splits):
            report, observations, regions = pool[number % len(pool)]
            moved = (boxes + generator.normal(0, 0.01, boxes.shape)).clip(0, 1).round(5).tolist()
            rare_word = min(int(generator.zipf(1.3)), RARE_WORDS)
            record = {
                "id": f"{number:08d}", "split": SPLITS[split], "images": [references[number % len(references)]],
                "views": ["PA"], "report": f"{report} Comparison: study c{rare_word}.", "observations": observations,
                "graph": {
                    "box_source": "atlas",
                    "regions": {name: regions[name] | {"box": box} for name, box in zip(names, moved, strict=True)},
                },
            }
            file.write(json.dumps(record) + "\n")
            progress.advance(1)
    path.write_text(yaml.safe_dump(description | {"counts": counts}, sort_keys=False), encoding="utf-8")


def _write_shards(root: Path, generator: np.random.Generator) -> list[str]:
    """Write one image into each of several tar shards; return its references."""
    coarse = np.kron(generator.uniform(60, 195, size=(16, 16)), np.ones((16, 16)))
    # With this noise, the JPEG is as large as a radiograph's, 18 KiB.
    pixels = coarse + generator.normal(0, _NOISE, size=coarse.shape)
    encoded = encode_image(pixels.clip(0, 255).astype(np.uint8), IMAGE_SIDE)
    references = []
    for number in range(SHARDS):
        name = f"images/{number:05d}.tar"
        with (root / name).open("wb") as file:
            shard = ShardWriter(file, name)
            references.append(shard.add("image", 0, encoded))
            shard.close()
    return references


def _draw_report(number: int) -> tuple[str, dict[str, int], dict[str, dict]]:
    """Return a random report, its observations, and an entry of its graph for every region, without boxes."""
    generator = np.random.default_rng([2, number])
    findings = draw_findings(generator, "PA")
    report = " ".join(sentence.text for sentence in write_report(findings, "PA", generator))
    positive = observations_of(findings)
    mentioned = scene_graph(read_report(report))["regions"]
    absent = {"mentioned": False, "abnormal": False, "attributes": []}
    regions = {name: {"box": None} | absent | mentioned.get(name, {}) for name in Anatomy.load().names}
    return report, {name: int(name in positive) for name in observation_names()}, regions
