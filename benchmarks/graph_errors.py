"""Measures what the errors of the predicted graph cost, one part of the graph at a time.

    python -m benchmarks graph_errors --checkpoint results/demo [--data data/phantom] [--split test] [key=value ...]

Reports of a split are generated with the predicted graph, then with annotated boxes, regions or attributes in place of
predicted ones, and with several of these. What a part gains is lost in seeing that part; what the graph with all of
them does not reach is lost in reading it. The annotation is read from the reference reports, so only the first row says
how good the model is.
"""

import argparse
from collections.abc import Mapping
from dataclasses import dataclass, replace

import torch

from data.batch import Batch
from data.errors import UserError
from data.loaders import evaluation_loader
from data.records import SPLITS
from models.outputs import BoxSource, GraphAnnotation, GraphOverrides, GraphSource, ModelInputs
from models.sgrrg import annotated_regions
from modules import runtime
from modules.builders import build_dataset, build_evaluator, load_model
from modules.checkpoint import load_checkpoint
from modules.evaluation.evaluator import Evaluator
from modules.evaluation.scoring import score_records, scoring_workers

BOXES, REGIONS, ATTRIBUTES = "boxes", "regions", "attributes"
# The annotated parts of each row.
ROWS = ((), (BOXES,), (REGIONS,), (ATTRIBUTES,), (REGIONS, ATTRIBUTES), (BOXES, REGIONS, ATTRIBUTES))
SCORES = ("truth_14_micro_f1", "report_14_micro_f1", "triple_f1", "bleu_4")


@dataclass
class PartlyAnnotated(Evaluator):
    """Evaluates with a predicted graph whose `parts` are annotated, where there is an annotation."""

    parts: tuple[str, ...] = ()

    def _inputs(self, batch: Batch, device: torch.device) -> ModelInputs:
        inputs = super()._inputs(batch, device)
        if not {REGIONS, ATTRIBUTES}.intersection(self.parts):
            return inputs
        annotated = GraphAnnotation(**vars(batch.to(device).regions))
        known, selected = annotated.graph_known[:, None], annotated_regions(annotated)
        regions = known & (REGIONS in self.parts)
        attributes = known[..., None] & (ATTRIBUTES in self.parts)
        return replace(inputs, overrides=GraphOverrides(
            boxes=torch.zeros_like(annotated.boxes), box_overridden=torch.zeros_like(selected),
            regions_on=selected & regions, regions_off=~selected & regions,
            attributes_on=annotated.attributes & attributes, attributes_off=~annotated.attributes & attributes,
        ))


def add_arguments(commands: argparse._SubParsersAction) -> None:
    """Register the command `graph_errors`."""
    parser = commands.add_parser("graph_errors", help="what the errors of the predicted graph cost, part by part")
    parser.add_argument("--checkpoint", required=True, metavar="DIR", help="a checkpoint, or a run folder (its best)")
    parser.add_argument("--data", metavar="ROOT", help="the prepared data set (default: that of the training)")
    parser.add_argument("--split", default="test", choices=SPLITS)
    parser.add_argument("overrides", nargs="*", metavar="key=value", help="settings, for example eval.beam_size=1")
    parser.set_defaults(run=run)


def run(options: argparse.Namespace) -> None:
    """Generate and score the reports of the split with every row of `ROWS`, and print a table."""
    checkpoint = load_checkpoint(options.checkpoint)
    overrides = [*options.overrides, f"eval.graph_source={GraphSource.PREDICTED}"]
    if options.data:
        overrides.append(f"data.root={options.data}")
    config = checkpoint.load_config(overrides)
    if config.model.graph_in == "none" or not config.model.report:
        raise UserError(f"{checkpoint.directory} has no graph to write reports from (model.graph_in, model.report)")
    device = runtime.select_device(config.train.device)
    runtime.configure_backends(device, config.train.deterministic)
    dataset = build_dataset(config, checkpoint.vocabularies, options.split)
    model = load_model(checkpoint, config).to(device)
    runtime.arrange_for_batches(model, device)
    evaluator = build_evaluator(config, checkpoint.vocabularies, config.eval.beam_size)
    workers = scoring_workers(len(dataset))
    print(
        f"{checkpoint.directory} on {dataset.root}, split {options.split}, {len(dataset)} studies; boxes otherwise "
        f"{evaluator.box_source}, beam {evaluator.beam_size}, protocol {evaluator.protocol}, seed {config.seed}"
    )
    print(f"{'annotated':34s}" + "".join(f"{name:>20s}" for name in SCORES), flush=True)
    for parts in ROWS:
        loader = evaluation_loader(
            dataset, config.eval.batch_size, config.data.workers, 0, 1, checkpoint.vocabularies.tokenizer.pad_id,
            pin_memory=device.type == "cuda",
        )
        records = _with_parts(evaluator, parts).generate(model, loader, device)
        scores = score_records(records, meteor=False, resamples=0, names=SCORES, workers=workers).scores
        print(_row(parts, scores), flush=True)


def _with_parts(evaluator: Evaluator, parts: tuple[str, ...]) -> PartlyAnnotated:
    """Return an evaluator like `evaluator` that is given the annotated `parts`."""
    settings = {name: value for name, value in vars(evaluator).items() if name != "skipped"}
    if BOXES in parts:
        settings["box_source"] = BoxSource.ORACLE_BOXES
    return PartlyAnnotated(**settings, parts=parts)


def _row(parts: tuple[str, ...], scores: Mapping[str, float | None]) -> str:
    values = ("–" if scores[name] is None else f"{scores[name]:.3f}" for name in SCORES)
    return f"{', '.join(parts) or 'nothing':34s}" + "".join(f"{value:>20s}" for value in values)
