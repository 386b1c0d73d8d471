"""The phantom chest as a data set: patients and findings by chance, their pictures, reports and scene graphs.

Written are the files that real sources give (images, an annotation file in R2Gen's layout, scene graphs in Chest
ImaGenome's schema), the truth behind them, and the prepared data set that is read from those scene graphs.

Until all is there it lies in a folder `.NAME.unfinished` beside the data set, as described in `data.sources.preparation`; a
study counts as finished once its file in `parts/` is there.
"""

import json
import shutil
from argparse import ArgumentParser, Namespace
from collections.abc import Sequence
from contextlib import closing
from dataclasses import asdict, dataclass
from pathlib import Path

import numpy as np
import yaml
from PIL import Image

from data.console import Progress
from data.errors import UserError
from data.ontology import observation_names
from data.records import SPLITS
from data.sources.chest_imagenome.scene_graphs import read_scene_graph
from data.sources.phantom.anatomy import Patient, draw_patient
from data.sources.phantom.findings import FINDING_KINDS, SEVERITIES, Finding, observations_of, regions_of
from data.sources.phantom.physics import Picture, simulate
from data.sources.phantom.reports import TRAITS, Sentence, write_report
from data.sources.preparation import begin, locked
from data.worker_pool import available_cores, ordered_map

# Counts up when the same settings give other studies than before.
VERSION = 1
SPLIT_SHARES = {"train": 0.80, "val": 0.08, "test": 0.12}
NORMAL_SHARE = 0.22
MOST_FINDINGS = 5
# How much more often the bedridden (AP) have a kind of finding than everybody; those who stand have it less often.
BEDRIDDEN_FACTORS = {
    "pacemaker": 1.4, "central line": 1.9, "endotracheal tube": 2.1, "low lung volumes": 1.6, "edema": 1.5,
    "pleural effusion": 1.3, "patchy atelectasis": 1.3,
}
BEDRIDDEN_SHARE = 0.4
BILATERAL_EFFUSION = 0.25
# Pairs that exclude each other: wherever they are, or on the same side.
EXCLUSIVE = (
    {"hyperinflation", "low lung volumes"}, {"hyperinflation", "raised hemidiaphragm"},
    {"low lung volumes", "raised hemidiaphragm"}, {"nodule", "mass"}, {"hyperinflation", "edema"},
)
EXCLUSIVE_ON_A_SIDE = (
    {"pleural effusion", "pneumothorax"}, {"pneumothorax", "consolidation"}, {"pneumothorax", "patchy atelectasis"},
    {"pneumothorax", "nodule"}, {"pneumothorax", "mass"}, {"pneumothorax", "linear atelectasis"},
    {"pleural effusion", "raised hemidiaphragm"}, {"consolidation", "patchy atelectasis"},
)
# An effusion hides what lies at the bottom of the lung.
HIDDEN_BY_EFFUSION = {"consolidation", "patchy atelectasis", "linear atelectasis", "nodule", "mass"}


@dataclass(frozen=True)
class PhantomSettings:
    """What decides the studies; equal settings give equal bytes.

    prevalence         factor on the probability of every kind of finding; 0 gives healthy patients only
    annotation_noise   0..1: how many attributes of the training split are dropped or invented, and how far its boxes
                       are moved
    """

    studies: int = 3000
    image_size: int = 256
    seed: int = 0
    two_views: bool = False
    prevalence: float = 1.0
    annotation_noise: float = 0.0

    def __post_init__(self) -> None:
        for name, low, high in (
            ("studies", 10, 999_999), ("image_size", 32, 2048), ("seed", 0, 2**63 - 1), ("prevalence", 0.0, 3.0),
            ("annotation_noise", 0.0, 1.0),
        ):
            value = getattr(self, name)
            if not low <= value <= high:
                raise UserError(f"{name.replace('_', '-')} is {value}: give a number from {low} to {high}")


