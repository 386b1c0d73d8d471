"""What the device can do: matrix products in each precision, and copies of its memory."""

import time
from collections.abc import Callable

import torch

from benchmarks.gpu.parts import Publish, Values
from benchmarks.support.measure import Rates
from modules.runtime import configure_backends

# Sides of the products and bytes of the copies.
GPU_SIDE, TINY_SIDE = 8192, 256
GPU_BYTES, TINY_BYTES = 2**30, 2**20
# Products of fp32 use TF32 on a GPU, as in training.
PRECISIONS = {"fp32": torch.float32, "bf16": torch.bfloat16, "fp16": torch.float16}
ELEMENT_BYTES = {name: dtype.itemsize for name, dtype in PRECISIONS.items()}


def measure_rates(publish: Publish, device_type: str, tiny: bool) -> None:
    """Publish `teraflops_PRECISION` of square matrix products and `gigabytes_per_second` read and written by a copy."""
    device = torch.device(device_type)
    configure_backends(device)
    side, size = (TINY_SIDE, TINY_BYTES) if tiny else (GPU_SIDE, GPU_BYTES)
    for name, dtype in PRECISIONS.items():
        left, right = (torch.randn(side, side, device=device).to(dtype) for _ in range(2))
        seconds = fastest(lambda left=left, right=right: left @ right, device)
        publish({f"teraflops_{name}": 2 * side**3 / seconds / 1e12})
    source, target = (torch.zeros(size, dtype=torch.uint8, device=device) for _ in range(2))
    publish({"gigabytes_per_second": 2 * size / fastest(lambda: target.copy_(source), device) / 1e9})


def fastest(function: Callable[[], object], device: torch.device, runs: int = 10) -> float:
    """Return the seconds of the fastest of `runs` calls, after one that is not counted."""
    times = [timed(function, device) for _ in range(runs + 1)]
    return min(times[1:])


def timed(function: Callable[[], object], device: torch.device) -> float:
    """Return the seconds of one call, until the device has finished."""
    synchronize(device)
    start = time.perf_counter()
    function()
    synchronize(device)
    return time.perf_counter() - start


def synchronize(device: torch.device) -> None:
    """Wait for a GPU."""
    if device.type == "cuda":
        torch.cuda.synchronize(device)


def rates_of(measured: Values, precision: str) -> Rates | None:
    """Return the rates of products in `precision` and of memory from what `measure_rates` published, None if absent."""
    flops, gigabytes = measured.get(f"teraflops_{precision}"), measured.get("gigabytes_per_second")
    return None if flops is None or gigabytes is None else Rates(1000 * flops, gigabytes)
