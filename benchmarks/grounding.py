"""Whether sentences look at the regions that they are about.

    python -m benchmarks grounding --checkpoint results/demo --data data/phantom [--split test]

The reports of a split are written with the predicted graph. What a sentence is about is read from its own words
(`data/text_graph.py`); it is right if the region that it attended to most is among those. Sentences that name no
region, or attended to none, do not count. Beside the model stands the region that is right most often when it is given
for every sentence: chosen on the very sentences that it is scored on, which favours it.
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
from modules.inference.predictor import Prediction, Predictor, Study


@dataclass(frozen=True)
class Grounding:
    """How many sentences count, and are right by attention and by always naming `region`; how many do not count."""

    sentences: int
    right: int
    region: str
    right_by_region: int
    without_region: int


def add_arguments(commands: argparse._SubParsersAction) -> None:
    """Register the command `grounding`."""
    parser = commands.add_parser("grounding", help="how often a sentence looks at the region that it is about")
    parser.add_argument("--checkpoint", required=True, metavar="DIR", help="a checkpoint, or a run folder (its best)")
    parser.add_argument("--data", required=True, type=Path, metavar="ROOT", help="the prepared data set")
    parser.add_argument("--split", default="test", choices=SPLITS)
    parser.set_defaults(run=run)


def run(options: argparse.Namespace) -> None:
    """Write the split's reports and print both shares."""
    predictor = Predictor(options.checkpoint)
    studies = [
        Study(record["id"], tuple(read_image_bytes(options.data, name) for name in record["images"]))
        for record in read_records(options.data, options.split)
    ]
    grounding = score(predictor.predict(studies))
    if not grounding.sentences:
        raise UserError("No sentence names a region and attends to one: is this a model with a graph in its decoder?")
    print(
        f"{options.data}, split {options.split}, {len(studies)} studies; graph predicted, beam {predictor.beam_size}, "
        f"seed {predictor.config.seed}"
    )
    print(f"sentences about a region: {grounding.sentences}; without one, or without attention: "
          f"{grounding.without_region}")
    print(f"attended most to a region that they are about: {grounding.right / grounding.sentences:.1%}")
    print(f"always '{grounding.region}': {grounding.right_by_region / grounding.sentences:.1%}")


def score(predictions: Iterable[Prediction]) -> Grounding:
    """Count the sentences of all `predictions`."""
    names = set(Anatomy.load().names)
    sentences, right, without = 0, 0, 0
    spoken_of: Counter[str] = Counter()
    for sentence in (sentence for prediction in predictions for sentence in prediction.sentences):
        about = names & {region for part in read_report(sentence.text) for region in part.regions}
        if not about or not sentence.regions:
            without += 1
            continue
        sentences += 1
        spoken_of.update(about)
        right += next(iter(sentence.regions)) in about
    region, most = max(spoken_of.items(), key=lambda item: (item[1], item[0]), default=("", 0))
    return Grounding(sentences, right, region, most, without)
