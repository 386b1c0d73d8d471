"""`python -m benchmarks NAME ...`: measurements and estimates of speed and quality that can be run again."""

import argparse
import sys

from benchmarks import (
    cost,
    decode,
    frontal_check,
    grounding,
    inference,
    input_pipeline,
    lung_boxes,
    predict,
    preparation,
    scale,
    scores,
    train_step,
)
from benchmarks.ablation import command as ablation
from benchmarks.gpu import command as gpu
from data.errors import UserError


def main(arguments: list[str] | None = None) -> int:
    """Run one benchmark; return the exit status, 1 after printing a UserError."""
    parser = argparse.ArgumentParser(prog="python -m benchmarks", description=__doc__)
    commands = parser.add_subparsers(dest="command", required=True)
    for benchmark in (
        decode, train_step, input_pipeline, preparation, scores, inference, predict, lung_boxes, frontal_check,
        grounding, cost, scale, gpu, ablation,
    ):
        benchmark.add_arguments(commands)
    options = parser.parse_args(arguments)
    try:
        options.run(options)
    except UserError as error:
        print(f"error: {error}", file=sys.stderr)
        return 1
    return 0


if __name__ == "__main__":
    sys.exit(main())
