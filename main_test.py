"""Evaluates a checkpoint on a split of a prepared data set.

    python main_test.py --checkpoint results/demo --split test --graph predicted [--data data/iu_xray] [key=value ...]
    python main_test.py --checkpoint results/demo --graph predicted,oracle,none    compares three graph sources
    torchrun --standalone --nproc_per_node=2 main_test.py --checkpoint results/demo    generates with two processes

The vocabularies are always those of the checkpoint. Writes metrics.json, predictions.jsonl and report.html into the run
folder and prints the scores beside those of the baselines, whose answers are kept in baselines.json. With several graph
sources, the files of the first have these names, and its metrics.json the differences; the others get
metrics_oracle.json, predictions_oracle.jsonl, ...

With several contexts (--context none,prior,all), the results of the first are there, with the differences of the
others, whose results are in the subfolders context_prior, ..., without baselines.

A model of several data sets is tested on each of them alone: on NAME, with results in the subfolder on_NAME.
"""

# First: it handles Ctrl-C, also during the other imports.
import data  # noqa: F401

# isort: split

import argparse
import dataclasses
import sys
from dataclasses import dataclass, field
from functools import partial
from pathlib import Path
from typing import Any

import torch
from torch import nn

from data.console import print_to_reader, run_command
from data.dataset import StudyDataset
from data.errors import UserError, wrong_value
from data.loaders import StudyLoader, evaluation_loader, worker_errors
from data.processes.worker_pool import available_cores
from data.records import SPLITS, count_studies
from data.vocabulary import Vocabularies
from models.outputs import BoxSource, GraphSource
from modules import runtime
from modules.builders import build_dataset, build_evaluator, load_model
from modules.checkpoint import Checkpoint, load_checkpoint
from modules.config import Config
from modules.evaluation.baselines.comparison import BaselineComparison
from modules.evaluation.baselines.names import NAMES
from modules.evaluation.evaluator import Evaluator, evaluation_of
from modules.evaluation.records import Evaluation, StudyRecord
from modules.evaluation.results import result_path, results_folder, run_folder
from modules.evaluation.results_writer import (
    add_section_comparisons,
    build_metrics,
    check_annotated_attributes,
    compare_scores,
    write_results,
)
from modules.evaluation.score_tables import (
    format_context_table,
    format_graph_table,
    format_score_table,
    format_section_table,
)
from modules.evaluation.scoring import rule_parser, scoring_workers
from modules.settings.context import ContextUse
from modules.training.run_log import read_curves
from modules.training.tracking.trackers import record_results

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
        "--context", type=parse_contexts, default=[], metavar="USE[,USE...]",
        help="what a model that reads the context is shown of it (eval.context): none, indication, prior, all, or "
        "several of them",
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


def parse_contexts(text: str) -> list[ContextUse]:
    """Parse comma-separated uses of the context. Raises ArgumentTypeError if one is unknown or repeated."""
    names = text.split(",")
    if len(set(names)) < len(names) or not set(names) <= set(ContextUse):
        raise argparse.ArgumentTypeError(f"'{text}': give one or more of {', '.join(ContextUse)}, each only once")
    return [ContextUse(name) for name in names]


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
    by_context = [load_configs(checkpoint, options, use) for use in contexts_to_test(checkpoint, options.context)]
    config = by_context[0][0]
    device = runtime.select_device(config.train.device)
    runtime.configure_backends(device, config.train.deterministic)
    runtime.seed_everything(config.seed)
    tests = [
        open_test(checkpoint, [with_root(each, root) for each in configs], options, device, is_first=number == 0)
        for root in roots_with_split(config, options.split) for number, configs in enumerate(by_context)
    ]
    model = load_model(checkpoint, config).to(device)
    if config.eval.int8:
        runtime.quantise_decoder(model, device)
    else:
        runtime.arrange_for_batches(model, device)
    with runtime.distributed(device):
        for each in tests:
            if runtime.is_rank_zero():
                print(
                    f"Testing {checkpoint.directory} on {each.dataset.root} with the checkpoint's own vocabularies: "
                    f"{len(checkpoint.vocabularies.tokenizer.words)} words, "
                    f"{sum(checkpoint.vocabularies.attributes.sizes)} attributes of regions"
                )
            runtime.run_on_rank_zero(each.dataset.check_files)
            each.generated = [
                evaluator.generate(model, build_loader(each.dataset, config, device), device)
                for evaluator in each.evaluators
            ]
            if each.baselines is not None:
                each.baselines.prepare(model, each.dataset, each.generated[0], device)
        if not runtime.is_rank_zero():
            return
    # The other processes have left, and no collective waits for the scores, however long they take.
    for start in range(0, len(tests), len(by_context)):
        compared = tests[start : start + len(by_context)]
        for each in compared:
            score_test(each, model, checkpoint, options)
        if len(compared) > 1:
            compare_contexts(compared)
        for each in compared:
            report_test(each, checkpoint, options)
        if len(compared) > 1:
            print_to_reader(f"\n{format_context_table(compared[0].metrics)}")


