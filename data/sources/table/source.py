"""Images with a table of your own: one row for each image, with the columns that the options name.

Absent columns and blank cells are unknown. Rows with the same study belong together. Splits are those of a column, or
drawn by patient.
"""

from argparse import ArgumentParser, Namespace
from collections.abc import Iterator
from dataclasses import dataclass, field
from pathlib import Path, PurePosixPath
from typing import Any

from data.errors import UserError, missing, unknown_name
from data.images.radiograph import Radiograph, read_radiograph
from data.ontology import Anatomy
from data.records import is_frontal_view
from data.sources.fingerprints import path_fingerprint
from data.sources.packed_files import list_paths
from data.sources.patient_splits import draw_split
from data.sources.preparation import add_output_arguments, prepare
from data.sources.report_graph import build_report_graph, describe_report_graphs
from data.sources.source import Dropped, PreparedImage, Study
from data.sources.table.rows import read_rows
from data.sources.table.values import (
    Box,
    ObservationColumn,
    parse_observations,
    read_boxes,
    read_observations,
    read_split,
    read_time,
    read_view,
)
from data.text.report_labels import label_report

PIXELS, FRACTIONS = "pixels", "fractions"
_CONTEXT = ("taken", "indication", "comparison", "impression", "prior")
_UNMENTIONED = {"mentioned": False, "abnormal": False, "attributes": []}


@dataclass(frozen=True)
class Columns:
    """Names of the columns; None if the table does not have one.

    box_units   "pixels" of the original image, or "fractions" of its width and height
    regions     regions whose boxes are used
    """

    image: str = "image"
    study: str | None = None
    patient: str | None = None
    view: str | None = None
    report: str | None = None
    split: str | None = None
    taken: str | None = None
    indication: str | None = None
    comparison: str | None = None
    impression: str | None = None
    prior: str | None = None
    observations: tuple[ObservationColumn, ...] = ()
    boxes: str | None = None
    box_units: str = PIXELS
    regions: tuple[str, ...] = ()

    def names(self) -> tuple[str, ...]:
        """Return the columns to read."""
        named = (self.image, self.study, self.patient, self.view, self.report, self.split, self.boxes)
        named += tuple(getattr(self, kind) for kind in _CONTEXT)
        observed = (observation.column for observation in self.observations)
        return tuple(dict.fromkeys(name for name in (*named, *observed) if name is not None))


@dataclass(frozen=True)
class TableImage:
    """An image of a study; path is None if there is no such file."""

    path: Path | None
    view: str
    boxes: tuple[Box, ...]


@dataclass
class TablePlan:
    """A study to build; `context` has its time, prior, and texts beside the report, as far as they are known."""

    id: str
    split: str
    patient: str | None = None
    report: str | None = None
    observations: dict[str, int | None] | None = None
    context: dict[str, str] = field(default_factory=dict)
    images: list[TableImage] = field(default_factory=list)


def add_arguments(parser: ArgumentParser) -> None:
    """Declare the options of `python -m data.prepare table`."""
    parser.add_argument(
        "--table", type=Path, required=True, metavar="FILE", help="one row per image: CSV, Parquet, JSON or JSON lines"
    )
    parser.add_argument(
        "--images", type=Path, required=True, metavar="FOLDER", help="folder of the images: DICOM, PNG, JPEG or TIFF"
    )
    add_output_arguments(parser)
    parser.add_argument("--name", help="name of the data set, shown beside scores (default: that of the folder --out)")
    columns = parser.add_argument_group("columns", "what is absent or blank is unknown")
    columns.add_argument(
        "--image", default=Columns.image, metavar="COLUMN",
        help="path in the folder of images, or a file name that occurs once in it (default: %(default)s)",
    )
    columns.add_argument("--study", metavar="COLUMN", help="study of an image (default: every image is a study)")
    columns.add_argument(
        "--patient", metavar="COLUMN", help="patient, for drawn splits and earlier studies (default: the study)"
    )
    columns.add_argument("--view", metavar="COLUMN", help="PA, AP, FRONTAL, LATERAL, ... (default: as DICOM files say)")
    columns.add_argument("--report", metavar="COLUMN", help="text of the report")
    columns.add_argument("--indication", metavar="COLUMN", help="why the study was requested: reason, history")
    columns.add_argument("--impression", metavar="COLUMN", help="impression of the report, if apart from --report")
    columns.add_argument("--comparison", metavar="COLUMN", help="the report's section on what it was compared with")
    columns.add_argument(
        "--taken", metavar="COLUMN", help="time of the study, as 2180-05-06 or 2180-05-06T21:30:14; a patient's latest "
        "earlier study of the same split is the prior"
    )
    columns.add_argument("--prior", metavar="COLUMN", help="study that is the prior (default: follows from --taken)")
    columns.add_argument(
        "--split", metavar="COLUMN", help="train, val or test (default: drawn by patient, 80, 10 and 10 %%)"
    )
    columns.add_argument(
        "--observations", nargs="+", default=[], metavar="NAME=COLUMN",
        help="observations with a column of 1, 0 and -1 (uncertain), or NAME=COLUMN:FINDING with a column of lists "
        "separated by | (default: read from the report)",
    )
    columns.add_argument(
        "--boxes", metavar="COLUMN",
        help='JSON {"left lung": [x1, y1, x2, y2]} or [{"name": "Nodule", "box": [x1, y1, x2, y2]}]',
    )
    parser.add_argument("--box-units", choices=(PIXELS, FRACTIONS), default=PIXELS, help="default: %(default)s")
    parser.add_argument(
        "--regions", nargs="+", metavar="REGION", help="regions whose boxes are used (default: all of the 29)"
    )


