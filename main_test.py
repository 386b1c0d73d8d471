"""Scores a checkpoint on a split of a prepared data set.

    python main_test.py --checkpoint results/demo --split test --graph predicted [--data data/iu_xray] [key=value ...]
    python main_test.py --checkpoint results/demo --graph predicted,oracle,none    three graphs, side by side

The vocabularies are the checkpoint's, whatever the data set. Writes metrics.json, predictions.jsonl and report.html
into the run folder and prints the scores beside those of the baselines. Of several graph sources the first has those
names, and the table of differences; the others get metrics_oracle.json, predictions_oracle.jsonl and so on.
"""

import argparse
import dataclasses
import sys
from pathlib import Path
from typing import Any

import torch
from torch import nn

from data.console import print_to_reader
from data.dataset import StudyDataset
from data.errors import UserError
from data.loaders import StudyLoader, evaluation_loader
from data.records import SPLITS
from data.text.cleaning import clean
from data.vocabulary import AttributeVocabulary
from models.outputs import BoxSource, GraphSource
from modules import runtime
from modules.builders import build_dataset, build_evaluator, load_model
from modules.checkpoint import CONFIG, Checkpoint, load_checkpoint
from modules.config import Config, load_config
from modules.evaluation import baselines, results
from modules.evaluation.evaluator import SCORE_NAMES, Evaluation, Evaluator
from modules.evaluation.metrics.weighted import RESAMPLES, Scored, absent
from modules.evaluation.pages.report_page import chosen_studies, write_report_page
from modules.evaluation.pages.study_panel import Case, grey_picture
from modules.evaluation.text_protocol import FULL_APPLIED, intervals_applied, r2gen_applied
from modules.training.run_log import read_curves


