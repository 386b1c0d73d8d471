"""The loss terms of one optimiser step."""

import math
from dataclasses import dataclass

import torch
from torch import Tensor

from data.batch import Batch
from modules.runtime import gather_objects
from modules.training.losses import Losses

TOTAL = "total"
# Prefix of means of sampled reports, which are logged beside the terms.
SAMPLED = "sampled/"


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

    def describe_not_finite(self) -> str:
        """Return terms and studies of the micro-batches of all processes that are not finite; of all, if none is."""
        by_process = gather_objects((self.not_finite(), self.by_micro_batch()))
        batches = [batch for not_finite, _ in by_process for batch in not_finite]
        if not batches:
            batches = [batch for _, every in by_process for batch in every]
        return "; ".join(
            f"{', '.join(f'{name} {value:.4g}' for name, value in terms.items())} (studies {', '.join(study_ids)})"
            for study_ids, terms in batches
        )

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