def run(arguments: Namespace) -> None:
    """Run the command."""
    known = Anatomy.load().names
    for region in arguments.regions or ():
        if region not in known:
            raise unknown_name("region", region, known, "--regions")
    columns = Columns(
        image=arguments.image, study=arguments.study, patient=arguments.patient, view=arguments.view,
        report=arguments.report, split=arguments.split, observations=parse_observations(arguments.observations),
        boxes=arguments.boxes, box_units=arguments.box_units, regions=tuple(arguments.regions or known),
        **{kind: getattr(arguments, kind) for kind in _CONTEXT},
    )
    name = arguments.name or arguments.out.resolve().name
    source = TableSource(arguments.table, arguments.images, columns, name, arguments.image_size)
    prepare(source, arguments.out, arguments.image_size, arguments.workers)


class TableSource:
    """The studies of a table, a `data.sources.source.Source`."""

    def __init__(self, table: Path, images: Path, columns: Columns, name: str = "table", image_size: int = 256):
        """Read the table; images are read later, by `build`.

        image_size   images may be read at a lower resolution, with at least this short side in pixels

        Raises UserError if the table cannot be read, lacks a column or has a value that does not belong there, and if
        the folder of images does not exist.
        """
        if not images.is_dir():
            raise missing("folder of images", images, "give an existing folder as --images")
        self.name = name
        self.paths = (table, images)
        self._columns = columns
        self._image_size = image_size
        self._rows = list(read_rows(table, columns.names()))
        self._patients: dict[str, set[str]] = {}
        self._plans = self._plan_studies(_ImageFinder(images))
        self._missing = sum(image.path is None for plan in self._plans for image in _images_of(plan))

    def __len__(self) -> int:
        return len(self._plans)

    def describe(self) -> dict:
        """See `Source`."""
        images = sum(len(_images_of(plan)) for plan in self._plans)
        lines = [f"{self.paths[0].name}: {len(self._rows)} rows, {len(self._plans)} studies, {images} images"]
        if self._missing:
            lines.append(f"images that do not exist: {self._missing}")
        if several := sum(len(splits) > 1 for splits in self._patients.values()):
            lines.append(f"warning: {several} patients are in several splits")
        columns = self._columns
        return {
            "distributions": lines,
            "split": "drawn by patient" if columns.split is None else f"column {columns.split}",
            "labels": self._origin_of_labels(),
            "graph": None if columns.report is None else describe_report_graphs(),
            "options": {
                **{name: getattr(columns, name) for name in ("image", "study", "patient", "view", "report", "boxes")},
                "observations": [
                    f"{each.name}={each.column}" + ("" if each.finding is None else f":{each.finding}")
                    for each in columns.observations
                ],
                "box_units": columns.box_units,
                "regions": list(columns.regions),
                **{kind: getattr(columns, kind) for kind in _CONTEXT if getattr(columns, kind) is not None},
            },
            "sources": [path_fingerprint(path) for path in self.paths],
        }

    def _origin_of_labels(self) -> str | None:
        if self._columns.observations:
            return "columns of the table"
        return None if self._columns.report is None else "our labeler"

    # Plans, in the main process

    def plans(self) -> Iterator[TablePlan | Dropped]:
        """See `Source`."""
        yield from self._plans

    def _plan_studies(self, finder: "_ImageFinder") -> list[TablePlan | Dropped]:
        """Group the rows by study, in the order of their first rows."""
        plans: dict[str, TablePlan | Dropped] = {}
        for where, row in self._rows:
            name = str(row[self._columns.image])
            study_id = str(self._cell(row, "study")) or PurePosixPath(name.replace("\\", "/")).stem
            if not study_id:
                raise UserError(f"{where} names neither an image nor a study: fill the columns, or remove the row")
            if study_id not in plans:
                plans[study_id] = self._plan_study(study_id, row, where)
            plan = plans[study_id]
            if isinstance(plan, Dropped):
                continue
            plan.report = plan.report or str(self._cell(row, "report")) or None
            for kind in _CONTEXT:
                if value := str(self._cell(row, kind)):
                    plan.context.setdefault(kind, read_time(value, where) if kind == "taken" else value)
            plan.observations = plan.observations or read_observations(self._columns.observations, row, where)
            if name:
                boxes = read_boxes(self._cell(row, "boxes"), where)
                plan.images.append(TableImage(finder.find(name), read_view(str(self._cell(row, "view"))), boxes))
        return list(plans.values())

    def _plan_study(self, study_id: str, row: dict[str, Any], where: str) -> TablePlan | Dropped:
        """Plan a study: its split is that of its first row."""
        patient = str(self._cell(row, "patient")) or study_id
        split = draw_split(patient)
        if self._columns.split is not None:
            split = read_split(str(self._cell(row, "split")), where)
            if split is None:
                return Dropped(study_id, "no split")
        self._patients.setdefault(patient, set()).add(split)
        return TablePlan(study_id, split, None if self._columns.patient is None else patient)

    def _cell(self, row: dict[str, Any], kind: str) -> Any:
        """Return the value in the column of this kind; "" if the table has no such column."""
        column = getattr(self._columns, kind)
        return "" if column is None else row[column]

    # Studies, in a worker process

    def build(self, plan: TablePlan) -> Study | Dropped:
        """See `Source`."""
        read, warnings = [], []
        for image in plan.images:
            if image.path is None:
                warnings.append("image missing")
                continue
            try:
                radiograph = read_radiograph(image.path, min_side=self._image_size)
            except UserError as error:
                # A missing package concerns all images, not only this one.
                if "pip install" in str(error):
                    raise
                warnings.append("image damaged")
                continue
            warnings.extend(radiograph.warnings)
            read.append((PreparedImage(radiograph.pixels, image.view or radiograph.view), radiograph, image.boxes))
        if not read:
            return Dropped(plan.id, "image damaged" if "image damaged" in warnings else "no image")
        # A frontal image comes first; otherwise the order of the rows stays.
        read.sort(key=lambda each: not is_frontal_view(each[0].view))
        first, radiograph, boxes = read[0]
        boxes = [(box.name, self._fractions(box, radiograph)) for box in boxes]
        regions = {name: box for name, box in boxes if name in self._columns.regions}
        known = Anatomy.load().names
        return Study(
            id=plan.id,
            split=plan.split,
            images=tuple(image for image, _, _ in read),
            report=plan.report,
            observations=self._find_observations(plan),
            graph=_build_graph(plan.report, first, regions),
            warnings=tuple(warnings),
            finding_boxes=tuple({"finding": name, "box": box} for name, box in boxes if name not in known),
            patient=plan.patient,
            **plan.context,
        )

    def _find_observations(self, plan: TablePlan) -> dict[str, int | None] | None:
        if self._columns.observations or plan.report is None:
            return plan.observations
        return label_report(plan.report)

    def _fractions(self, box: Box, radiograph: Radiograph) -> list[float]:
        """Return a box in 0..1 of its image."""
        width, height = radiograph.size if self._columns.box_units == PIXELS else (1, 1)
        sides = width, height, width, height
        return [round(min(max(value / side, 0), 1), 5) for value, side in zip(box.corners, sides, strict=True)]