def contexts_to_test(checkpoint: Checkpoint, asked: list[ContextUse]) -> list[ContextUse | None]:
    """Return the uses of the context to test, None for that of the settings."""
    if asked and not checkpoint.config.model.context:
        print("This model reads no context (model.context=[]): it is evaluated once, and there is nothing to compare.")
        return [None]
    return list(asked) or [None]


@dataclass
class DataSetTest:
    """The test of a checkpoint on one data set.

    config      of the first graph source
    evaluators  one for each graph source
    baselines   None without baselines
    out         folder of the results
    generated   records of each graph source, on rank zero, after generation
    evaluations, by_source   scores, and content of metrics.json, of each graph source, after scoring
    """

    config: Config
    dataset: StudyDataset
    evaluators: list[Evaluator]
    baselines: BaselineComparison | None
    out: Path
    generated: list[list[StudyRecord] | None] = field(default_factory=list)
    evaluations: list[Evaluation] = field(default_factory=list)
    by_source: dict[str, dict[str, Any]] = field(default_factory=dict)

    @property
    def metrics(self) -> dict[str, Any]:
        """The content of metrics.json of the first graph source."""
        return next(iter(self.by_source.values()))


def roots_with_split(config: Config, split: str) -> tuple[Path, ...]:
    """Return the data sets to test on: of several, those that have the split. Raises UserError if none has it."""
    roots = config.data.roots
    if len(roots) == 1:
        return roots
    found = tuple(root for root in roots if count_studies(root)[split])
    if not found:
        names = ", ".join(map(str, roots))
        raise UserError(f"None of {names} has studies in the split '{split}': choose another --split")
    return found


def with_root(config: Config, root: Path) -> Config:
    """Return `config` with a single data set."""
    return dataclasses.replace(config, data=dataclasses.replace(config.data, root=str(root), weights=None))


def open_test(
    checkpoint: Checkpoint, configs: list[Config], options: argparse.Namespace, device: torch.device, is_first: bool
) -> DataSetTest:
    """Open the data set of `configs`, one for each graph source. Raises UserError as `build_dataset` does.

    is_first   of several contexts: its results have the usual folder, and the baselines
    """
    config, trained_on = configs[0], checkpoint.config.data.roots
    (root,) = config.data.roots
    out = results_folder(checkpoint.directory, trained_on[0] if len(trained_on) == 1 else None, root)
    if options.out:
        several = options.data is None and len(trained_on) > 1
        out = Path(options.out) / f"on_{root.name}" if several else Path(options.out)
    if not is_first:
        out = out / f"context_{config.eval.context}"
    evaluators = [build_evaluator(each, checkpoint.vocabularies, each.eval.beam_size) for each in configs]
    # Baselines do not depend on the graph: they are computed once for all graph sources.
    baselines = None
    if options.baselines and is_first:
        baselines = BaselineComparison(
            options.baselines, evaluators[0], config, options.split,
            result_path(out, "baselines.json", GraphSource.PREDICTED, options.split),
            open_split=lambda split: build_fitting_dataset(config, checkpoint.vocabularies, split),
            open_loader=lambda each: build_loader(each, config, device),
        )
    dataset = build_dataset(config, checkpoint.vocabularies, options.split)
    return DataSetTest(config, dataset, evaluators, baselines, out)


