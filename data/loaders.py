"""Data loaders: reproducible order, resumable at any optimiser step, sharded over processes.

Order and augmentation depend on seed, epoch and position only. Nothing here draws from torch's global generator, so
loading data does not affect dropout or any other random draw.
"""

import math
import os
import re
import sys
import traceback
from collections.abc import Callable, Collection, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from functools import partial
from typing import NamedTuple, TypeVar

import numpy as np
import torch
from numpy.typing import NDArray
from torch.utils.data import DataLoader, Dataset

from data.batch import Batch, Sample
from data.collate import collate
from data.dataset import StudyDataset
from data.errors import UserError, reason, truncate_list
from data.images.staging import StagingError
from data.mixture.dataset import MixedDataset
from data.mixture.order import epoch_order

Item = TypeVar("Item")

_WORKER_TRACEBACK = re.compile(r"(?s)^Caught \w+ in DataLoader worker.*\n[\w.]+: ")


@dataclass(frozen=True)
class SkippedStudy:
    """A study that cannot be read: its index in the data set, its identifier, and the error in one line."""

    index: int
    study_id: str
    reason: str


class _Fetched(NamedTuple):
    """What a worker sends: a batch, None if it has no readable study, and the studies that it skipped."""

    batch: Batch | None
    skipped: list[SkippedStudy]


class _SkippingDataset(Dataset):
    """Reads the studies at (epoch, index), with the skipped ones beside them; runs in the workers.

    For a mixture, the epoch is the pass of `data.mixture.order`.

    replace  read the next readable study in place of a skipped one, which depends on the data set only
    """

    def __init__(self, studies: StudyDataset | MixedDataset, replace: bool, most_skipped: int):
        self.studies = studies
        self.replace = replace
        self.most_skipped = most_skipped

    def __getitem__(self, key: tuple[int, int]) -> tuple[Sample | None, list[SkippedStudy]]:
        epoch, first = key
        skipped: list[SkippedStudy] = []
        for index in range(first, first + (len(self.studies) if self.replace else 1)):
            index %= len(self.studies)
            try:
                return self.studies[epoch, index], skipped
            except StagingError:
                raise
            except UserError as error:
                skipped.append(SkippedStudy(index, self.studies.study_id(index), str(error)))
                if len(skipped) > self.most_skipped:
                    break  # the loader raises
        if self.replace and len(skipped) <= self.most_skipped:
            raise UserError(f"No study of the split can be read: {skipped[0].reason}")
        return None, skipped


def _collate_readable(read: list[tuple[Sample | None, list[SkippedStudy]]], pad_id: int) -> _Fetched:
    samples = [sample for sample, _ in read if sample is not None]
    skipped = [study for _, studies in read for study in studies]
    return _Fetched(collate(samples, pad_id) if samples else None, skipped)


class _Batches:
    """The batches of one pass over the data, as lists of (epoch, index), from a position that can be set."""

    def __init__(self, divide: Callable[[int, int], list[list[tuple[int, int]]]], epoch: int, start: int):
        self._divide = divide
        self.set_position(epoch, start)

    def set_position(self, epoch: int, start: int) -> None:
        self._batches = self._divide(epoch, start)

    def __len__(self) -> int:
        return len(self._batches)

    def __iter__(self) -> Iterator[list[tuple[int, int]]]:
        yield from self._batches