def main(arguments: list[str] | None = None) -> int:
    """Exit status: 0, or 1 after one line on stderr that says what the user can mend."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--checkpoint", required=True, metavar="DIR", help="a checkpoint, or a run folder (its best)")
    parser.add_argument("--split", default="test", choices=SPLITS)
    parser.add_argument(
        "--graph", type=graph_sources, default=[], metavar="SOURCE[,SOURCE...]",
        help="where the scene graph comes from (eval.graph_source): predicted, oracle, none, or several of them",
    )
    parser.add_argument(
        "--boxes", choices=[source.value for source in BoxSource],
        help="where boxes come from (eval.box_source); the oracle graph brings its own, oracle_boxes",
    )
    parser.add_argument("--data", metavar="ROOT", help="another prepared data set than the one trained on (data.root)")
    parser.add_argument("--out", metavar="DIR", help="where results go; default: the run folder")
    parser.add_argument("overrides", nargs="*", metavar="key=value", help="other settings, e.g. eval.beam_size=1")
    options = parser.parse_intermixed_args(arguments)
    try:
        test(options)
    except UserError as error:
        print(error, file=sys.stderr)
        return 1
    return 0


def test(options: argparse.Namespace) -> None:
    """Evaluate and write the results. Raises UserError for what the user can mend."""
    checkpoint = load_checkpoint(options.checkpoint)
    configs = [configured(checkpoint, options, source) for source in options.graph or [None]]
    config = configs[0]
    annotated = all(each.eval.graph_source == GraphSource.ORACLE for each in configs)
    if annotated and options.boxes not in (None, BoxSource.ORACLE_BOXES):
        raise UserError(
            f"--boxes {options.boxes} has no part in the oracle graph, whose boxes are the annotation's own: leave it "
            "out, or choose another --graph"
        )
    if config.model.graph_in == "none" and options.graph:
        print(
            "This model is built without a scene graph (model.graph_in=none): every graph source is the same to it. "
            f"It is evaluated once, as {config.eval.graph_source}, and there is no gap to show."
        )
        configs = configs[:1]
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
                model, loader_of(dataset, config, device, runtime.rank(), runtime.world_size()), device
            )
            for evaluator in evaluators
        ]
        if not runtime.is_rank_zero():
            return
    for evaluator, evaluation in zip(evaluators, evaluations, strict=True):
        if model.graph is not None and evaluator.graph_source == GraphSource.ORACLE:
            warn_without_attributes(evaluation, checkpoint.vocabularies.attributes)
    # They look at no graph: one answer for all graph sources.
    compared = compare(model, evaluators[0], evaluations[0], dataset, config, device)
    by_source = {}
    for evaluator, evaluation in zip(evaluators, evaluations, strict=True):
        by_source[evaluator.graph_source.value] = {
            "split": options.split,
            "graph_source": evaluator.graph_source.value,
            "graph_in": config.model.graph_in,
            "annotated_graphs": sum(bool(record.annotation.graph_known) for record in evaluation.records),
            "box_source": evaluator.box_source.value,
            "protocol": evaluator.protocol,
            "applied": applied(evaluator, evaluation, config),
            "beam_size": evaluator.beam_size,
            "precision": evaluator.precision.value,
            "int8": config.eval.int8,
            "seed": config.seed,
            "studies": len(evaluation.records),
            "checkpoint": str(checkpoint.directory),
            "dataset": results.dataset_name(dataset.root),
            "scores": evaluation.scores,
            "absent": evaluation.absent,
            "intervals": evaluation.intervals,
            "tables": evaluation.tables,
            "curves": evaluation.curves,
            "baselines": {name: scored.scores for name, scored in compared.items()},
            "baseline_intervals": {name: scored.intervals for name, scored in compared.items()},
            "absent_baselines": {name: scored.absent for name, scored in compared.items()},
        }
    out = Path(options.out) if options.out else default_folder(checkpoint, config)
    write(out, by_source, evaluations, dataset, read_curves(run_folder(checkpoint)))


def applied(evaluator: Evaluator, evaluation: Evaluation, config: Config) -> dict[str, str]:
    """What was done to the texts, in words, as `modules.score` says it."""
    done = FULL_APPLIED
    if evaluator.protocol == "r2gen":
        done = r2gen_applied(evaluator.max_tokens, "those outside the checkpoint's vocabulary")
    told = sum(bool(record.reference.strip()) for record in evaluation.records)
    return {
        "cleaning": f"references by the rules '{config.data.cleaning}'", **done,
        "CIDEr's document frequencies": f"of the {told} references",
        "observations": "read by the labeler 'rules' from complete reports",
        **intervals_applied(RESAMPLES, "studies", len(evaluation.records)),
    }


def graph_sources(text: str) -> list[GraphSource]:
    """The graph sources of a command line, comma-separated. Raises ArgumentTypeError for others and for repetitions."""
    allowed = (GraphSource.PREDICTED, GraphSource.ORACLE, GraphSource.NONE)
    names = text.split(",")
    if len(set(names)) < len(names) or not set(names) <= set(allowed):
        raise argparse.ArgumentTypeError(f"'{text}': name each of {', '.join(allowed)} once at most")
    return [GraphSource(name) for name in names]


def configured(checkpoint: Checkpoint, options: argparse.Namespace, graph_source: GraphSource | None) -> Config:
    """The checkpoint's configuration with what the command line changes; `graph_source` None: its own."""
    chosen = {"eval.graph_source": graph_source, "eval.box_source": options.boxes, "data.root": options.data}
    overrides = options.overrides + [f"{key}={value}" for key, value in chosen.items() if value is not None]
    return load_config(checkpoint.directory / CONFIG, overrides)


def warn_without_attributes(evaluation: Evaluation, vocabulary: AttributeVocabulary) -> None:
    """Say so where annotated graphs have regions, but no attribute of the `vocabulary`."""
    annotations = [record.annotation for record in evaluation.records if record.annotation.graph_known]
    known = [name for names in vocabulary.by_region for name in names]
    if known and any(each.mentioned.any() for each in annotations) and not any(
        each.attributes.any() for each in annotations
    ):
        print(
            f"The annotated graphs name none of the checkpoint's attributes (which are called like '{known[0]}'): the "
            "oracle graph holds regions alone, and attributes get no scores",
            file=sys.stderr,
        )


