"""What training needs of an evaluation; `modules/evaluation/evaluator.py` provides it."""

from collections.abc import Callable, Iterable
from typing import Protocol

import torch
from torch import nn

from data.batch import Batch
from models.outputs import BoxSource, GraphSource


class EvaluationStopped(Exception):
    """`should_stop` returned True before the evaluation was finished; there are no scores."""


class ValidationScores(Protocol):
    """The result of an evaluation, as far as training reads it.

    scores  by name; None for a score that is absent
    absent  name of each absent score -> the reason
    """

    scores: dict[str, float | None]
    absent: dict[str, str]


class Validator(Protocol):
    """Scores a model on the validation split."""

    graph_source: GraphSource
    box_source: BoxSource

    @property
    def score_names(self) -> tuple[str, ...]:
        """The scores that `train.monitor` may name."""

    def evaluate(
        self, model: nn.Module, loader: Iterable[Batch], device: torch.device, meteor: bool = True,
        should_stop: Callable[[], bool] | None = None, resamples: int = 0,
    ) -> ValidationScores:
        """The scores of `model` on the studies of `loader`.

        Raises EvaluationStopped in all processes if `should_stop()` is true in one of them.
        """
