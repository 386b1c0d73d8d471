"""Baselines that a model has to beat: what they answer, and their scores.

All are fitted on the training split. They replace the model's answers in its records and are scored by the same code.
`names.py` lists them. What they answer is stored in the run folder (`BaselineCache`): finding it reads the whole
training split.
"""

import hashlib
from collections.abc import Collection, Iterable, Mapping, Sequence
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import nn

from data.dataset import StudyDataset
from data.errors import cannot_read
from data.processes.worker_pool import ordered_map
from data.storage.manifest import MALFORMED_MANIFEST, seal, unseal
from data.text.tokenizer import fingerprint
from modules.config import Config
from modules.evaluation.baselines.names import BLIND, NEAREST_IMAGE
from modules.evaluation.baselines.reports import best_constant_sections, report_baselines
from modules.evaluation.baselines.training_summary import blind_prediction, summarise
from modules.evaluation.evaluator import Evaluator
from modules.evaluation.metrics.text_scores import ReportParser
from modules.evaluation.metrics.weighted import RESAMPLES, ScoreResults, absent_scores
from modules.evaluation.records import Prediction, StudyRecord
from modules.evaluation.results import write_atomically
from modules.evaluation.scoring import SCORE_NAMES, score_records
from modules.runtime import choose_precision

# Increase when a baseline answers otherwise than before: stored answers are then found again.
_VERSION = 2
# Reports that a worker process cleans at once.
_CHUNK_SIZE = 256


@dataclass(frozen=True)
class Answers:
    """What a baseline answers: a report for each study, and one prediction for all of them."""

    reports: list[str]
    prediction: Prediction = field(default_factory=Prediction)


def fit_answers(
    names: Collection[str], evaluator: Evaluator, records: Sequence[StudyRecord], training: StudyDataset,
    validation: StudyDataset, nearest: Mapping[str, str] | None = None, workers: int = 1,
) -> dict[str, Answers]:
    """Return the answers of the baselines `names` for the studies of `records`.

    training, validation   the splits without augmentation. The blind report is the training report with the highest
                           BLEU-4 on the validation split
    nearest                for `nearest_image`, see `nearest_training_studies`

    Reports are cut, and their rare words replaced, as the protocol does with references. Of reports in sections, the
    blind and the most frequent one are chosen for each section by itself. Baselines other than `blind` predict only
    reports, so they are left out if no training study has one. The answers do not depend on the number of `workers`.
    """
    if not names:
        return {}
    ids, references = read_references(training, range(len(training)), workers)
    candidates = [evaluator.apply_protocol(reference) for reference in references]
    answers = {}
    if BLIND in names:
        _, of_validation = read_references(validation, range(len(validation)), workers)
        compared = [evaluator.apply_protocol(reference) for reference in of_validation]
        answers[BLIND] = blind_answers(candidates, compared, training, range(len(training)), len(records), workers)
    if not candidates:
        return answers
    for name, reports in report_baselines(candidates, len(records)).items():
        answers[name] = Answers(reports)
    if NEAREST_IMAGE in names:
        report_of = dict(zip(ids, candidates, strict=True))
        answers[NEAREST_IMAGE] = Answers([report_of[nearest[record.study_id]] for record in records])
    return {name: answers[name] for name in names}


def blind_answers(
    candidates: Sequence[str], references: Sequence[str], training: StudyDataset, indices: Sequence[int], studies: int,
    workers: int = 1,
) -> Answers:
    """Return the answers that ignore the image: the best of the `candidates` for `references`, and mean predictions.

    Without candidates or references, the report is empty.

    indices   the studies of `training` that the predictions are fitted on
    studies   how many studies to answer for
    """
    report = best_constant_sections(candidates, references) if candidates and references else ""
    return Answers([report] * studies, blind_prediction(summarise(training, indices, workers)))


def read_references(dataset: StudyDataset, indices: Sequence[int], workers: int = 1) -> tuple[list[str], list[str]]:
    """Return the ids and the complete cleaned references of those of the studies `indices` that have a report."""

    def read(chunk: Sequence[int]) -> list[tuple[str, str]]:
        studies = map(dataset.read_reference, chunk)
        return [(study_id, reference) for study_id, reference in studies if reference is not None]

    chunks = (indices[start : start + _CHUNK_SIZE] for start in range(0, len(indices), _CHUNK_SIZE))
    studies = [study for chunk in ordered_map(read, chunks, workers) for study in chunk]
    return [study_id for study_id, _ in studies], [reference for _, reference in studies]


