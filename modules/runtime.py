"""Where a run computes: seed, random states, device, arithmetic, and the processes that share the work.

One process, with or without a GPU, is the ordinary case: every function here does the plain thing then. Several
processes are started by `torchrun`, which tells each its rank through environment variables.
"""

import os
import random
import signal
import warnings
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import Any, TypeVar

import numpy as np
import torch
import torch.distributed as dist
from torch import Tensor, nn

from data.errors import UserError
from models.sgrrg import SGRRG
from modules.config import Precision

Item = TypeVar("Item")

_AUTOCAST_TYPES = {Precision.BF16: torch.bfloat16, Precision.FP16: torch.float16}


# Seed and random states


def seed_everything(seed: int, rank: int = 0) -> None:
    """Seed Python's, numpy's and torch's global generators; processes of different rank get streams of their own."""
    for_python, for_numpy, for_torch = np.random.SeedSequence((seed, rank)).generate_state(3).tolist()
    random.seed(for_python)
    np.random.seed(for_numpy)
    torch.manual_seed(for_torch)


def random_state() -> dict[str, Any]:
    """The states of all global generators of this process, as tensors, numbers, strings and lists."""
    version, numbers, gauss = random.getstate()
    name, keys, position, has_gauss, cached_gauss = np.random.get_state()
    return {
        "python": [version, list(numbers), gauss],
        "numpy": [name, keys.tolist(), int(position), int(has_gauss), float(cached_gauss)],
        "torch": torch.get_rng_state(),
        "cuda": torch.cuda.get_rng_state() if torch.cuda.is_available() else None,
    }


def restore_random_state(state: dict[str, Any]) -> None:
    """Put the generators back to what `random_state` returned."""
    version, numbers, gauss = state["python"]
    random.setstate((version, tuple(numbers), gauss))
    name, keys, *rest = state["numpy"]
    np.random.set_state((name, np.array(keys, dtype=np.uint32), *rest))
    torch.set_rng_state(state["torch"])
    if state["cuda"] is not None and torch.cuda.is_available():
        torch.cuda.set_rng_state(state["cuda"])


# Device and arithmetic


def select_device(name: str) -> torch.device:
    """The device of this process for `name`: auto (a GPU where there is one), cpu or cuda.

    Under torchrun, process i of a machine takes its GPU i. Raises UserError for `cuda` where there is none, and for
    more processes than GPUs.
    """
    if name == "cpu" or (name == "auto" and not torch.cuda.is_available()):
        return torch.device("cpu")
    if not torch.cuda.is_available():
        raise UserError("train.device=cuda, but torch finds no GPU here: choose train.device=cpu, or mend the driver")
    index = int(os.environ.get("LOCAL_RANK", 0))
    if index >= torch.cuda.device_count():
        raise UserError(
            f"Process {index} of this machine has no GPU of its own: there are {torch.cuda.device_count()}; "
            "start as many processes as GPUs, or choose train.device=cpu"
        )
    device = torch.device("cuda", index)
    torch.cuda.set_device(device)
    return device


def autocast(precision: Precision, device: torch.device) -> torch.autocast:
    """The context of the forward pass: matrix products in `precision`, on CPU or GPU; nothing for fp32."""
    kind = _AUTOCAST_TYPES.get(precision)
    return torch.autocast(device.type, dtype=kind, enabled=kind is not None)


def quantise_decoder(model: SGRRG, device: torch.device) -> None:
    """Let the decoder of `model` multiply in int8: weights kept so, words and memories rounded as they come.

    Only for inference, and with fp32 elsewhere. Raises UserError for another device than a CPU.
    """
    if device.type != "cpu":
        raise UserError(f"eval.int8=true is for CPUs, and this run is on {device.type}: choose train.device=cpu")
    with warnings.catch_warnings():
        # Torch means to drop this in favour of another package, torchao; the pinned version has it.
        warnings.filterwarnings("ignore", category=DeprecationWarning, message=r"torch\.ao\.quantization is deprecated")
        warnings.filterwarnings("ignore", category=UserWarning, message=r"torch\.quantize_per_")
        model.decoder = torch.ao.quantization.quantize_dynamic(model.decoder, {nn.Linear}, dtype=torch.qint8)


