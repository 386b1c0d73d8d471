"""Evaluates a checkpoint on a split of a prepared data set.

    python main_test.py --checkpoint results/demo --split test --graph predicted [--data data/iu_xray] [key=value ...]
    python main_test.py --checkpoint results/demo --graph predicted,oracle,none    compares three graph sources

The vocabularies are always those of the checkpoint. Writes metrics.json, predictions.jsonl and report.html into the run
folder and prints the scores beside those of the baselines. With several graph sources, the files of the first have
these names, and its metrics.json the differences; the others get metrics_oracle.json, predictions_oracle.jsonl, ...
"""

import argparse
import dataclasses
import sys
from pathlib import Path

import torch
from torch import nn

from data.console import print_to_reader
from data.dataset import StudyDataset
from data.errors import UserError
from data.loaders import StudyLoader, evaluation_loader
from data.records import SPLITS
from data.text.cleaning import clean
from models.outputs import BoxSource, GraphSource
from modules import runtime
from modules.builders import build_dataset, build_evaluator, load_model
from modules.checkpoint import CONFIG, Checkpoint, load_checkpoint
from modules.config import Config, load_config
from modules.evaluation import baselines
from modules.evaluation.evaluator import Evaluator
from modules.evaluation.metrics.weighted import ScoreResults
from modules.evaluation.records import Evaluation
from modules.evaluation.results import results_folder, run_folder
from modules.evaluation.results_writer import build_metrics, check_annotated_attributes, write_results
from modules.evaluation.score_tables import format_graph_table, format_score_table
from modules.training.run_log import read_curves

GRAPH_SOURCES = (GraphSource.PREDICTED, GraphSource.ORACLE, GraphSource.NONE)


