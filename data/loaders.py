"""Data loaders: reproducible order, resumable at any batch, sharded over processes.

Order and augmentation depend on seed, epoch and position only. Nothing here draws from torch's global generator, so
loading data does not affect dropout or any other random draw.
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

_ORDER_STREAM = 3  # first number of the seed, different from the streams of `data.dataset`


class StudyLoader(DataLoader):
    """A DataLoader of batches that re-raises worker errors without the worker's traceback."""

    def __iter__(self) -> Iterator[Batch]:
        try:
            yield from super().__iter__()
        except UserError as error:
            # Torch re-raises a worker's error with the worker's traceback as its message, which ends in our line.
            name = f"{UserError.__module__}.{UserError.__qualname__}: "
            message = str(error).rsplit(name, 1)[-1].strip()
            # The frames keep the workers' iterator alive in a reference cycle; each worker would take 5 seconds to end.
            traceback.clear_frames(error.__traceback__)
            raise UserError(message) from error


def batches_per_epoch(size: int, batch_size: int, world_size: int) -> int:
    """Return the number of batches per process and epoch for `size` studies.

    A last global batch of fewer than `world_size` x `batch_size` studies is dropped, unless it is the only one.
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
    """Return the loader of process `rank` for one epoch, starting at `start_batch`.

    Sets the epoch of `dataset`, so use the loader before creating that of the next epoch. Raises UserError if there
    are fewer studies than processes.
    """
    if len(dataset) < world_size:
        raise UserError(f"{len(dataset)} studies are too few for {world_size} processes: use fewer processes")
    dataset.set_epoch(epoch)
    order = np.random.default_rng([_ORDER_STREAM, seed, epoch]).permutation(len(dataset))
    order = order[: len(order) - len(order) % world_size]  # the same number of studies per process
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
    """Return a loader of every `world_size`-th study from `rank` on, in order; none is dropped, padded or repeated."""
    indices = range(rank, len(dataset), world_size)
    batches = [list(indices[start : start + batch_size]) for start in range(0, len(indices), batch_size)]
    return _loader(dataset, batches, workers, pad_id, pin_memory)


def _loader(
    dataset: StudyDataset, batches: list[list[int]], workers: int, pad_id: int, pin_memory: bool
) -> StudyLoader:
    """Return the loader of the given batches of indices."""
    return StudyLoader(
        dataset,
        batch_sampler=batches,
        num_workers=min(workers, len(batches)),
        collate_fn=partial(collate, pad_id=pad_id),
        pin_memory=pin_memory,
        # Seeds the workers. By default torch would draw their seed from the global generator.
        generator=torch.Generator().manual_seed(0),
    )