# Processes that share the work


@contextmanager
def distributed(device: torch.device) -> Iterator[None]:
    """Joins the processes of a torchrun for the length of the block (nccl on GPUs, gloo on CPUs); else does nothing."""
    if int(os.environ.get("WORLD_SIZE", 1)) == 1:
        yield
        return
    dist.init_process_group("nccl" if device.type == "cuda" else "gloo")
    try:
        yield
    finally:
        dist.destroy_process_group()


def is_distributed() -> bool:
    """Whether several processes share the work."""
    return dist.is_available() and dist.is_initialized()


def rank() -> int:
    """The number of this process, from 0."""
    return dist.get_rank() if is_distributed() else 0


def world_size() -> int:
    """The number of processes."""
    return dist.get_world_size() if is_distributed() else 1


def is_rank_zero() -> bool:
    """Whether this process is the one that writes files and speaks."""
    return rank() == 0


def sum_over_processes(tensor: Tensor) -> Tensor:
    """The sum of every process's `tensor` (on its own device), in every process."""
    if is_distributed():
        tensor = tensor.clone()
        dist.all_reduce(tensor, op=dist.ReduceOp.SUM)
    return tensor


def maximum_over_processes(number: int, device: torch.device) -> int:
    """The largest of every process's `number`, in every process. device: the process's own."""
    if not is_distributed():
        return number
    largest = torch.tensor(number, device=device)
    dist.all_reduce(largest, op=dist.ReduceOp.MAX)
    return int(largest)


def gather_objects(item: Item) -> list[Item]:
    """The `item` of every process, by rank, in every process."""
    if not is_distributed():
        return [item]
    items = [None] * world_size()
    dist.all_gather_object(items, item)
    return items


def broadcast_object(item: Item) -> Item:
    """The first process's `item`, in every process."""
    if not is_distributed():
        return item
    items = [item]
    dist.broadcast_object_list(items, src=0)
    return items[0]


def run_on_rank_zero(compute: Callable[[], Item]) -> Item:
    """What `compute()` gives in the first process, in every process.

    A UserError of it is raised there, and the other processes exit with status 1: one line is enough for the reader.
    """
    result, complaint = None, None
    if is_rank_zero():
        try:
            result = compute()
        except UserError as error:
            complaint = str(error)
    result, complaint = broadcast_object((result, complaint))
    if complaint is not None:
        raise UserError(complaint) if is_rank_zero() else SystemExit(1)
    return result


def broadcast_buffers(module: nn.Module) -> None:
    """Give every process the first one's buffers (running means of BatchNorm): DDP averages gradients, not these."""
    if is_distributed():
        for buffer in module.buffers():
            dist.broadcast(buffer, src=0)


# Signals that ask for an end


class StopSignals:
    """For the length of a `with` block, SIGINT (Ctrl-C) and SIGTERM are noted and no longer end the process.

    received  number of the first signal that came, 0 without one
    """

    def __init__(self) -> None:
        self.received = 0
        self._handlers: dict[signal.Signals, Any] = {}

    def __enter__(self) -> "StopSignals":
        for number in (signal.SIGINT, signal.SIGTERM):
            self._handlers[number] = signal.signal(number, self._note)
        return self

    def __exit__(self, *_: object) -> None:
        for number, handler in self._handlers.items():
            signal.signal(number, handler)

    def _note(self, number: int, _: object) -> None:
        self.received = self.received or number


def ignore_stop_signals(_: int) -> None:
    """For the loader's workers: Ctrl-C reaches them too, and the main process still needs what they hold."""
    signal.signal(signal.SIGINT, signal.SIG_IGN)
    signal.signal(signal.SIGTERM, signal.SIG_IGN)
