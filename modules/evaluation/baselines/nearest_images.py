"""The training image that is most similar to an image: highest cosine similarity of mean patch features.

Shapes: B studies of a batch, N patches, C patch channels.
"""

from collections.abc import Iterable, Iterator
from itertools import islice

import numpy as np
import torch
from numpy.typing import NDArray
from torch import nn

from data.batch import Batch
from data.images.network_input import to_network_input
from modules.config import Precision
from modules.evaluation.evaluator import inference, progress
from modules.runtime import autocast, gather_objects, gather_to_rank_zero, rank, world_size

# Test images and training images that are compared at a time: bounds the memory.
_TEST_CHUNK, _TRAINING_CHUNK = 256, 8192


def nearest_training_studies(
    model: nn.Module, tested: Iterable[Batch], training: Iterable[Batch], device: torch.device,
    precision: Precision = Precision.FP32,
) -> dict[str, str] | None:
    """The id of the most similar training study by the id of each tested study; of equals the first.

    With several processes, the loaders yield the shards of this rank; rank zero returns the result, the others None.
    The features of the training split are not kept: those of MIMIC-CXR take 2 GB.
    """
    shards = gather_objects(list(_patch_features(model, tested, device, precision, "patch features")))
    tested_ids, rows = zip(*(study for shard in shards for study in shard), strict=True)
    features = np.stack(rows)
    similarity = np.full(len(features), -np.inf, dtype=np.float32)
    order = np.zeros(len(features), dtype=np.int64)  # of the training study in the data set
    nearest = np.full(len(features), "", dtype=object)
    done = 0
    for ids, chunk in _chunks(
        _patch_features(model, training, device, precision, "patch features of the training split")
    ):
        positions, values = most_similar(features, chunk)
        better = values > similarity
        similarity[better] = values[better]
        order[better] = (done + positions[better]) * world_size() + rank()
        nearest[better] = np.array(ids, dtype=object)[positions[better]]
        done += len(ids)
    shards = gather_to_rank_zero((similarity, order, nearest))
    if shards is None:
        return None
    similarities, orders, candidates = (np.stack(parts) for parts in zip(*shards, strict=True))  # [processes, studies]
    first = np.where(similarities == similarities.max(axis=0), orders, np.iinfo(np.int64).max).argmin(axis=0)
    return dict(zip(tested_ids, candidates[first, np.arange(len(first))].tolist(), strict=True))


def _patch_features(
    model: nn.Module, loader: Iterable[Batch], device: torch.device, precision: Precision, title: str
) -> Iterator[tuple[str, NDArray]]:
    """Yield the id and [C] float32 for every study of `loader`: its mean patch, normalised to unit length."""
    with inference(model):
        for batch in progress(loader, title):
            yield from zip(batch.study_ids, mean_patches(model, batch, device, precision), strict=True)


def most_similar(features: NDArray, training_features: NDArray) -> tuple[NDArray, NDArray]:
    """The index of the training study with the highest cosine similarity to each study, and that similarity: [studies].

    features [studies, C] and training_features [training studies, C] have unit length.
    """
    positions, values = [], []
    for start in range(0, len(features), _TEST_CHUNK):
        similarity = features[start : start + _TEST_CHUNK] @ training_features.T
        positions.append(similarity.argmax(axis=1))
        values.append(np.take_along_axis(similarity, positions[-1][:, None], axis=1)[:, 0])
    return np.concatenate(positions), np.concatenate(values)


def _chunks(features: Iterable[tuple[str, NDArray]]) -> Iterator[tuple[tuple[str, ...], NDArray]]:
    """Yield the ids and the features [studies, C] of up to `_TRAINING_CHUNK` studies at a time."""
    features = iter(features)
    while studies := list(islice(features, _TRAINING_CHUNK)):
        ids, rows = zip(*studies, strict=True)
        yield ids, np.stack(rows)


def mean_patches(model: nn.Module, batch: Batch, device: torch.device, precision: Precision) -> NDArray:
    """[B, C] float32: the mean over the valid patches of each study, normalised to unit length."""
    batch = to_network_input(batch.to(device))
    with autocast(precision, device):
        patches = model.patch_encoder(batch.images, batch.view_mask)
    weights = patches.mask.float().unsqueeze(-1)  # [B, N, 1]
    mean = (patches.tokens.float() * weights).sum(dim=1) / weights.sum(dim=1).clamp(min=1)
    return nn.functional.normalize(mean, dim=-1).cpu().numpy()
