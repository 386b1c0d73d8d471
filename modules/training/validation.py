"""The interface of validation, as training uses it; `modules/evaluation/validation.py` implements it."""

from collections.abc import Callable, Collection, Iterable
from dataclasses import dataclass, field
from typing import Protocol

import torch
from torch import nn

from data.batch import Batch
from models.outputs import BoxSource, GraphSource


class EvaluationStopped(Exception):
    """Raised if `should_stop` returns True before an evaluation is finished."""


@dataclass(frozen=True)
class ValidationScores:
    """The result of a validation.

    scores  name -> value, None if absent
    absent  name of each absent score -> the reason
    blind   name -> value of the image-blind baseline on the same studies, None if absent
    by_data_set   name of each data set -> its own scores; with a single one, the same scores
    """

    scores: dict[str, float | None]
    absent: dict[str, str]
    blind: dict[str, float | None] = field(default_factory=dict)
    by_data_set: dict[str, dict[str, float | None]] = field(default_factory=dict)


class Validator(Protocol):
    """Scores a model on the validation split."""

    graph_source: GraphSource
    box_source: BoxSource

    @property
    def score_names(self) -> tuple[str, ...]:
        """The scores that `train.monitor` can use."""

    def validate(
        self, model: nn.Module, loader: Iterable[Batch], device: torch.device, names: Collection[str],
        meteor: bool = True, should_stop: Callable[[], bool] | None = None,
    ) -> ValidationScores:
        """Return the scores `names` of `model` on the studies of `loader`; no others are computed.

        With several processes, `loader` yields the shard of this rank, and every process returns the scores of all
        studies. Raises EvaluationStopped in all processes if `should_stop()` is true in one of them.
        """
