"""Validation during training: the scores that select the best checkpoint, beside those of the image-blind baseline."""

from collections.abc import Callable, Collection, Iterable, Sequence

import numpy as np
import torch
from torch import nn

from data.batch import Batch
from data.dataset import StudyDataset
from data.mixture.dataset import MixedDataset
from models.outputs import BoxSource, GraphSource
from modules.evaluation.baselines.answers import answer, blind_answers, read_references
from modules.evaluation.evaluator import Evaluator
from modules.evaluation.records import StudyRecord
from modules.evaluation.scoring import SCORE_NAMES, scoring_workers
from modules.evaluation.sections.scores import SECTION_SCORES, score_validation
from modules.runtime import wait_for_rank_zero
from modules.training.validation import ValidationScores

# Training studies, evenly spaced, that the image-blind baseline of validations is fitted on.
MOST_TRAINING_STUDIES = 10_000


class SplitValidator:
    """Validates as `evaluator` evaluates.

    The scores of the image-blind baseline are computed once, with the first validation. A model whose scores are no
    better writes the same report for every image, or might as well. Several data sets are scored together, and each
    alone.
    """

    def __init__(self, evaluator: Evaluator, training: StudyDataset | MixedDataset):
        """training: the training split, for the baseline; its images are not read."""
        self.evaluator = evaluator
        self.training = training
        self._blind: dict[str, float | None] | None = None

    @property
    def graph_source(self) -> GraphSource:
        """Where validated graphs come from."""
        return self.evaluator.graph_source

    @property
    def box_source(self) -> BoxSource:
        """Where validated boxes come from."""
        return self.evaluator.box_source

    @property
    def score_names(self) -> tuple[str, ...]:
        """See `Validator`. A model that writes sections also has the scores of each."""
        has_sections = self.evaluator.vocabularies.tokenizer.marks_sections
        return (*SCORE_NAMES, *SECTION_SCORES) if has_sections else SCORE_NAMES

    def validate(
        self, model: nn.Module, loader: Iterable[Batch], device: torch.device, names: Collection[str],
        meteor: bool = True, should_stop: Callable[[], bool] | None = None,
    ) -> ValidationScores:
        """See `Validator`."""
        records = self.evaluator.generate(model, loader, device, should_stop)
        return wait_for_rank_zero(None if records is None else self._score(records, names, meteor))

    def _score(self, records: Sequence[StudyRecord], names: Collection[str], meteor: bool) -> ValidationScores:
        workers = scoring_workers(len(records))
        scores, absent = score_validation(records, meteor, names, workers)
        if self._blind is None:
            self._blind = self._score_blind(records, names, meteor)
        groups: dict[str, list[StudyRecord]] = {}
        for record in records:
            groups.setdefault(record.data_set, []).append(record)
        by_data_set = {
            name: scores if len(groups) == 1 else score_validation(group, meteor, names, workers)[0]
            for name, group in groups.items()
        }
        return ValidationScores(scores, absent, self._blind, by_data_set)

    def _score_blind(
        self, records: Sequence[StudyRecord], names: Collection[str], meteor: bool
    ) -> dict[str, float | None]:
        count = min(len(self.training), MOST_TRAINING_STUDIES)
        indices = np.linspace(0, len(self.training) - 1, count).round().astype(int).tolist()
        workers = scoring_workers(count)
        _, references = read_references(self.training, indices, workers)
        answers = blind_answers(
            [self.evaluator.apply_protocol(reference) for reference in references],
            [record.marked_reference for record in records if record.has_report],
            self.training, indices, len(records), workers,
        )
        return score_validation(answer(records, answers), meteor, names, scoring_workers(len(records)))[0]
