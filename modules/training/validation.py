"""The interface of validation, as training uses it; `modules/evaluation/evaluator.py` implements it."""

from collections.abc import Callable, Iterable
from typing import Protocol

import torch
from torch import nn

from data.batch import Batch
from models.outputs import BoxSource, GraphSource


class EvaluationStopped(Exception):
    """Raised if `should_stop` returns True before an evaluation is finished."""


class ValidationScores(Protocol):
    """The part of an evaluation's result that training reads.

    scores  name -> value, None if absent
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
        """The scores that `train.monitor` can use."""

    def evaluate(
        self, model: nn.Module, loader: Iterable[Batch], device: torch.device, meteor: bool = True,
        should_stop: Callable[[], bool] | None = None, resamples: int = 0,
    ) -> ValidationScores:
        """Return the scores of `model` on the studies of `loader`.

        Raises EvaluationStopped in all processes if `should_stop()` is true in one of them.
        """