def add_arguments(parser: ArgumentParser) -> None:
    """Declare the options of `python -m data.prepare phantom`."""
    defaults = PhantomSettings()
    parser.add_argument("--out", type=Path, required=True, help="folder to write")
    parser.add_argument("--studies", type=int, default=defaults.studies, help="how many (%(default)s)")
    parser.add_argument("--image-size", type=int, default=defaults.image_size, help="side in pixels (%(default)s)")
    parser.add_argument("--seed", type=int, default=defaults.seed, help="equal seeds give equal bytes (%(default)s)")
    parser.add_argument("--two-views", action="store_true", help="a lateral image beside each frontal one")
    parser.add_argument("--prevalence", type=float, default=defaults.prevalence,
                        help="factor on the probability of every finding (%(default)s)")
    parser.add_argument("--annotation-noise", type=float, default=defaults.annotation_noise,
                        help="0..1: disturb the scene graphs of the training split (%(default)s)")
    parser.add_argument("--workers", type=int, default=None, help="processes (one a core)")


def run(arguments: Namespace) -> None:
    """Prepare what the command line asks for."""
    names = ("studies", "image_size", "seed", "two_views", "prevalence", "annotation_noise")
    prepare_phantom(arguments.out, PhantomSettings(**{name: getattr(arguments, name) for name in names}),
                    arguments.workers)


def prepare_phantom(out: str | Path, settings: PhantomSettings, workers: int | None = None) -> None:
    """Write the data set of `settings` into the folder `out`, using `workers` processes (None: one a core).

    A folder that already holds just this data set is left as it is, and an interrupted call is gone on with. Raises
    UserError where `out` holds something else, is being written by another process or cannot be written, and for other
    settings than those of the interrupted call.
    """
    out = Path(out)
    workers = available_cores() if workers is None else workers
    if workers < 1:
        raise UserError(f"workers is {workers}: give a number from 1 on")
    description = {"name": "phantom", "version": VERSION, **asdict(settings)}
    unfinished = out.parent / f".{out.name}.unfinished"
    already = _holds_already(out, description)
    try:
        if already:
            print(f"{out} holds this data set already")
        else:
            unfinished.mkdir(parents=True, exist_ok=True)
            with locked(unfinished, out):
                begin(unfinished, description)
                counts = _write_all(unfinished, settings, workers)
                _write_yaml(unfinished / "dataset" / "dataset.yaml", description | {"counts": counts})
                if out.is_dir():
                    out.rmdir()
                (unfinished / "dataset").rename(out)
            by_split = ", ".join(f"{count} {split}" for split, count in counts.items())
            print(f"{out}: {settings.studies} studies ({by_split})")
        shutil.rmtree(unfinished, ignore_errors=True)
    except OSError as error:
        raise UserError(
            f"Cannot write {out}: {error.strerror or error}; mend that and run the same command again"
        ) from error


def _holds_already(out: Path, description: dict) -> bool:
    """Whether `out` holds the data set described. Raises UserError where it holds something else."""
    if not out.exists() or (out.is_dir() and not any(out.iterdir())):
        return False
    remedy = "delete it or give another --out"
    try:
        found = yaml.safe_load((out / "dataset.yaml").read_text(encoding="utf-8"))
    except (OSError, yaml.YAMLError, UnicodeDecodeError) as error:
        raise UserError(f"{out} exists and is no prepared data set: {remedy}") from error
    if not isinstance(found, dict) or found.get("name") != "phantom":
        raise UserError(f"{out} holds another data set: {remedy}")
    differing = [f"{key} {found.get(key)} instead of {value}" for key, value in description.items()
                 if found.get(key) != value]
    if differing:
        raise UserError(f"{out} holds a phantom with {', '.join(differing)}: {remedy}")
    return True


def _write_all(unfinished: Path, settings: PhantomSettings, workers: int) -> dict[str, int]:
    """Write all files but `dataset.yaml` and return the number of studies by split."""
    folder = unfinished / "dataset"
    (folder / "scene_graphs").mkdir(exist_ok=True)
    annotation: dict[str, list[dict]] = {split: [] for split in SPLITS}
    jobs = ((unfinished, settings, index, split) for index, split in enumerate(assign_splits(settings)))
    progress = Progress("phantom", "studies", settings.studies)
    with (
        closing(progress), closing(ordered_map(_finished_study, jobs, workers)) as studies,
        (folder / "records.jsonl").open("w", encoding="utf-8") as records,
        (folder / "truth.jsonl").open("w", encoding="utf-8") as truths,
    ):  # fmt: skip
        for was_finished, study in studies:
            annotation[study["record"]["split"]].append(study["annotation"])
            records.write(json.dumps(study["record"]) + "\n")
            truths.write(json.dumps(study["truth"]) + "\n")
            progress.found_done(1) if was_finished else progress.advance(1)
    (folder / "annotation.json").write_text(json.dumps(annotation), encoding="utf-8")
    return {split: len(entries) for split, entries in annotation.items()}


