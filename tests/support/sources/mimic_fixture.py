"""Made-up downloads: MIMIC-CXR-JPG, the reports of MIMIC-CXR, and Chest ImaGenome, in their original layout.

Images, sentences and scene graphs come from the phantom. Most studies are valid; for each of `TRAPS` one is not.
"""

import csv
import gzip
import io
import json
import textwrap
import zipfile
from collections.abc import Iterable, Sequence
from dataclasses import dataclass, field
from pathlib import Path

import numpy as np
from PIL import Image

from data.ontology import observation_names
from data.sources.phantom.dataset import PhantomSettings, prepare_phantom

# The training study at the same position has this defect.
TRAPS = (
    "lateral", "two frontals", "blank view", "unlabelled", "no findings", "no report", "damaged image",
    "missing image", "no graph", "damaged graph", "avoided", "few boxes", "odd graph",
)  # fmt: skip
SPLITS = ["train"] * 17 + ["validate"] * 3 + ["test"] * 3
# Width and height at full resolution, and of the copies on disk.
FULL_SIZE, STORED_SIZE = (2544, 3056), (80, 96)


@dataclass
class FixtureImage:
    """An image, and its graph if present."""

    id: str
    view: str
    graph: dict | None = None
    view_code: str = ""


@dataclass
class FixtureStudy:
    """A study and the content of its files; `trap` names its defect."""

    subject: int
    id: int
    split: str
    images: list[FixtureImage]
    findings: str
    truth: dict
    trap: str = ""

    @property
    def folder(self) -> str:
        """The folder of its images below `files/`."""
        return f"p{str(self.subject)[:2]}/p{self.subject}/s{self.id}"


@dataclass
class MimicFixture:
    """The folders of the three downloads, and their content."""

    jpg: Path
    reports: Path
    imagenome: Path
    studies: list[FixtureStudy] = field(default_factory=list)

    @property
    def sources(self) -> list[Path]:
        """All three folders."""
        return [self.jpg, self.reports, self.imagenome]

    def trap(self, name: str) -> FixtureStudy:
        """Return the study with this defect."""
        return next(study for study in self.studies if study.trap == name)

    def image_path(self, study: FixtureStudy, image: FixtureImage) -> Path:
        """Return the path of an image."""
        return self.jpg / "files" / study.folder / f"{image.id}.jpg"


def write_mimic_fixture(root: Path, gzipped: bool = True, zipped: bool = True, depth: int = 1) -> MimicFixture:
    """Write the three downloads into the folder `root`.

    gzipped  whether tables are .csv.gz or .csv
    zipped   whether reports and scene graphs are archives or files; files of graphs are in `depth` nested folders
             called scene_graph
    """
    fixture = MimicFixture(
        root / "mimic-cxr-jpg/2.0.0", root / "mimic-cxr/2.0.0", root / "chest-imagenome-dataset-1.0.0"
    )
    prepare_phantom(root / "phantom", PhantomSettings(studies=len(SPLITS), image_size=64), workers=1)
    for number, line in enumerate((root / "phantom/records.jsonl").read_text(encoding="utf-8").splitlines()):
        fixture.studies.append(_study(root / "phantom", number, json.loads(line)))
    _write_images(root / "phantom", fixture)
    _write_tables(fixture, gzipped)
    _write_reports(fixture, zipped)
    _write_imagenome(fixture, zipped, depth)
    return fixture


def _study(phantom: Path, number: int, record: dict) -> FixtureStudy:
    trap = TRAPS[number] if number < len(TRAPS) else ""
    subject, study = 99_000_001 + number // 2, 99_500_001 + number
    graph = json.loads((phantom / f"scene_graphs/{record['id']}_SceneGraph.json").read_text(encoding="utf-8"))
    images = [FixtureImage(image_id(number), record["views"][0])]
    if trap == "lateral":
        # First in the table, before the frontal image.
        images.insert(0, FixtureImage(image_id(number, 1), "LATERAL"))
    elif trap == "two frontals":
        images.append(FixtureImage(image_id(number, 2), "AP"))
    elif trap == "blank view":
        images[0].view, images[0].view_code = "", "postero-anterior"
    for image in images:
        if image.view != "LATERAL" and trap != "no graph":
            image.graph = at_full_size(graph | {"patient_id": subject, "study_id": study}, image.id)
    if trap == "few boxes":
        images[0].graph["objects"] = images[0].graph["objects"][:3]
    elif trap == "odd graph":
        make_odd(images[0].graph)
    return FixtureStudy(subject, study, SPLITS[number], images, record["report"], record, trap)


def image_id(number: int, view: int = 0) -> str:
    """Return an image id in the format of MIMIC-CXR."""
    return f"{'abcdef'[view] * 8}-bbbbbbbb-cccccccc-dddddddd-{number:08x}"


