"""Ways to damage files, drawn from a generator of random numbers."""

import os
from collections.abc import Callable
from pathlib import Path

import numpy as np

Generator = np.random.Generator


def flip_bit(content: bytes, generator: Generator) -> bytes:
    """Change one bit."""
    if not content:
        return content
    changed = bytearray(content)
    changed[generator.integers(len(changed))] ^= 1 << int(generator.integers(8))
    return bytes(changed)


def truncate(content: bytes, generator: Generator) -> bytes:
    """Remove the end, at least one byte."""
    return content[: generator.integers(len(content))] if content else content


def zero(content: bytes, generator: Generator) -> bytes:
    """Replace up to 512 bytes by zeros, as a disk that lost a sector."""
    start = int(generator.integers(len(content) + 1))
    return content[:start] + bytes(len(content[start : start + 512])) + content[start + 512 :]


def replace_all(content: bytes, generator: Generator) -> bytes:
    """Replace everything by random bytes."""
    return generator.bytes(len(content))


def insert(content: bytes, generator: Generator) -> bytes:
    """Insert up to 8 random bytes."""
    start = int(generator.integers(len(content) + 1))
    return content[:start] + generator.bytes(int(generator.integers(1, 9))) + content[start:]


def repeat(content: bytes, generator: Generator) -> bytes:
    """Repeat a part."""
    start, end = sorted(generator.integers(len(content) + 1, size=2).tolist())
    return content[:end] + content[start:]


DAMAGES: tuple[Callable[[bytes, Generator], bytes], ...] = (flip_bit, truncate, zero, replace_all, insert, repeat)


def damage_file(path: Path, generator: Generator) -> str:
    """Damage the file at `path`, or remove it; return in words what was done."""
    if generator.random() < 0.1:
        path.unlink()
        return f"{path.name} removed"
    damage = DAMAGES[generator.integers(len(DAMAGES))]
    times = os.stat(path)
    path.write_bytes(damage(path.read_bytes(), generator))
    if generator.random() < 0.5:  # a disk that loses bits leaves the time as it is
        os.utime(path, ns=(times.st_atime_ns, times.st_mtime_ns))
    return f"{path.name}: {damage.__name__}"
