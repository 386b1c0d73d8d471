"""Reads what wandb wrote offline: a LevelDB log of protocol buffers."""

import struct
from pathlib import Path
from typing import Any

_HEADER, _BLOCK = 7, 32768
# Kinds of the parts of a record: complete, or its last one.
_ENDS = (1, 4)


def read_records(run_dir: Path, kind: str) -> list[Any]:
    """The records of one kind (run, history, summary, artifact) of all offline runs below `run_dir`, in order."""
    from wandb.proto import wandb_internal_pb2

    found = []
    for path in sorted(run_dir.glob("wandb/offline-run-*/run-*.wandb")):
        content, position, parts = path.read_bytes(), _HEADER, b""
        while position + _HEADER <= len(content):
            left = _BLOCK - position % _BLOCK
            if left < _HEADER:  # the rest of a block that is too short for a header
                position += left
                continue
            _, size, part = struct.unpack("<IHB", content[position : position + _HEADER])
            position += _HEADER + size
            parts += content[position - size : position]
            if part in _ENDS:
                record = wandb_internal_pb2.Record()
                record.ParseFromString(parts)
                parts = b""
                if record.WhichOneof("record_type") == kind:
                    found.append(getattr(record, kind))
    return found
