"""Reward training, as a stage of `trainer.py`."""

from collections.abc import Mapping
from dataclasses import dataclass

import torch
from torch import nn

from data.batch import Batch
from modules.training.progress import RunProgress
from modules.training.rewards.guards import Guards
from modules.training.rewards.sampling import ReportSampler
from modules.training.rewards.training_step import RewardTrainingStep
from modules.training.stage import Stage

_ADVICE = "Start a new run with other rewards, a smaller reward.share or learning rate, or a looser guard"


@dataclass
class RewardStage(Stage):
    """Samples reports before each step, and stops the run when a guard is broken.

    The run starts with a validation, whose scores the guards compare with later ones, and whose weights are the best
    until others are better.
    """

    sampler: ReportSampler
    guards: Guards

    step_class = RewardTrainingStep
    validates_first = True

    @property
    def watched(self) -> tuple[str, ...]:
        """See `Stage`."""
        return self.guards.names

    def prepare(
        self, model: nn.Module, window: list[Batch], step: int, memory_format: torch.memory_format
    ) -> list[tuple]:
        """See `Stage`."""
        drawn = self.sampler.draw(model, window, step, memory_format)
        return [(sampled, self.sampler.excluded_ids) for sampled in drawn]

    def check(self, scores: Mapping[str, float | None], progress: RunProgress) -> str:
        """See `Stage`. The first scores are kept in `progress`."""
        if not progress.start_scores:
            present = {name: scores.get(name) for name in self.guards.names}
            progress.start_scores = {name: value for name, value in present.items() if value is not None}
            return ""
        broken = "; ".join(self.guards.broken(progress.start_scores, scores))
        return f"{broken}. {_ADVICE}" if broken else ""

    def close(self) -> None:
        """See `Stage`."""
        self.sampler.scorer.close()
