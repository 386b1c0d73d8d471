"""How far a run has come: counters, the current phase, and the best validation."""

from dataclasses import asdict, dataclass, field
from enum import StrEnum
from typing import Any


class Phase(StrEnum):
    """What a run does next. Each epoch is one TRAIN, followed by one VALIDATE if the settings ask for it."""

    TRAIN = "train"
    VALIDATE = "validate"

_OF_REWARDS = ("start_scores", "broken_guard")


@dataclass
class RunProgress:
    """The position of a run, saved in every `last` checkpoint.

    epoch                     finished epochs
    batch                     batches of the current epoch that the run has trained on, one per optimiser step
    step                      optimiser steps since the start
    phase                     what comes next
    best, best_epoch          best value of the monitor (None before the first validation) and its epoch, from 1; 0 for
                              a validation before the first step
    validations_without_gain  validations since the best one
    start_scores              scores of the weights that reward training started from, which its guards compare with
    broken_guard              why a guard has ended the run; empty if none has
    """

    epoch: int = 0
    batch: int = 0
    step: int = 0
    phase: Phase = Phase.TRAIN
    best: float | None = None
    best_epoch: int = 0
    validations_without_gain: int = 0
    start_scores: dict[str, float] = field(default_factory=dict)
    broken_guard: str = ""

    def end_epoch(self, batches_per_epoch: int) -> None:
        """Return to training, in the next epoch if this one is complete (`train.max_steps` may end a run inside it)."""
        self.phase = Phase.TRAIN
        if self.batch == batches_per_epoch:
            self.epoch += 1
            self.batch = 0

    def record_validation(self, monitored: float | None) -> bool:
        """Count a validation with this value of the monitor. Return whether it is the best so far.

        A validation without a value is not counted: it is neither a gain nor a lack of gain.
        """
        if monitored is None:
            return False
        is_best = self.best is None or monitored > self.best
        if is_best:
            self.best, self.best_epoch = monitored, self.epoch + (self.batch > 0)
            self.validations_without_gain = 0
        else:
            self.validations_without_gain += 1
        return is_best

    def to_dict(self) -> dict[str, Any]:
        """Return the saved form: plain values, with the phase as the flag `validation_pending`.

        What only reward training has is left out if it is empty.
        """
        saved = {name: value for name, value in asdict(self).items() if name not in _OF_REWARDS or value}
        saved["validation_pending"] = saved.pop("phase") == Phase.VALIDATE
        return saved

    @classmethod
    def from_dict(cls, saved: dict[str, Any]) -> "RunProgress":
        """Read what `to_dict` returned."""
        counters = {name: value for name, value in saved.items() if name != "validation_pending"}
        return cls(phase=Phase.VALIDATE if saved["validation_pending"] else Phase.TRAIN, **counters)
