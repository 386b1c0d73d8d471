"""Finds region boxes in the images of a prepared data set, with the localizer of a trained model.

    python -m modules.region_boxes --checkpoint DIR --data PREPARED [key=value ...]
    python -m modules.region_boxes --checkpoint DIR --data PREPARED --out boxes.jsonl [--split val test] [key=value ...]

The first form replaces the boxes in the graphs of the data set itself, and notes that in its dataset.yaml; to get the
former boxes back, prepare the data set again. The second form writes a file for `data.boxes_file`, one line
{"id": study, "boxes": {region: [x1, y1, x2, y2]}} per study with a frontal image: the regions that the localizer calls
visible, xyxy in 0..1 of that image.
"""

import argparse
import sys

from data.console import run_command
from data.errors import UserError
from data.records import SPLITS
from modules.inference.region_boxes import replace_region_boxes, write_region_boxes


def main(arguments: list[str] | None = None) -> int:
    """Return the exit status: 0, or 1 after a one-line message on stderr about an error that the user can fix."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--checkpoint", required=True, metavar="DIR", help="checkpoint, or run folder (its best)")
    parser.add_argument("--data", required=True, metavar="PREPARED", help="prepared data set")
    parser.add_argument("--out", metavar="FILE", help="boxes file to write (default: change the data set itself)")
    parser.add_argument(
        "--split", nargs="+", choices=SPLITS, metavar="SPLIT", help="only these splits; needs --out (default: all)"
    )
    parser.add_argument("overrides", nargs="*", metavar="key=value", help="other settings, e.g. eval.batch_size=64")
    options = parser.parse_intermixed_args(arguments)
    try:
        if options.out is not None:
            written = write_region_boxes(
                options.checkpoint, options.data, options.out, options.split, options.overrides
            )
            print(f"written: {options.out}, boxes of {written} studies")
        elif options.split is not None:
            raise UserError("--split needs --out FILE: without it, the boxes of all splits are replaced")
        else:
            replaced = replace_region_boxes(options.checkpoint, options.data, options.overrides)
            print(f"replaced: the boxes of {replaced} graphs in {options.data}")
    except UserError as error:
        print(error, file=sys.stderr)
        return 1
    return 0


if __name__ == "__main__":
    sys.exit(run_command(main))
