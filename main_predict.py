"""Generates reports for your own images.

    python main_predict.py --checkpoint results/demo chest.png xrays/ --out predictions
    python main_predict.py --checkpoint results/demo --study frontal.dcm lateral.dcm
    python main_predict.py --checkpoint results/demo chest.png --regions "left lung,cardiac silhouette"
    python main_predict.py --checkpoint results/demo chest.png --box "left lung=420,310,900,1400"
    python main_predict.py --checkpoint results/context chest.png --indication "Fever." --prior earlier.png

An image is a PNG, JPEG, TIFF or DICOM file, recognised by its content. In a folder, each file is a study, and so is
each sub-folder (a frontal and a lateral image). Prints each report and writes NAME.json (sentences with the regions
that they attend to, regions with boxes in pixels, attributes, observations) and NAME.png (the image with its regions).

For research only: not a medical device, not for clinical use.
"""

# First: it handles Ctrl-C, also during the other imports.
import data  # noqa: F401

# isort: split

import argparse
import sys
from dataclasses import replace
from pathlib import Path

from data.console import run_command
from data.errors import UserError, cannot_read, wrong_format
from modules.inference.file_prediction import find_studies, predict_files, study_of_files
from modules.inference.given_context import GivenContext, check_is_read
from modules.inference.graph_edits import Box, GraphEdits
from modules.inference.prediction_files import NOTICE
from modules.inference.predictor import Predictor

# In characters; a report has some thousand.
_LONGEST_REPORT = 1 << 20


def main(arguments: list[str] | None = None) -> int:
    """Exit status: 0, or 1 after one line on stderr per study without a report; the other studies have theirs."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("images", nargs="*", type=Path, metavar="IMAGE", help="image files, and folders of them")
    parser.add_argument("--checkpoint", required=True, metavar="DIR", help="a checkpoint, or a run folder (its best)")
    parser.add_argument(
        "--study", nargs=2, type=Path, action="append", default=[], metavar=("FRONTAL", "LATERAL"),
        help="two images of one examination; may be repeated",
    )
    parser.add_argument("--out", type=Path, default=Path("predictions"), metavar="DIR",
                        help="folder of the results (%(default)s)")
    parser.add_argument("--regions", metavar="NAMES", help="report on these regions only, separated by commas")
    parser.add_argument(
        "--box", action="append", default=[], metavar="NAME=X1,Y1,X2,Y2",
        help="report on this region only, with this box in pixels; may be repeated; for a single study",
    )
    parser.add_argument("--indication", metavar="TEXT", help="why the study was requested; for a single study")
    parser.add_argument("--prior", type=Path, metavar="IMAGE",
                        help="frontal image of the patient's previous study; for a single study")
    parser.add_argument("--prior-report", type=Path, metavar="FILE",
                        help="text file with the report of the previous study; for a single study")
    parser.add_argument("--window", action="store_true",
                        help="apply the window of DICOM files instead of the preparation of data sets")
    parser.add_argument("--device", choices=["auto", "cpu", "cuda"], default="auto")
    parser.add_argument("--batch-size", type=int, metavar="N", help="studies per batch (as the checkpoint was tested)")
    parser.add_argument("--beam-size", type=int, metavar="N", help="beams (as the checkpoint was tested)")
    options = parser.parse_intermixed_args(arguments)
    for stream in (sys.stdout, sys.stderr):  # file names may contain what the terminal cannot encode
        stream.reconfigure(errors="backslashreplace")
    try:
        return 0 if predict(options) else 1
    except UserError as error:
        print(error, file=sys.stderr)
        return 1


def predict(options: argparse.Namespace) -> bool:
    """Return whether every study has a report. Raises UserError if none can be generated."""
    studies = [*find_studies(options.images), *(study_of_files(*pair) for pair in options.study)]
    if not studies:
        raise UserError("No image to report on: give image files or folders, or --study FRONTAL LATERAL")
    if options.box and len(studies) > 1:
        raise UserError(f"--box needs a single study, not {len(studies)}")
    context = read_given_context(options)
    if context is not None:
        if len(studies) > 1:
            raise UserError(f"--indication, --prior and --prior-report need a single study, not {len(studies)}")
        studies = [replace(studies[0], context=context)]
    edits = parse_edits(options.regions, options.box)
    predictor = Predictor(
        options.checkpoint, options.device, options.batch_size, options.beam_size, window=options.window
    )
    for name in edits.only if edits is not None else ():
        predictor.vocabularies.anatomy.index(name)  # an unknown region is reported before any image is read
    if context is not None:
        check_is_read(context, predictor.config)
    print(NOTICE)
    failed = predict_files(predictor, studies, edits, options.out)
    if failed:
        print(f"{len(failed)} of {len(studies)} studies have no report: {', '.join(failed)}", file=sys.stderr)
    return not failed


def read_given_context(options: argparse.Namespace) -> GivenContext | None:
    """The context of the command line; None without any. Raises UserError if the report cannot be read."""
    report, text = options.prior_report, None
    try:
        if report is not None:
            with report.open(encoding="utf-8") as file:
                text = file.read(_LONGEST_REPORT + 1)
    except (OSError, UnicodeDecodeError) as error:
        raise cannot_read(report, error, "give a text file in UTF-8") from error
    if text is not None and len(text) > _LONGEST_REPORT:
        raise wrong_format(report, f"a report (it has more than {_LONGEST_REPORT:,} characters)", "give a text file")
    given = GivenContext(options.indication, options.prior, text)
    return None if given == GivenContext() else given


def parse_edits(regions: str | None, boxes: list[str]) -> GraphEdits | None:
    """The edits of --regions and --box; None without either. Raises UserError for a malformed value."""
    if regions is None and not boxes:
        return None
    region_boxes = dict(_parse_box(text) for text in boxes)
    names = {name.strip() for name in (regions or "").split(",")} - {""}
    if not names | set(region_boxes):
        raise UserError("--regions names no region: give names from files/anatomy.yaml, separated by commas")
    return GraphEdits(only=frozenset(names | set(region_boxes)), boxes=region_boxes)


def _parse_box(text: str) -> tuple[str, Box]:
    """Parse NAME=X1,Y1,X2,Y2."""
    name, _, corners = text.partition("=")
    try:
        x1, y1, x2, y2 = (float(corner) for corner in corners.split(","))
    except ValueError as error:
        raise UserError(f'Cannot read --box "{text}": write it as "left lung=X1,Y1,X2,Y2", in pixels') from error
    return name.strip(), (x1, y1, x2, y2)


if __name__ == "__main__":
    sys.exit(run_command(main))