def scene_object(image: str, region: str, corners: Sequence[float]) -> dict:
    """Return an object with its box in both frames, from its corners in pixels of the original."""
    longest = max(FULL_SIZE)
    ratio = 224 / longest
    offsets = [(224 - int(side * ratio)) // 2 for side in FULL_SIZE] * 2
    framed = [round(corner * ratio + offset) for corner, offset in zip(corners, offsets, strict=True)]
    names = ("x1", "y1", "x2", "y2")
    return {
        "object_id": f"{image}_{region}", "bbox_name": region, "synsets": [], "name": region.capitalize(),
        **dict(zip(names, framed, strict=True)), "width": framed[2] - framed[0], "height": framed[3] - framed[1],
        **{f"original_{name}": corner for name, corner in zip(names, corners, strict=True)},
        "original_width": corners[2] - corners[0], "original_height": corners[3] - corners[1],
    }  # fmt: skip


def at_full_size(graph: dict, image: str, drawn_size: int = 64) -> dict:
    """Convert the phantom's scene graph to one of another image at `FULL_SIZE`."""
    objects = []
    for entry in graph["objects"]:
        corners = [entry[f"original_{corner}"] for corner in ("x1", "y1", "x2", "y2")]
        scaled = [round(corner * side / drawn_size) for corner, side in zip(corners, FULL_SIZE * 2, strict=True)]
        objects.append(scene_object(image, entry["bbox_name"], scaled))
    attributes = [entry | {"object_id": f"{image}_{entry['bbox_name']}"} for entry in graph["attributes"]]
    return graph | {"image_id": image, "objects": objects, "attributes": attributes, "relationships": []}


def make_odd(graph: dict) -> None:
    """Add every irregularity that readers must handle to a graph; the tests of the source assert the result."""
    image, (width, height) = graph["image_id"], FULL_SIZE
    unchanged = [
        entry for entry in graph["objects"]
        if entry["bbox_name"] not in ("carina", "svc", "abdomen", "spine", "trachea", "left clavicle")
    ]  # fmt: skip
    graph["objects"] = unchanged + [
        scene_object(image, "left cardiac silhouette", (900, 1200, 1500, 2000)),
        scene_object(image, "carina", (700, 900, 700, 1000)),
        scene_object(image, "svc", (-400, 100, -20, 300)),
        scene_object(image, "abdomen", (-100, 2500, width + 80, height + 200)),
        scene_object(image, "spine", (1000, 200, 1200, 1500)),
        scene_object(image, "spine", (1100, 1000, 1300, 2800)),
    ]
    graph["attributes"] = [
        region_entry(image, "neck", [["tubesandlines|yes|endotracheal tube", "nlp|yes|abnormal"]]),
        region_entry(image, "unknown", [["nlp|yes|abnormal"]]),
        region_entry(image, "abdomen", [["nlp|yes|abnormal"]], about=False),
        region_entry(
            image, "left lung",
            [["anatomicalfinding|yes|pneumothorax", "severity|yes|hedge", "nlp|yes|abnormal"],
             ["anatomicalfinding|no|pneumothorax", "nlp|yes|normal"]],
        ),
        region_entry(image, "right lung", [["nlp|yes|normal"], ["anatomicalfinding|yes|atelectasis"]])
        | {"phrase_IDs": ["1|1"]},
        region_entry(image, "spine", [["anatomicalfinding|yes|scoliosis", "nlp|yes|abnormal"]]),
    ]  # fmt: skip


def region_entry(image: str, region: str, attributes: list[list[str]], about: bool = True) -> dict:
    """Return an entry with the attributes of a region's phrases."""
    cues = ("comparison_cues", "temporal_cues", "severity_cues", "texture_cues")
    return {
        region: about, "bbox_name": region, "synsets": [], "name": region.capitalize(), "attributes": attributes,
        "attributes_ids": [[] for _ in attributes], "phrases": ["An invented phrase." for _ in attributes],
        "phrase_IDs": [f"1|{number}" for number in range(len(attributes))],
        "sections": ["finalreport" for _ in attributes], **{cue: [[] for _ in attributes] for cue in cues},
        "object_id": f"{image}_{region}",
    }  # fmt: skip


def _write_images(phantom: Path, fixture: MimicFixture) -> None:
    for study in fixture.studies:
        with Image.open(phantom / study.truth["images"][0]) as drawn:
            resized = drawn.resize(STORED_SIZE)
        for image in study.images:
            path = fixture.image_path(study, image)
            path.parent.mkdir(parents=True, exist_ok=True)
            resized.save(path, quality=95)
            if study.trap == "damaged image":
                path.write_bytes(path.read_bytes()[:200])
            elif study.trap == "missing image":
                path.unlink()


def _write_tables(fixture: MimicFixture, gzipped: bool) -> None:
    """Write the tables of MIMIC-CXR-JPG."""
    suffix = ".csv.gz" if gzipped else ".csv"
    images = [(study, image) for study in fixture.studies for image in study.images]
    write_table(
        fixture.jpg / f"mimic-cxr-2.0.0-split{suffix}", ("dicom_id", "study_id", "subject_id", "split"),
        [(image.id, study.id, study.subject, study.split) for study, image in images],
    )  # fmt: skip
    write_table(
        fixture.jpg / f"mimic-cxr-2.0.0-metadata{suffix}",
        ("dicom_id", "subject_id", "study_id", "PerformedProcedureStepDescription", "ViewPosition", "Rows", "Columns",
         "StudyDate", "StudyTime", "ProcedureCodeSequence_CodeMeaning", "ViewCodeSequence_CodeMeaning",
         "PatientOrientationCodeSequence_CodeMeaning"),
        [(image.id, study.subject, study.id, "CHEST (PA AND LAT)", image.view, FULL_SIZE[1], FULL_SIZE[0], 21990102,
          "3405.25" if study.id % 2 else "213014.5", "CHEST (PA AND LAT)", image.view_code, "Erect")
         for study, image in images],
    )  # fmt: skip
    for name, blank in (("chexpert", ""), ("negbio", "0.0")):
        rows = []
        for study in fixture.studies:
            values = [f"{study.truth['observations'][observation]:.1f}" for observation in observation_names()]
            values[:3] = ["-1.0", "", blank]
            if study.trap != "unlabelled":
                rows.append((study.subject, study.id, *values))
        header = ("subject_id", "study_id", *observation_names())
        write_table(fixture.jpg / f"mimic-cxr-2.0.0-{name}{suffix}", header, rows)


def write_table(path: Path, header: Sequence[str], rows: Iterable[Sequence]) -> None:
    """Write a CSV table, gzipped if its suffix is .gz."""
    path.parent.mkdir(parents=True, exist_ok=True)
    text = io.StringIO()
    writer = csv.writer(text)
    writer.writerow(header)
    writer.writerows(rows)
    content = text.getvalue().encode()
    path.write_bytes(gzip.compress(content) if path.suffix == ".gz" else content)


def report_text(findings: str | None, impression: str | None = "No acute process.") -> str:
    """Return a report in the usual layout; None leaves a section out."""
    parts = [
        f"{'FINAL REPORT':^79}".rstrip(), " EXAMINATION:  CHEST (PA AND LAT)", "",
        " INDICATION:  ___ year old with an invented cough.", "", " COMPARISON:  None.", "",
    ]  # fmt: skip
    for name, text in (("FINDINGS", findings), ("IMPRESSION", impression)):
        if text is not None:
            lines = textwrap.wrap(text, 78, initial_indent=" ", subsequent_indent=" ")
            parts += [f" {name}:", " ", *lines, " "]
    return "\n".join(parts) + "\n"


def _write_reports(fixture: MimicFixture, zipped: bool) -> None:
    files = {}
    for study in fixture.studies:
        if study.trap != "no report":
            findings = None if study.trap == "no findings" else study.findings
            files[f"files/{study.folder}.txt"] = report_text(findings).encode()
    write_files(fixture.reports, files, fixture.reports / "mimic-cxr-reports.zip" if zipped else None)


def _write_imagenome(fixture: MimicFixture, zipped: bool, depth: int) -> None:
    silver = fixture.imagenome / "silver_dataset"
    graphs, splits, avoided = {}, {"train": [], "valid": [], "test": []}, []
    folder = "/".join(["scene_graph"] * (1 if zipped else depth))
    for study in fixture.studies:
        for image in study.images:
            if image.view == "LATERAL":
                continue
            row = (
                study.subject, study.id, image.id, f"files/{study.folder}/{image.id}.dcm", image.view or "PA",
            )  # fmt: skip
            split = {"validate": "valid"}.get(study.split, study.split)
            splits[split].append((len(splits[split]), *row))
            if study.trap == "avoided":
                avoided.append(row)
            if image.graph is not None:
                content = json.dumps(image.graph).encode()
                broken = study.trap == "damaged graph"
                graphs[f"{folder}/{image.id}_SceneGraph.json"] = content[:-40] if broken else content
    write_files(silver, graphs, silver / "scene_graph.zip" if zipped else None)
    columns = ("subject_id", "study_id", "dicom_id", "path", "ViewPosition")
    for split, rows in splits.items():
        write_table(silver / f"splits/{split}.csv", ("", *columns), rows)
    write_table(silver / "splits/images_to_avoid.csv", columns, avoided)


def write_files(folder: Path, files: dict[str, bytes], archive: Path | None) -> None:
    """Write files, name -> content, to the zip archive if given, else below the folder."""
    folder.mkdir(parents=True, exist_ok=True)
    if archive is not None:
        with zipfile.ZipFile(archive, "w", zipfile.ZIP_DEFLATED) as opened:
            for name, content in files.items():
                opened.writestr(name, content)
        return
    for name, content in files.items():
        (folder / name).parent.mkdir(parents=True, exist_ok=True)
        (folder / name).write_bytes(content)


def random_pixels(size: tuple[int, int], seed: int = 0) -> np.ndarray:
    """Return noise [H, W] uint8 of this width and height."""
    return np.random.default_rng(seed).integers(0, 255, size=size[::-1], dtype=np.uint8)
