"""Tunes the probability thresholds of regions and attributes on a split that the model was not trained on.

The threshold of a label is the one with the best F1 of that label in predicted graphs (Lipton et al., "Optimal
thresholding of classifiers to maximize F1 measure", ECML 2014). It is unreliable with few positives: labels with fewer
than `LEAST_POSITIVES` keep the default, and the others move only part of the way towards the best threshold. Regions or
attributes as a whole keep their defaults unless tuning improves the F1 of studies that it has not seen.

Shapes: R regions, A attribute slots per region (padded).
"""

from collections.abc import Iterable
from dataclasses import dataclass

import numpy as np
import torch
from numpy.typing import NDArray
from torch import nn

from data.batch import Batch
from data.errors import UserError
from data.images.network_input import to_network_input
from models.outputs import BoxSource, GraphSource
from modules.config import Precision
from modules.evaluation.evaluator import inference, progress
from modules.evaluation.metrics.multilabel import label_counts, precision_recall_f1
from modules.model_inputs import model_inputs
from modules.runtime import autocast

LEAST_POSITIVES = 5
# A threshold moves by positives / (positives + SHRINKAGE) of the way from the default to the best one.
SHRINKAGE = 20.0


@dataclass(frozen=True)
class GraphProbabilities:
    """Predicted probabilities and labels of studies with an annotated graph.

    regions [studies, R]         0 if the model predicts the region as not visible: it is never selected then
    mentioned [studies, R] bool
    attributes [studies, R, A]   0 in padding slots and in regions predicted as not visible
    reference [studies, R, A] bool, the annotated attributes of mentioned regions
    """

    regions: NDArray
    mentioned: NDArray
    attributes: NDArray
    reference: NDArray


@dataclass(frozen=True)
class Tuning:
    """Thresholds of one kind of label, regions or attributes.

    thresholds   in the shape of the defaults; the defaults if tuning does not help
    tuned        bool, in the same shape: the threshold is not the default
    default_f1, tuned_f1   micro-F1 of studies that the thresholds were not tuned on (two-fold cross-validation)
    """

    thresholds: NDArray
    tuned: NDArray
    default_f1: float
    tuned_f1: float


def collect_probabilities(
    model: nn.Module, loader: Iterable[Batch], box_source: BoxSource, precision: Precision, device: torch.device
) -> GraphProbabilities:
    """Predict the graphs of the studies of `loader`, without reports.

    Raises UserError if no study has an annotated graph.
    """
    rows = []
    with inference(model):
        for batch in progress(loader, "predicting graphs"):
            inputs = model_inputs(to_network_input(batch.to(device)), GraphSource.PREDICTED, box_source)
            with autocast(precision, device):
                encoded = model.encode(inputs, GraphSource.PREDICTED, box_source)
            visible = encoded.attribute_regions
            slots = model.graph.attribute_predictor.slots & visible.unsqueeze(-1)
            regions = torch.sigmoid(encoded.region_logits.float()) * visible
            attributes = torch.sigmoid(encoded.attribute_logits.float()) * slots
            annotation = batch.regions
            reference = annotation.attributes & annotation.mentioned.unsqueeze(-1)
            arrays = (regions, annotation.mentioned, attributes, reference, annotation.graph_known)
            rows += list(zip(*(array.cpu().numpy() for array in arrays), strict=True))
    known = [row[:-1] for row in rows if row[-1]]
    if not known:
        raise UserError("No study of this split has an annotated graph to tune thresholds on: choose another split")
    return GraphProbabilities(*(np.stack(column) for column in zip(*known, strict=True)))


def tune_graph_thresholds(
    predicted: GraphProbabilities, default_regions: NDArray, default_attributes: NDArray
) -> tuple[Tuning, Tuning]:
    """Tune the thresholds of regions [R], then those of attributes [R, A] in the regions that these select."""
    regions = tune_thresholds(predicted.regions, predicted.mentioned, default_regions)
    selected = predicted.regions > regions.thresholds
    attributes = tune_thresholds(
        predicted.attributes * selected[..., None], predicted.reference, default_attributes
    )
    return regions, attributes


def tune_thresholds(probabilities: NDArray, labels: NDArray, default: NDArray) -> Tuning:
    """Tune one threshold per label.

    probabilities, labels (bool) [studies, ...], default [...]. A label is positive if its probability is above the
    threshold. Tuning helps if thresholds tuned on every second study, and those tuned on the others, have the better
    micro-F1 on the half that they were not tuned on.
    """
    shape = default.shape
    probabilities, labels = (array.reshape(len(array), -1) for array in (probabilities, labels))
    default = default.reshape(-1).astype(np.float32)
    even = np.arange(len(probabilities)) % 2 == 0
    default_counts, tuned_counts = np.zeros(3), np.zeros(3)
    for half in (even, ~even):
        fitted = fit_thresholds(probabilities[half], labels[half], default)
        for thresholds, counts in ((default, default_counts), (fitted, tuned_counts)):
            counts += label_counts(probabilities[~half] > thresholds, labels[~half]).sum(axis=(0, 1))
    default_f1, tuned_f1 = (float(precision_recall_f1(counts)[2]) for counts in (default_counts, tuned_counts))
    thresholds = fit_thresholds(probabilities, labels, default) if tuned_f1 > default_f1 else default
    return Tuning(thresholds.reshape(shape), (thresholds != default).reshape(shape), default_f1, tuned_f1)


def fit_thresholds(probabilities: NDArray, labels: NDArray, default: NDArray) -> NDArray:
    """Return one threshold per label, [labels] float32.

    probabilities, labels (bool) [studies, labels], default [labels]
    """
    fitted = default.astype(np.float32).copy()
    for label in range(len(default)):
        positives = int(labels[:, label].sum())
        if positives >= LEAST_POSITIVES:
            best = best_threshold(probabilities[:, label], labels[:, label], float(default[label]))
            fitted[label] += positives / (positives + SHRINKAGE) * (best - fitted[label])
    return fitted


def best_threshold(probabilities: NDArray, labels: NDArray, default: float) -> float:
    """Return the threshold with the best F1 of one label; among equals, the one closest to `default`.

    probabilities, labels (bool) [studies], with at least one positive. Candidates are the default and the middle
    between neighbouring probabilities.
    """
    order = np.argsort(-probabilities, kind="stable")
    ranked = probabilities[order].astype(np.float64)
    true_positives = np.cumsum(labels[order])
    predicted = np.arange(1, len(ranked) + 1)
    next_lower = np.append(ranked[1:], 0.0)
    separable = ranked > next_lower  # a threshold can lie below this probability and not below the next one
    f1 = np.where(separable, 2 * true_positives / (predicted + labels.sum()), -1.0)
    if f1.max() <= 0:
        return default
    best = np.flatnonzero(f1 >= f1.max() - 1e-12)
    # The default itself if it lies in the interval of an equally good threshold, else the middle of the interval.
    inside = (next_lower[best] <= default) & (default < ranked[best])
    candidates = np.where(inside, default, (ranked[best] + next_lower[best]) / 2)
    return float(candidates[np.argmin(np.abs(candidates - default))])
