"""Seeding, devices, precision and distributed helpers.

`torchrun` starts several processes and passes each its rank through environment variables. The distributed helpers
also work in a single process, where there is nothing to communicate.
"""

import os
import random
import signal
import sys
import threading
import warnings
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from datetime import timedelta
from typing import Any, TypeVar

import numpy as np
import torch
import torch.distributed as dist
from torch import Tensor, nn

from data.errors import UserError
from models.family.relational_memory import RelationalMemory
from models.sgrrg import SGRRG
from modules.config import Precision
from modules.processes.failure_watch import FailureWatch

Item = TypeVar("Item")

# How long processes wait for each other at the start: those of several machines, and those of one.
_MEETING, _MEETING_ON_ONE_MACHINE = timedelta(minutes=5), timedelta(minutes=1)
# How long processes wait for work that only rank zero does, such as scoring. The default group gives up after minutes.
_PATIENCE = timedelta(days=7)
# Default group -> the group that waits so long (`_patient_group`).
_patient_groups: dict[dist.ProcessGroup, dist.ProcessGroup] = {}

_AUTOCAST_TYPES = {Precision.BF16: torch.bfloat16, Precision.FP16: torch.float16}


# Seeding


def seed_everything(seed: int, rank: int = 0, step: int = 0) -> None:
    """Seed the global RNGs of Python, NumPy and PyTorch, differently for each rank and first optimiser step."""
    python_seed, numpy_seed, torch_seed = np.random.SeedSequence((seed, rank, step)).generate_state(3).tolist()
    random.seed(python_seed)
    np.random.seed(numpy_seed)
    torch.manual_seed(torch_seed)


def random_state() -> dict[str, Any]:
    """Return the state of all global RNGs of this process, as tensors, numbers, strings and lists."""
    version, numbers, gauss = random.getstate()
    name, keys, position, has_gauss, cached_gauss = np.random.get_state()
    return {
        "python": [version, list(numbers), gauss],
        "numpy": [name, keys.tolist(), int(position), int(has_gauss), float(cached_gauss)],
        "torch": torch.get_rng_state(),
        "cuda": torch.cuda.get_rng_state() if torch.cuda.is_available() else None,
    }


def restore_random_state(state: dict[str, Any]) -> None:
    """Restore the RNG state saved by `random_state`."""
    version, numbers, gauss = state["python"]
    random.setstate((version, tuple(numbers), gauss))
    name, keys, *rest = state["numpy"]
    np.random.set_state((name, np.array(keys, dtype=np.uint32), *rest))
    torch.set_rng_state(state["torch"])
    if state["cuda"] is not None and torch.cuda.is_available():
        torch.cuda.set_rng_state(state["cuda"])


# Device and precision


def select_device(name: str) -> torch.device:
    """Return the device for `name`: auto (a GPU if there is one), cpu or cuda.

    Under torchrun, process i of a machine takes GPU i. Raises UserError if `cuda` is not available or there are more
    processes than GPUs.
    """
    if name == "cpu" or (name == "auto" and not torch.cuda.is_available()):
        return torch.device("cpu")
    if not torch.cuda.is_available():
        raise UserError("train.device=cuda, but PyTorch finds no GPU: use train.device=cpu, or fix the driver")
    index = int(os.environ.get("LOCAL_RANK", 0))
    if index >= torch.cuda.device_count():
        raise UserError(
            f"No GPU for process {index} of this machine, which has {torch.cuda.device_count()}: start as many "
            "processes as GPUs, or use train.device=cpu"
        )
    device = torch.device("cuda", index)
    torch.cuda.set_device(device)
    return device


def configure_backends(device: torch.device, deterministic: bool = False) -> None:
    """Choose how a GPU computes: TF32 for fp32 products, and cuDNN's fastest convolutions, found by timing them.

    deterministic: only operations that give equal results for equal inputs, and no timing, whose outcome varies.
    """
    if deterministic != torch.are_deterministic_algorithms_enabled():
        torch.use_deterministic_algorithms(deterministic)  # imports torch's compiler, which takes three seconds
    torch.backends.cudnn.benchmark = device.type == "cuda" and not deterministic
    if device.type == "cuda":
        torch.set_float32_matmul_precision("high")
        torch.backends.cudnn.allow_tf32 = True
        if deterministic:  # read by cuBLAS at its first product
            os.environ.setdefault("CUBLAS_WORKSPACE_CONFIG", ":4096:8")


def choose_precision(precision: Precision, device: torch.device) -> Precision:
    """Return the precision that Precision.AUTO stands for on `device`; any other is returned as it is."""
    if precision != Precision.AUTO:
        return precision
    # Older GPUs emulate bf16, which is slower than fp32.
    computes_bf16 = device.type == "cuda" and torch.cuda.is_bf16_supported(including_emulation=False)
    return Precision.BF16 if computes_bf16 else Precision.FP32


