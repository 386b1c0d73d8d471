"""IU X-Ray (Indiana University's chest X-rays) from Open-i, from Kaggle, or from R2Gen's copy.

The studies are the 2,955 of R2Gen: those reports with at least two images and a FINDINGS section, under R2Gen's ids and
in its splits (`files/iu_xray/splits.csv`), whatever the source. The report to learn is FINDINGS, with single spaces.

The view of an image is what the projections table says, where it is at hand, or else the DICOM file. Otherwise a
study's first image is taken for frontal, which it is in 89% of the studies, and its second for lateral. R2Gen's copy
has not kept the names of the images, so that theirs always go by their order.
"""

import csv
import shutil
import tempfile
from argparse import ArgumentParser, Namespace
from collections import Counter, defaultdict
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass, field
from functools import cache
from itertools import chain, repeat
from pathlib import Path, PurePosixPath

import yaml

from data.errors import UserError
from data.images.radiograph import read_radiograph
from data.ontology import FILES
from data.records import SPLITS, is_frontal
from data.sources.fingerprints import path_fingerprint
from data.sources.iu_xray.files import EXPECTED, ImageFile, IUFiles, find_files, unpack_images
from data.sources.iu_xray.reports import IUReports, read_kaggle, read_open_i, read_projections, study_number
from data.sources.preparation import Dropped, PreparedImage, Study, add_common_arguments, prepare
from data.sources.r2gen import read_annotation
from data.sources.report_graph import graph_of_report
from data.text.label_tables import LabelTable, read_label_table
from data.text.report_labels import label_report

_FILES = FILES / "iu_xray"
# What the complete distributions hold.
_STUDIES = {"train": 2069, "val": 296, "test": 590}
_REPORTS_OF_OPEN_I, _REPORTS_OF_KAGGLE = 3955, 3851
_DAMAGED_SHOWN = 5
_FRONTAL = ("FRONTAL", "PA", "AP")


@dataclass(frozen=True)
class IUText:
    """The text of a study.

    impression   None where the source does not tell it: R2Gen's annotation
    images       Open-i's names of its images, in order; empty where the source does not list them
    copies       the names of its images in R2Gen's copy, "STUDY/NUMBER", in order
    """

    id: str
    split: str
    findings: str
    impression: str | None
    images: tuple[str, ...]
    copies: tuple[str, ...]


@dataclass
class IUTexts:
    """The texts of all studies in a source.

    origin     what kind of file they are from
    found      further counts, and in `expected` what they are in the complete distribution
    damaged    what was left out, a line each
    """

    origin: str
    studies: list[IUText]
    found: dict[str, int] = field(default_factory=dict)
    expected: dict[str, int] = field(default_factory=dict)
    damaged: list[str] = field(default_factory=list)


@dataclass(frozen=True)
class IUImage:
    """An image of a study; `recorded` tells a view that is known from one that is only likely."""

    file: ImageFile
    view: str
    recorded: bool


@dataclass(frozen=True)
class IUPlan:
    """A study to be built: its text, those of its images that are there, and how many are not."""

    id: str
    split: str
    text: IUText
    images: tuple[IUImage, ...]
    missing: int


def add_arguments(parser: ArgumentParser) -> None:
    """Declare the options of `python -m data.prepare iu_xray`."""
    add_common_arguments(parser)
    parser.add_argument(
        "--reports-only",
        action="store_true",
        help="need no images: write the texts to OUT/reports.csv, nothing to train on",
    )


def run(arguments: Namespace) -> None:
    """Prepare what the command line asks for."""
    if arguments.reports_only:
        if arguments.labels or arguments.boxes:
            raise UserError("--reports-only takes neither --labels nor --boxes: leave them out")
        write_reports(IUXray(arguments.source), arguments.out)
        return
    scratch = arguments.out.parent / f".{arguments.out.name}.unpacked"
    source = IUXray(arguments.source, arguments.image_size, arguments.labels, scratch)
    source.require_images()
    prepare(source, arguments.out, arguments.image_size, arguments.workers, arguments.boxes)
    shutil.rmtree(scratch, ignore_errors=True)


