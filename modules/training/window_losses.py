"""The loss terms of one optimiser step."""

import math
from dataclasses import dataclass

import torch
from torch import Tensor

from data.batch import Batch
from modules.training.losses import Losses

TOTAL = "total"


@dataclass
class WindowLosses:
    """The loss terms of the micro-batches of one optimiser step in this process, on the device until they are read.

    study_ids  of each micro-batch
    names      of the terms; `TOTAL` is their weighted sum
    table      [micro-batches, names] fp32
    """

    study_ids: list[list[str]]
    names: list[str]
    table: Tensor

    @classmethod
    def from_losses(cls, window: list[Batch], losses: list[Losses]) -> "WindowLosses":
        """Detach and stack the losses of the micro-batches of `window`."""
        names = [TOTAL, *losses[0].terms]
        rows = [torch.stack([each.total, *each.terms.values()]).detach().float() for each in losses]
        return cls([batch.study_ids for batch in window], names, torch.stack(rows))

    def not_finite(self) -> list[tuple[list[str], dict[str, float]]]:
        """Return study ids and terms of each micro-batch with a term that is not finite."""
        return [each for each in self.by_micro_batch() if not all(map(math.isfinite, each[1].values()))]

    def by_micro_batch(self) -> list[tuple[list[str], dict[str, float]]]:
        """Return study ids and terms of each micro-batch."""
        return [
            (study_ids, dict(zip(self.names, values, strict=True)))
            for study_ids, values in zip(self.study_ids, self.table.tolist(), strict=True)
        ]


@dataclass
class StepResult:
    """What an optimiser step did, the same in all processes.

    terms           name -> sum over the window and all processes; `TOTAL` is their weighted sum
    gradient_norm   L2 norm before clipping
    skipped         the gradient was not finite, so the scaler of fp16 left the weights unchanged
    stop_requested  a process has received a signal
    """

    terms: dict[str, float]
    gradient_norm: float
    skipped: bool
    stop_requested: bool