def assign_splits(settings: PhantomSettings) -> list[str]:
    """The split of every study. A patient has one study, so that patients are split as well."""
    val, test = (max(1, round(settings.studies * SPLIT_SHARES[split])) for split in ("val", "test"))
    splits = ["val"] * val + ["test"] * test + ["train"] * (settings.studies - val - test)
    order = np.random.default_rng([settings.seed, settings.studies]).permutation(settings.studies)
    return [splits[position] for position in order]


def _finished_study(job: tuple[Path, PhantomSettings, int, str]) -> tuple[bool, dict]:
    """Whether the study of a job was written by an earlier call, and what `_write_study` returned for it."""
    unfinished, settings, index, split = job
    part = unfinished / "parts" / f"{index:06d}.json"
    if part.exists():
        return True, json.loads(part.read_text(encoding="utf-8"))
    study = _write_study(unfinished / "dataset", settings, index, split)
    partial = part.with_suffix(".partial")
    partial.write_text(json.dumps(study), encoding="utf-8")
    partial.replace(part)
    return False, study


def _write_study(folder: Path, settings: PhantomSettings, index: int, split: str) -> dict:
    """Simulate one study, write its images and its scene graph, and return its `record`, `annotation` and `truth`."""
    study_id = f"phantom-{index:06d}"
    streams = np.random.default_rng([settings.seed, index]).spawn(4)
    patient = draw_patient(streams[0])
    findings = draw_findings(streams[1], patient.view, settings.prevalence)
    sentences = write_report(findings, patient.view, streams[2], visible_traits(patient))
    noise_seeds = streams[3].integers(2**63, size=2)

    frontal = simulate(patient, findings, settings.image_size, int(noise_seeds[0]))
    images, views = [f"images/{study_id}.png"], [patient.view]
    _write_image(folder / images[0], frontal.image)
    if settings.two_views:
        lateral = simulate(patient, findings, settings.image_size, int(noise_seeds[1]), lateral=True)
        images, views = [*images, f"images/{study_id}_lateral.png"], [*views, "LATERAL"]
        _write_image(folder / images[1], lateral.image)

    disturbed = settings.annotation_noise if split == "train" else 0.0
    document = scene_graph(study_id, index, patient, frontal, sentences)
    if disturbed:
        disturb(document, disturbed, settings.image_size, streams[3])
    text = json.dumps(document)
    (folder / "scene_graphs" / f"{study_id}_SceneGraph.json").write_text(text, encoding="utf-8")

    report = " ".join(sentence.text for sentence in sentences)
    positive = observations_of(findings)
    record = {
        "id": study_id, "split": split, "images": images, "views": views, "report": report,
        "observations": {name: int(name in positive) for name in observation_names()},
        "graph": read_scene_graph(json.loads(text), (settings.image_size, settings.image_size)),
    }
    truth = {
        "id": study_id, "split": split, "view": patient.view,
        "cardiothoracic_ratio": round(frontal.cardiothoracic_ratio, 4),
        "findings": [asdict(finding) | {"regions": regions_of(finding)} for finding in findings],
        "sentences": [asdict(sentence) for sentence in sentences],
        "boxes": {region: box and [round(corner, 5) for corner in box] for region, box in frontal.boxes.items()},
    }
    annotation = {
        "id": study_id, "study_id": index, "subject_id": index, "report": report,
        "image_path": [Path(image).name for image in images], "split": split,
    }
    return {"record": record, "annotation": annotation, "truth": truth}


def _write_image(path: Path, image: np.ndarray) -> None:
    Image.fromarray(image).save(path, compress_level=4)


def _write_yaml(path: Path, content: dict) -> None:
    path.write_text(yaml.safe_dump(content, sort_keys=False), encoding="utf-8")


# Findings