def score_answers(
    answers: Answers, records: Sequence[StudyRecord], meteor: bool = True, resamples: int = RESAMPLES,
    names: Collection[str] = SCORE_NAMES, workers: int = 1, parser: ReportParser | None = None,
) -> ScoreResults:
    """Score a baseline's answers in place of the model's; arguments as in `score_records`."""
    return score_records(answer(records, answers), meteor, resamples, names, workers, parser)


def answer(records: Sequence[StudyRecord], answers: Answers) -> list[StudyRecord]:
    """Return the `records` with a baseline's answers in place of the model's."""
    return [
        replace(record.with_generated(report), prediction=answers.prediction)
        for record, report in zip(records, answers.reports, strict=True)
    ]


def absent_baselines(names: Iterable[str], studies: int, reason: str) -> dict[str, ScoreResults]:
    """The scores of the baselines `names` for `studies` studies if none can be computed, for the given `reason`."""
    scores = absent_scores(SCORE_NAMES, reason)
    return {name: scores.evaluate(studies) for name in names}


class BaselineCache:
    """Stored answers of baselines, each with a fingerprint of everything that it depends on.

    A file that is absent, damaged or from another version is like an empty one.
    """

    def __init__(self, path: Path, fingerprints: Mapping[str, str]):
        """path: of the JSON file; fingerprints: name of a baseline -> what `fingerprint_answers` returns for it."""
        self.path = path
        self._fingerprints = fingerprints
        try:
            self._content = unseal(path.read_bytes())
        except (OSError, *MALFORMED_MANIFEST):
            self._content = {}

    def load(self, names: Iterable[str], studies: int) -> dict[str, Answers]:
        """Return the stored answers of those baselines of `names` that have them, for `studies` studies."""
        answers = {}
        for name in names:
            try:
                entry = self._content[name]
                reports = [entry["reports"][position] for position in entry["positions"]]
                if entry["fingerprint"] == self._fingerprints[name] and len(reports) == studies:
                    arrays = {part: np.array(values) for part, values in entry["prediction"].items()}
                    answers[name] = Answers(reports, Prediction(**arrays))
            except (KeyError, IndexError, TypeError, ValueError, AttributeError):
                continue
        return answers

    def store(self, answers: Mapping[str, Answers]) -> None:
        """Add `answers` to the file. Raises UserError if it cannot be written."""
        if not answers:
            return
        for name, each in answers.items():
            positions = {report: position for position, report in enumerate(dict.fromkeys(each.reports))}
            self._content[name] = {
                "fingerprint": self._fingerprints[name],
                "reports": list(positions),
                "positions": [positions[report] for report in each.reports],
                "prediction": {
                    part: array.tolist() for part, array in vars(each.prediction).items() if array is not None
                },
            }
        write_atomically(self.path, [seal(self._content).decode()])


def fingerprint_answers(
    names: Iterable[str], model: nn.Module, evaluator: Evaluator, config: Config, root: Path, split: str,
    device: torch.device,
) -> dict[str, str]:
    """Return what the answers of each baseline depend on, as a fingerprint.

    That is the content of records.jsonl and the settings that choose, clean and cut reports; for `nearest_image` also
    the trunk, its precision and the size of the images. Raises UserError if records.jsonl cannot be read.
    """
    data, path = config.data, root / "records.jsonl"
    try:
        with path.open("rb") as file:
            records = hashlib.file_digest(file, "sha256").hexdigest()
    except OSError as error:
        raise cannot_read(path, error, "prepare the data set again") from error
    common: dict[str, Any] = {
        "version": _VERSION, "records": records, "split": split, "validation": config.eval.split, "seed": config.seed,
        "limits": [data.train_limit, data.eval_limit], "cleaning": data.cleaning, "uncertain": data.uncertain,
        "sections": data.sections,
        "protocol": evaluator.protocol, "max_tokens": evaluator.max_tokens,
        "vocabularies": evaluator.vocabularies.fingerprints(),
    }
    precision = choose_precision(evaluator.precision, device)
    of_images = {"size": data.image_size, "views": data.views, "precision": precision}

    def content(name: str) -> dict[str, Any]:
        if name != NEAREST_IMAGE:
            return common
        return common | of_images | {"trunk": _hash_weights(model.patch_encoder)}

    return {name: fingerprint(content(name)) for name in names}


def _hash_weights(module: nn.Module) -> str:
    digest = hashlib.sha256()
    for name, tensor in module.state_dict().items():
        digest.update(name.encode())
        digest.update(tensor.detach().cpu().float().numpy().tobytes())
    return digest.hexdigest()
