"""Exports a trained model for use by others: a folder for the Hugging Face hub, with `torch.export` programs.

    python -m modules.export --checkpoint results/demo --out exported/demo

`modules/inference/export_folder.py` lists the files. The folder is also a checkpoint for `Predictor`, main_test.py and
main_predict.py. Everything is read back and compared: weights bit by bit, programs with the model over whole reports.
If anything differs, no folder is left.
"""

import argparse
import sys

from data.console import run_command
from data.errors import UserError
from modules.checkpoint import EXPORTED_WEIGHTS
from modules.inference.export_folder import export_checkpoint
from modules.inference.exported_programs import TOLERANCE


def main(arguments: list[str] | None = None) -> int:
    """Exit status: 0, or 1 after an error of one line on stderr."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--checkpoint", required=True, metavar="DIR", help="a checkpoint, or a run folder (its best)")
    parser.add_argument("--out", required=True, metavar="DIR", help="the folder to create; it must not exist")
    options = parser.parse_args(arguments)
    try:
        differences = export_checkpoint(options.checkpoint, options.out)
    except UserError as error:
        print(error, file=sys.stderr)
        return 1
    print(f"{EXPORTED_WEIGHTS}: read back, equal bit by bit")
    for name, difference in differences.items():
        print(f"{name}: differs from the model by at most {difference:.1e} (tolerance {TOLERANCE:g})")
    print(f"written: {options.out}")
    return 0


if __name__ == "__main__":
    sys.exit(run_command(main))
