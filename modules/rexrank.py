"""Generates the reports of ReXrank's studies, and writes its input and submission folder.

    python -m modules.rexrank --input_json_file IN.json --save_json_file OUT.json --img_root_dir DIR --checkpoint RUN
    python -m modules.rexrank --data data/iu_xray --split test --input_json_file IN.json --img_root_dir DIR
    python -m modules.rexrank --checkpoint RUN --submission FOLDER

OUT.json is IN.json with a `model_prediction` for every study. If interrupted, the same command resumes. --data writes
IN.json and the images from a prepared data set. --submission writes a folder with an inference script that takes the
first three options, the environment file, the model and the code. docs/rexrank.md shows a full round trip.
"""

import argparse
import sys
from pathlib import Path

from data.console import run_command
from data.errors import UserError
from data.records import SPLITS
from modules.evaluation.formats.rexrank import read_studies, write_studies
from modules.inference.predictor import Predictor
from modules.inference.rexrank.dataset import write_rexrank_input
from modules.inference.rexrank.prediction import finish_journal, predict_studies
from modules.inference.rexrank.submission import write_submission


def main(arguments: list[str] | None = None) -> int:
    """Exit status: 0, 1 after an error of one line on stderr (also for studies without a report), 130 after Ctrl-C."""
    parser = argparse.ArgumentParser(
        prog="python -m modules.rexrank", description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--input_json_file", type=Path, metavar="IN.json", help="ReXrank's studies")
    parser.add_argument("--save_json_file", type=Path, metavar="OUT.json", help="the same with generated reports")
    parser.add_argument("--img_root_dir", type=Path, metavar="DIR", help="folder that image paths are relative to")
    parser.add_argument("--checkpoint", metavar="DIR", help="a checkpoint, or a run folder (its best)")
    parser.add_argument("--submission", type=Path, metavar="FOLDER", help="write a folder to submit; it must not exist")
    parser.add_argument("--data", type=Path, metavar="ROOT", help="prepared data set to write IN.json and DIR from")
    parser.add_argument("--split", choices=SPLITS, default="test", help="of --data (%(default)s)")
    parser.add_argument("--device", choices=["auto", "cpu", "cuda"], default="auto")
    parser.add_argument("--batch_size", type=int, metavar="N", help="studies per batch (as the checkpoint was tested)")
    parser.add_argument("--beam_size", type=int, metavar="N", help="beams (as the checkpoint was tested)")
    options = parser.parse_args(arguments)
    try:
        return run(options)
    except UserError as error:
        print(error, file=sys.stderr)
        return 1
    except KeyboardInterrupt:
        print("Interrupted: run the same command again to resume", file=sys.stderr)
        return 130


def run(options: argparse.Namespace) -> int:
    """Do what the options ask for; return the exit status. Raises UserError if one of them is missing."""
    if options.data is None and options.submission is None and options.save_json_file is None:
        raise UserError("Nothing to do: give --save_json_file, --data or --submission")
    if options.data is not None:
        _require(options, "data", "input_json_file", "img_root_dir")
        count = write_rexrank_input(options.data, options.split, options.input_json_file, options.img_root_dir)
        print(f"written: {options.input_json_file} ({count} studies), images in {options.img_root_dir}")
    if options.submission is not None:
        _require(options, "submission", "checkpoint")
        write_submission(options.checkpoint, options.submission)
        print(f"written: {options.submission}")
    if options.save_json_file is None:
        return 0
    _require(options, "save_json_file", "input_json_file", "img_root_dir", "checkpoint")
    return predict(options)


def predict(options: argparse.Namespace) -> int:
    """Generate the reports and write them; return the exit status."""
    studies = read_studies(options.input_json_file)
    predictor = Predictor(options.checkpoint, options.device, options.batch_size, options.beam_size)
    predicted, failed = predict_studies(predictor, studies, options.img_root_dir, options.save_json_file)
    write_studies(options.save_json_file, predicted)
    if failed:
        print(
            f"{len(failed)} of {len(studies)} studies have an empty report, because an image cannot be read; the same "
            "command tries only them again", file=sys.stderr,
        )
    else:
        finish_journal(options.save_json_file)
    print(f"written: {options.save_json_file} ({len(studies)} studies)")
    return 1 if failed else 0


def _require(options: argparse.Namespace, option: str, *needed: str) -> None:
    missing = [name for name in needed if getattr(options, name) is None]
    if missing:
        raise UserError(f"--{option} needs --{' and --'.join(missing)}")


if __name__ == "__main__":
    sys.exit(run_command(main))
