"""How far a run has come: counters, the current phase, and the best validation."""

from dataclasses import asdict, dataclass
from enum import StrEnum
from typing import Any


class Phase(StrEnum):
    """What a run does next. Each epoch is one TRAIN, followed by one VALIDATE if the settings ask for it."""

    TRAIN = "train"
    VALIDATE = "validate"


@dataclass
class RunProgress:
    """The position of a run, saved in every `last` checkpoint.

    epoch                     finished epochs
    batch                     batches of the current epoch that the run has trained on, one per optimiser step
    step                      optimiser steps since the start
    phase                     what comes next
    best, best_epoch          best value of the monitor (None before the first validation) and its epoch, from 1
    validations_without_gain  validations since the best one
    """

    epoch: int = 0
    batch: int = 0
    step: int = 0
    phase: Phase = Phase.TRAIN
    best: float | None = None
    best_epoch: int = 0
    validations_without_gain: int = 0

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
            self.best, self.best_epoch = monitored, self.epoch + 1
            self.validations_without_gain = 0
        else:
            self.validations_without_gain += 1
        return is_best

    def to_dict(self) -> dict[str, Any]:
        """Return the saved form: plain values, with the phase as the flag `validation_pending`."""
        saved = asdict(self)
        saved["validation_pending"] = saved.pop("phase") == Phase.VALIDATE
        return saved

    @classmethod
    def from_dict(cls, saved: dict[str, Any]) -> "RunProgress":
        """Read what `to_dict` returned."""
        counters = {name: value for name, value in saved.items() if name != "validation_pending"}
        return cls(phase=Phase.VALIDATE if saved["validation_pending"] else Phase.TRAIN, **counters)
