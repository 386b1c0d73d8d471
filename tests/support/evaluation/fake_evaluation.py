"""Evaluations of a `FakeModel` on a tiny data set."""

import torch

from data.dataset import StudyDataset
from data.vocabulary_builder import build_vocabularies
from models.outputs import BoxSource, GraphSource
from modules.evaluation.evaluator import Evaluator
from modules.evaluation.records import Evaluation
from tests.support.evaluation.fake_model import FakeModel, loader_over

CPU = torch.device("cpu")


def open_split(root, split="test", vocabularies=None, boxes_file=None) -> StudyDataset:
    """A split of the prepared data set in `root`, by default with the vocabularies of its training split."""
    vocabularies = vocabularies or build_vocabularies(root, "corrected", 1, 1, True)
    return StudyDataset(root, split, vocabularies, "corrected", 32, 30, 1, "ignored", boxes_file=boxes_file)


def make_evaluator(dataset: StudyDataset, **settings) -> Evaluator:
    defaults = {
        "protocol": "r2gen", "max_tokens": 30, "graph_source": GraphSource.PREDICTED,
        "box_source": BoxSource.LOCALIZER, "beam_size": 1,
    }
    return Evaluator(vocabularies=dataset.vocabularies, **(defaults | settings))


def evaluate(dataset: StudyDataset, model: FakeModel, resamples=50, **settings) -> Evaluation:
    """Evaluate without METEOR."""
    return make_evaluator(dataset, **settings).evaluate(
        model, loader_over(dataset), CPU, meteor=False, resamples=resamples
    )
