"""Baselines that a model has to beat: answers that ignore the image, and the report of the most similar training image.

    blind                 one constant answer for every image: `blind_prediction` and `best_constant_report`
    most_frequent_report  the most frequent training report
    random_report         a randomly drawn training report for each study
    nearest_image         the report of the training image with the most similar patch features

All are fitted on the training split. They replace the model's answers in its records and are scored by the same code.
Shapes: B studies of a batch, R regions, A attribute slots per region, K observations, N patches, C patch channels.
"""

from collections import Counter, defaultdict
from collections.abc import Iterable, Sequence
from dataclasses import dataclass, replace

import numpy as np
import torch
from numpy.typing import NDArray
from torch import nn

from data.batch import Batch
from modules.config import Precision
from modules.evaluation.evaluator import Evaluator, inference, progress
from modules.evaluation.metrics.text.cider import count_ngrams
from modules.evaluation.metrics.text.nlg import bleu_from_sums
from modules.evaluation.metrics.weighted import ScoreResults, absent_scores
from modules.evaluation.records import Prediction, StudyRecord, annotations_from_batch
from modules.evaluation.scoring import SCORE_NAMES, score_records
from modules.runtime import autocast

NAMES = ("blind", "most_frequent_report", "random_report", "nearest_image")
BLIND, MOST_FREQUENT, RANDOM, NEAREST_IMAGE = NAMES

_MAX_NGRAM = 4  # of BLEU
# Test images compared with all training images at a time: bounds the size of the similarity matrix.
_CHUNK_SIZE = 256
# A fixed seed: every model is compared with the same random reports.
_SEED = 0


@dataclass
class TrainingSummary:
    """Statistics of the training split.

    references    complete cleaned reports, in dataset order
    features      [studies, C] float32: mean patch features, normalised to unit length
    box_sums [R, 4], box_counts [R]           sums over visible regions and their numbers
    graph_count   number of studies with an annotated graph
    mention_counts [R], attribute_counts [R, A]   of these studies, how many mention the region or have the attribute
    observation_counts [K], label_counts [K]  number of studies with the observation, and with a label for it
    """

    references: list[str]
    features: NDArray
    box_sums: NDArray
    box_counts: NDArray
    graph_count: int
    mention_counts: NDArray
    attribute_counts: NDArray
    observation_counts: NDArray
    label_counts: NDArray


def summarise(
    model: nn.Module, loader: Iterable[Batch], device: torch.device, precision: Precision = Precision.FP32
) -> TrainingSummary:
    """Read the training split once, without augmentation. `loader` must not be empty."""
    references: list[str] = []
    features = []
    sums: defaultdict[str, NDArray | int] = defaultdict(int)
    with inference(model):
        for batch in progress(loader, "baselines from the training split"):
            references += batch.references
            features.append(_mean_patches(model, batch, device, precision))
            for study in annotations_from_batch(batch):
                has_box = study.visible & study.boxes_known
                mentioned = study.mentioned & study.graph_known
                sums["boxes"] += study.boxes.astype(np.float64) * has_box[:, None]
                sums["box_counts"] += has_box.astype(np.int64)
                sums["graphs"] += int(study.graph_known)
                sums["mentions"] += mentioned.astype(np.int64)
                sums["attributes"] += (study.attributes & mentioned[:, None]).astype(np.int64)
                sums["observations"] += (study.observations & study.observations_known).astype(np.int64)
                sums["labels"] += study.observations_known.astype(np.int64)
    return TrainingSummary(
        references=references, features=np.concatenate(features), box_sums=sums["boxes"],
        box_counts=sums["box_counts"], graph_count=sums["graphs"], mention_counts=sums["mentions"],
        attribute_counts=sums["attributes"], observation_counts=sums["observations"], label_counts=sums["labels"],
    )


def patch_features(
    model: nn.Module, loader: Iterable[Batch], device: torch.device, precision: Precision = Precision.FP32
) -> NDArray:
    """[studies, C] float32: the mean patch of every study of `loader`, normalised to unit length."""
    with inference(model):
        batches = progress(loader, "patch features")
        return np.concatenate([_mean_patches(model, batch, device, precision) for batch in batches])


def blind_prediction(summary: TrainingSummary) -> Prediction:
    """Return the best constant prediction for every image.

    Boxes are the mean boxes of the training split, probabilities its frequencies. The threshold on them is the one with
    the highest micro-F1 on the training split, separately for regions, attributes and observations. Parts that the
    training split does not annotate are None.
    """
    prediction = Prediction()
    if summary.box_counts.any():
        prediction.boxes = summary.box_sums / np.maximum(summary.box_counts, 1)[:, None]
        prediction.visible = summary.box_counts > 0
        prediction.visible_probabilities = prediction.visible.astype(np.float64)
    if summary.graph_count:
        prediction.region_probabilities, prediction.region_selected = _threshold_priors(
            summary.mention_counts, summary.graph_count
        )
        prediction.attribute_probabilities, prediction.attributes = _threshold_priors(
            summary.attribute_counts, summary.graph_count
        )
    if summary.label_counts.any():
        prediction.observation_probabilities, prediction.observations = _threshold_priors(
            summary.observation_counts, summary.label_counts
        )
    return prediction


