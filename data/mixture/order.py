"""The order in which the studies of one or several data sets are read.

It is a function of seed, epoch and position alone. A draw is a pair (pass, index): the `index`-th study, for the
`pass`-th time. The pass takes the place of the epoch wherever a study is augmented: a small data set that is drawn
several times in an epoch is augmented differently each time.
"""

from dataclasses import dataclass
from functools import cached_property
from itertools import accumulate

import numpy as np
from numpy.typing import NDArray

# First numbers of the seeds, different from the streams of `data.dataset`.
_ORDER_STREAM, _MIXTURE_STREAM = 3, 4
# A shard of a prepared data set has about this many studies (`data.sources.parts`), in the order of the records.
_BLOCK = 2048


def epoch_order(studies: int, seed: int, epoch: int, window: int | None = None, data_set: int = 0) -> NDArray:
    """Return the order of an epoch: a permutation of the indices, [studies] int64.

    window    None, or at least the number of studies: any order is equally likely. A smaller window reads a few shards
              at a time, which suits shared file systems: blocks of 2,048 consecutive studies come in random order, and
              each `window` studies of the result are shuffled, so that they are from window / 2,048 random blocks
    data_set  number of the data set, so that data sets of equal size have different orders
    """
    generator = np.random.default_rng([_ORDER_STREAM, seed, epoch] + [data_set] * (data_set > 0))
    if window is None or studies <= window:
        return generator.permutation(studies)
    starts = generator.permutation(np.arange(0, studies, _BLOCK))
    order = np.concatenate([np.arange(start, min(start + _BLOCK, studies)) for start in starts])
    for start in range(0, studies, window):
        generator.shuffle(order[start : start + window])
    return order


@dataclass(frozen=True)
class Mixture:
    """How the studies of several data sets are mixed.

    An epoch has as many draws as there are studies. Each data set has the same number of them in every epoch, at random
    positions. Its own studies come in passes, each in the order of `epoch_order`, and a pass continues in the next
    epoch: over time, all studies of a data set are drawn equally often.

    sizes    number of studies of each data set; indices count through all of them
    weights  share of the draws of each data set, up to a common factor; None: in proportion to their sizes
    """

    sizes: tuple[int, ...]
    weights: tuple[float, ...] | None = None

    @property
    def studies(self) -> int:
        """Studies of all data sets, which is the number of draws of an epoch."""
        return sum(self.sizes)

    @cached_property
    def offsets(self) -> tuple[int, ...]:
        """Index of the first study of each data set."""
        return tuple(accumulate(self.sizes, initial=0))[:-1]

    @cached_property
    def draws_per_epoch(self) -> tuple[int, ...]:
        """Draws of each data set in an epoch: by the method of largest remainders, so that they add up."""
        if self.weights is None:
            return self.sizes
        exact = np.array(self.weights, dtype=np.float64) / sum(self.weights) * self.studies
        draws = np.floor(exact).astype(int)
        missing = self.studies - int(draws.sum())
        draws[np.argsort(draws - exact, kind="stable")[:missing]] += 1
        return tuple(draws.tolist())

    def draws(self, seed: int, epoch: int, window: int | None = None) -> NDArray:
        """Return the draws of an epoch, [studies, 2] int64: pass and index.

        window  as in `epoch_order`, for all data sets together: each has a share of it, but at least one block
        """
        generator = np.random.default_rng([_MIXTURE_STREAM, seed, epoch])
        turns = generator.permutation(np.repeat(np.arange(len(self.sizes)), self.draws_per_epoch))
        draws = np.empty((self.studies, 2), dtype=np.int64)
        for data_set in range(len(self.sizes)):
            draws[turns == data_set] = self._draws_of(data_set, seed, epoch, window)
        return draws

    def _draws_of(self, data_set: int, seed: int, epoch: int, window: int | None) -> NDArray:
        """Return the draws of one data set in an epoch, in order, [draws, 2]."""
        size, count = self.sizes[data_set], self.draws_per_epoch[data_set]
        if window is not None:
            window = max(_BLOCK, -(-window * count // self.studies))
        start = epoch * count
        passes = range(start // size, -(-(start + count) // size))
        orders = [epoch_order(size, seed, number, window, data_set) for number in passes]
        indices = np.concatenate(orders) if orders else np.empty(0, dtype=np.int64)
        rows = np.stack([np.repeat(passes, size), indices + self.offsets[data_set]], axis=1)
        return rows[start - passes.start * size :][:count]

