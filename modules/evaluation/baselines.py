"""What a model has to beat: answers that never look at the image, and the report of the most similar training image.

    blind                 the best answer of all to every image, see `blind_prediction` and `best_constant_report`
    most_frequent_report  the training report that was written most often
    random_report         a training report for each study, drawn at random
    nearest_image         the report of the training image with the most similar patches

All are fitted on the training split and scored by the code that scores the model: they are put into its records.
Shapes: R regions, A attribute slots a region, K observations, C patch channels.
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
from modules.evaluation.evaluator import (
    Evaluator,
    Prediction,
    StudyRecord,
    annotations,
    inference,
    progress,
    score_records,
)
from modules.evaluation.metrics.text.cider import ngrams
from modules.evaluation.metrics.text.nlg import bleu_of_sums
from modules.evaluation.metrics.weighted import Scored
from modules.runtime import autocast

NAMES = ("blind", "most_frequent_report", "random_report", "nearest_image")
BLIND, MOST_FREQUENT, RANDOM, NEAREST_IMAGE = NAMES

_LONGEST = 4  # of BLEU's n-grams
# Test images compared with all training images at a time: bounds the table of similarities.
_CHUNK = 256
# Of the random reports: the same ones for every model, so that models are compared with the same baseline.
_SEED = 0


@dataclass
class TrainingSummary:
    """What the baselines need to know of the training split.

    references   full cleaned reports, in study order
    features     [N, C] float32: mean patch features of unit length
    box_sums [R, 4] and box_counts [R]: over visible regions
    graphs       studies with an annotated graph; mentions [R] and attributes [R, A]: how many of them have each
    positives, known [K]: studies with the observation, and with a label for it
    """

    references: list[str]
    features: NDArray
    box_sums: NDArray
    box_counts: NDArray
    graphs: int
    mentions: NDArray
    attributes: NDArray
    positives: NDArray
    known: NDArray


def summarise(
    model: nn.Module, loader: Iterable[Batch], device: torch.device, precision: Precision = Precision.FP32
) -> TrainingSummary:
    """One pass over the training split, without augmentation. `loader` must not be empty."""
    references: list[str] = []
    features = []
    sums: defaultdict[str, NDArray | int] = defaultdict(int)
    with inference(model):
        for batch in progress(loader, "baselines from the training split"):
            references += batch.references
            features.append(_features(model, batch, device, precision))
            for study in annotations(batch):
                boxed = study.visible & study.boxes_known
                told = study.mentioned & study.graph_known
                sums["boxes"] += study.boxes.astype(np.float64) * boxed[:, None]
                sums["boxed"] += boxed.astype(np.int64)
                sums["graphs"] += int(study.graph_known)
                sums["mentions"] += told.astype(np.int64)
                sums["attributes"] += (study.attributes & told[:, None]).astype(np.int64)
                sums["positives"] += (study.observations & study.observations_known).astype(np.int64)
                sums["known"] += study.observations_known.astype(np.int64)
    return TrainingSummary(
        references=references, features=np.concatenate(features), box_sums=sums["boxes"], box_counts=sums["boxed"],
        graphs=sums["graphs"], mentions=sums["mentions"], attributes=sums["attributes"],
        positives=sums["positives"], known=sums["known"],
    )


def patch_features(
    model: nn.Module, loader: Iterable[Batch], device: torch.device, precision: Precision = Precision.FP32
) -> NDArray:
    """[N, C] float32: the mean patch of every study of `loader`, at unit length."""
    with inference(model):
        batches = progress(loader, "patch features")
        return np.concatenate([_features(model, batch, device, precision) for batch in batches])


def blind_prediction(summary: TrainingSummary) -> Prediction:
    """The best answer about any image without looking at it.

    Boxes are the training split's mean boxes, probabilities its frequencies. A region, attribute or observation counts
    where its frequency reaches the threshold with the highest micro-F1 on the training split. Parts that the training
    split does not annotate stay None.
    """
    prediction = Prediction()
    if summary.box_counts.any():
        prediction.boxes = summary.box_sums / np.maximum(summary.box_counts, 1)[:, None]
        prediction.visible = summary.box_counts > 0
        prediction.visible_probabilities = prediction.visible.astype(np.float64)
    if summary.graphs:
        prediction.region_probabilities, prediction.region_selected = _by_prior(summary.mentions, summary.graphs)
        prediction.attribute_probabilities, prediction.attributes = _by_prior(summary.attributes, summary.graphs)
    if summary.known.any():
        prediction.observation_probabilities, prediction.observations = _by_prior(summary.positives, summary.known)
    return prediction


def best_constant_report(candidates: Sequence[str], references: Sequence[str]) -> tuple[str, float]:
    """The candidate with the highest corpus BLEU-4 as the one answer to all `references`, and that BLEU-4.

    Equal to pycocoevalcap's BLEU-4 of every candidate in turn, the first of equals winning, but in time proportional to
    the words of the candidates: matches with all references at once are read from one table. Both must not be empty.
    """
    # matches[n-gram][k - 1]: references that hold the n-gram k times or more.
    matches: defaultdict[tuple[str, ...], list[int]] = defaultdict(list)
    reference_words = 0
    for reference in references:
        reference_words += len(reference.split())
        for ngram, count in ngrams(reference).items():
            holders = matches[ngram]
            holders.extend([0] * (count - len(holders)))
            for repeat in range(count):
                holders[repeat] += 1

    best, best_score = "", -1.0
    for candidate in dict.fromkeys(candidates):
        words = len(candidate.split())
        correct = [0] * _LONGEST
        for ngram, count in ngrams(candidate).items():
            if ngram in matches:
                correct[len(ngram) - 1] += sum(matches[ngram][:count])
        guessed = [len(references) * max(0, words - length) for length in range(_LONGEST)]
        sums = np.array([*correct, *guessed, len(references) * words, reference_words], dtype=np.float64)
        score = bleu_of_sums(sums)[-1]
        if score > best_score:
            best, best_score = candidate, score
    return best, best_score


def nearest_studies(features: NDArray, training_features: NDArray) -> NDArray:
    """[N] int: the row of `training_features` with the highest cosine to each of `features` [N, C]; all unit length."""
    chunks = [features[start : start + _CHUNK] for start in range(0, len(features), _CHUNK)]
    return np.concatenate([(chunk @ training_features.T).argmax(axis=1) for chunk in chunks])


def most_frequent_report(reports: Sequence[str]) -> str:
    """The report that stands most often among `reports`, the first of equals; there must be one."""
    return Counter(reports).most_common(1)[0][0]


def random_reports(reports: Sequence[str], studies: int) -> list[str]:
    """One of `reports` for each of so many studies, drawn with repeats, the same ones every time."""
    drawn = np.random.default_rng(_SEED).integers(len(reports), size=studies)
    return [reports[position] for position in drawn]


def report_baselines(reports: Sequence[str], studies: int) -> dict[str, list[str]]:
    """Baseline -> its report of every study, for those that need training `reports` alone; there must be one."""
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
) -> dict[str, Scored]:
    """The scores of all baselines on the studies of `records`, by baseline.

    loader                  the studies of `records`, in their order
    training_loader         the training split without augmentation, not empty
    validation_references   full cleaned reports, not empty: they choose the image-blind report

    The image-blind answer is `blind_prediction` with the training report that scores the highest BLEU-4 against the
    validation references; the others, among them the nearest training image by the cosine of mean patch features, are
    reports alone. Reports are cut and their rare words replaced as the evaluator's protocol does it to references.
    """
    training = summarise(model, training_loader, device, evaluator.precision)
    candidates = [evaluator.scored_text(reference) for reference in training.references]
    blind_report, _ = best_constant_report(candidates, [evaluator.scored_text(text) for text in validation_references])
    nearest = nearest_studies(patch_features(model, loader, device, evaluator.precision), training.features)
    answers = {
        BLIND: (blind_prediction(training), [blind_report] * len(records)),
        **{name: (Prediction(), reports) for name, reports in report_baselines(candidates, len(records)).items()},
        NEAREST_IMAGE: (Prediction(), [candidates[position] for position in nearest]),
    }
    scored = {}
    for name, (prediction, reports) in answers.items():
        answered = [
            replace(record, generated=report, log_probability=None, prediction=prediction, sentences=[])
            for record, report in zip(records, reports, strict=True)
        ]
        scored[name] = score_records(answered, meteor)
    return scored


def _features(model: nn.Module, batch: Batch, device: torch.device, precision: Precision) -> NDArray:
    """[B, C] float32: the mean over the valid patches of each study, at unit length."""
    images, view_mask = batch.images.to(device), batch.view_mask.to(device)
    with autocast(precision, device):
        patches = model.patch_encoder(images, view_mask)
    weights = patches.mask.float().unsqueeze(-1)  # [B, N, 1]
    mean = (patches.tokens.float() * weights).sum(dim=1) / weights.sum(dim=1).clamp(min=1)
    return nn.functional.normalize(mean, dim=-1).cpu().numpy()


def _by_prior(positives: NDArray, known: NDArray | int) -> tuple[NDArray, NDArray]:
    """Frequencies, and which of them reach the threshold with the highest micro-F1 on the studies that were counted."""
    priors = positives / np.maximum(known, 1)
    chosen, best = np.zeros(priors.shape, dtype=bool), 0.0
    # From the highest threshold down; a lower one must be better to win.
    for threshold in np.unique(priors[positives > 0])[::-1]:
        candidates = priors >= threshold
        right = positives[candidates].sum()
        f1 = 2 * right / ((known * candidates).sum() + positives.sum())
        if f1 > best:
            chosen, best = candidates, f1
    return priors, chosen
