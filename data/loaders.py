"""Datasets to batches: in a reproducible order, restartable at any batch, sharded over processes.

Order and augmentation are functions of (seed, epoch) and position alone. Nothing here draws from torch's global
generator, so loading data leaves dropout and every other draw of a run as it was.
"""

import traceback
from collections.abc import Iterator
from functools import partial

import numpy as np
import torch
from torch.utils.data import DataLoader

from data.batch import Batch
from data.collate import collate
from data.dataset import StudyDataset
from data.errors import UserError

_ORDER_STREAM = 3  # beside the streams of `data.dataset`


class StudyLoader(DataLoader):
    """A DataLoader of batches that hands a worker's UserError on as the one line it is."""

    def __iter__(self) -> Iterator[Batch]:
        try:
            yield from super().__iter__()
        except UserError as error:
            # Torch raises a worker's error again with the worker's traceback for a message, which ends in our line.
            name = f"{UserError.__module__}.{UserError.__qualname__}: "
            line = str(error).rsplit(name, 1)[-1].strip()
            # Its frames hold the workers' iterator in a cycle; collected late, each worker would take 5 seconds to end.
            traceback.clear_frames(error.__traceback__)
            raise UserError(line) from error


def batches_per_epoch(size: int, batch_size: int, world_size: int) -> int:
    """Batches that every process gets from `size` studies, `batch_size` each.

    The last global batch (`world_size` x `batch_size` studies) is dropped where it is incomplete, unless it is the only
    one.
    """
    return max(1, size // (batch_size * world_size))


def training_loader(
    dataset: StudyDataset,
    batch_size: int,
    seed: int,
    epoch: int,
    start_batch: int = 0,
    rank: int = 0,
    world_size: int = 1,
    workers: int = 0,
    pad_id: int = 0,
    pin_memory: bool = False,
) -> StudyLoader:
    """The batches of one epoch from `start_batch` on, as process `rank` of `world_size` sees them.

    Sets the epoch of `dataset`. Iterate the loader before making the next epoch's. Raises UserError where there are
    fewer studies than processes.
    """
    if len(dataset) < world_size:
        raise UserError(f"{len(dataset)} studies are too few for {world_size} processes: give more, or run fewer")
    dataset.set_epoch(epoch)
    order = np.random.default_rng([_ORDER_STREAM, seed, epoch]).permutation(len(dataset))
    order = order[: len(order) - len(order) % world_size]  # every process gets as many studies as the others
    global_batch = batch_size * world_size
    batches = [
        order[batch * global_batch : (batch + 1) * global_batch][rank::world_size].tolist()
        for batch in range(start_batch, batches_per_epoch(len(dataset), batch_size, world_size))
    ]
    return _loader(dataset, batches, workers, pad_id, pin_memory)


def evaluation_loader(
    dataset: StudyDataset,
    batch_size: int,
    workers: int,
    rank: int,
    world_size: int,
    pad_id: int,
    pin_memory: bool,
) -> StudyLoader:
    """Every `world_size`-th study from `rank` on, in order; no study is dropped, padded or repeated."""
    indices = range(rank, len(dataset), world_size)
    batches = [list(indices[start : start + batch_size]) for start in range(0, len(indices), batch_size)]
    return _loader(dataset, batches, workers, pad_id, pin_memory)


def _loader(
    dataset: StudyDataset, batches: list[list[int]], workers: int, pad_id: int, pin_memory: bool
) -> StudyLoader:
    """The loader of given batches of indices."""
    return StudyLoader(
        dataset,
        batch_sampler=batches,
        num_workers=min(workers, len(batches)),
        collate_fn=partial(collate, pad_id=pad_id),
        pin_memory=pin_memory,
        # Seeds the workers. Without it torch would draw their seed from the global generator.
        generator=torch.Generator().manual_seed(0),
    )
