"""MIMIC-CXR and MIMIC-CXR-JPG, alone or with the scene graphs of Chest ImaGenome.

A sample is an image with its study's report, as in the R2Gen family, or a whole study. Images and splits come from
R2Gen's annotation.json if it is among the sources (all its images, laterals included), else from MIMIC-CXR's split
table (frontal images). Frontal images have a scene graph: that of Chest ImaGenome if its graphs are among the sources,
else one made from the report. The name of the list is part of dataset.yaml and is shown beside every score.
"""

from argparse import ArgumentParser, Namespace
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, replace
from functools import cached_property, partial
from pathlib import Path

import numpy as np

from data.errors import UserError
from data.images.radiograph import read_radiograph
from data.sources.chest_imagenome.scene_graphs import SceneGraphs, original_size, read_scene_graph
from data.sources.distributions import Contents, search_sources
from data.sources.fingerprints import path_fingerprint
from data.sources.mimic_cxr.files import (
    FRONTAL,
    KNOWN_IMAGES,
    KNOWN_R2GEN_IMAGES,
    UNKNOWN_IMAGE,
    ImageFacts,
    ListedImage,
    Reports,
    find_image,
    read_metadata,
    read_r2gen_images,
    read_splits,
    read_times,
)
from data.sources.mimic_cxr.reports import SECTIONS, extract_indication, extract_section
from data.sources.preparation import add_common_arguments, prepare
from data.sources.report_graph import build_report_graph, describe_report_graphs
from data.sources.source import Dropped, PreparedImage, Study
from data.sources.zip_members import ZipMember
from data.text.label_tables import read_label_table
from data.text.report_labels import label_report

# Name of R2Gen's list of images.
R2GEN = "r2gen"
_LABEL_TABLES = ("chexpert", "negbio")
_VIEW_ORDER = {"PA": 0, "AP": 1, "LATERAL": 2}
# With fewer boxes the detector of Chest ImaGenome failed on the image: the boxes are not used.
_MIN_BOXES = 5


@dataclass(frozen=True)
class Options:
    """How samples are made from MIMIC-CXR.

    section         "findings", "impression" or "both": the text to learn
    samples         "image": one per image; "study": one per study, with all its images
    views           "frontal" (PA and AP) or "all"; None: as the list of images says
    labels          "chexpert", "negbio", or the path of another label table
    graph_required  whether images without a scene graph of Chest ImaGenome are dropped
    """

    section: str = "findings"
    samples: str = "image"
    views: str | None = None
    labels: str = "chexpert"
    graph_required: bool = False


@dataclass(frozen=True)
class Listing:
    """The list of images and their splits.

    name      shown beside scores
    origin    its file, for display; part of dataset.yaml
    expected  images per split in the complete list
    views     of its samples by default, "frontal" or "all"
    read      yields the images
    """

    name: str
    origin: str
    expected: dict[str, int]
    views: str
    read: Callable[[], Iterator[ListedImage]]


@dataclass(frozen=True, slots=True)
class PlannedImage:
    """An image of a sample to build; `graph` is the position of its scene graph in the archive of graphs."""

    listed: ListedImage
    facts: ImageFacts
    graph: ZipMember | None


@dataclass(frozen=True, slots=True)
class MimicPlan:
    """A sample to build.

    report  its position in the archive of reports; None: the report is a file, or in the list of images
    taken   time of its study; None if unknown
    """

    id: str
    split: str
    images: tuple[PlannedImage, ...]
    report: ZipMember | None
    taken: str | None


@dataclass(frozen=True)
class _ReadImage:
    planned: PlannedImage
    pixels: np.ndarray
    size: tuple[int, int]


def add_arguments(parser: ArgumentParser) -> None:
    """Declare the options of `python -m data.prepare mimic_cxr`."""
    add_common_arguments(parser)
    add_report_arguments(parser)
    parser.add_argument(
        "--samples",
        choices=("image", "study"),
        default=Options.samples,
        help="one per image, as in the R2Gen family, or one per study (default: %(default)s)",
    )
    parser.add_argument(
        "--views",
        choices=("frontal", "all"),
        help="frontal: only PA and AP; other views have no scene graph (default: all for R2Gen's annotation.json, "
        "which lists laterals too, else frontal)",
    )


