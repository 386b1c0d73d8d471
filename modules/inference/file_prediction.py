"""Reports for image files and folders: find the studies, predict in batches, write the results."""

import sys
from collections.abc import Iterable, Iterator, Sequence
from pathlib import Path

from data.errors import UserError, cannot_read, readable
from data.images.network_image import read_image
from modules.evaluation.display import format_report, format_sections
from modules.inference.graph_edits import GraphEdits
from modules.inference.prediction import Prediction
from modules.inference.prediction_files import OVERLAY_SIDE, file_stem, write_prediction
from modules.inference.predictor import Predictor
from modules.inference.studies import ReadStudy, Study

# What systems and archives add to folders of images: macOS, Windows, Synology, and the table of contents of a DICOM CD.
_CLUTTER = frozenset({
    "__macosx", "thumbs.db", "desktop.ini", "@eadir", "$recycle.bin", "system volume information", "dicomdir",
})  # fmt: skip


def find_studies(paths: Iterable[Path]) -> Iterator[Study]:
    """One study per file of `paths`; in a folder, one per file and one per sub-folder.

    Files that are hidden or belong to a system (`_CLUTTER`) are left out of folders, and such folders altogether.

    Raises UserError if a folder cannot be read.
    """
    for path in paths:
        if not path.is_dir():
            yield study_of_files(path)
            continue
        if path.name.lower() in _CLUTTER:  # a shell has listed it: xrays/*
            continue
        for entry in _visible_entries(path):
            yield study_of_files(*_visible_entries(entry), name=entry.name) if entry.is_dir() else study_of_files(entry)


def study_of_files(*files: Path, name: str | None = None) -> Study:
    """The study of these image files, named after the first one by default."""
    return Study(readable(files[0].name if name is None else name), files)


def _visible_entries(folder: Path) -> list[Path]:
    """The entries of `folder` that are neither hidden nor clutter, sorted by name."""
    try:
        entries = sorted(folder.iterdir())
    except OSError as error:
        raise cannot_read(f"the folder {readable(str(folder))}", error) from error
    return [entry for entry in entries if not entry.name.startswith(".") and entry.name.lower() not in _CLUTTER]


def predict_files(predictor: Predictor, studies: Sequence[Study], edits: GraphEdits | None, out: Path) -> list[str]:
    """Print each report and write it to the folder `out`; the `edits` apply to every study.

    Returns the names of the studies that could not be read, after printing each error on stderr. Raises UserError if a
    result cannot be written, and for edits of an unknown region.
    """
    failed: list[str] = []
    taken: set[str] = set()
    for study, prediction in _predict_in_batches(predictor, studies, edits, failed):
        print(f"\n{prediction.name}\n{format_sections(prediction.sections) or format_report(prediction.report)}")
        for warning in prediction.warnings:
            print(f"  warning: {warning}")
        pixels = read_image(study.source, study.name, OVERLAY_SIDE, predictor.window).pixels
        paths = write_prediction(out, file_stem(prediction.name, taken), prediction, pixels)
        print(f"  written: {', '.join(str(path) for path in paths)}", flush=True)
    return failed


def _predict_in_batches(
    predictor: Predictor, studies: Iterable[Study], edits: GraphEdits | None, failed: list[str]
) -> Iterator[tuple[ReadStudy, Prediction]]:
    """The studies that can be read, each with its prediction; the names of the others are added to `failed`."""
    batch: list[ReadStudy] = []

    def predict_batch() -> Iterator[tuple[ReadStudy, Prediction]]:
        yield from zip(batch, predictor.predict_read(batch, [edits] * len(batch)), strict=True)
        batch.clear()

    for study in studies:
        try:
            batch.append(predictor.read(study))
        except UserError as error:
            print(error, file=sys.stderr)
            failed.append(study.name)
        if len(batch) == predictor.batch_size:
            yield from predict_batch()
    yield from predict_batch()
