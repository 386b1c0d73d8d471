"""What a stage of training adds to the loop of `trainer.py`."""

from collections.abc import Mapping

import torch
from torch import nn

from data.batch import Batch
from modules.training.progress import RunProgress
from modules.training.training_step import TrainingStep


class Stage:
    """Training on the annotations of each batch, which adds nothing; a base class for other stages.

    step_class       the forward pass up to the loss
    watched          validation scores that `check` reads
    validates_first  whether the run starts with a validation of the weights that it starts from
    """

    step_class: type[TrainingStep] = TrainingStep
    watched: tuple[str, ...] = ()
    validates_first = False

    def prepare(
        self, model: nn.Module, window: list[Batch], step: int, memory_format: torch.memory_format
    ) -> list[tuple]:
        """Return further arguments of the training step for each micro-batch of `window`, which is on the CPU.

        step   optimiser steps done
        """
        return [()] * len(window)

    def check(self, scores: Mapping[str, float | None], progress: RunProgress) -> str:
        """Return why training has to stop after a validation with these scores; empty if it need not."""
        return ""

    def close(self) -> None:
        """End what the stage has started."""