def visible_traits(patient: Patient) -> tuple[str, ...]:
    """The `TRAITS` of a report that the picture of `patient` shows clearly."""
    shown = (
        abs(patient.pose.yaw) > 0.06, abs(patient.pose.roll) > 0.05, patient.wall > 3.0, patient.breasts > 6.0,
        patient.stomach_bubble > 2.6,
    )
    return tuple(trait for trait, is_shown in zip(TRAITS, shown, strict=True) if is_shown)


def draw_findings(rng: np.random.Generator, view: str, prevalence: float = 1.0) -> list[Finding]:
    """The findings of a study, by chance; about one study in five has none at `prevalence` 1."""
    if rng.random() < NORMAL_SHARE**prevalence:
        return []
    while True:
        findings: list[Finding] = []
        for kind in rng.permutation(list(FINDING_KINDS)):
            if rng.random() < min(0.9, prevalence * FINDING_KINDS[kind].prevalence * _view_factor(kind, view)):
                findings += _draw_finding(rng, str(kind))
        findings = _compatible(findings)
        if findings:
            order = list(FINDING_KINDS)
            return sorted(findings, key=lambda finding: (order.index(finding.kind), finding.side or ""))


def _view_factor(kind: str, view: str) -> float:
    """How much more often a view shows a kind of finding than all views together do."""
    factor = BEDRIDDEN_FACTORS.get(kind, 1.0)
    return factor if view == "AP" else (1 - BEDRIDDEN_SHARE * factor) / (1 - BEDRIDDEN_SHARE)


def _draw_finding(rng: np.random.Generator, kind: str) -> list[Finding]:
    """A finding of a kind; an effusion now and then on both sides."""
    form = FINDING_KINDS[kind]
    side = str(rng.choice(form.sides)) if form.sides else None
    place = str(rng.choice(form.places)) if form.places else None
    severity = str(rng.choice(SEVERITIES, p=(0.4, 0.35, 0.25))) if form.graded else None
    findings = [Finding(kind, side, place, severity)]
    if kind == "pleural effusion" and rng.random() < BILATERAL_EFFUSION:
        other = "left" if side == "right" else "right"
        findings.append(Finding(kind, other, place, str(rng.choice(SEVERITIES, p=(0.5, 0.35, 0.15)))))
    return findings


def _compatible(findings: Sequence[Finding]) -> list[Finding]:
    """The first of the `findings` that can be together."""
    kept: list[Finding] = []
    for finding in findings:
        if len(kept) < MOST_FINDINGS and not any(_exclude(finding, other) for other in kept):
            kept.append(finding)
    return kept


def _exclude(one: Finding, other: Finding) -> bool:
    kinds = {one.kind, other.kind}
    if kinds in EXCLUSIVE:
        return True
    if one.side != other.side:
        return False
    hidden = "pleural effusion" in kinds and kinds & HIDDEN_BY_EFFUSION and "lower" in (one.place, other.place)
    return kinds in EXCLUSIVE_ON_A_SIDE or bool(hidden)


# Scene graphs


def scene_graph(
    study_id: str, number: int, patient: Patient, picture: Picture, sentences: Sequence[Sentence]
) -> dict:
    """The scene graph of a study in Chest ImaGenome's schema. It carries no UMLS identifiers.

    Corners in original pixels are kept to a hundredth; the others are whole pixels of the padded 224-pixel frame.
    """
    size = len(picture.image)
    return {
        "image_id": study_id,
        "viewpoint": patient.view,
        "patient_id": number,
        "study_id": number,
        "gender": patient.sex,
        "age_decile": f"{patient.age // 10 * 10}-{patient.age // 10 * 10 + 10}",
        "reason_for_exam": "",
        "StudyOrder": 1,
        "StudyDateTime": "2100-01-01 00:00:00 UTC",
        "objects": [_object(study_id, region, box, size) for region, box in picture.boxes.items() if box],
        "attributes": _attribute_entries(study_id, number, sentences),
        "relationships": _relationships(study_id, number, sentences),
    }


