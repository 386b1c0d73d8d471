"""IU X-Ray (Indiana University's chest X-rays) from Open-i, from Kaggle, or from R2Gen's copy.

With any of them, the studies are the 2,955 of R2Gen: the reports with at least two images and a FINDINGS section, with
R2Gen's ids and splits (`files/iu_xray/splits.csv`). The text to learn is FINDINGS, with single spaces.

The view of an image comes from the projections table if present, else from the DICOM file. Otherwise a study's first
image is assumed to be frontal, which is right for 89% of the studies, and its second lateral. R2Gen's copy does not
contain the names of the images, so their views always follow the order.
"""

import shutil
from argparse import ArgumentParser, Namespace
from collections import defaultdict
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass
from functools import cache
from itertools import chain, repeat
from pathlib import Path

from data.errors import UserError
from data.images.radiograph import read_radiograph
from data.ontology import FILES
from data.records import is_frontal_view
from data.sources.fingerprints import path_fingerprint
from data.sources.iu_xray.files import find_files, find_packed_images
from data.sources.iu_xray.reports import read_projections, study_number
from data.sources.iu_xray.reports_only import write_reports
from data.sources.iu_xray.texts import IUText, read_texts
from data.sources.packed_files import PackedFile
from data.sources.preparation import add_common_arguments, prepare
from data.sources.report_graph import build_report_graph, describe_report_graphs
from data.sources.source import Dropped, PreparedImage, Study
from data.text.label_tables import LabelTable, read_label_table
from data.text.report_labels import label_report

_FILES = FILES / "iu_xray"
# Studies in the complete distributions.
_STUDIES = {"train": 2069, "val": 296, "test": 590}
_MAX_DAMAGED_LISTED = 5
_FRONTAL = ("FRONTAL", "PA", "AP")


@dataclass(frozen=True)
class IUImage:
    """An image of a study.

    recorded   whether the projections table states the view; if not, it is assumed from the order of the images
    """

    file: PackedFile
    view: str
    recorded: bool


@dataclass(frozen=True)
class IUPlan:
    """A study to build: its text, the images that exist, and the number of missing ones."""

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
        help="write only the texts, to OUT/reports.csv; needs no images, and cannot be trained on",
    )


def run(arguments: Namespace) -> None:
    """Run the command."""
    if arguments.reports_only:
        if arguments.labels or arguments.boxes:
            raise UserError("--reports-only takes neither --labels nor --boxes: leave them out")
        source = IUXray(arguments.source)
        write_reports(source, source.texts, arguments.out)
        return
    scratch = arguments.out.parent / f".{arguments.out.name}.unpacked"
    source = IUXray(arguments.source, arguments.image_size, arguments.labels, scratch)
    source.require_images()
    prepare(source, arguments.out, arguments.image_size, arguments.workers, arguments.boxes)
    shutil.rmtree(scratch, ignore_errors=True)


class IUXray:
    """The studies of IU X-Ray, a `data.sources.source.Source`."""

    name = "iu_xray"

    def __init__(
        self, sources: Sequence[Path], image_size: int = 256, labels: Path | None = None, scratch: Path = Path()
    ):
        """Read all texts; images are read later, by `build`.

        image_size   images may be read at a lower resolution, with at least this short side in pixels
        labels       label table that replaces the built-in labeler, see `data.text.label_tables`
        scratch      folder for uncompressed copies of compressed archives

        Raises UserError if the sources have no reports of IU X-Ray, and if a file is unreadable or malformed.
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
        """See `Source`."""
        return {
            "distributions": self._files.summary() + self.texts.damaged[:_MAX_DAMAGED_LISTED],
            "list": "r2gen",
            "reports": self.texts.origin,
            "damaged_reports": len(self.texts.damaged),
            "views": self._origin_of_views(),
            "graph": describe_report_graphs(),
            "labels": "our labeler" if self._labels_file is None else path_fingerprint(self._labels_file),
            "sources": [path_fingerprint(path) for path in self.paths],
            "expected": _STUDIES | self.texts.expected,
            "found": self.texts.found,
        }

    def _origin_of_views(self) -> str:
        if self._views and (self._files.images or self._files.image_archives):
            return "from projections"
        dicom = any(path.suffix.lower() == ".dcm" for path in self._files.images.values())
        return "from DICOM, else from order" if dicom else "from order"

    def require_images(self) -> None:
        """Raise UserError if the sources have no images at all."""
        if not (self._files.images or self._files.numbered or self._files.image_archives):
            raise UserError(
                "The sources have reports but no images of IU X-Ray: add a --source with images, or use --reports-only"
            )

    def plans(self) -> Iterator[IUPlan]:
        """See `Source`. Raises UserError if an archive of images is damaged."""
        files = {name: PackedFile(path) for name, path in (self._files.images | self._files.numbered).items()}
        for archive in self._files.image_archives:
            files = find_packed_images(archive, self._scratch) | files
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
        """See `Source`."""
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
        frontal = images[0].pixels if is_frontal_view(images[0].view) else None
        return Study(
            id=plan.id,
            split=plan.split,
            images=tuple(images),
            report=plan.text.findings,
            observations=self._find_observations(plan.text),
            graph=build_report_graph(plan.text.findings, frontal),
            warnings=tuple(warnings),
            indication=plan.text.indication or None,
            comparison=plan.text.comparison or None,
            impression=plan.text.impression or None,
        )

    def _find_observations(self, text: IUText) -> dict[str, int] | None:
        """Return the labels of a study. Labelers read findings and impression together, if both are available."""
        both = f"{text.findings} {text.impression or ''}".strip()
        if self._labels is not None:
            return _find_labels(self._labels, text.id, (both, text.findings))
        if text.impression is not None:
            return label_report(both)
        shipped = _shipped_labels().find(text.id, text.findings)
        return label_report(text.findings) if shipped is None else shipped


def _find_labels(table: LabelTable, study_id: str, reports: Iterable[str]) -> dict[str, int] | None:
    """Look up the labels of a study.

    In a table with ids: by its id, or by the id's first two parts, as in published labels of R2Gen's studies. In a
    table without ids: by the first of the `reports` that it contains.
    """
    short_id = "-".join(study_id.split("-")[:2])
    found = (table.find(name, report) for report in reports for name in (study_id, short_id))
    return next((labels for labels in found if labels is not None), None)


@cache
def _shipped_labels() -> LabelTable:
    return read_label_table(_FILES / "labels.csv")


def _names_by_number(names: Iterable[str]) -> defaultdict[int | None, list[str]]:
    """Group Open-i's names of images by the number of their report, each group sorted; R2Gen's names are ignored."""
    by_number = defaultdict(list)
    for name in sorted(set(names)):
        by_number[study_number(name)].append(name)
    return by_number


def _frontal_first(images: list[PreparedImage]) -> list[PreparedImage]:
    """Put a frontal image first and another view second, if present; the others keep their order."""
    frontal = [position for position, image in enumerate(images) if image.view in _FRONTAL]
    lateral = [position for position, image in enumerate(images) if not is_frontal_view(image.view)]
    first = frontal[:1] + lateral[:1]
    return [images[position] for position in first + [other for other in range(len(images)) if other not in first]]
