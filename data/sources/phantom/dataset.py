"""The phantom data set: randomly drawn patients and findings, with their images, reports and scene graphs.

It contains the files that real sources come with (images, an annotation file in R2Gen's format, scene graphs in Chest
ImaGenome's schema), the simulated truth, and the prepared data set, whose graphs are read from those scene graphs.

Until the data set is complete it is in a work folder, as described in `data.sources.work_folder`; a study is finished
once its file in `parts/` exists.
"""

import json
import shutil
from argparse import ArgumentParser, Namespace
from collections.abc import Iterable
from contextlib import closing, suppress
from dataclasses import asdict, dataclass, fields
from datetime import datetime, timedelta
from pathlib import Path

import numpy as np
from PIL import Image

from data.console import Progress
from data.errors import UserError, cannot_write, wrong_value
from data.ontology import observation_names
from data.processes.worker_pool import available_cores, ordered_map
from data.records import CONTEXT_KEYS, SPLITS
from data.sources.chest_imagenome.scene_graphs import read_scene_graph
from data.sources.phantom.findings import observations_of, regions_of
from data.sources.phantom.patient import visible_traits
from data.sources.phantom.patients.grouping import StudyOfPatient, group_by_patient, split_patients
from data.sources.phantom.patients.history import draw_states, study_streams
from data.sources.phantom.patients.indication import write_indication
from data.sources.phantom.patients.leaks import score_without_images
from data.sources.phantom.physics import simulate
from data.sources.phantom.reports import write_impression, write_report
from data.sources.phantom.scene_graph import add_annotation_noise, build_scene_graph
from data.sources.preparation import find_prepared, print_already_prepared
from data.sources.work_folder import lock, start_or_resume, work_folder
from data.storage.atomic_files import atomic_file
from data.storage.manifest import MALFORMED_MANIFEST, list_files, seal, unseal
from data.storage.prepared_files import write_description, write_manifest
from data.storage.statistics import write_derived_files

# Increase when the same settings give different studies than before.
VERSION = 2
_TIME_BETWEEN_STUDIES = timedelta(days=30)
SPLIT_SHARES = {"train": 0.80, "val": 0.08, "test": 0.12}


@dataclass(frozen=True)
class PhantomSettings:
    """The settings of a phantom data set; equal settings give equal bytes.

    prevalence         factor on the probability of every kind of finding; 0 gives healthy patients only
    annotation_noise   0..1: how much the scene graphs of the training split are disturbed (`add_annotation_noise`)
    priors             0..1, share of patients with two or three studies, whose reports compare them. At 0, every
                       patient has one study, and reports compare with nothing
    informativeness    0..1: how much indications say about the findings (`write_indication`)

    Raises UserError if a setting is out of range.
    """

    studies: int = 3000
    image_size: int = 256
    seed: int = 0
    two_views: bool = False
    prevalence: float = 1.0
    annotation_noise: float = 0.0
    priors: float = 0.0
    informativeness: float = 0.5

    def __post_init__(self) -> None:
        for name, low, high in (
            ("studies", 10, 999_999), ("image_size", 32, 2048), ("seed", 0, 2**63 - 1), ("prevalence", 0.0, 3.0),
            ("annotation_noise", 0.0, 1.0), ("priors", 0.0, 1.0), ("informativeness", 0.0, 1.0),
        ):
            value = getattr(self, name)
            if not low <= value <= high:
                raise wrong_value(f"--{name.replace('_', '-')}", value, f"must be from {low} to {high}")


def add_arguments(parser: ArgumentParser) -> None:
    """Declare the options of `python -m data.prepare phantom`."""
    defaults = PhantomSettings()
    parser.add_argument("--out", type=Path, required=True, help="folder to write")
    parser.add_argument("--studies", type=int, default=defaults.studies,
                        help="number of studies (default: %(default)s)")
    parser.add_argument("--image-size", type=int, default=defaults.image_size,
                        help="side of the images in pixels (default: %(default)s)")
    parser.add_argument("--seed", type=int, default=defaults.seed,
                        help="equal seeds give equal bytes (default: %(default)s)")
    parser.add_argument("--two-views", action="store_true", help="add a lateral image to each frontal one")
    parser.add_argument("--prevalence", type=float, default=defaults.prevalence,
                        help="factor on the probability of every finding (default: %(default)s)")
    parser.add_argument("--annotation-noise", type=float, default=defaults.annotation_noise,
                        help="0..1: disturb the scene graphs of the training split (default: %(default)s)")
    parser.add_argument("--priors", type=float, default=defaults.priors,
                        help="0..1: share of patients with two or three studies (default: %(default)s)")
    parser.add_argument("--informativeness", type=float, default=defaults.informativeness,
                        help="0..1: how much indications say about the findings (default: %(default)s)")
    parser.add_argument("--workers", type=int, default=None, help="number of processes (default: one per core)")