def score_test(
    tested: DataSetTest, model: nn.Module, checkpoint: Checkpoint, options: argparse.Namespace
) -> None:
    """Score what was generated for one data set."""
    parser = rule_parser(options.workers)
    tested.evaluations = evaluations = [
        evaluation_of(model, records, workers=min(options.workers, scoring_workers(len(records))), parser=parser)
        for records in tested.generated
    ]
    for evaluator, evaluation in zip(tested.evaluators, evaluations, strict=True):
        if model.graph is not None and evaluator.graph_source == GraphSource.ORACLE:
            warning = check_annotated_attributes(evaluation.records, checkpoint.vocabularies.attributes)
            if warning:
                print(warning, file=sys.stderr)
    baseline_scores, section_baselines = {}, {}
    if tested.baselines is not None:
        baseline_scores = tested.baselines.score(tested.generated[0], parser, options.workers)
        if evaluations[0].sections:
            section_baselines = tested.baselines.score_sections(tested.generated[0], parser, options.workers)
    tested.by_source = {
        evaluator.graph_source.value: build_metrics(
            evaluator, evaluation, baseline_scores, tested.config, options.split, checkpoint.directory,
            tested.dataset.root, section_baselines,
        )
        for evaluator, evaluation in zip(tested.evaluators, evaluations, strict=True)
    }


def compare_contexts(tests: list[DataSetTest]) -> None:
    """Add the comparison of `tests` of one data set with several contexts to the metrics of the first one."""
    by_use = {each.config.eval.context.value: each.metrics for each in tests}
    evaluations = [each.evaluations[0] for each in tests]
    resampled = {use: evaluation.resampled for use, evaluation in zip(by_use, evaluations, strict=True)}
    tests[0].metrics["contexts"] = compare_scores(by_use, resampled)
    add_section_comparisons("contexts", by_use, evaluations)


def report_test(tested: DataSetTest, checkpoint: Checkpoint, options: argparse.Namespace) -> None:
    """Write and print the results of one data set."""
    curves = partial(read_curves, run_folder(checkpoint.directory))
    paths = write_results(tested.out, tested.by_source, tested.evaluations, tested.dataset, curves)
    first = tested.metrics
    print_to_reader(format_score_table(first))
    for section in first.get("sections", {}):
        print_to_reader(f"\n{format_section_table(first, section)}")
    if len(tested.by_source) > 1:
        print_to_reader(f"\n{format_graph_table(first)}")
    print_to_reader("\n".join(f"written: {path}" for path in paths))
    run, page = run_folder(checkpoint.directory), paths[-1]
    if page.suffix == ".html" and tested.out.is_relative_to(run):
        source = page.stem.removeprefix("report").removeprefix(f"_{options.split}")
        name = (tested.out.relative_to(run) / f"{options.split}{source}").as_posix()
        for line in record_results(run, name, first["scores"], page):
            print(line)


def load_configs(
    checkpoint: Checkpoint, options: argparse.Namespace, context: ContextUse | None
) -> list[Config]:
    """Load the checkpoint's configuration, changed by the command line and `context`, once for each graph source.

    Raises UserError for settings that contradict each other.
    """
    configs = []
    for graph_source in options.graph or [None]:
        changes = {
            "eval.graph_source": graph_source, "eval.box_source": options.boxes, "data.root": options.data,
            "eval.context": context and context.name,
        }
        overrides = options.overrides + [f"{key}={value}" for key, value in changes.items() if value is not None]
        configs.append(checkpoint.load_config(overrides))
    only_oracle = all(config.eval.graph_source == GraphSource.ORACLE for config in configs)
    if only_oracle and options.boxes not in (None, BoxSource.ORACLE_BOXES):
        raise UserError(
            f"--boxes {options.boxes} has no effect on the oracle graph, which always has the annotated boxes: leave "
            "it out, or choose another --graph"
        )
    if not configs[0].model.report:
        if options.graph:
            print("This model writes no reports (model.report=false): only what it reads off the image is scored.")
        return configs[:1]
    model = configs[0].model
    if model.graph_in == "none" and model.prototypes.per_observation is None and options.graph:
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
    sys.exit(run_command(main))
