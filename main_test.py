"""Evaluates a checkpoint on a split of a prepared data set.

    python main_test.py --checkpoint results/demo --split test --graph predicted [--data data/iu_xray] [key=value ...]
    python main_test.py --checkpoint results/demo --graph predicted,oracle,none    compares three graph sources
    torchrun --standalone --nproc_per_node=2 main_test.py --checkpoint results/demo    generates with two processes

The vocabularies are always those of the checkpoint. Writes metrics.json, predictions.jsonl and report.html into the run
folder and prints the scores beside those of the baselines, whose answers are kept in baselines.json. With several graph
sources, the files of the first have these names, and its metrics.json the differences; the others get
metrics_oracle.json, predictions_oracle.jsonl, ...
"""

import argparse
import dataclasses
import sys
from pathlib import Path

import torch

from data.console import print_to_reader
from data.dataset import StudyDataset
from data.errors import UserError, wrong_value
from data.loaders import StudyLoader, evaluation_loader, worker_errors
from data.records import SPLITS
from data.vocabulary import Vocabularies
from data.worker_pool import available_cores
from models.outputs import BoxSource, GraphSource
from modules import runtime
from modules.builders import build_dataset, build_evaluator, load_model
from modules.checkpoint import CONFIG, Checkpoint, load_checkpoint
from modules.config import Config, load_config
from modules.evaluation.baselines.comparison import BaselineComparison
from modules.evaluation.baselines.names import NAMES
from modules.evaluation.evaluator import evaluation_of
from modules.evaluation.results import result_path, results_folder, run_folder
from modules.evaluation.results_writer import build_metrics, check_annotated_attributes, write_results
from modules.evaluation.score_tables import format_graph_table, format_score_table
from modules.evaluation.scoring import rule_parser, scoring_workers
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
    parser.add_argument(
        "--baselines", type=parse_baselines, default=NAMES, metavar="NAME[,NAME...]",
        help=f"all, none, or some of {', '.join(NAMES)}; default: all",
    )
    parser.add_argument(
        "--workers", type=int, default=available_cores(), metavar="N",
        help="processes that compute scores, which do not depend on their number",
    )
    parser.add_argument("overrides", nargs="*", metavar="key=value", help="other settings, e.g. eval.beam_size=1")
    options = parser.parse_intermixed_args(arguments)
    try:
        with worker_errors():
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


def parse_baselines(text: str) -> tuple[str, ...]:
    """Parse "all", "none" or comma-separated names of baselines. Raises ArgumentTypeError if one is unknown."""
    names = {"all": NAMES, "none": ()}.get(text, tuple(text.split(",")))
    if not set(names) <= set(NAMES):
        raise argparse.ArgumentTypeError(f"'{text}': give all, none, or some of {', '.join(NAMES)}")
    return tuple(name for name in NAMES if name in names)


def test(options: argparse.Namespace) -> None:
    """Evaluate the checkpoint and write the results. Raises UserError for input that the user can fix."""
    if options.workers < 1:
        raise wrong_value("--workers", options.workers, "must be at least 1")
    checkpoint = load_checkpoint(options.checkpoint)
    configs = load_configs(checkpoint, options)
    config = configs[0]
    device = runtime.select_device(config.train.device)
    runtime.configure_backends(device, config.train.deterministic)
    runtime.seed_everything(config.seed)
    dataset = build_dataset(config, checkpoint.vocabularies, options.split)
    model = load_model(checkpoint, config).to(device)
    if config.eval.int8:
        runtime.quantise_decoder(model, device)
    evaluators = [build_evaluator(each, checkpoint.vocabularies, each.eval.beam_size) for each in configs]
    out = Path(options.out) if options.out else results_folder(
        checkpoint.directory, Path(checkpoint.config.data.root), Path(config.data.root)
    )
    # Baselines do not depend on the graph: they are computed once for all graph sources.
    baselines = BaselineComparison(
        options.baselines, evaluators[0], config, options.split,
        result_path(out, "baselines.json", GraphSource.PREDICTED, options.split),
        open_split=lambda split: build_fitting_dataset(config, checkpoint.vocabularies, split),
        open_loader=lambda each: build_loader(each, config, device),
    )
    with runtime.distributed(device):
        if runtime.is_rank_zero():
            print(
                f"Testing {checkpoint.directory} on {dataset.root} with the checkpoint's own vocabularies: "
                f"{len(checkpoint.vocabularies.tokenizer.words)} words, "
                f"{sum(checkpoint.vocabularies.attributes.sizes)} attributes of regions"
            )
        generated = [
            evaluator.generate(model, build_loader(dataset, config, device), device) for evaluator in evaluators
        ]
        if options.baselines:
            baselines.prepare(model, dataset, generated[0], device)
        if not runtime.is_rank_zero():
            return
    # The other processes have left, and no collective waits for the scores, however long they take.
    parser = rule_parser(options.workers)
    evaluations = [
        evaluation_of(model, records, workers=min(options.workers, scoring_workers(len(records))), parser=parser)
        for records in generated
    ]
    for evaluator, evaluation in zip(evaluators, evaluations, strict=True):
        if model.graph is not None and evaluator.graph_source == GraphSource.ORACLE:
            warning = check_annotated_attributes(evaluation.records, checkpoint.vocabularies.attributes)
            if warning:
                print(warning, file=sys.stderr)
    baseline_scores = baselines.score(generated[0], parser, options.workers) if options.baselines else {}
    by_source = {
        evaluator.graph_source.value: build_metrics(
            evaluator, evaluation, baseline_scores, config, options.split, checkpoint.directory, dataset.root
        )
        for evaluator, evaluation in zip(evaluators, evaluations, strict=True)
    }
    curves = read_curves(run_folder(checkpoint.directory))
    paths = write_results(out, by_source, evaluations, dataset, curves)
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


def build_fitting_dataset(config: Config, vocabularies: Vocabularies, split: str) -> StudyDataset:
    """Build a split to fit baselines on: of "train" the studies of the training, but without augmentation."""
    if split == "train":
        data = dataclasses.replace(config.data, eval_limit=config.data.train_limit)
        config = dataclasses.replace(config, data=data)
    return build_dataset(config, vocabularies, split)


def build_loader(dataset: StudyDataset, config: Config, device: torch.device) -> StudyLoader:
    """Return a loader over the studies of `dataset` in order, or over the shard of this rank."""
    return evaluation_loader(
        dataset, config.eval.batch_size, config.data.workers, runtime.rank(), runtime.world_size(),
        dataset.vocabularies.tokenizer.pad_id, pin_memory=device.type == "cuda",
    )


if __name__ == "__main__":
    sys.exit(main())
