"""Measures the effect of cheaper inference on scores: reports of a split in fp32, bf16, int8 and compiled.

    python -m benchmarks inference --checkpoint results/demo [--split test] [--json FILE] [--threads 2]

Seconds are those of the whole evaluation without METEOR. Scores do not vary between runs. There is no arithmetic floor,
because the model decides the length of reports.
"""

import argparse
from collections.abc import Callable
from functools import partial

import torch

from benchmarks.decode import VARIANTS, compile_step
from benchmarks.support.measure import OURS, Contender, add_common_arguments, compare, start_report
from data.loaders import evaluation_loader
from data.records import SPLITS
from models.sgrrg import SGRRG
from modules.builders import build_dataset, build_evaluator, build_model
from modules.checkpoint import load_checkpoint
from modules.config import Precision
from modules.runtime import quantise_decoder
from modules.weights import load_weights

SCORES = ("bleu_4", "rouge_l", "cider", "region_micro_f1", "attribute_micro_f1", "observation_micro_f1", "box_iou")


def add_arguments(commands: argparse._SubParsersAction) -> None:
    """Register the command `inference`."""
    parser = commands.add_parser("inference", help="scores of a checkpoint in fp32, bf16, int8 and compiled")
    add_common_arguments(parser)
    parser.add_argument("--checkpoint", required=True, metavar="DIR", help="a checkpoint, or a run folder (its best)")
    parser.add_argument("--split", default="test", choices=SPLITS)
    parser.set_defaults(run=run)


def run(options: argparse.Namespace) -> None:
    """Evaluate the split with every variant; print seconds and scores."""
    report = start_report("inference", options)
    load_checkpoint(options.checkpoint)  # raises UserError before any process starts
    contenders = [
        Contender(f"{OURS}_{variant}" if variant else OURS, partial(build, options.checkpoint, options.split, variant))
        for variant in ("", *VARIANTS)
    ]
    case = compare(f"{options.checkpoint}, {options.split} split", contenders, options.repeats, options.threads)
    for name, (reports, scores) in case.results.items():
        equal = sum(first == second for first, second in zip(case.results[OURS][0], reports, strict=True))
        case.notes[name] = scores | {"reports equal to fp32": f"{equal} of {len(reports)}"}
    report.add(case)
    report.write(options.json)


def build(directory: str, split: str, variant: str) -> Callable[[], tuple[list[str], dict[str, float]]]:
    """Return the evaluation of a split on the CPU with the checkpoint's settings; it returns reports and `SCORES`.

    variant   one of `VARIANTS`, or "" for fp32
    """
    checkpoint = load_checkpoint(directory)
    precision = Precision.BF16 if variant == "bf16" else Precision.FP32
    config = checkpoint.load_config(
        ["model.patch_encoder.weights=none", f"train.precision={precision.value}", "data.workers=0"]
    )
    dataset = build_dataset(config, checkpoint.vocabularies, split)
    model = build_model(config, checkpoint.vocabularies)
    load_weights(model, checkpoint.weights)
    model = apply_variant(model.eval(), variant)
    evaluator = build_evaluator(config, checkpoint.vocabularies, config.eval.beam_size)
    loader = evaluation_loader(
        dataset, config.eval.batch_size, workers=0, rank=0, world_size=1,
        pad_id=checkpoint.vocabularies.tokenizer.pad_id, pin_memory=False,
    )

    def evaluate() -> tuple[list[str], dict[str, float]]:
        evaluation = evaluator.evaluate(model, loader, torch.device("cpu"), meteor=False)
        scores = {name: round(evaluation.scores[name], 4) for name in SCORES if evaluation.scores[name] is not None}
        return [record.generated for record in evaluation.records], scores

    return evaluate


def apply_variant(model: SGRRG, variant: str) -> SGRRG:
    """Quantise the decoder ("int8") or compile its step ("compile"), in place; other variants change nothing."""
    if variant == "int8":
        quantise_decoder(model, torch.device("cpu"))
    elif variant == "compile":
        compile_step(model)
    return model