def add_report_arguments(parser: ArgumentParser) -> None:
    """Declare the options that all data sets with MIMIC-CXR's reports share."""
    parser.epilog = "--labels also accepts chexpert (the default) and negbio, the tables of MIMIC-CXR-JPG"
    parser.add_argument(
        "--section",
        choices=SECTIONS,
        default=Options.section,
        help="section of the report to learn (default: %(default)s)",
    )


def run(arguments: Namespace) -> None:
    """Run the command."""
    labels = Options.labels if arguments.labels is None else str(arguments.labels)
    options = Options(arguments.section, arguments.samples, arguments.views, labels)
    contents = search_sources(arguments.source)
    source = MimicSource("mimic_cxr", arguments.source, contents, find_listing(contents), options, arguments.image_size)
    prepare(source, arguments.out, arguments.image_size, arguments.workers, arguments.boxes)


def find_listing(contents: Contents) -> Listing:
    """Return R2Gen's list if it is among the sources, else MIMIC-CXR's. Raises UserError if both are missing."""
    annotation, splits = contents.file("annotation.json"), contents.table("mimic-cxr-2.0.0-split")
    if annotation is not None:
        read = partial(read_r2gen_images, annotation)
        return Listing(R2GEN, "R2Gen's annotation.json, reports too", KNOWN_R2GEN_IMAGES, "all", read)
    if splits is not None:
        return Listing("mimic-cxr-2.0.0", splits.name, KNOWN_IMAGES, "frontal", partial(read_splits, splits))
    raise UserError(
        "The sources have neither mimic-cxr-2.0.0-split.csv[.gz] nor R2Gen's annotation.json: "
        "give the folder of MIMIC-CXR-JPG as a --source"
    )


