"""Converts a checkpoint file of the published SGRRG release to a checkpoint folder.

    python -m modules.official_checkpoint FILE.pth --vocabulary TRAINING_ANNOTATION.json|TOKENS.json --out DIR

`modules/release/conversion.py` reads the file; `modules/release/published_weights.py` maps weights both ways.
"""

import argparse
import sys
from pathlib import Path

from data.console import run_command
from data.errors import UserError
from modules.release.conversion import convert


def main(arguments: list[str] | None = None) -> int:
    """Exit status: 0, or 1 after an error of one line on stderr."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("file", type=Path, help="the downloaded checkpoint of the release")
    parser.add_argument("--vocabulary", type=Path, required=True, help="training annotation, or words by id, as JSON")
    parser.add_argument(
        "--out", type=Path, required=True, help="the folder to write: new, empty, or an earlier result"
    )
    parser.add_argument("overrides", nargs="*", metavar="key=value", help="settings not determined by the weights")
    options = parser.parse_intermixed_args(arguments)
    try:
        unused = convert(options.file, options.vocabulary, options.out, options.overrides)
    except UserError as error:
        print(error, file=sys.stderr)
        return 1
    print("\n".join(["Not used:", *(f"  {name}" for name in unused)]) if unused else "Every weight was used")
    print(f"Written: {options.out}")
    return 0


if __name__ == "__main__":
    sys.exit(run_command(main))