class StudyLoader:
    """Iterates over batches that worker processes read ahead; they live until `close`, or the loader's end.

    worker_init_fn  called with the number of each worker when it starts
    skipped         studies that could not be read in this process so far, by index
    """

    def __init__(
        self, dataset: StudyDataset | MixedDataset, batches: _Batches, workers: int, pad_id: int, pin_memory: bool,
        replace: bool, most_skipped: int,
    ):
        self.dataset = dataset
        self.most_skipped = most_skipped
        self.skipped: dict[int, SkippedStudy] = {}
        self.worker_init_fn: Callable[[int], None] | None = None
        self._batches = batches
        self._workers = worker_count(workers, len(batches))
        self._pin_memory = pin_memory
        self._reader = _SkippingDataset(dataset, replace, most_skipped)
        self._collate = partial(_collate_readable, pad_id=pad_id)
        self._loader: DataLoader | None = None

    def __len__(self) -> int:
        return len(self._batches)

    def set_position(self, epoch: int, start: int) -> None:
        """Start the next iteration at optimiser step `start` of `epoch`, with the same workers."""
        self._batches.set_position(epoch, start)

    def __iter__(self) -> Iterator[Batch]:
        """Yield the batches; those without a readable study are left out.

        Raises UserError, without a worker's traceback, if more than `most_skipped` studies could not be read, staging
        failed, or a worker was killed.
        """
        if not len(self._batches):
            return
        if self._loader is None:
            self._loader = DataLoader(
                self._reader,
                batch_sampler=self._batches,
                num_workers=self._workers,
                collate_fn=self._collate,
                pin_memory=self._pin_memory,
                worker_init_fn=self.worker_init_fn,
                persistent_workers=self._workers > 0,
                # Seeds the workers. By default torch would draw their seed from the global generator.
                generator=torch.Generator().manual_seed(0),
            )
        try:
            with worker_errors():
                for batch, skipped in self._fetch():
                    self._record(skipped)
                    if batch is not None:
                        yield batch
        except UserError as error:
            # The frames keep the workers' iterator alive in a reference cycle; each worker would take 5 seconds to end.
            traceback.clear_frames(error.__traceback__)
            if error.__cause__ is not None:
                traceback.clear_frames(error.__cause__.__traceback__)
            self.close()
            raise

    def _fetch(self) -> Iterator[_Fetched]:
        """Yield what the workers send. Raises UserError if one is killed while this process takes over its tensors."""
        try:
            yield from self._loader
        except (ConnectionError, EOFError, FileNotFoundError) as error:
            if self._workers == 0 or "DataLoader worker" in str(error):
                raise
            raise _killed_worker(error) from error

    def close(self) -> None:
        """End the workers."""
        self._loader = None

    def align(self, items: list[Item]) -> list[Item | None]:
        """Return `items`, one per study that was read in one pass, with None for each skipped study."""
        rest = iter(items)
        indices = (index for batch in self._batches for _, index in batch)
        return [None if index in self.skipped else next(rest) for index in indices]

    def _record(self, skipped: list[SkippedStudy]) -> None:
        """Remember skipped studies, and name new ones. Raises UserError if they are too many."""
        for study in skipped:
            if study.index in self.skipped:
                continue
            self.skipped[study.index] = study
            check_skipped(self.skipped.values(), self.most_skipped)
            print(
                f"Warning: skipping study {study.study_id}, {len(self.skipped)} of at most "
                f"data.most_skipped={self.most_skipped}: {study.reason}",
                file=sys.stderr, flush=True,
            )


def check_skipped(skipped: Collection[SkippedStudy], most_skipped: int) -> None:
    """Raise UserError if more than `most_skipped` studies are skipped."""
    if len(skipped) <= most_skipped:
        return
    first = next(iter(skipped))
    if most_skipped == 0:
        raise UserError(first.reason)
    names = truncate_list([study.study_id for study in skipped], ", ")
    raise UserError(
        f"{len(skipped)} studies cannot be read, more than data.most_skipped={most_skipped}: {names}. The first error: "
        f"{first.reason}"
    )


@contextmanager
def worker_errors() -> Iterator[None]:
    """Re-raise the errors of loader processes in the block as UserError of one line.

    A worker that is killed interrupts the main process wherever it is, not only where it waits for a batch.
    """
    try:
        yield
    except UserError as error:
        # Torch re-raises a worker's error with the worker's traceback as its message, which ends in our line.
        message, replaced = _WORKER_TRACEBACK.subn("", str(error))
        if not replaced:
            raise
        raise UserError(message.strip()) from error
    except RuntimeError as error:
        if not str(error).startswith("DataLoader worker"):
            raise
        raise _killed_worker(error) from error


def _killed_worker(error: Exception) -> UserError:
    return UserError(
        f"A data loader process was killed ({reason(error).rstrip('. ')}), often for lack of memory: use fewer "
        "data.workers or free memory, then start the run again (training: train.resume=true)"
    )


def worker_count(workers: int, batches: int) -> int:
    """Return the number of loader processes: at most `workers`, one per batch, and a share of the machine's cores."""
    cores = len(os.sched_getaffinity(0)) // int(os.environ.get("LOCAL_WORLD_SIZE", 1))
    return min(workers, batches, max(1, cores))


