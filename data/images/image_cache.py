"""Decoded images in memory that the processes of a machine share: an image is read once for all of them."""

import mmap
import os
import socket
from collections.abc import Callable
from dataclasses import dataclass

import numpy as np
import torch
from torch import Tensor


@dataclass(frozen=True)
class CacheAddress:
    """Where other processes of the same machine find a cache.

    host     machine and namespace of process ids
    process, descriptor   the process that created the cache, and its file descriptor of the memory
    """

    host: tuple[str, int]
    process: int
    descriptor: int


class ImageCache:
    """Images of all studies, [V, side, side] uint8 with sides up to `largest_side`.

    The memory is an anonymous file (memfd): its pages cost nothing before they are written, it disappears with the last
    process that uses it, and unlike /dev/shm it has no small limit in containers. Loader processes share it, forked or
    spawned, and so do the ranks of a machine after `share`.
    """

    def __init__(self, studies: int, views: int, largest_side: int, address: CacheAddress | None = None):
        """Create a cache, or open the one at `address`, created with the same numbers.

        Raises OSError if the process at `address` has ended or belongs to another user.
        """
        self._shape = (studies, views, largest_side)
        count = studies * views
        # The sides of the images come first, 0 where an image is not cached yet, then the pixels.
        pixels_start = 2 * count
        size = max(pixels_start + count * largest_side**2, 1)
        if address is None:
            self._descriptor = os.memfd_create("image cache")
            os.ftruncate(self._descriptor, size)
            self.address = CacheAddress(_host(), os.getpid(), self._descriptor)
        else:
            self._descriptor = os.open(f"/proc/{address.process}/fd/{address.descriptor}", os.O_RDWR | os.O_CLOEXEC)
            self.address = address
        memory = np.frombuffer(mmap.mmap(self._descriptor, size), dtype=np.uint8)
        self._sides = memory[:pixels_start].view(np.uint16).reshape(studies, views)
        self._pixels = memory[pixels_start : pixels_start + count * largest_side**2].reshape(studies, views, -1)

    def __del__(self) -> None:
        if hasattr(self, "_descriptor"):
            os.close(self._descriptor)

    def __reduce__(self) -> tuple:
        return ImageCache, (*self._shape, self.address)

    def get(self, index: int) -> list[Tensor] | None:
        """Return the images of a study, each [side, side] uint8; None if they are not cached yet."""
        sides = [side for side in self._sides[index].tolist() if side]
        return [
            torch.from_numpy(self._pixels[index, view, : side * side].reshape(side, side))
            for view, side in enumerate(sides)
        ] or None

    def put(self, index: int, images: list[Tensor]) -> None:
        """Store the images of a study, each [side, side] uint8."""
        sides = np.zeros(self._shape[1], dtype=np.uint16)
        for view, image in enumerate(images):
            self._pixels[index, view, : image.numel()] = image.flatten().numpy()
            sides[view] = len(image)
        self._sides[index] = sides  # last, so that other processes never see a part of an image

    def share(self, gather: Callable[[CacheAddress], list[CacheAddress]]) -> "ImageCache":
        """Return the cache that all ranks on this machine use, that of the first one.

        gather  collects an object from all ranks, in order of rank; every rank calls it
        """
        addresses = gather(self.address)
        first = next(address for address in addresses if address.host == self.address.host)
        return self if first == self.address else ImageCache(*self._shape, first)


def _host() -> tuple[str, int]:
    return socket.gethostname(), os.stat("/proc/self/ns/pid").st_ino
