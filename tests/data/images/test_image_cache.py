"""The image cache: contents, forked and spawned processes, and the ranks of a machine."""

import multiprocessing
from dataclasses import replace

import pytest
import torch

from data.images.image_cache import ImageCache


def image(side, seed=0):
    return torch.randint(0, 256, (side, side), generator=torch.Generator().manual_seed(seed), dtype=torch.uint8)


def put(cache, index):
    cache.put(index, [image(5, index)])


def test_images_of_several_sizes_come_back():
    cache = ImageCache(studies=3, views=2, largest_side=6)
    assert cache.get(1) is None
    cache.put(1, [image(6), image(4, 1)])
    cache.put(0, [image(3, 2)])
    first, second = cache.get(1)
    assert torch.equal(first, image(6)) and torch.equal(second, image(4, 1))
    assert [len(only) for only in cache.get(0)] == [3] and cache.get(2) is None


@pytest.mark.parametrize("method", ["fork", "spawn", "forkserver"])
def test_processes_share_the_memory(method):
    cache = ImageCache(studies=4, views=1, largest_side=5)
    process = multiprocessing.get_context(method).Process(target=put, args=(cache, 3))
    process.start()
    process.join()
    assert process.exitcode == 0
    assert torch.equal(cache.get(3)[0], image(5, 3))


def test_ranks_of_a_machine_use_the_cache_of_the_first():
    first, second, elsewhere = (ImageCache(studies=2, views=1, largest_side=5) for _ in range(3))
    other_host = replace(elsewhere.address, host=("another", 1))
    shared = second.share(lambda address: [other_host, first.address, address])
    assert shared is not second
    shared.put(1, [image(5)])
    assert torch.equal(first.get(1)[0], image(5)) and second.get(1) is None
    assert first.share(lambda address: [other_host, address, second.address]) is first