@dataclass(frozen=True)
class BatchPlan:
    """How the studies of an epoch are divided into optimiser steps, processes and micro-batches.

    The studies of a step depend on `studies` and `batch_size` alone, not on the number of processes.

    studies           in the training split
    batch_size        studies of a step, over all processes and micro-batches
    world_size        number of processes
    micro_batch_size  the most that a process computes at once; None: all of its share

    Raises UserError if the studies of a step cannot be divided equally over processes and micro-batches.
    """

    studies: int
    batch_size: int
    world_size: int = 1
    micro_batch_size: int | None = None

    def __post_init__(self) -> None:
        if self.studies < self.world_size:
            raise UserError(f"{self.studies} studies are too few for {self.world_size} processes: use fewer processes")
        step = f"optim.batch_size={self.batch_size}"
        if self.studies < self.batch_size:
            step += f", with only {self.studies} studies in the training split,"
        if self.step_size % self.world_size:
            raise UserError(
                f"{step} cannot be divided over {self.world_size} processes: use a multiple of {self.world_size}, or "
                "another number of processes"
            )
        if self.share % self.micro_batches:
            raise UserError(
                f"{step} gives {self.share} studies to each of {self.world_size} processes, which cannot be divided "
                f"into {self.micro_batches} equal micro-batches of at most "
                f"data.micro_batch_size={self.micro_batch_size}: use a divisor of {self.share}"
            )

    @property
    def step_size(self) -> int:
        """Studies of a step: `batch_size`, or all studies if there are fewer."""
        return min(self.batch_size, self.studies)

    @property
    def steps(self) -> int:
        """Steps per epoch. Studies that do not fill a last step are left out; there is at least one step."""
        return self.studies // self.step_size

    @property
    def share(self) -> int:
        """Studies of a step for each process."""
        return self.step_size // self.world_size

    @property
    def micro_batches(self) -> int:
        """Micro-batches of a step for each process: as few as `micro_batch_size` allows."""
        return math.ceil(self.share / (self.micro_batch_size or self.share))

    def divide(self, order: NDArray, rank: int, start: int = 0) -> list[list]:
        """Return the micro-batches of process `rank`, from step number `start` of the epoch on.

        order [studies] or [studies, 2]: the indices of all studies, or draws. Process r takes every `world_size`-th
        study of a step, from r on.
        """
        return [
            micro_batch.tolist()
            for step in range(start, self.steps)
            for micro_batch in np.split(
                order[step * self.step_size : (step + 1) * self.step_size][rank :: self.world_size], self.micro_batches
            )
        ]


def training_loader(
    dataset: StudyDataset | MixedDataset,
    batch_size: int,
    seed: int,
    epoch: int = 0,
    start_batch: int = 0,
    rank: int = 0,
    world_size: int = 1,
    workers: int = 0,
    pad_id: int = 0,
    pin_memory: bool = False,
    micro_batch_size: int | None = None,
    most_skipped: int = 0,
    shuffle_window: int | None = None,
) -> StudyLoader:
    """Return the loader of the micro-batches of process `rank`.

    epoch, start_batch: where the first pass starts, as in `StudyLoader.set_position`. batch_size, micro_batch_size: as
    in `BatchPlan`, which also says how studies are divided. most_skipped: the most studies that may be unreadable; each
    is replaced by the next readable one of the data set, so that batches keep their size. shuffle_window: as in
    `epoch_order`, or for several data sets as in `Mixture.draws`. Raises UserError as `BatchPlan` does.
    """
    plan = BatchPlan(len(dataset), batch_size, world_size, micro_batch_size)

    def divide(epoch: int, start: int) -> list[list[tuple[int, int]]]:
        if isinstance(dataset, MixedDataset):
            batches = plan.divide(dataset.mixture.draws(seed, epoch, shuffle_window), rank, start)
            return [[tuple(draw) for draw in batch] for batch in batches]
        batches = plan.divide(epoch_order(len(dataset), seed, epoch, shuffle_window), rank, start)
        return [[(epoch, index) for index in batch] for batch in batches]

    return StudyLoader(
        dataset, _Batches(divide, epoch, start_batch), workers, pad_id, pin_memory, replace=True,
        most_skipped=most_skipped,
    )


def evaluation_loader(
    dataset: StudyDataset | MixedDataset,
    batch_size: int,
    workers: int,
    rank: int,
    world_size: int,
    pad_id: int,
    pin_memory: bool,
    most_skipped: int = 0,
) -> StudyLoader:
    """Return a loader of every `world_size`-th study from `rank` on, in order; none is dropped, padded or repeated.

    most_skipped: the most studies that may be unreadable; they are left out of their batches.
    """
    indices = range(rank, len(dataset), world_size)
    batches = [
        [(0, index) for index in indices[start : start + batch_size]] for start in range(0, len(indices), batch_size)
    ]
    return StudyLoader(
        dataset, _Batches(lambda epoch, start: batches[start:], 0, 0), workers, pad_id, pin_memory, replace=False,
        most_skipped=most_skipped,
    )
