"""Measures how often sentences attend to the regions that they are about.

    python -m benchmarks grounding --checkpoint results/demo --data data/phantom [--split test]

Reports of a split are generated with the predicted graph. The regions that a sentence is about are read from its text
(`data/text_graph.py`); the sentence is correct if the region that it attends to most is among them. Sentences that name
no region, or attend to none, are not counted. The baseline always names the same region: the one that is correct most
often, which favours it, because it is chosen on the sentences that are scored.
"""

import argparse
from collections import Counter
from collections.abc import Iterable
from dataclasses import dataclass
from pathlib import Path

from data.errors import UserError
from data.images.image_store import read_image_bytes
from data.ontology import Anatomy
from data.records import SPLITS, read_records
from data.text.report_graph import read_report
from modules.inference.prediction import Prediction
from modules.inference.predictor import Predictor
from modules.inference.studies import Study


@dataclass(frozen=True)
class Grounding:
    """Numbers of sentences.

    sentences         counted
    right             correct by attention
    right_by_region   correct by always naming `region`
    without_region    not counted
    """

    sentences: int
    right: int
    region: str
    right_by_region: int
    without_region: int


def add_arguments(commands: argparse._SubParsersAction) -> None:
    """Register the command `grounding`."""
    parser = commands.add_parser("grounding", help="how often a sentence attends to the region that it is about")
    parser.add_argument("--checkpoint", required=True, metavar="DIR", help="a checkpoint, or a run folder (its best)")
    parser.add_argument("--data", required=True, type=Path, metavar="ROOT", help="the prepared data set")
    parser.add_argument("--split", default="test", choices=SPLITS)
    parser.set_defaults(run=run)


def run(options: argparse.Namespace) -> None:
    """Generate the reports of the split and print both shares."""
    predictor = Predictor(options.checkpoint)
    studies = [
        Study(record["id"], tuple(read_image_bytes(options.data, name) for name in record["images"]))
        for record in read_records(options.data, options.split)
    ]
    grounding = score(predictor.predict(studies))
    if not grounding.sentences:
        raise UserError("No sentence names a region and attends to one: use a model with a graph in its decoder")
    print(
        f"{options.data}, split {options.split}, {len(studies)} studies; graph predicted, beam {predictor.beam_size}, "
        f"seed {predictor.config.seed}"
    )
    print(f"sentences about a region: {grounding.sentences}; without region or attention: {grounding.without_region}")
    print(f"attended most to a region that they are about: {grounding.right / grounding.sentences:.1%}")
    print(f"always '{grounding.region}': {grounding.right_by_region / grounding.sentences:.1%}")


def score(predictions: Iterable[Prediction]) -> Grounding:
    """Count the sentences of all `predictions`."""
    names = set(Anatomy.load().names)
    sentences, right, without = 0, 0, 0
    named: Counter[str] = Counter()
    for sentence in (sentence for prediction in predictions for sentence in prediction.sentences):
        about = names & {region for part in read_report(sentence.text) for region in part.regions}
        if not about or not sentence.regions:
            without += 1
            continue
        sentences += 1
        named.update(about)
        right += next(iter(sentence.regions)) in about
    region, most = max(named.items(), key=lambda item: (item[1], item[0]), default=("", 0))
    return Grounding(sentences, right, region, most, without)