def _object(study_id: str, region: str, box: Sequence[float], size: int) -> dict:
    ratio = 224 / size
    original = [round(corner * size, 2) for corner in box]
    frame = [round(corner * ratio) for corner in original]
    entry = {"object_id": f"{study_id}_{region}"}
    entry |= dict(zip(("x1", "y1", "x2", "y2"), frame, strict=True))
    entry |= {"width": frame[2] - frame[0], "height": frame[3] - frame[1]}
    entry |= {"bbox_name": region, "synsets": [], "name": region.capitalize()}
    entry |= dict(zip(("original_x1", "original_y1", "original_x2", "original_y2"), original, strict=True))
    return entry | {
        "original_width": round(original[2] - original[0], 2), "original_height": round(original[3] - original[1], 2),
    }


def _attribute_entries(study_id: str, number: int, sentences: Sequence[Sentence]) -> list[dict]:
    """An entry for every region that the sentences speak of; what is about none of them is said of "unknown"."""
    entries: dict[str, dict] = {}
    for position, sentence in enumerate(sentences):
        if not sentence.attributes:
            continue
        for region in sentence.regions or ("unknown",):
            entry = entries.setdefault(region, {
                region: True, "bbox_name": region, "synsets": [], "name": region.capitalize(), "attributes": [],
                "attributes_ids": [], "phrases": [], "phrase_IDs": [], "sections": [], "comparison_cues": [],
                "temporal_cues": [], "severity_cues": [], "texture_cues": [], "object_id": f"{study_id}_{region}",
            })
            judgement = f"nlp|yes|{'abnormal' if sentence.abnormal else 'normal'}"
            entry["attributes"].append([*sentence.attributes, judgement])
            entry["attributes_ids"].append([])
            entry["phrases"].append(sentence.text)
            entry["phrase_IDs"].append(f"{number}|{position}")
            entry["sections"].append("finalreport")
            entry["comparison_cues"].append([f"comparison|yes|{sentence.comparison}"] if sentence.comparison else [])
            entry["temporal_cues"].append([])
            entry["severity_cues"].append([f"severity|yes|{sentence.severity}"] if sentence.severity else [])
            entry["texture_cues"].append([a for a in sentence.attributes if a.startswith("texture|")])
    return list(entries.values())


def _relationships(study_id: str, number: int, sentences: Sequence[Sentence]) -> list[dict]:
    """How each region compares with an earlier study, which the data set does not hold."""
    predicates = {"improved": "['Improved']", "worsened": "['Worsened']", "no change": "['No status change']"}
    relationships = []
    for position, sentence in enumerate(sentences):
        for region in sentence.regions if sentence.comparison else ():
            relationships.append({
                "relationship_id": f"{number}|{position}_{study_id}_{region}",
                "predicate": predicates[sentence.comparison],
                "synsets": [],
                "relationship_names": [f"comparison|yes|{sentence.comparison}"],
                "relationship_contexts": [1.0],
                "phrase": sentence.text,
                "attributes": [*sentence.attributes, f"nlp|yes|{'abnormal' if sentence.abnormal else 'normal'}"],
                "bbox_name": region,
                "subject_id": f"{study_id}_{region}",
                "object_id": f"{study_id}-prior_{region}",
            })
    return relationships


def disturb(document: dict, noise: float, size: int, rng: np.random.Generator) -> None:
    """Make a scene graph as unreliable as an automatic one, in place.

    An attribute is dropped with the probability `noise`, a phrase gains one that nobody stated with half of it, and the
    sides of boxes move with a deviation of a fifth of it, in parts of the box's width or height.
    """
    labels = [kind.label.split("|") for kind in FINDING_KINDS.values()]
    for entry in document["attributes"]:
        for attributes in entry["attributes"]:
            attributes[:] = [a for a in attributes if a.startswith("nlp|") or rng.random() >= noise]
            if rng.random() < noise / 2:
                category, label = labels[rng.integers(len(labels))]
                attributes.insert(0, f"{category}|yes|{label}")
    for position, entry in enumerate(document["objects"]):
        x1, y1, x2, y2 = (entry[f"original_{corner}"] for corner in ("x1", "y1", "x2", "y2"))
        moves = 0.2 * noise * rng.standard_normal(4) * [x2 - x1, y2 - y1, x2 - x1, y2 - y1]
        moved = np.clip((np.array([x1, y1, x2, y2]) + moves) / size, 0, 1)
        if moved[0] < moved[2] and moved[1] < moved[3]:
            document["objects"][position] = _object(document["image_id"], entry["bbox_name"], moved.tolist(), size)
