"""Reads what wandb wrote offline: a LevelDB log of protocol buffers."""

import struct
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

_HEADER, _BLOCK = 7, 32768
# Kinds of the parts of a record: complete, or its last one.
_ENDS = (1, 4)


def read_records(run_dir: Path, kind: str, seconds: float = 60) -> list[Any]:
    """The records of one kind (run, history, summary, artifact) of all offline runs below `run_dir`, in order.

    wandb's own process may still be writing when a run has been finished: waits until each has its last record.
    """
    deadline = time.monotonic() + seconds
    while True:
        runs = [
            [(record.WhichOneof("record_type"), record) for record in _parse(path.read_bytes())]
            for path in sorted(run_dir.glob("wandb/offline-run-*/run-*.wandb"))
        ]
        if runs and all(any(name == "exit" for name, _ in run) for run in runs):
            return [getattr(record, kind) for run in runs for name, record in run if name == kind]
        assert time.monotonic() < deadline, f"wandb has not finished a run in {run_dir}"
        time.sleep(0.1)


def _parse(content: bytes) -> Iterator[Any]:
    """The complete records of a file."""
    from wandb.proto import wandb_internal_pb2

    position, parts = _HEADER, b""
    while position + _HEADER <= len(content):
        left = _BLOCK - position % _BLOCK
        if left < _HEADER:  # the rest of a block that is too short for a header
            position += left
            continue
        _, size, part = struct.unpack("<IHB", content[position : position + _HEADER])
        position += _HEADER + size
        if position > len(content):
            return
        parts += content[position - size : position]
        if part in _ENDS:
            record = wandb_internal_pb2.Record()
            record.ParseFromString(parts)
            parts = b""
            yield record
