"""Measures this machine's GPU: tests, training steps, loading and decoding of the real configurations.

    python -m benchmarks gpu [--minutes 6] [--json FILE]

Needs no data set, no internet and no further packages: images and reports are synthetic, weights random. What cannot be
measured, for lack of time or of a package, is listed with the reason. Without a GPU it runs with tiny sizes on the CPU,
which only shows that it works.

Parts, each in its own process: the tests marked `gpu`; rates of matrix products and memory; training steps of each
configuration with its batch and precision, and its loader; decoding beside transformers; training steps with
train.compile. --minutes is kept: a part gets its share of the remaining time and is stopped after it.

Headroom is the speed of the loader (data.workers processes) divided by that of the training steps: above 1, the GPU
does not wait. The share of the peak is the time that the counted operations would take at the measured rate of matrix
products in the same precision (for decoding, or the bytes at the measured rate of memory, whichever takes longer),
divided by the time that they took.
"""

import argparse
import tempfile
import time
from functools import partial
from pathlib import Path

import torch

from benchmarks.gpu.decoding import measure_decoding
from benchmarks.gpu.device_tests import run_device_tests
from benchmarks.gpu.parts import Outcome, Part, Values, run_parts
from benchmarks.gpu.rates import measure_rates, rates_of
from benchmarks.gpu.tables import COMPILED, format_tables
from benchmarks.gpu.training import CONFIGS, STUDIES, TINY_STUDIES, measure_training, write_studies
from benchmarks.support.measure import describe_machine, package_versions, write_json
from data.errors import UserError, wrong_value


def add_arguments(commands: argparse._SubParsersAction) -> None:
    """Register the command `gpu`."""
    parser = commands.add_parser("gpu", help="tests, training steps, loading and decoding on a GPU, within minutes")
    parser.add_argument("--minutes", type=float, default=6.0, help="time limit (default: %(default)g)")
    parser.add_argument("--json", type=Path, metavar="FILE", help="write the numbers to FILE after each part")
    parser.add_argument("--tiny", action="store_true", help="tiny sizes, to try the command in a minute")
    parser.set_defaults(run=run)


def run(options: argparse.Namespace) -> None:
    """Measure, print and write what the time allows. Raises UserError if an option is invalid."""
    deadline = time.monotonic() + 60 * options.minutes
    if not options.minutes > 0:
        raise wrong_value("--minutes", options.minutes, "must be above 0")
    if options.json is not None and not options.json.absolute().parent.is_dir():
        raise UserError(f"--json {options.json}: no folder {options.json.absolute().parent}; create it first")
    device_type = "cuda" if torch.cuda.is_available() else "cpu"
    tiny = options.tiny or device_type == "cpu"
    report = {
        "benchmark": "gpu", "machine": describe_machine(), "device": describe_device(device_type), "tiny": tiny,
        "versions": package_versions(), "minutes": options.minutes, "parts": {}, "seconds": {}, "not_done": {},
    }  # fmt: skip
    print(f"{report['device']}; {report['machine']['processor']}, {report['machine']['cores']} cores, "
          f"torch {report['versions']['torch']}")
    if device_type == "cpu":
        print("No GPU: tiny sizes on the CPU, whose numbers mean nothing")

    def finished(name: str, outcome: Outcome) -> None:
        report["parts"][name] = outcome.values
        report["seconds"][name] = outcome.seconds
        if outcome.missing is not None:
            report["not_done"][name] = outcome.missing
        add_shares(report["parts"])
        print(f"  {name}: {outcome.missing or 'done'} ({outcome.seconds:.0f} s)", flush=True)
        if options.json is not None:
            write_json(options.json, report, announce=False)

    with tempfile.TemporaryDirectory() as folder:
        root = Path(folder) / "data"
        write_studies(root, TINY_STUDIES if tiny else STUDIES)
        run_parts(plan_parts(root, device_type, tiny), deadline - time.monotonic(), finished)
    print("\n" + format_tables(report))


def describe_device(device_type: str) -> str:
    """Return the name and memory of the GPU, or "CPU"."""
    if device_type == "cpu":
        return "CPU"
    properties = torch.cuda.get_device_properties(0)
    return f"{properties.name}, {properties.total_memory / 2**30:.0f} GiB"


def plan_parts(root: Path, device_type: str, tiny: bool) -> list[Part]:
    """Return all parts, the most important first after the tests."""
    common = {"device_type": device_type, "tiny": tiny}
    training = partial(measure_training, root=root, **common)
    return [
        Part("tests", partial(run_device_tests, device_type=device_type), 3),
        Part("rates", partial(measure_rates, **common), 1),
        *(Part(name, partial(training, name=name, compiled=False), 2) for name in CONFIGS),
        Part("decoding", partial(measure_decoding, **common), 2),
        *(Part(name + COMPILED, partial(training, name=name, compiled=True), 3) for name in CONFIGS),
    ]


def add_shares(parts: dict[str, Values]) -> None:
    """Add shares of the peak and headroom to the parts that have what they need."""
    rates = parts.get("rates", {})
    for name in CONFIGS:
        for variant in (name, name + COMPILED):
            values = parts.get(variant, {})
            speed, flops = values.get("images_per_second"), parts.get(name, {}).get("flops_per_step")
            peak = rates_of(rates, values.get("precision", ""))
            if speed and flops and peak:
                values["share_of_peak"] = peak.floor(flops) / values["step_seconds"]
            loader = parts.get(name, {}).get("loader_images_per_second")
            if speed and loader:
                values["headroom"] = loader / speed
    for case in parts.get("decoding", {}).values():
        if peak := rates_of(rates, case["precision"]):
            floor = peak.floor(case["flops"], case["bytes"])
            case["share_of_peak"] = {name: floor / seconds for name, seconds in case["seconds"].items()}