class IUXray:
    """The studies of the sources, as `data.sources.preparation.prepare` wants them."""

    name = "iu_xray"

    def __init__(
        self, sources: Sequence[Path], image_size: int = 256, labels: Path | None = None, scratch: Path = Path()
    ):
        """Read all texts; images are read when asked for.

        image_size   so many pixels of an image's short side will do
        labels       labels to use instead of our own labeler's, see `data.text.label_tables`
        scratch      folder for packed images while they are uncompressed

        Raises UserError for sources without reports of IU X-Ray, and for files that are unreadable or of another form.
        """
        self.paths = tuple(sources)
        self._image_size = image_size
        self._labels_file = labels
        self._labels = None if labels is None else read_label_table(labels)
        self._scratch = scratch
        self._files = find_files(sources)
        self._views = read_projections(self._files.projections[0]) if self._files.projections else {}
        self.texts = read_texts(self._files)

    def __len__(self) -> int:
        return len(self.texts.studies)

    def describe(self) -> dict:
        """See `data.sources.preparation.Source`."""
        return {
            "distributions": self._files.summary() + self.texts.damaged[:_DAMAGED_SHOWN],
            "reports": self.texts.origin,
            "damaged_reports": len(self.texts.damaged),
            "views": self._views_from(),
            "graph": "text of the report",
            "labels": "our labeler" if self._labels_file is None else path_fingerprint(self._labels_file),
            "sources": [path_fingerprint(path) for path in self.paths],
            "expected": _STUDIES | self.texts.expected,
            "found": self.texts.found,
        }

    def _views_from(self) -> str:
        if self._views and (self._files.images or self._files.image_archives):
            return "from projections"
        dicom = any(path.suffix.lower() == ".dcm" for path in self._files.images.values())
        return "from DICOM, else from order" if dicom else "from order"

    def require_images(self) -> None:
        """Raises UserError where the sources hold no image at all."""
        if not (self._files.images or self._files.numbered or self._files.image_archives):
            raise UserError(
                "The sources hold reports but no images of IU X-Ray: add a --source with images, or give --reports-only"
            )

    def plans(self) -> Iterator[IUPlan]:
        """See `data.sources.preparation.Source`. Raises UserError for a damaged archive of images."""
        files = {name: ImageFile(path) for name, path in (self._files.images | self._files.numbered).items()}
        for archive in self._files.image_archives:
            files = unpack_images(archive, self._scratch / f"{path_fingerprint(archive)}.tar") | files
        listed = _names_by_number(chain(self._views, files))
        for text in self.texts.studies:
            names = text.images or listed[study_number(text.id)]
            if not any(name in files for name in names):
                names = text.copies
            images = tuple(
                IUImage(files[name], self._views.get(name, likely), name in self._views)
                for name, likely in zip(names, chain(("FRONTAL", "LATERAL"), repeat("UNKNOWN")), strict=False)
                if name in files
            )
            yield IUPlan(text.id, text.split, text, images, len(names) - len(images))

    def build(self, plan: IUPlan) -> Study | Dropped:
        """See `data.sources.preparation.Source`."""
        images, warnings = [], ["image missing"] * plan.missing
        for image in plan.images:
            try:
                radiograph = read_radiograph(image.file.content(), plan.id, self._image_size)
            except (UserError, OSError):
                warnings.append("image damaged")
                continue
            view = image.view if image.recorded or not radiograph.view else radiograph.view
            images.append(PreparedImage(radiograph.pixels, view))
            warnings.extend(radiograph.warnings)
        if not images:
            return Dropped(plan.id, "images damaged" if plan.images else "no image")
        images = _frontal_first(images)
        frontal = images[0].pixels if is_frontal({"views": [images[0].view]}) else None
        return Study(
            id=plan.id,
            split=plan.split,
            images=tuple(images),
            report=plan.text.findings,
            observations=self._observations(plan.text),
            graph=graph_of_report(plan.text.findings, frontal),
            warnings=tuple(warnings),
        )

    def _observations(self, text: IUText) -> dict[str, int] | None:
        """The labels of a study. CheXpert's labelers read findings and impression: so does ours, where it can."""
        both = f"{text.findings} {text.impression or ''}".strip()
        if self._labels is not None:
            return _find_labels(self._labels, text.id, (both, text.findings))
        if text.impression is not None:
            return label_report(both)
        shipped = _shipped_labels().find(text.id, text.findings)
        return label_report(text.findings) if shipped is None else shipped


# Texts


def read_texts(files: IUFiles) -> IUTexts:
    """The texts of the studies: from Open-i's XML where it is there, else from Kaggle's table, else from R2Gen's file.

    Raises UserError where none is there or it holds no study of IU X-Ray, and for files that are unreadable or of
    another form.
    """
    if files.xml:
        texts = _texts_of_reports("Open-i's XML", read_open_i(files.xml[0]), _REPORTS_OF_OPEN_I)
    elif files.kaggle_reports:
        texts = _texts_of_reports("Kaggle's table", read_kaggle(files.kaggle_reports[0]), _REPORTS_OF_KAGGLE)
    elif files.annotations:
        texts = _texts_of_annotation(files.annotations[0])
    else:
        raise UserError(f"The sources hold no reports of IU X-Ray: expected {EXPECTED}")
    if not texts.studies:
        raise UserError(f"{texts.origin} holds no study of IU X-Ray: give another --source")
    return texts


def _texts_of_reports(origin: str, reports: IUReports, expected: int) -> IUTexts:
    """The studies among all reports, in the order of their numbers."""
    studies = []
    for study_id, split in read_splits():
        report = reports.by_number.get(study_number(study_id))
        if report is not None and report.findings:
            copies = (f"{study_id}/0", f"{study_id}/1")
            studies.append(IUText(study_id, split, report.findings, report.impression, report.images, copies))
    return IUTexts(
        origin,
        studies,
        found={"reports": len(reports.by_number)},
        expected={"reports": expected},
        damaged=reports.damaged,
    )


