"""Parts for `tests/benchmarks/gpu/test_parts.py`, importable in the processes that run them."""

import os
import time

from benchmarks.gpu.parts import NotPossible, Publish


def succeed(publish: Publish) -> None:
    """Publish two values, one after the other."""
    publish({"first": 1})
    publish({"second": 2})


def hang(publish: Publish) -> None:
    """Publish a value and never end."""
    publish({"first": 1})
    time.sleep(1000)


def fail(publish: Publish) -> None:
    """Publish a value and fail."""
    publish({"first": 1})
    raise MemoryError("no memory\non two lines")


def decline(publish: Publish) -> None:
    """Say why nothing can be measured."""
    raise NotPossible("no GPU")


def die(publish: Publish) -> None:
    """End without a word, as a process does that the system kills."""
    publish({"first": 1})
    os._exit(1)
