"""`python -m benchmarks NAME ...`: measurements and estimates of speed and quality that can be run again."""

import argparse
import sys

from benchmarks import (
    cost,
    decode,
    frontal_check,
    graph_errors,
    grounding,
    inference,
    input_pipeline,
    lung_boxes,
    predict,
    preparation,
    scale,
    scores,
    train_step,
    tune,
)
from benchmarks.ablation import command as ablation
from benchmarks.chaos import command as chaos
from benchmarks.gpu import command as gpu
from benchmarks.real import drawn_boxes, image_side, mixed_boxes, predict_films
from data.console import run_command
from data.errors import UserError


def main(arguments: list[str] | None = None) -> int:
    """Run one benchmark; return the exit status, 1 after printing a UserError."""
    parser = argparse.ArgumentParser(prog="python -m benchmarks", description=__doc__)
    commands = parser.add_subparsers(dest="command", required=True)
    for benchmark in (
        decode, train_step, input_pipeline, preparation, scores, inference, predict, lung_boxes, frontal_check,
        graph_errors, grounding, cost, scale, gpu, ablation, tune, chaos, image_side, drawn_boxes, mixed_boxes,
        predict_films,
    ):
        benchmark.add_arguments(commands)
    options, settings = parser.parse_known_args(arguments)
    # argparse takes the positional arguments of a command only up to its first option.
    unknown = [text for text in settings if text.startswith("-") or "=" not in text or "overrides" not in options]
    if unknown:
        parser.error(f"unrecognized arguments: {' '.join(unknown)}")
    if settings:
        options.overrides = [*options.overrides, *settings]
    try:
        options.run(options)
    except UserError as error:
        print(f"error: {error}", file=sys.stderr)
        return 1
    return 0


if __name__ == "__main__":
    sys.exit(run_command(main))
