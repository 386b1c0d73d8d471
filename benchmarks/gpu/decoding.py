"""Beam search on the device: ours beside transformers' `generate`, as `python -m benchmarks decode` compares them."""

import statistics
from collections.abc import Callable
from functools import partial

import torch

from benchmarks.decode import BEAMS, build_ours, build_transformers
from benchmarks.gpu.parts import Publish
from benchmarks.gpu.rates import ELEMENT_BYTES, timed
from benchmarks.support.measure import OURS, Absent
from benchmarks.support.workload import TINY, Sizes, build, decode_bytes, decode_flops
from modules.runtime import configure_backends

BATCHES, TINY_BATCHES = (1, 16, 64), (1, 2)
WORDS, TINY_WORDS = 100, 6
RUNS = 3
TRANSFORMERS = "transformers"


def measure_decoding(publish: Publish, device_type: str, tiny: bool) -> None:
    """Publish for each "PRECISION, batch B": seconds of both by name, operations, bytes read, and reasons of absence.

    bf16 is autocast for both.
    """
    device = torch.device(device_type)
    configure_backends(device)
    words = TINY_WORDS if tiny else WORDS
    for precision in ("bf16", "fp32"):
        for batch in TINY_BATCHES if tiny else BATCHES:
            sizes = (TINY if tiny else Sizes()).with_batch(batch)
            workload = build(sizes, endless=True)
            case = {
                "precision": precision, "batch": batch, "words": words, "beams": BEAMS,
                "flops": decode_flops(workload, BEAMS, words),
                # Counted for fp32.
                "bytes": decode_bytes(workload, BEAMS, words) * ELEMENT_BYTES[precision] / 4,
                "seconds": {}, "absent": {},
            }
            for name, builder in ((OURS, build_ours), (TRANSFORMERS, build_transformers)):
                try:
                    case["seconds"][name] = _seconds(partial(builder, sizes, words, device_type), precision, device)
                except Absent as absence:
                    case["absent"][name] = str(absence)
                publish({f"{precision}, batch {batch}": case})


def _seconds(build_generate: Callable[[], Callable[[], object]], precision: str, device: torch.device) -> float:
    """Return the median seconds to generate, after one run that is not counted."""
    with torch.autocast(device.type, torch.bfloat16, enabled=precision == "bf16"):
        generate = build_generate()
        generate()
        return statistics.median(timed(generate, device) for _ in range(RUNS))