def _texts_of_annotation(path: Path) -> IUTexts:
    """The studies of an annotation file, in its own splits."""
    studies = []
    for sample in read_annotation(path):
        if study_number(sample.id) is None:
            raise UserError(f"{path}: '{sample.id[:40]}' is no study of IU X-Ray; is it the file of another data set?")
        copies = tuple("/".join(PurePosixPath(image).with_suffix("").parts[-2:]) for image in sample.images)
        studies.append(IUText(sample.id, sample.split, " ".join(sample.report.split()), None, (), copies))
    return IUTexts("R2Gen's annotation", studies)


def _find_labels(table: LabelTable, study_id: str, reports: Iterable[str]) -> dict[str, int] | None:
    """The labels of a study under its id, or under the id's first two parts, which published labels of R2Gen's studies
    go by; in a table without ids, those of the first of the `reports` that it has."""
    short_id = "-".join(study_id.split("-")[:2])
    found = (table.find(name, report) for report in reports for name in (study_id, short_id))
    return next((labels for labels in found if labels is not None), None)


@cache
def _shipped_labels() -> LabelTable:
    return read_label_table(_FILES / "labels.csv")


def read_splits() -> list[tuple[str, str]]:
    """R2Gen's id and split of every study, by the number of its report."""
    with (_FILES / "splits.csv").open(encoding="utf-8", newline="") as file:
        return [(row["id"], row["split"]) for row in csv.DictReader(file)]


def _names_by_number(names: Iterable[str]) -> defaultdict[int | None, list[str]]:
    """Open-i's names of images, sorted, by the number of their report; R2Gen's names do not count."""
    by_number = defaultdict(list)
    for name in sorted(set(names)):
        by_number[study_number(name)].append(name)
    return by_number


def _frontal_first(images: list[PreparedImage]) -> list[PreparedImage]:
    """A frontal image first and another view second, where there are such; the others in their order."""
    frontal = [position for position, image in enumerate(images) if image.view in _FRONTAL]
    lateral = [position for position, image in enumerate(images) if not is_frontal({"views": [image.view]})]
    first = frontal[:1] + lateral[:1]
    return [images[position] for position in first + [other for other in range(len(images)) if other not in first]]


def write_reports(source: IUXray, out: Path) -> None:
    """Write the texts alone: `reports.csv` (id, split, report, findings, impression) and `dataset.yaml`.

    `report` is what a model learns to write. Changes nothing where they are there already; raises UserError where
    `out` lies in a source, holds something else, or cannot be written.
    """
    for path in source.paths:
        if out.resolve().is_relative_to(path.resolve()):
            raise UserError(f"--out {out} lies in the source {path}, which stays untouched: give another --out")
    counts = Counter(study.split for study in source.texts.studies)
    described = source.describe()
    description = {"name": source.name, "reports_only": True, "counts": {split: counts[split] for split in SPLITS}}
    description |= {name: described[name] for name in ("distributions", "reports", "damaged_reports", "sources")}
    description |= {"expected": described["expected"], "found": description["counts"] | described["found"]}
    try:
        if out.exists() and (not out.is_dir() or any(out.iterdir())):
            _require_same(out, description)
            print(f"{out} holds these reports already")
            return
        out.parent.mkdir(parents=True, exist_ok=True)
        with tempfile.TemporaryDirectory(prefix=f".{out.name}-", dir=out.parent) as folder:
            building = Path(folder) / "reports"
            building.mkdir()
            _write_table(building / "reports.csv", source.texts.studies)
            (building / "dataset.yaml").write_text(yaml.safe_dump(description, sort_keys=False), encoding="utf-8")
            building.replace(out)
    except OSError as error:
        raise UserError(f"Cannot write {out}: {error.strerror or error}") from error
    _print_summary(out, description)


def _require_same(out: Path, description: dict) -> None:
    try:
        same = yaml.safe_load((out / "dataset.yaml").read_text(encoding="utf-8")) == description
    except (OSError, yaml.YAMLError, UnicodeDecodeError):
        same = False
    if not same:
        raise UserError(f"{out} holds something else: delete it or give another --out")


def _write_table(path: Path, studies: Iterable[IUText]) -> None:
    with path.open("w", encoding="utf-8", newline="") as file:
        rows = csv.writer(file, lineterminator="\n")
        rows.writerow(("id", "split", "report", "findings", "impression"))
        for study in studies:
            rows.writerow((study.id, study.split, study.findings, study.findings, study.impression or ""))


def _print_summary(out: Path, description: dict) -> None:
    for line in description["distributions"]:
        print(f"{description['name']}: {line}")
    by_split = ", ".join(f"{count} {split}" for split, count in description["counts"].items())
    print(f"{out}: {sum(description['counts'].values())} reports ({by_split})")
    for name, expected in description["expected"].items():
        if description["found"][name] != expected:
            print(f"  differs: {name}: {description['found'][name]} instead of {expected}")
