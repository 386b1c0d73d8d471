"""The baselines of a test: their stored answers are used again, the others are found, stored and scored."""

from collections.abc import Callable, Sequence
from pathlib import Path

import torch
from torch import nn

from data.dataset import StudyDataset
from data.errors import UserError
from data.loaders import StudyLoader
from modules.config import Config
from modules.evaluation.baselines.answers import (
    BaselineCache,
    absent_baselines,
    answer,
    fingerprint_answers,
    fit_answers,
    score_answers,
)
from modules.evaluation.baselines.names import NEAREST_IMAGE
from modules.evaluation.baselines.nearest_images import nearest_training_studies
from modules.evaluation.evaluator import Evaluator
from modules.evaluation.metrics.text_scores import ReportParser
from modules.evaluation.metrics.weighted import ScoreResults
from modules.evaluation.records import StudyRecord
from modules.evaluation.scoring import scoring_workers
from modules.evaluation.sections.scores import score_sections
from modules.runtime import run_on_rank_zero


class BaselineComparison:
    """Scores the baselines `names` on the studies that a model was tested on.

    Of several processes, all prepare it, because comparing images takes longest; then rank zero alone scores.
    """

    def __init__(
        self, names: Sequence[str], evaluator: Evaluator, config: Config, split: str, cache_file: Path,
        open_split: Callable[[str], StudyDataset], open_loader: Callable[[StudyDataset], StudyLoader],
    ):
        """open_split: returns the splits "train" and "val", unaugmented; open_loader: this rank's shard of a split."""
        self.names = names
        self._evaluator = evaluator
        self._config = config
        self._split = split
        self._cache_file = cache_file
        self._open_split = open_split
        self._open_loader = open_loader
        self._missing: list[str] = []
        self._absent_reason: str | None = None
        self._nearest: dict[str, str] | None = None

    def prepare(
        self, model: nn.Module, tested: StudyDataset, records: Sequence[StudyRecord] | None, device: torch.device
    ) -> None:
        """Open the training split, and find the nearest training images, unless the answers are stored already.

        records: of the `tested` split, on rank zero; None in the other processes
        """

        def find_missing() -> list[str]:
            fingerprints = fingerprint_answers(
                self.names, model, self._evaluator, self._config, tested.root, self._split, device
            )
            self._cache = BaselineCache(self._cache_file, fingerprints)
            stored = self._cache.load(self.names, len(records))
            return [name for name in self.names if name not in stored]

        self._missing = run_on_rank_zero(find_missing)
        if not self._missing:
            return
        try:
            self._training, self._validation = self._open_split("train"), self._open_split("val")
        except UserError as error:  # for example, the data set has only a test split
            self._absent_reason = f"the baselines need a training and a validation split: {error}"
            return
        training = self._training.with_reports()
        if NEAREST_IMAGE in self._missing and len(training):
            self._nearest = nearest_training_studies(
                model, self._open_loader(tested), self._open_loader(training), device, self._evaluator.precision
            )

    def score(self, records: Sequence[StudyRecord], parser: ReportParser, workers: int) -> dict[str, ScoreResults]:
        """Return the scores of each baseline by name, on rank zero after `prepare`."""
        if self._absent_reason is not None:
            return absent_baselines(self.names, len(records), self._absent_reason)
        answers = self._cache.load(self.names, len(records))
        if self._missing:
            found = fit_answers(
                self._missing, self._evaluator, records, self._training, self._validation, self._nearest,
                min(workers, scoring_workers(len(self._training))),
            )
            self._cache.store(found)
            answers |= found
        workers = min(workers, scoring_workers(len(records)))
        absent = absent_baselines(
            (name for name in self.names if name not in answers), len(records), "no training study has a report"
        )
        return absent | {
            name: score_answers(answers[name], records, workers=workers, parser=parser)
            for name in self.names if name in answers
        }

    def score_sections(
        self, records: Sequence[StudyRecord], parser: ReportParser, workers: int
    ) -> dict[str, dict[str, ScoreResults]]:
        """Return the scores of each section of each baseline by name, after `score`; empty without sections."""
        workers = min(workers, scoring_workers(len(records)))
        answers = self._cache.load(self.names, len(records))
        return {
            name: score_sections(answer(records, each), workers=workers, parser=parser)
            for name, each in answers.items()
        }