def compare(
    model: nn.Module, evaluator: Evaluator, evaluation: Evaluation, dataset: StudyDataset, config: Config,
    device: torch.device,
) -> dict[str, Scored]:
    """The baselines' scores on the data set's own training and validation split."""
    # The studies that a run with this config trains on, as they are: `train_limit`, but no augmentation.
    fitted = dataclasses.replace(config, data=dataclasses.replace(config.data, eval_limit=config.data.train_limit))
    try:
        training = build_dataset(fitted, evaluator.vocabularies, "train")
        validation = build_dataset(config, evaluator.vocabularies, "val")
        return baselines.score_baselines(
            model, evaluator, evaluation.records, loader_of(dataset, config, device),
            loader_of(training, config, device),
            [clean(record["report"], config.data.cleaning) for record in validation.records], device,
        )
    except UserError as error:  # a data set of a test split alone is scored all the same
        scores = absent(SCORE_NAMES, f"the baselines need a training and a validation split: {error}")
        return {name: scores.scored(len(evaluation.records)) for name in baselines.NAMES}


def loader_of(
    dataset: StudyDataset, config: Config, device: torch.device, rank: int = 0, world_size: int = 1
) -> StudyLoader:
    """The studies of `dataset` in order, or this process's share of them."""
    return evaluation_loader(
        dataset, config.eval.batch_size, config.data.workers, rank, world_size,
        dataset.vocabularies.tokenizer.pad_id, pin_memory=device.type == "cuda",
    )


def run_folder(checkpoint: Checkpoint) -> Path:
    """The folder of the run that left the checkpoint."""
    directory = checkpoint.directory
    return directory.parent if directory.name in ("best", "last") else directory


def default_folder(checkpoint: Checkpoint, config: Config) -> Path:
    """The checkpoint's run folder; for another data set than the one it was trained on, a folder of that name in it."""
    tested, trained = Path(config.data.root), Path(checkpoint.config.data.root)
    folder = run_folder(checkpoint)
    return folder if tested.name == trained.name else folder / f"on_{tested.name}"


def write(
    out: Path, by_source: dict[str, dict[str, Any]], evaluations: list[Evaluation], dataset: StudyDataset,
    course: dict[str, dict[str, list[tuple[int, float]]]],
) -> None:
    """Write the files, print the tables and where the files are.

    by_source   graph source -> its metrics.json, in the order of `evaluations`
    course      of the run: losses and validation scores, for the page
    """
    first, *others = by_source
    if others:
        resampled = {source: each.resampled for source, each in zip(by_source, evaluations, strict=True)}
        by_source[first]["graph_sources"] = results.graph_comparison(by_source, resampled)
    plain = GraphSource(first) if others else GraphSource.PREDICTED
    paths = []
    for (source, metrics), evaluation in zip(by_source.items(), evaluations, strict=True):
        for name in ("metrics.json", "predictions.jsonl"):
            paths.append(results.result_path(out, name, GraphSource(source), metrics["split"], plain))
        results.write_metrics(paths[-2], metrics)
        results.write_predictions(paths[-1], evaluation.records, dataset.vocabularies)
    paths.append(results.result_path(out, "report.html", GraphSource(first), by_source[first]["split"], plain))
    cases = [
        Case(evaluations[0].records[position], grey_picture(dataset[position].images[0]), why)
        for position, why in chosen_studies(evaluations[0])
    ]
    write_report_page(paths[-1], by_source[first], cases, dataset.vocabularies, course)
    print_to_reader(results.score_table(by_source[first]))
    if others:
        print_to_reader(f"\n{results.graph_table(by_source[first])}")
    print_to_reader("\n".join(f"written: {path}" for path in paths))


if __name__ == "__main__":
    sys.exit(main())