class _ImageFinder:
    """Finds images by their paths in a folder, or by file names that occur once below it."""

    def __init__(self, folder: Path):
        self._folder = folder
        self._by_name: dict[str, Path | None] | None = None

    def find(self, name: str) -> Path | None:
        """Return the file that `name` stands for, with or without its suffix; None if there is none, or several."""
        relative = PurePosixPath(name.replace("\\", "/"))
        if not relative.is_absolute() and ".." not in relative.parts and (self._folder / relative).is_file():
            return self._folder / relative
        if self._by_name is None:
            self._by_name = {}
            for path in list_paths([self._folder]):
                for key in {path.name, path.stem}:
                    self._by_name[key] = None if key in self._by_name else path
        return self._by_name.get(relative.name)


def _images_of(plan: TablePlan | Dropped) -> list[TableImage]:
    return plan.images if isinstance(plan, TablePlan) else []


def _build_graph(report: str | None, frontal: PreparedImage, boxes: dict[str, list[float]]) -> dict | None:
    """Return the graph of a study; None if there is neither a report nor a box, or no frontal image.

    It is read from the report, with `boxes` in place of those of the localizer; without a report, it is `boxes` alone.
    """
    if not is_frontal_view(frontal.view):
        return None
    if report is None:
        regions = {name: {"box": box} for name, box in boxes.items()}
        return {"box_source": "annotated", "complete": False, "regions": regions} if regions else None
    graph = build_report_graph(report, frontal.pixels)
    for name, box in boxes.items():
        graph["regions"][name] = _UNMENTIONED | graph["regions"].get(name, {}) | {"box": box}
    return graph