def run(arguments: Namespace) -> None:
    """Prepare the data set of the command line."""
    settings = PhantomSettings(**{field.name: getattr(arguments, field.name) for field in fields(PhantomSettings)})
    prepare_phantom(arguments.out, settings, arguments.workers)


def prepare_phantom(out: str | Path, settings: PhantomSettings, workers: int | None = None) -> None:
    """Write the data set of `settings` to the folder `out`, using `workers` processes (None for one per core).

    An interrupted call with the same settings is resumed; a finished data set is left as it is. Raises UserError if
    `out` contains something else, is being prepared by another process or cannot be written, and if the settings differ
    from those of the interrupted call.
    """
    out = Path(out)
    workers = available_cores() if workers is None else workers
    if workers < 1:
        raise wrong_value("--workers", workers, "must be at least 1")
    description = {"name": "phantom", "version": VERSION, **asdict(settings)}
    folder = work_folder(out)
    found = find_prepared(out, description["name"])
    if found is not None:
        _check_same(found, description, out)
    try:
        if found is not None:
            print_already_prepared(out, found, description)
        else:
            folder.mkdir(parents=True, exist_ok=True)
            with lock(folder, out):
                start_or_resume(folder, description)
                counts = _write_studies(folder, settings, workers)
                description |= {"counts": counts, "f1_without_images": _score_without_images(folder / "dataset")}
                write_description(folder / "dataset", description)
                write_manifest(folder / "dataset")
                write_derived_files(folder / "dataset")
                if out.is_dir():
                    out.rmdir()
                (folder / "dataset").rename(out)
            by_split = ", ".join(f"{count} {split}" for split, count in counts.items())
            print(f"{out}: {settings.studies} studies ({by_split})")
            for source, score in description["f1_without_images"].items():
                if score is not None:
                    print(f"  observations from the {source} alone: micro F1 {score:.3f}")
        shutil.rmtree(folder, ignore_errors=True)
    except OSError as error:
        raise cannot_write(out, error, "fix that and run the same command again") from error


def _check_same(found: dict, description: dict, out: Path) -> None:
    """Raise UserError if the data set at `out` was made with settings other than those of `description`.

    Settings that did not exist then had their defaults.
    """
    found = asdict(PhantomSettings()) | found
    differences = [
        f"{key} {found.get(key)} instead of {value}" for key, value in description.items() if found.get(key) != value
    ]
    if differences:
        raise UserError(
            f"{out} holds a phantom data set with {', '.join(differences)}: delete it, or choose another --out"
        )


def _write_studies(folder: Path, settings: PhantomSettings, workers: int) -> dict[str, int]:
    """Write all files except `dataset.yaml` to the work folder; return the number of studies by split."""
    dataset = folder / "dataset"
    (dataset / "scene_graphs").mkdir(exist_ok=True)
    annotation: dict[str, list[dict]] = {split: [] for split in SPLITS}
    patients = group_by_patient(settings.studies, settings.seed, settings.priors)
    splits = assign_splits(settings)
    jobs = ((folder, settings, study, split) for study, split in zip(patients, splits, strict=True))
    progress = Progress("phantom", "studies", settings.studies)
    with (
        closing(progress), closing(ordered_map(_load_or_write_study, jobs, workers)) as studies,
        (dataset / "records.jsonl").open("w", encoding="utf-8") as records,
        (dataset / "truth.jsonl").open("w", encoding="utf-8") as truths,
    ):  # fmt: skip
        for was_finished, study in studies:
            annotation[study["record"]["split"]].append(study["annotation"])
            records.write(json.dumps(study["record"]) + "\n")
            truths.write(json.dumps(study["truth"]) + "\n")
            progress.skip(1) if was_finished else progress.advance(1)
    (dataset / "annotation.json").write_text(json.dumps(annotation), encoding="utf-8")
    return {split: len(entries) for split, entries in annotation.items()}


def assign_splits(settings: PhantomSettings) -> list[str]:
    """Return the split of every study; splits do not share patients."""
    val, test = (max(1, round(settings.studies * SPLIT_SHARES[split])) for split in ("val", "test"))
    if settings.priors:
        grouped = group_by_patient(settings.studies, settings.seed, settings.priors)
        return split_patients(grouped, settings.seed, {"val": val, "test": test, "train": settings.studies})
    splits = ["val"] * val + ["test"] * test + ["train"] * (settings.studies - val - test)
    order = np.random.default_rng([settings.seed, settings.studies]).permutation(settings.studies)
    return [splits[position] for position in order]