def best_constant_report(candidates: Sequence[str], references: Sequence[str]) -> tuple[str, float]:
    """Return the candidate with the highest corpus BLEU-4 as the answer to all `references`, and that BLEU-4.

    Equals pycocoevalcap's BLEU-4 of each candidate in turn, the first of equals winning, in time proportional to the
    words of the candidates: the matches of an n-gram with all references are read from one table. Both lists must not
    be empty.
    """
    # matches[n-gram][k - 1]: number of references that contain the n-gram at least k times.
    matches: defaultdict[tuple[str, ...], list[int]] = defaultdict(list)
    reference_words = 0
    for reference in references:
        reference_words += len(reference.split())
        for ngram, count in count_ngrams(reference).items():
            containing = matches[ngram]
            containing.extend([0] * (count - len(containing)))
            for repeat in range(count):
                containing[repeat] += 1

    best, best_score = "", -1.0
    for candidate in dict.fromkeys(candidates):
        words = len(candidate.split())
        correct = [0] * _MAX_NGRAM
        for ngram, count in count_ngrams(candidate).items():
            if ngram in matches:
                correct[len(ngram) - 1] += sum(matches[ngram][:count])
        guessed = [len(references) * max(0, words - length) for length in range(_MAX_NGRAM)]
        sums = np.array([*correct, *guessed, len(references) * words, reference_words], dtype=np.float64)
        score = bleu_from_sums(sums)[-1]
        if score > best_score:
            best, best_score = candidate, score
    return best, best_score


def nearest_studies(features: NDArray, training_features: NDArray) -> NDArray:
    """[studies] int: the index of the training study with the highest cosine similarity to each study.

    features [studies, C] and training_features [training studies, C] have unit length.
    """
    chunks = [features[start : start + _CHUNK_SIZE] for start in range(0, len(features), _CHUNK_SIZE)]
    return np.concatenate([(chunk @ training_features.T).argmax(axis=1) for chunk in chunks])


def most_frequent_report(reports: Sequence[str]) -> str:
    """Return the most frequent of `reports`, the first of equals. `reports` must not be empty."""
    return Counter(reports).most_common(1)[0][0]


def random_reports(reports: Sequence[str], studies: int) -> list[str]:
    """Draw one of `reports` for each of `studies` studies with replacement; the draw is always the same."""
    drawn = np.random.default_rng(_SEED).integers(len(reports), size=studies)
    return [reports[position] for position in drawn]


def report_baselines(reports: Sequence[str], studies: int) -> dict[str, list[str]]:
    """The baselines that need only training `reports` (not empty): name -> one report per study."""
    return {MOST_FREQUENT: [most_frequent_report(reports)] * studies, RANDOM: random_reports(reports, studies)}


def score_baselines(
    model: nn.Module,
    evaluator: Evaluator,
    records: Sequence[StudyRecord],
    loader: Iterable[Batch],
    training_loader: Iterable[Batch],
    validation_references: Sequence[str],
    device: torch.device,
    meteor: bool = True,
) -> dict[str, ScoreResults]:
    """Score all baselines on the studies of `records`: name -> scores.

    loader                  the studies of `records`, in the same order
    training_loader         the training split without augmentation, not empty
    validation_references   complete cleaned reports, not empty: the blind report is the training report with the
                            highest BLEU-4 against them

    The nearest training image has the highest cosine similarity of mean patch features. Baselines other than `blind`
    predict only reports. Reports are cut, and their rare words replaced, as the protocol does with references.
    """
    training = summarise(model, training_loader, device, evaluator.precision)
    candidates = [evaluator.apply_protocol(reference) for reference in training.references]
    validation = [evaluator.apply_protocol(reference) for reference in validation_references]
    blind_report, _ = best_constant_report(candidates, validation)
    nearest = nearest_studies(patch_features(model, loader, device, evaluator.precision), training.features)
    answers = {
        BLIND: (blind_prediction(training), [blind_report] * len(records)),
        **{name: (Prediction(), reports) for name, reports in report_baselines(candidates, len(records)).items()},
        NEAREST_IMAGE: (Prediction(), [candidates[position] for position in nearest]),
    }
    scores = {}
    for name, (prediction, reports) in answers.items():
        baseline_records = [
            replace(record, generated=report, log_probability=None, prediction=prediction, sentences=[])
            for record, report in zip(records, reports, strict=True)
        ]
        scores[name] = score_records(baseline_records, meteor)
    return scores


def absent_baselines(studies: int, reason: str) -> dict[str, ScoreResults]:
    """The result of `score_baselines` for `studies` studies if no baseline can be computed, for the given `reason`."""
    scores = absent_scores(SCORE_NAMES, reason)
    return {name: scores.evaluate(studies) for name in NAMES}


def _mean_patches(model: nn.Module, batch: Batch, device: torch.device, precision: Precision) -> NDArray:
    """[B, C] float32: the mean over the valid patches of each study, normalised to unit length."""
    images, view_mask = batch.images.to(device), batch.view_mask.to(device)
    with autocast(precision, device):
        patches = model.patch_encoder(images, view_mask)
    weights = patches.mask.float().unsqueeze(-1)  # [B, N, 1]
    mean = (patches.tokens.float() * weights).sum(dim=1) / weights.sum(dim=1).clamp(min=1)
    return nn.functional.normalize(mean, dim=-1).cpu().numpy()


def _threshold_priors(positives: NDArray, labelled: NDArray | int) -> tuple[NDArray, NDArray]:
    """Frequencies, and which of them reach the threshold with the highest micro-F1 on the training split.

    positives and labelled: number of studies with the label, and with a known label
    """
    priors = positives / np.maximum(labelled, 1)
    selected, best = np.zeros(priors.shape, dtype=bool), 0.0
    # From the highest threshold down; a lower one must be strictly better.
    for threshold in np.unique(priors[positives > 0])[::-1]:
        candidates = priors >= threshold
        correct = positives[candidates].sum()
        f1 = 2 * correct / ((labelled * candidates).sum() + positives.sum())
        if f1 > best:
            selected, best = candidates, f1
    return priors, selected