class MimicSource:
    """Images and reports of MIMIC-CXR, a `data.sources.source.Source`."""

    def __init__(
        self,
        name: str,
        paths: Sequence[Path],
        contents: Contents,
        listing: Listing,
        options: Options,
        image_size: int = 256,
    ):
        """Find the files; tables and archives are read later, by `plans`.

        name        of the data set
        contents    of the sources at `paths`
        image_size  images may be read at a lower resolution, with at least this short side in pixels

        Raises UserError if the sources lack images, or the tables or graphs that the options require, or if the label
        table is missing.
        """
        self.name = name
        self.paths = tuple(paths)
        self._listing = listing
        self._options = replace(options, views=options.views or listing.views)
        self._image_size = image_size
        self._trees = contents.trees
        self._metadata = contents.table("mimic-cxr-2.0.0-metadata")
        self._reports = Reports.find(contents)
        self._graphs = SceneGraphs.find(contents)
        self._labels_path = _find_labels(contents, options.labels)
        self._labels = None if self._labels_path is None else read_label_table(self._labels_path)
        self._listed_counts: dict[str, int] = {}
        if not self._trees:
            raise UserError(
                "The sources have no images: give a folder that contains p10 to p19, as files/ of MIMIC-CXR-JPG does"
            )
        if options.graph_required and self._graphs is None:
            raise UserError(
                "The sources have no scene graphs: give the folder with silver_dataset/scene_graph.zip as a --source"
            )
        if self._metadata is None and options.views != "all" and not options.graph_required:
            raise UserError(
                "The sources do not state which images are frontal: give the folder with "
                "mimic-cxr-2.0.0-metadata.csv[.gz] as a --source, or use --views all"
            )

    def __len__(self) -> int:
        return len(self._samples)

    def describe(self) -> dict:
        """See `Source`."""
        expected = {f"listed {split}": count for split, count in self._listing.expected.items()}
        if self._list_name() == R2GEN:  # every image of this list has a report
            expected |= self._listing.expected
        return {
            "distributions": self._list_files(),
            "list": self._list_name(),
            "options": {
                "section": self._options.section,
                "samples": self._options.samples,
                "views": self._options.views,
            },
            "graph": describe_report_graphs() if self._graphs is None else "Chest ImaGenome",
            "sources": [[path.name, path_fingerprint(path)] for path in self.paths],
            "labels": None if self._labels_path is None else path_fingerprint(self._labels_path),
            "expected": expected,
            "found": dict(self._listed_counts),
        }

    def _list_name(self) -> str:
        """Return the name of the list of samples; it says which of the list's images are left out."""
        name = self._listing.name
        if self._options.views == "frontal" and not self._options.graph_required:  # lists with graphs have no laterals
            name += ", frontal images only"
        return name if self._options.samples == "image" else f"{name}, one sample per study"

    def _list_files(self) -> list[str]:
        """Return one line per kind of file, saying which one is used."""
        lines = [f"images and splits: {self._listing.origin}"]
        lines.append("views and sizes: " + (self._metadata.name if self._metadata else "from the images"))
        lines.append("reports: " + (self._reports.archive.name if self._reports.archive else "text files"))
        lines.append("observations: " + (self._labels_path.name if self._labels_path else "our labeler"))
        if self._graphs is None:
            return [*lines, "scene graphs: from the reports, with boxes of the shipped localizer and the fitted atlas"]
        return [*lines, f"scene graphs: Chest ImaGenome, {'zipped' if self._graphs.archive else 'unpacked'}"]

    # Plans, in the main process

    def plans(self) -> Iterator[MimicPlan]:
        """See `Source`."""
        facts = {} if self._metadata is None else dict(read_metadata(self._metadata))
        reports = self._reports.members()
        graphs = {} if self._graphs is None else self._graphs.members()
        times = self._read_study_times()
        for sample in self._samples:
            first = sample[0]
            images = (
                PlannedImage(image, facts.get(image.id, replace(UNKNOWN_IMAGE, view=image.view)), graphs.get(image.id))
                for image in sample
            )
            yield MimicPlan(
                id=first.id if self._options.samples == "image" else f"s{first.study}",
                split=first.split,
                images=tuple(images),
                report=reports.get(first.study),
                taken=times.get(first.study),
            )

    def _read_study_times(self) -> dict[str, str]:
        """Return study -> its time; all its images share one, so that none is a prior of another."""
        if self._metadata is None:
            return {}
        times: dict[str, str] = {}
        by_image = dict(read_times(self._metadata))
        for sample in self._samples:
            for image in sample:
                taken = by_image.get(image.id)
                if taken is not None:
                    times[image.study] = min(taken, times.get(image.study, taken))
        return times

    @cached_property
    def _samples(self) -> list[list[ListedImage]]:
        """The images of each sample, and their number per split in `_listed_counts`; duplicates count once."""
        images = {image.id: image for image in self._listing.read()}
        samples: dict[str, list[ListedImage]] = {}
        for image in images.values():
            self._listed_counts[f"listed {image.split}"] = self._listed_counts.get(f"listed {image.split}", 0) + 1
            samples.setdefault(image.id if self._options.samples == "image" else image.study, []).append(image)
        return list(samples.values())

    # Samples, in a worker process

    def build(self, plan: MimicPlan) -> Study | Dropped:
        """See `Source`."""
        if unwanted := plan.images[0].listed.unwanted:
            return Dropped(plan.id, unwanted)
        planned = [image for image in plan.images if self._options.views == "all" or image.facts.view in FRONTAL]
        if not planned:
            return Dropped(plan.id, "no frontal image")
        try:
            text = self._read_report(plan)
        except UserError:
            return Dropped(plan.id, "damaged report")
        if text is None:
            return Dropped(plan.id, "no report")
        listed = plan.images[0].listed.report
        report = extract_section(text, self._options.section) if listed is None else listed
        if not report:
            return Dropped(plan.id, "no text" if self._options.section == "both" else f"no {self._options.section}")
        return self._build_study(plan, sorted(planned, key=_view_order), report, text)

    def _read_report(self, plan: MimicPlan) -> str | None:
        """Return the report with all its sections; None if absent. Raises UserError if it cannot be read."""
        listed = plan.images[0].listed
        return self._reports.read(listed, plan.report) if listed.report is None else listed.report

    def _build_study(
        self, plan: MimicPlan, planned: Sequence[PlannedImage], report: str, whole_report: str
    ) -> Study | Dropped:
        """Build the study from those planned images that can be read."""
        warnings: list[str] = []
        images = [image for image in (self._read_image(image, warnings) for image in planned) if image is not None]
        if not images:
            return Dropped(plan.id, warnings[0])
        graph = self._build_graph(images[0], report, warnings)
        if graph is None and self._options.graph_required:
            return Dropped(plan.id, warnings[-1])
        return Study(
            id=plan.id,
            split=plan.split,
            images=tuple(PreparedImage(image.pixels, image.planned.facts.view) for image in images),
            report=report,
            observations=self._find_observations(images[0].planned.listed, report, whole_report),
            graph=graph,
            warnings=tuple(warnings),
            patient=plan.images[0].listed.subject or None,
            taken=plan.taken,
            **self._extract_context(plan, whole_report),
        )

    def _extract_context(self, plan: MimicPlan, whole_report: str) -> dict[str, str | None]:
        """Return indication, comparison and impression of the report's file, which R2Gen's list does not contain."""
        if plan.images[0].listed.report is not None:
            try:
                whole_report = self._reports.read(plan.images[0].listed, plan.report) or ""
            except UserError:
                whole_report = ""
        return {
            "indication": extract_indication(whole_report) or None,
            "comparison": extract_section(whole_report, "comparison") or None,
            # The text to learn may already include it.
            "impression": extract_section(whole_report, "impression") or None
            if self._options.section == "findings" else None,
        }

    def _read_image(self, planned: PlannedImage, warnings: list[str]) -> _ReadImage | None:
        """Read an image; None, with a warning, if it is missing or damaged."""
        path = find_image(self._trees, planned.listed)
        if path is None:
            warnings.append("missing image")
            return None
        try:
            radiograph = read_radiograph(path, min_side=self._image_size)
        except UserError as error:
            # A missing package concerns all images, not only this one.
            if "pip install" in str(error):
                raise
            warnings.append("damaged image")
            return None
        warnings.extend(radiograph.warnings)
        if not planned.facts.view and radiograph.view:
            planned = replace(planned, facts=replace(planned.facts, view=radiograph.view))
        return _ReadImage(planned, radiograph.pixels, radiograph.size)

    def _find_observations(self, image: ListedImage, report: str, whole_report: str) -> dict[str, int] | None:
        """Look up the labels of an image by its study and report, else by the image itself; None if absent.

        Without a table, the built-in labeler reads findings and impression together, like the other labelers.
        """
        both = (extract_section(whole_report, "both") if image.report is None else "") or report
        if self._labels is None:
            return label_report(both)
        found = (self._labels.find(*key) for key in ((image.study, report), (image.id, both)))
        return next((labels for labels in found if labels is not None), None)

    def _build_graph(self, image: _ReadImage, report: str, warnings: list[str]) -> dict | None:
        """Return the graph of a frontal image, else None; with a warning if it is missing from Chest ImaGenome."""
        if image.planned.facts.view not in FRONTAL:
            return None
        if self._graphs is None:
            return build_report_graph(report, image.pixels)
        try:
            document = self._graphs.read(image.planned.listed.id, image.planned.graph)
            if document is None:
                warnings.append("no scene graph")
                return None
            size = image.planned.facts.size or original_size(document, image.size)
            graph = read_scene_graph(document, size, warnings.append)
        except UserError:
            warnings.append("damaged scene graph")
            return None
        return {"box_source": "annotated"} | _drop_few_boxes(graph, warnings)


def _find_labels(contents: Contents, labels: str) -> Path | None:
    """Return the label table that `labels` names; None if the default table is absent.

    Raises UserError if another table is absent.
    """
    if labels not in _LABEL_TABLES:
        return Path(labels)
    table = contents.table(f"mimic-cxr-2.0.0-{labels}")
    if table is None and labels != Options.labels:
        raise UserError(
            f"The sources have no mimic-cxr-2.0.0-{labels}.csv[.gz]: leave out --labels, or add its folder to --source"
        )
    return table


def _view_order(image: PlannedImage) -> tuple[int, str]:
    return _VIEW_ORDER.get(image.facts.view, len(_VIEW_ORDER)), image.listed.id


def _drop_few_boxes(graph: dict, warnings: list[str]) -> dict:
    """Return the graph, without its boxes if it has only a few."""
    boxes = sum(region["box"] is not None for region in graph["regions"].values())
    if boxes >= _MIN_BOXES:
        return graph
    warnings.append(f"fewer than {_MIN_BOXES} boxes in the scene graph: left out")
    return {"regions": {name: region | {"box": None} for name, region in graph["regions"].items()}}