def _score_without_images(dataset: Path) -> dict[str, float | None]:
    """Return what `score_without_images` does for the records in `dataset`, rounded."""
    with (dataset / "records.jsonl").open(encoding="utf-8") as lines:
        scores = score_without_images([json.loads(line) for line in lines])
    return {name: score and round(score, 4) for name, score in scores.items()}


def _load_or_write_study(job: tuple[Path, PhantomSettings, StudyOfPatient, str]) -> tuple[bool, dict]:
    """Return whether the study of a job was finished by an earlier call, and the result of `_write_study` for it."""
    folder, settings, study_of_patient, split = job
    part = folder / "parts" / f"{study_of_patient.number:06d}.json"
    dataset = folder / "dataset"
    with suppress(OSError, *MALFORMED_MANIFEST):
        finished = unseal(part.read_bytes())
        # A study whose files are not those that were written is simulated again.
        if _describe_files(dataset, finished["files"]) == finished["files"]:
            return True, finished["study"]
    study = _write_study(dataset, settings, study_of_patient, split)
    files = _describe_files(dataset, [*study["record"]["images"], _graph_file(study["record"]["id"])])
    with atomic_file(part) as file:
        file.write(seal({"study": study, "files": files}))
    return False, study


def _describe_files(dataset: Path, names: Iterable[str]) -> dict[str, dict]:
    return {name: entry._asdict() for name, entry in list_files(dataset, names).items()}


def _graph_file(study_id: str) -> str:
    """Return the path of a scene graph relative to the data set."""
    return f"scene_graphs/{study_id}_SceneGraph.json"


def _write_study(dataset: Path, settings: PhantomSettings, study: StudyOfPatient, split: str) -> dict:
    """Simulate one study and write its images and scene graph; return its `record`, `annotation` and `truth`."""
    index, study_id = study.number, _study_id(study.number)
    streams = study_streams(settings.seed, index)
    state = draw_states(settings.seed, study.first, study.position + 1, settings.prevalence)[-1]
    patient, findings = state.patient, state.findings
    sentences = write_report(findings, patient.view, streams[2], visible_traits(patient), state.history)
    noise_seeds = streams[3].integers(2**63, size=2)

    frontal = simulate(patient, findings, settings.image_size, int(noise_seeds[0]))
    images, views = [f"images/{study_id}.png"], [patient.view]
    _write_image(dataset / images[0], frontal.image)
    if settings.two_views:
        lateral = simulate(patient, findings, settings.image_size, int(noise_seeds[1]), lateral=True)
        images, views = [*images, f"images/{study_id}_lateral.png"], [*views, "LATERAL"]
        _write_image(dataset / images[1], lateral.image)

    prior = _study_id(index - 1) if state.history.has_prior else None
    taken = datetime(2100, 1, 1) + study.position * _TIME_BETWEEN_STUDIES
    scene_graph = build_scene_graph(
        study_id, index, patient, frontal, sentences, study.position + 1, prior, f"{taken} UTC"
    )
    noise = settings.annotation_noise if split == "train" else 0.0
    if noise:
        add_annotation_noise(scene_graph, noise, settings.image_size, streams[3])
    text = json.dumps(scene_graph)
    (dataset / _graph_file(study_id)).write_text(text, encoding="utf-8")

    graph = read_scene_graph(json.loads(text), (settings.image_size, settings.image_size))
    report = " ".join(sentence.text for sentence in sentences)
    positive = observations_of(findings)
    record = {
        "id": study_id, "split": split, "images": images, "views": views, "report": report,
        "observations": {name: int(name in positive) for name in observation_names()},
        "graph": graph,
        **dict.fromkeys(CONTEXT_KEYS),
        "patient": f"phantom-patient-{study.first:06d}", "taken": taken.isoformat(), "prior": prior,
        "indication": write_indication(
            patient, findings, state.history.has_prior, settings.informativeness, streams[4]
        ),
        "impression": write_impression(findings, streams[5], state.history),
    }
    truth = {
        "id": study_id, "split": split, "view": patient.view,
        "cardiothoracic_ratio": round(frontal.cardiothoracic_ratio, 4),
        "findings": [asdict(finding) | {"regions": regions_of(finding)} for finding in findings],
        "sentences": [asdict(sentence) for sentence in sentences],
        "boxes": {region: box and [round(corner, 5) for corner in box] for region, box in frontal.boxes.items()},
    }
    if state.history.has_prior:
        truth["changes"] = state.history.region_changes()
    annotation = {
        "id": study_id, "study_id": index, "subject_id": study.first, "report": report,
        "image_path": [Path(image).name for image in images], "split": split,
    }
    return {"record": record, "annotation": annotation, "truth": truth}


def _study_id(number: int) -> str:
    return f"phantom-{number:06d}"


def _write_image(path: Path, image: np.ndarray) -> None:
    Image.fromarray(image).save(path, compress_level=4)
