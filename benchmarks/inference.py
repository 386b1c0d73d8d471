"""What cheaper inference costs in scores: a checkpoint's split written in fp32, bf16, int8 and compiled.

    python -m benchmarks inference --checkpoint results/demo [--split test] [--json FILE] [--threads 2]

Seconds are those of the whole evaluation without METEOR, one run each, in this process one after the other.
"""

import argparse
import time

import torch

from benchmarks.decode import VARIANTS, compile_step
from benchmarks.measure import OURS, Case, add_common_arguments, peak_mib, start_report
from data.loaders import evaluation_loader
from data.records import SPLITS
from models.sgrrg import SGRRG
from modules.builders import build_dataset, build_evaluator, build_model
from modules.checkpoint import CONFIG, load_checkpoint, load_weights
from modules.config import Precision, load_config
from modules.evaluator import Evaluation
from modules.runtime import quantise_decoder

SHOWN = ("bleu_4", "rouge_l", "cider", "region_micro_f1", "attribute_micro_f1", "observation_micro_f1", "box_iou")


def add_arguments(commands: argparse._SubParsersAction) -> None:
    """Register the command `inference`."""
    parser = commands.add_parser("inference", help="a checkpoint's scores in fp32, bf16, int8 and compiled")
    add_common_arguments(parser)
    parser.add_argument("--checkpoint", required=True, metavar="DIR", help="a checkpoint, or a run folder (its best)")
    parser.add_argument("--split", default="test", choices=SPLITS)
    parser.set_defaults(run=run)


def run(options: argparse.Namespace) -> None:
    """Write and score the split in every way, and print seconds and scores."""
    report = start_report("inference", options)
    torch.set_num_threads(options.threads)
    case = Case(f"{options.checkpoint}, {options.split} split")
    reports: dict[str, list[str]] = {}
    for variant in ("", *VARIANTS):
        name = f"{OURS}_{variant}" if variant else OURS
        start = time.perf_counter()
        evaluation = evaluate(options.checkpoint, options.split, variant)
        case.seconds[name] = [time.perf_counter() - start]
        case.peak_mib[name] = peak_mib()
        reports[name] = [record.generated for record in evaluation.records]
        equal = sum(first == second for first, second in zip(reports[OURS], reports[name], strict=True))
        scores = {score: round(evaluation.scores[score], 4) for score in SHOWN if evaluation.scores[score] is not None}
        case.notes[name] = scores | {"reports equal to fp32": f"{equal} of {len(reports[name])}"}
    report.add(case)
    report.write(options.json)


def evaluate(directory: str, split: str, variant: str) -> Evaluation:
    """The split scored by the checkpoint's own settings on the CPU; `variant`: one of `VARIANTS`, or "" for fp32."""
    checkpoint = load_checkpoint(directory)
    precision = Precision.BF16 if variant == "bf16" else Precision.FP32
    config = load_config(
        checkpoint.directory / CONFIG,
        ["model.patch_encoder.weights=none", f"train.precision={precision.value}", "data.workers=0"],
    )
    dataset = build_dataset(config, checkpoint.vocabularies, split)
    model = build_model(config, checkpoint.vocabularies)
    load_weights(model, checkpoint.weights)
    evaluator = build_evaluator(config, checkpoint.vocabularies, config.eval.beam_size)
    loader = evaluation_loader(
        dataset, config.eval.batch_size, workers=0, rank=0, world_size=1,
        pad_id=checkpoint.vocabularies.tokenizer.pad_id, pin_memory=False,
    )
    return evaluator.evaluate(vary(model.eval(), variant), loader, torch.device("cpu"), meteor=False)


def vary(model: SGRRG, variant: str) -> SGRRG:
    """`model` with its decoder quantised or its decoding step compiled; as it is for other variants."""
    if variant == "int8":
        quantise_decoder(model, torch.device("cpu"))
    elif variant == "compile":
        compile_step(model)
    return model