def main(arguments: list[str] | None = None) -> int:
    """Return the exit status: 0, or 1 after a one-line message on stderr about an error that the user can fix."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--checkpoint", required=True, metavar="DIR", help="a checkpoint, or a run folder (its best)")
    parser.add_argument("--split", default="test", choices=SPLITS)
    parser.add_argument(
        "--graph", type=parse_graph_sources, default=[], metavar="SOURCE[,SOURCE...]",
        help="sources of the scene graph (eval.graph_source): predicted, oracle, none, or several of them",
    )
    parser.add_argument(
        "--boxes", choices=[source.value for source in BoxSource],
        help="source of the boxes (eval.box_source); the oracle graph always has the annotated ones, oracle_boxes",
    )
    parser.add_argument("--data", metavar="ROOT", help="prepared data set; default: the one trained on (data.root)")
    parser.add_argument("--out", metavar="DIR", help="folder for the results; default: the run folder")
    parser.add_argument("overrides", nargs="*", metavar="key=value", help="other settings, e.g. eval.beam_size=1")
    options = parser.parse_intermixed_args(arguments)
    try:
        test(options)
    except UserError as error:
        print(error, file=sys.stderr)
        return 1
    return 0


def parse_graph_sources(text: str) -> list[GraphSource]:
    """Parse comma-separated graph sources. Raises ArgumentTypeError if one is unknown or repeated."""
    names = text.split(",")
    if len(set(names)) < len(names) or not set(names) <= set(GRAPH_SOURCES):
        raise argparse.ArgumentTypeError(f"'{text}': give one or more of {', '.join(GRAPH_SOURCES)}, each only once")
    return [GraphSource(name) for name in names]


def test(options: argparse.Namespace) -> None:
    """Evaluate the checkpoint and write the results. Raises UserError for input that the user can fix."""
    checkpoint = load_checkpoint(options.checkpoint)
    configs = load_configs(checkpoint, options)
    config = configs[0]
    device = runtime.select_device(config.train.device)
    runtime.seed_everything(config.seed)
    dataset = build_dataset(config, checkpoint.vocabularies, options.split)
    model = load_model(checkpoint, config).to(device)
    if config.eval.int8:
        runtime.quantise_decoder(model, device)
    evaluators = [build_evaluator(each, checkpoint.vocabularies, each.eval.beam_size) for each in configs]
    with runtime.distributed(device):
        if runtime.is_rank_zero():
            print(
                f"Testing {checkpoint.directory} on {dataset.root} with the checkpoint's own vocabularies: "
                f"{len(checkpoint.vocabularies.tokenizer.words)} words, "
                f"{sum(checkpoint.vocabularies.attributes.sizes)} attributes of regions"
            )
        evaluations = [
            evaluator.evaluate(
                model, build_loader(dataset, config, device, runtime.rank(), runtime.world_size()), device
            )
            for evaluator in evaluators
        ]
        if not runtime.is_rank_zero():
            return
    for evaluator, evaluation in zip(evaluators, evaluations, strict=True):
        if model.graph is not None and evaluator.graph_source == GraphSource.ORACLE:
            warning = check_annotated_attributes(evaluation.records, checkpoint.vocabularies.attributes)
            if warning:
                print(warning, file=sys.stderr)
    # Baselines do not depend on the graph: they are computed once for all graph sources.
    baseline_scores = score_baselines(model, evaluators[0], evaluations[0], dataset, config, device)
    by_source = {
        evaluator.graph_source.value: build_metrics(
            evaluator, evaluation, baseline_scores, config, options.split, checkpoint.directory, dataset.root
        )
        for evaluator, evaluation in zip(evaluators, evaluations, strict=True)
    }
    folder = results_folder(checkpoint.directory, Path(checkpoint.config.data.root), Path(config.data.root))
    curves = read_curves(run_folder(checkpoint.directory))
    paths = write_results(Path(options.out) if options.out else folder, by_source, evaluations, dataset, curves)
    first = next(iter(by_source.values()))
    print_to_reader(format_score_table(first))
    if len(by_source) > 1:
        print_to_reader(f"\n{format_graph_table(first)}")
    print_to_reader("\n".join(f"written: {path}" for path in paths))


def load_configs(checkpoint: Checkpoint, options: argparse.Namespace) -> list[Config]:
    """Load the checkpoint's configuration, changed by the command line, once for each graph source.

    Raises UserError for settings that contradict each other.
    """
    configs = []
    for graph_source in options.graph or [None]:
        changes = {"eval.graph_source": graph_source, "eval.box_source": options.boxes, "data.root": options.data}
        overrides = options.overrides + [f"{key}={value}" for key, value in changes.items() if value is not None]
        configs.append(load_config(checkpoint.directory / CONFIG, overrides))
    only_oracle = all(config.eval.graph_source == GraphSource.ORACLE for config in configs)
    if only_oracle and options.boxes not in (None, BoxSource.ORACLE_BOXES):
        raise UserError(
            f"--boxes {options.boxes} has no effect on the oracle graph, which always has the annotated boxes: leave "
            "it out, or choose another --graph"
        )
    if configs[0].model.graph_in == "none" and options.graph:
        print(
            "This model is built without a scene graph (model.graph_in=none), so all graph sources give the same "
            f"reports: it is evaluated once, as {configs[0].eval.graph_source}, and there is nothing to compare."
        )
        return configs[:1]
    return configs


def score_baselines(
    model: nn.Module, evaluator: Evaluator, evaluation: Evaluation, dataset: StudyDataset, config: Config,
    device: torch.device,
) -> dict[str, ScoreResults]:
    """Score the baselines, fitted on the data set's own training and validation split."""
    # The same studies as in training, that is with `train_limit`, but without augmentation.
    training_config = dataclasses.replace(
        config, data=dataclasses.replace(config.data, eval_limit=config.data.train_limit)
    )
    try:
        training = build_dataset(training_config, evaluator.vocabularies, "train")
        validation = build_dataset(config, evaluator.vocabularies, "val")
        return baselines.score_baselines(
            model, evaluator, evaluation.records, build_loader(dataset, config, device),
            build_loader(training, config, device),
            [clean(record["report"], config.data.cleaning) for record in validation.records], device,
        )
    except UserError as error:  # for example, the data set has only a test split
        reason = f"the baselines need a training and a validation split: {error}"
        return baselines.absent_baselines(len(evaluation.records), reason)


def build_loader(
    dataset: StudyDataset, config: Config, device: torch.device, rank: int = 0, world_size: int = 1
) -> StudyLoader:
    """Return a loader over the studies of `dataset` in order, or over the shard of one rank."""
    return evaluation_loader(
        dataset, config.eval.batch_size, config.data.workers, rank, world_size,
        dataset.vocabularies.tokenizer.pad_id, pin_memory=device.type == "cuda",
    )


if __name__ == "__main__":
    sys.exit(main())
