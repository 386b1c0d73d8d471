"""Writes reports for images of your own.

    python main_predict.py --checkpoint results/demo chest.png films/ --out predictions
    python main_predict.py --checkpoint results/demo --study frontal.dcm lateral.dcm
    python main_predict.py --checkpoint results/demo chest.png --regions "left lung,cardiac silhouette"
    python main_predict.py --checkpoint results/demo chest.png --box "left lung=420,310,900,1400"

An image is a PNG, JPEG, TIFF or DICOM file, told by its content. Of a folder, each file is a study and each sub-folder
is one (its frontal and lateral image). Prints each report and writes NAME.json (sentences with the regions that they
looked at, regions with boxes in pixels, attributes, observations) and NAME.png (the image with its regions) for each.

For research only: not a medical device, not for clinical use.
"""

import argparse
import sys
from collections.abc import Iterable, Iterator
from pathlib import Path

from data.errors import UserError, readable
from data.images.network_image import read_picture
from modules.inference.prediction_files import NOTICE, OVERLAY_SIDE, file_stem, write_prediction
from modules.inference.predictor import Box, GraphEdits, Prediction, Predictor, ReadStudy, Study


def main(arguments: list[str] | None = None) -> int:
    """Exit status: 0, or 1 after a line on stderr for each study that has no report; the others have theirs."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("images", nargs="*", type=Path, metavar="IMAGE", help="image files, and folders of them")
    parser.add_argument("--checkpoint", required=True, metavar="DIR", help="a checkpoint, or a run folder (its best)")
    parser.add_argument(
        "--study", nargs=2, type=Path, action="append", default=[], metavar=("FRONTAL", "LATERAL"),
        help="two images of one examination; may be given several times",
    )
    parser.add_argument("--out", type=Path, default=Path("predictions"), metavar="DIR",
                        help="where results go (%(default)s)")
    parser.add_argument("--regions", metavar="NAMES", help="report on these regions alone, separated by commas")
    parser.add_argument(
        "--box", action="append", default=[], metavar="NAME=X1,Y1,X2,Y2",
        help="report on this region alone, which lies there, in pixels; may be given several times, for one study",
    )
    parser.add_argument("--window", action="store_true",
                        help="show DICOM files by their own window, not as prepared data sets do")
    parser.add_argument("--device", choices=["auto", "cpu", "cuda"], default="auto")
    parser.add_argument("--batch-size", type=int, metavar="N", help="studies at a time (as the checkpoint was tested)")
    parser.add_argument("--beam-size", type=int, metavar="N", help="beams (as the checkpoint was tested)")
    options = parser.parse_intermixed_args(arguments)
    for stream in (sys.stdout, sys.stderr):  # file names can hold what the terminal's encoding lacks
        stream.reconfigure(errors="backslashreplace")
    try:
        return 0 if predict(options) else 1
    except UserError as error:
        print(error, file=sys.stderr)
        return 1


def predict(options: argparse.Namespace) -> bool:
    """Predict and write; whether all of it succeeded. Raises UserError for what leaves nothing to be done."""
    studies = [*studies_of(options.images), *(Study(_name(pair[0]), tuple(pair)) for pair in options.study)]
    if not studies:
        raise UserError("There is no image to report on: give files or folders of images, or --study FRONTAL LATERAL")
    if options.box and len(studies) > 1:
        raise UserError(f"--box is of one image, but there are {len(studies)} studies: give one")
    edits = edits_of(options.regions, options.box)
    predictor = Predictor(
        options.checkpoint, options.device, options.batch_size, options.beam_size, window=options.window
    )
    for name in edits.only if edits is not None else ():
        predictor.vocabularies.anatomy.index(name)
    print(NOTICE)
    failed, taken = [], set()
    for study, prediction in predicted(predictor, studies, edits, failed):
        print(f"\n{prediction.name}\n{prediction.report}")
        for warning in prediction.warnings:
            print(f"  warning: {warning}")
        picture = read_picture(study.source, study.name, OVERLAY_SIDE, options.window).pixels
        paths = write_prediction(options.out, file_stem(prediction.name, taken), prediction, picture)
        print(f"  written: {', '.join(str(path) for path in paths)}", flush=True)
    if failed:
        print(f"{len(failed)} of {len(studies)} studies have no report: {', '.join(failed)}", file=sys.stderr)
    return not failed


def predicted(
    predictor: Predictor, studies: Iterable[Study], edits: GraphEdits | None, failed: list[str]
) -> Iterator[tuple[ReadStudy, Prediction]]:
    """The predictions for `studies`, in batches. Those that cannot be read are told on stderr and named in `failed`."""
    batch: list[ReadStudy] = []

    def written() -> Iterator[tuple[ReadStudy, Prediction]]:
        yield from zip(batch, predictor.predict_read(batch, [edits] * len(batch)), strict=True)
        batch.clear()

    for study in studies:
        try:
            batch.append(predictor.read(study))
        except UserError as error:
            print(error, file=sys.stderr)
            failed.append(study.name)
        if len(batch) == predictor.batch_size:
            yield from written()
    yield from written()


def studies_of(paths: Iterable[Path]) -> Iterator[Study]:
    """A study for each file of `paths`, and those of each folder. Raises UserError for a path that is not there."""
    for path in paths:
        if not path.is_dir():
            yield Study(_name(path), (path,))
            continue
        for entry in _listed(path):
            pictures = tuple(_listed(entry)) if entry.is_dir() else (entry,)
            yield Study(_name(entry), pictures)


def _listed(folder: Path) -> list[Path]:
    """What lies in `folder`, by name, without what is hidden."""
    try:
        return sorted(entry for entry in folder.iterdir() if not entry.name.startswith("."))
    except OSError as error:
        raise UserError(f"Cannot read the folder {readable(str(folder))}: {error.strerror}") from error


def _name(path: Path) -> str:
    return readable(path.name)


def edits_of(regions: str | None, boxes: list[str]) -> GraphEdits | None:
    """What --regions and --box ask for; None for nothing. Raises UserError for a box that is none."""
    if regions is None and not boxes:
        return None
    given = dict(_box(text) for text in boxes)
    named = {name.strip() for name in (regions or "").split(",")} - {""}
    if not named | set(given):
        raise UserError("--regions names no region: give names of files/anatomy.yaml, separated by commas")
    return GraphEdits(only=frozenset(named | set(given)), boxes=given)


def _box(text: str) -> tuple[str, Box]:
    """NAME=X1,Y1,X2,Y2."""
    name, _, corners = text.partition("=")
    try:
        x1, y1, x2, y2 = (float(corner) for corner in corners.split(","))
    except ValueError as error:
        raise UserError(f'Cannot read --box "{text}": write it as "left lung=X1,Y1,X2,Y2", in pixels') from error
    return name.strip(), (x1, y1, x2, y2)


if __name__ == "__main__":
    sys.exit(main())