def autocast(precision: Precision, device: torch.device) -> torch.autocast:
    """Return the autocast context of the forward pass, disabled for fp32."""
    dtype = _AUTOCAST_TYPES.get(choose_precision(precision, device))
    return torch.autocast(device.type, dtype=dtype, enabled=dtype is not None)


def quantise_decoder(model: SGRRG, device: torch.device) -> None:
    """Quantise the decoder's linear layers to int8, dynamically: activations are quantised at run time.

    R2Gen's memory stays in fp32: it is advanced by every word, so that its errors would accumulate. For inference only,
    with fp32 in the rest of the model. Raises UserError if the device is not a CPU.
    """
    if device.type != "cpu":
        raise UserError(f"eval.int8=true needs a CPU, but the device is {device.type}: use train.device=cpu")
    with warnings.catch_warnings():
        # Deprecated in favour of the package torchao, but present in the pinned version of PyTorch.
        warnings.filterwarnings("ignore", category=DeprecationWarning, message=r"torch\.ao\.quantization is deprecated")
        warnings.filterwarnings("ignore", category=UserWarning, message=r"torch\.quantize_per_")
        config = torch.ao.quantization.default_dynamic_qconfig
        model.decoder = torch.ao.quantization.quantize_dynamic(
            model.decoder, dict.fromkeys(_names_of_int8(model.decoder), config), dtype=torch.qint8
        )


def _names_of_int8(decoder: nn.Module) -> list[str]:
    """Return the names of the linear layers that are quantised."""
    memories = [name for name, part in decoder.named_modules() if isinstance(part, RelationalMemory)]
    return [
        name for name, part in decoder.named_modules()
        if type(part) is nn.Linear and not any(name.startswith(f"{memory}.") for memory in memories)
    ]


def arrange_for_batches(model: SGRRG, device: torch.device) -> None:
    """Store the decoder's linear weights column by column in memory; their shapes and values stay as they are.

    On a CPU, products of few rows with them are then faster: decoding by about 4 % with batches of 4 and 10 % with 16,
    while batches of 1 lose 5 %. On other devices nothing is changed. For inference only, since an optimizer's state has
    the order of the weights it was made for.
    """
    if device.type != "cpu" or model.decoder is None:
        return
    for part in model.decoder.modules():
        if type(part) is nn.Linear:
            part.weight.data = part.weight.data.t().contiguous().t()


@contextmanager
def evaluation_mode(model: nn.Module) -> Iterator[None]:
    """Evaluation mode for all submodules; restores the mode of each on exit."""
    modes = [(module, module.training) for module in model.modules()]
    model.eval()
    try:
        yield
    finally:
        for module, mode in modes:
            module.training = mode


# Distributed helpers


@contextmanager
def distributed(device: torch.device) -> Iterator[None]:
    """Set up the process group of torchrun (nccl on GPUs, gloo on CPUs) for the block; a no-op without torchrun.

    An exception in the block ends all processes within seconds. The first one that fails prints a line with its rank
    and the error; the block raises SystemExit. Raises UserError if not all processes start within a few minutes.
    """
    if int(os.environ.get("WORLD_SIZE", 1)) == 1:
        yield
        return
    watch = _join_others("nccl" if device.type == "cuda" else "gloo")
    try:
        yield
    except (SystemExit, GeneratorExit):  # the others leave as well, or one of them has said why
        watch.leave()
        raise
    except KeyboardInterrupt as error:
        watch.fail(error)
        raise
    except BaseException as error:
        watch.fail(error)
        raise SystemExit(1) from error
    watch.stop()
    dist.destroy_process_group()


def _join_others(backend: str) -> FailureWatch:
    """Create the process group of torchrun. Raises UserError if not all processes join."""
    processes, address = os.environ["WORLD_SIZE"], f"{os.environ['MASTER_ADDR']}:{os.environ['MASTER_PORT']}"
    limit = _MEETING_ON_ONE_MACHINE if os.environ.get("LOCAL_WORLD_SIZE") == processes else _MEETING

    def describe(why: str) -> str:
        return (
            f"Rank {os.environ['RANK']}: not all of the {processes} processes have met at {address} within "
            f"{limit.total_seconds():.0f} s ({why}): start all of them, or end the others"
        )

    def end() -> None:
        print(describe("one has ended while they connected"), file=sys.stderr, flush=True)
        os._exit(1)

    try:
        store, own_rank, count = next(dist.rendezvous("env://", timeout=limit))
        # Gloo waits half an hour for a process that has ended after it had published its address.
        timer = threading.Timer(limit.total_seconds(), end)
        timer.daemon = True
        timer.start()
        try:
            dist.init_process_group(backend, store=store, rank=own_rank, world_size=count)
        finally:
            timer.cancel()
    except RuntimeError as error:
        raise UserError(describe(str(error).splitlines()[0])) from error
    store.set_timeout(_MEETING)
    return FailureWatch(store, own_rank, count)


