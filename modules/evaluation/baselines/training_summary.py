"""What a training split looks like on average, and the constant prediction that follows from it.

Shapes: R regions, A attribute slots per region, K observations.
"""

from collections import defaultdict
from collections.abc import Iterator, Sequence
from contextlib import suppress
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from data.dataset import StudyDataset
from data.errors import UserError
from data.ontology import CHANGES
from data.processes.worker_pool import ordered_map
from modules.evaluation.records import Annotation, Prediction, annotation_of

# Studies that a worker process reads at once.
_CHUNK_SIZE = 256


@dataclass
class TrainingSummary:
    """Statistics of the training split.

    box_sums [R, 4], box_counts [R]           sums over visible regions and their numbers
    graph_count   number of studies with an annotated graph
    mention_counts [R], attribute_counts [R, A]   of these studies, how many mention the region or have the attribute
    observation_counts [K], label_counts [K]  number of studies with the observation, and with a label for it
    change_counts [R, changes]   number of studies with each change of the region since the prior
    """

    box_sums: NDArray
    box_counts: NDArray
    graph_count: int
    mention_counts: NDArray
    attribute_counts: NDArray
    observation_counts: NDArray
    label_counts: NDArray
    change_counts: NDArray


def summarise(training: StudyDataset, indices: Sequence[int], workers: int = 1) -> TrainingSummary:
    """Summarise the studies `indices` of a split, before augmentation and without reading images.

    Studies with an unusable annotation are left out, as in training. The result does not depend on the number of
    `workers`, the processes that read them. Raises UserError if no study is left.
    """
    sums: defaultdict[str, NDArray | int] = defaultdict(int)
    for study in _read_annotations(training, indices, workers):
        sums["studies"] += 1
        has_box = study.visible & study.boxes_known
        mentioned = study.mentioned & study.graph_known
        sums["boxes"] += study.boxes.astype(np.float64) * has_box[:, None]
        sums["box_counts"] += has_box.astype(np.int64)
        sums["graphs"] += int(study.graph_known)
        sums["mentions"] += mentioned.astype(np.int64)
        sums["attributes"] += (study.attributes & mentioned[:, None]).astype(np.int64)
        sums["observations"] += (study.observations & study.observations_known).astype(np.int64)
        sums["labels"] += study.observations_known.astype(np.int64)
        sums["changes"] += (study.change[:, None] == np.arange(len(CHANGES))).astype(np.int64)
    if not sums["studies"]:
        raise UserError(f"No study of the training split of {training.root} has a usable annotation")
    return TrainingSummary(
        box_sums=sums["boxes"], box_counts=sums["box_counts"], graph_count=sums["graphs"],
        mention_counts=sums["mentions"], attribute_counts=sums["attributes"],
        observation_counts=sums["observations"], label_counts=sums["labels"], change_counts=sums["changes"],
    )


def _read_annotations(training: StudyDataset, indices: Sequence[int], workers: int) -> Iterator[Annotation]:
    def read(chunk: Sequence[int]) -> list[Annotation]:
        annotations = []
        for index in chunk:
            with suppress(UserError):  # the loaders name and count unusable studies
                annotations.append(annotation_of(*training.read_annotation(index)))
        return annotations

    chunks = (indices[start : start + _CHUNK_SIZE] for start in range(0, len(indices), _CHUNK_SIZE))
    for annotations in ordered_map(read, chunks, workers):
        yield from annotations


def blind_prediction(summary: TrainingSummary) -> Prediction:
    """Return the best constant prediction for every image.

    Boxes are the mean boxes of the training split, probabilities its frequencies. The threshold on them is the one with
    the highest micro-F1 on the training split, separately for regions, attributes and observations. The change of a
    region is its most frequent one. Parts that the training split does not annotate are None.
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
    if summary.change_counts.any():
        prediction.change = np.where(summary.change_counts.any(1), summary.change_counts.argmax(1), -1)
    return prediction


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