def is_distributed() -> bool:
    """Whether there is a process group."""
    return dist.is_available() and dist.is_initialized()


def rank() -> int:
    """Return the rank of this process, 0 without a process group."""
    return dist.get_rank() if is_distributed() else 0


def world_size() -> int:
    """Return the number of processes."""
    return dist.get_world_size() if is_distributed() else 1


def is_rank_zero() -> bool:
    """Whether this process writes files and console output."""
    return rank() == 0


def sum_over_processes(tensor: Tensor) -> Tensor:
    """Return the sum of `tensor` over all processes."""
    if is_distributed():
        tensor = tensor.clone()
        dist.all_reduce(tensor, op=dist.ReduceOp.SUM)
    return tensor


def maximum_over_processes(number: int, device: torch.device) -> int:
    """Return the maximum of `number` over all processes. device: the device of this process."""
    if not is_distributed():
        return number
    largest = torch.tensor(number, device=device)
    dist.all_reduce(largest, op=dist.ReduceOp.MAX)
    return int(largest)


def gather_objects(item: Item) -> list[Item]:
    """Return the `item` of every process, in order of rank."""
    if not is_distributed():
        return [item]
    items = [None] * world_size()
    dist.all_gather_object(items, item)
    return items


def broadcast_object(item: Item) -> Item:
    """Return the `item` of rank zero."""
    if not is_distributed():
        return item
    items = [item]
    dist.broadcast_object_list(items, src=0)
    return items[0]


def gather_to_rank_zero(item: Item) -> list[Item] | None:
    """Return the `item` of every process, in order of rank, on rank zero; None in the other processes."""
    if not is_distributed():
        return [item]
    items = [None] * world_size() if is_rank_zero() else None
    dist.gather_object(item, items, group=_patient_group())
    return items


def wait_for_rank_zero(item: Item) -> Item:
    """Return the `item` of rank zero, as `broadcast_object` does, however long rank zero takes to compute it."""
    if not is_distributed():
        return item
    items = [item]
    dist.broadcast_object_list(items, src=0, group=_patient_group())
    return items[0]


def _patient_group() -> dist.ProcessGroup:
    """Return a group of all processes that waits for `_PATIENCE`. Objects stay on the CPU: it uses gloo, not nccl.

    The first call creates it, so all processes must take part in it.
    """
    world = dist.group.WORLD
    if _patient_groups.get(world) is None:
        _patient_groups.clear()  # of a process group that has been destroyed
        _patient_groups[world] = dist.new_group(backend="gloo", timeout=_PATIENCE)
    return _patient_groups[world]


def run_on_rank_zero(compute: Callable[[], Item]) -> Item:
    """Call `compute` on rank zero and return its result in every process.

    Raises its UserError on rank zero; the other processes exit with status 1, so the message is printed once.
    """
    result, message = None, None
    if is_rank_zero():
        try:
            result = compute()
        except UserError as error:
            message = str(error)
    result, message = broadcast_object((result, message))
    if message is not None:
        raise UserError(message) if is_rank_zero() else SystemExit(1)
    return result


def broadcast_buffers(module: nn.Module) -> None:
    """Copy rank zero's buffers (BatchNorm's running means) to all processes: DDP does not synchronise them."""
    if is_distributed():
        for buffer in module.buffers():
            dist.broadcast(buffer, src=0)


# Stop signals


class StopSignals:
    """Context manager in which SIGINT (Ctrl-C) and SIGTERM are recorded instead of ending the process.

    received  number of the first signal, 0 if there was none
    """

    def __init__(self) -> None:
        self.received = 0
        self._handlers: dict[signal.Signals, Any] = {}

    def __enter__(self) -> "StopSignals":
        for number in (signal.SIGINT, signal.SIGTERM):
            self._handlers[number] = signal.signal(number, self._record)
        return self

    def __exit__(self, *_: object) -> None:
        for number, handler in self._handlers.items():
            signal.signal(number, handler)

    def _record(self, number: int, _: object) -> None:
        self.received = self.received or number


def ignore_stop_signals(_: int) -> None:
    """`worker_init_fn` of loaders: Ctrl-C reaches workers too, but the main process still needs their batches."""
    signal.signal(signal.SIGINT, signal.SIG_IGN)
    signal.signal(signal.SIGTERM, signal.SIG_IGN)
