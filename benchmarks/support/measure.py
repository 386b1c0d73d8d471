"""Measures contenders in separate processes, in turn, and what the machine can do.

Separate processes give each contender its own peak memory. Contenders take turns within one measurement, so that
anything that slows the machine slows all of them. Peak memory is that of the contender's process plus that of each
process that it starts.
"""

import argparse
import importlib.metadata
import json
import multiprocessing
import os
import platform
import resource
import signal
import statistics
import sys
import threading
import time
import traceback
from collections.abc import Callable, Iterator
from contextlib import contextmanager, suppress
from dataclasses import dataclass, field
from multiprocessing.connection import Connection
from pathlib import Path
from typing import Any

import torch

from data.errors import UserError, cannot_write, wrong_value

OURS = "ours"
# A contender that takes longer than this runs only once.
LONG_SECONDS = 20.0
MIB = 2**20
# The settings of glibc with which the run scripts compute on a CPU (`tune_memory` in environment.sh): all contenders
# have them. A process reads them when it starts.
ALLOCATOR = {
    "MALLOC_TRIM_THRESHOLD_": "2000000000",
    "MALLOC_MMAP_THRESHOLD_": "2000000000",
    "GLIBC_TUNABLES": "glibc.malloc.hugetlb=1",
}
_SECONDS_BETWEEN_SAMPLES = 0.1


class Absent(Exception):
    """Raised by a contender that cannot run here; the message says why and how to fix it."""


@dataclass
class Contender:
    """One of the programs that a benchmark compares.

    build   runs in the contender's process, prepares everything and returns the function to time. It must be importable
            (a function of a module, or a `functools.partial` of one); the result of the timed function is pickled.
    runs    maximum number of runs; None for as many as the others
    """

    name: str
    build: Callable[[], Callable[[], Any]]
    runs: int | None = None


@dataclass
class Case:
    """The measurements of one comparison, by contender.

    seconds        of every run
    absent         reason, for contenders that cannot run here
    floor_seconds  lower bound on the time of any contender
    notes          further numbers
    results        return value of the last run; not written to JSON
    """

    name: str
    seconds: dict[str, list[float]] = field(default_factory=dict)
    peak_mib: dict[str, float] = field(default_factory=dict)
    absent: dict[str, str] = field(default_factory=dict)
    floor_seconds: float | None = None
    notes: dict[str, Any] = field(default_factory=dict)
    results: dict[str, Any] = field(default_factory=dict)

    def median(self, name: str) -> float:
        """Return the median seconds of contender `name`."""
        return statistics.median(self.seconds[name])

    def ratio(self, name: str) -> float:
        """Return the median time of contender `name` divided by ours."""
        return self.median(name) / self.median(OURS)

    def to_dict(self) -> dict[str, Any]:
        """Return the case as plain JSON."""
        return {
            "seconds": {name: self.median(name) for name in self.seconds},
            "spread": {name: [min(times), max(times)] for name, times in self.seconds.items()},
            "runs": {name: len(times) for name, times in self.seconds.items()},
            "ratio": {name: self.ratio(name) for name in self.seconds if OURS in self.seconds},
            "floor_seconds": self.floor_seconds, "peak_mib": self.peak_mib, "absent": self.absent, "notes": self.notes,
        }


@dataclass
class Rates:
    """Measured rates of the machine: fp32 matrix products and memory reads."""

    gflops: float
    gigabytes_per_second: float

    def floor(self, flops: float, read_bytes: float = 0.0) -> float:
        """Return the minimum seconds for these numbers of operations and of bytes."""
        return max(flops / (self.gflops * 1e9), read_bytes / (self.gigabytes_per_second * 1e9))


def add_common_arguments(parser: argparse.ArgumentParser) -> None:
    """Declare the options that all measurements share."""
    parser.add_argument("--json", type=Path, metavar="FILE", help="write the numbers to FILE")
    parser.add_argument("--threads", type=int, default=torch.get_num_threads(),
                        help="threads per contender (default: %(default)s)")
    parser.add_argument("--repeats", type=int, default=5, help="runs per contender (default: %(default)s)")
    parser.add_argument("--tiny", action="store_true", help="tiny sizes, to try the command in seconds")


def require_at_least(least: int, options: argparse.Namespace, *names: str) -> None:
    """Raise UserError if one of the options `names` is given and smaller than `least`."""
    for name in names:
        value = getattr(options, name)
        if value is not None and value < least:
            raise wrong_value(f"--{name.replace('_', '-')}", value, f"must be at least {least}")


def compare(name: str, contenders: list[Contender], repeats: int, threads: int) -> Case:
    """Run the contenders in turn, `repeats` times, each in its own process.

    Raises RuntimeError, with the traceback, if a contender fails.
    """
    case = Case(name)
    context = multiprocessing.get_context("spawn")
    running: dict[str, tuple[Connection, Any, int]] = {}
    try:
        for contender in contenders:
            ours, theirs = context.Pipe()
            process = context.Process(target=_serve_contender, args=(theirs, contender.build, threads))
            with _environment(ALLOCATOR):
                process.start()
            theirs.close()
            running[contender.name] = (ours, process, contender.runs or repeats)
            kind, content = _receive(ours, contender.name)
            if kind == "absent":
                case.absent[contender.name] = content
                del running[contender.name]
        for turn in range(repeats):
            for contender_name, (connection, _, runs) in running.items():
                times = case.seconds.setdefault(contender_name, [])
                if turn >= runs or (times and max(times) > LONG_SECONDS):
                    continue
                connection.send("run")
                _, (seconds, peak, result) = _receive(connection, contender_name)
                times.append(seconds)
                case.peak_mib[contender_name] = peak
                case.results[contender_name] = result
    finally:
        for connection, process, _ in running.values():
            process.kill()
            process.join()
            connection.close()
    return case


@contextmanager
def _environment(variables: dict[str, str]) -> Iterator[None]:
    """Set those of `variables` in the environment that are not set, for processes that start in the block."""
    added = variables.keys() - os.environ.keys()
    os.environ.update({name: variables[name] for name in added})
    try:
        yield
    finally:
        for name in added:
            del os.environ[name]


def _receive(connection: Connection, name: str) -> tuple[str, Any]:
    try:
        kind, content = connection.recv()
    except EOFError as error:
        raise RuntimeError(f"The contender {name} died (out of memory?)") from error
    if kind == "failed":
        raise RuntimeError(f"The contender {name} failed:\n{content}")
    return kind, content


def _serve_contender(connection: Connection, build: Callable[[], Callable[[], Any]], threads: int) -> None:
    """Main function of a contender's process: prepare, then run on request until the connection is closed."""
    signal.signal(signal.SIGINT, signal.SIG_IGN)  # Ctrl-C reaches all processes, but the parent ends this one
    torch.set_num_threads(threads)
    try:
        try:
            timed = build()
        except Absent as absence:
            connection.send(("absent", str(absence)))
            return
        connection.send(("ready", None))
        while True:
            connection.recv()
            with track_descendants() as descendants:
                start = time.perf_counter()
                result = timed()
                seconds = time.perf_counter() - start
            connection.send(("ran", (seconds, peak_mib() + sum(descendants.values()), result)))
    except (EOFError, BrokenPipeError):  # the parent has ended
        return
    except Exception:  # any error is reported to the parent process
        connection.send(("failed", traceback.format_exc()))


def peak_mib() -> float:
    """Return the peak resident memory of this process, shared libraries included."""
    status = Path("/proc/self/status")
    if status.exists():  # ru_maxrss would include the memory of the parent before the fork
        line = next(line for line in status.read_text().splitlines() if line.startswith("VmHWM"))
        return int(line.split()[1]) / 1024
    peak = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
    return peak / MIB if sys.platform == "darwin" else peak / 1024


def private_mib() -> float:
    """Return the resident memory that this process shares with no other: without the pages of mapped files.

    Where the system does not say (no /proc), the peak resident memory.
    """
    status = Path("/proc/self/status")
    lines = status.read_text().splitlines() if status.exists() else []
    return next((int(line.split()[1]) / 1024 for line in lines if line.startswith("RssAnon")), peak_mib())


@contextmanager
def track_descendants() -> Iterator[dict[int, float]]:
    """Record the peak resident memory (MiB) of each descendant process, by process id; empty without /proc.

    Processes are sampled while they run, because the resource usage of ended children includes memory of this process.
    """
    peaks: dict[int, float] = {}
    done = threading.Event()

    def sample(parent: str) -> None:
        for children in Path("/proc", parent, "task").glob("*/children"):
            for child in children.read_text(encoding="ascii").split():
                lines = Path("/proc", child, "status").read_text(encoding="utf-8").splitlines()
                # A process that has just ended has no such line.
                peaks.update(
                    (int(child), int(line.split()[1]) / 1024) for line in lines if line.startswith("VmHWM")
                )
                sample(child)

    def sample_repeatedly() -> None:
        while not done.wait(_SECONDS_BETWEEN_SAMPLES):
            with suppress(OSError):  # a thread or process ended in between
                sample("self")

    sampler = threading.Thread(target=sample_repeatedly)
    sampler.start()
    try:
        yield peaks
    finally:
        done.set()
        sampler.join()


def measure_rates(threads: int, side: int = 2048, runs: int = 7) -> Rates:
    """Measure products of two matrices [side, side] and sums over 16 * side**2 floats; the fastest run counts."""
    before = torch.get_num_threads()
    torch.set_num_threads(threads)
    try:
        left, right = torch.randn(side, side), torch.randn(side, side)
        memory = torch.ones(16 * side * side)
        product = min(_seconds(lambda: left @ right) for _ in range(runs))
        reading = min(_seconds(memory.sum) for _ in range(runs))
    finally:
        torch.set_num_threads(before)
    return Rates(2 * side**3 / product / 1e9, memory.numel() * 4 / reading / 1e9)


def _seconds(function: Callable[[], Any]) -> float:
    start = time.perf_counter()
    function()
    return time.perf_counter() - start


def describe_machine() -> dict[str, Any]:
    """Return processor, cores, memory and load of this machine."""
    model, memory = platform.processor() or platform.machine(), None
    if Path("/proc/cpuinfo").exists():
        names = [line for line in Path("/proc/cpuinfo").read_text().splitlines() if line.startswith("model name")]
        model = names[0].split(":", 1)[1].strip() if names else model
        memory = os.sysconf("SC_PAGE_SIZE") * os.sysconf("SC_PHYS_PAGES") / MIB
    return {
        "processor": model, "cores": os.cpu_count(), "memory_mib": memory, "system": platform.platform(),
        "load_before": os.getloadavg()[0],
    }


def package_versions() -> dict[str, str | None]:
    """Return the versions of Python and of the packages that matter for speed; None for those not installed."""
    versions: dict[str, str | None] = {"python": platform.python_version()}
    for package in ("torch", "torchvision", "numpy", "Pillow", "pycocoevalcap", "transformers"):
        try:
            versions[package] = importlib.metadata.version(package)
        except importlib.metadata.PackageNotFoundError:
            versions[package] = None
    return versions


@dataclass
class Report:
    """The measurements of one command: printed case by case, written to JSON at the end."""

    benchmark: str
    threads: int
    rates: Rates
    cases: list[Case] = field(default_factory=list)
    machine: dict[str, Any] = field(default_factory=describe_machine)
    versions: dict[str, str | None] = field(default_factory=package_versions)

    def describe(self) -> dict[str, Any]:
        """Return what was measured, on which machine and with which versions, as plain JSON."""
        return {
            "benchmark": self.benchmark, "machine": self.machine, "threads": self.threads, "versions": self.versions,
            "rates": {"matmul_gflops": self.rates.gflops, "read_gigabytes_per_second": self.rates.gigabytes_per_second},
        }

    def print_header(self) -> None:
        """Print machine, threads, versions and rates."""
        print(f"{self.machine['processor']}, {self.machine['cores']} cores, {self.threads} threads, "
              f"load before {self.machine['load_before']:.2f}")
        print(", ".join(f"{name} {version or 'absent'}" for name, version in self.versions.items()))
        print(f"measured: {self.rates.gflops:.0f} GFLOP/s in fp32 matrix products, "
              f"{self.rates.gigabytes_per_second:.0f} GB/s memory reads")

    def add(self, case: Case) -> None:
        """Append `case` and print its table."""
        self.cases.append(case)
        print(f"\n{case.name}")
        print(f"  {'contender':24}{'median s':>10}{'min':>9}{'max':>9}{'runs':>6}{'to ours':>9}{'peak MiB':>10}")
        for name, times in case.seconds.items():
            ratio = f"{case.ratio(name):.2f}x" if OURS in case.seconds else ""
            print(f"  {name:24}{case.median(name):>10.3f}{min(times):>9.3f}{max(times):>9.3f}{len(times):>6}"
                  f"{ratio:>9}{case.peak_mib[name]:>10.0f}")
        for name, reason in case.absent.items():
            print(f"  {name:24} absent: {reason}")
        if case.floor_seconds is not None:
            line = f"  {'arithmetic floor':24}{case.floor_seconds:>10.3f}"
            if OURS in case.seconds:
                line += f"   ours takes {case.median(OURS) / case.floor_seconds:.2f} times the floor"
            print(line)
        for name, value in case.notes.items():
            print(f"  {name}: {value}")

    def write(self, path: Path | None) -> None:
        """Write JSON to `path`, unless it is None. Raises UserError if that fails."""
        if path is None:
            return
        cases = {case.name: case.to_dict() for case in self.cases}
        write_json(path, self.describe() | {"cases": cases})


def write_json(path: Path, content: dict[str, Any], announce: bool = True) -> None:
    """Write the numbers of a benchmark to `path` and print the path if `announce`. Raises UserError if that fails."""
    partial = path.with_name(f".{path.name}.partial")
    try:
        partial.write_text(json.dumps(content, indent=2) + "\n", encoding="utf-8")
        partial.replace(path)
    except OSError as error:
        raise cannot_write(path, error, "choose another --json") from error
    if announce:
        print(f"\nwritten: {path}")


def start_report(benchmark: str, options: argparse.Namespace) -> Report:
    """Measure the rates of the machine, print the header and return an empty report.

    Raises UserError if an option is invalid, before anything is measured.
    """
    require_at_least(1, options, "threads", "repeats")
    if options.json is not None and not options.json.absolute().parent.is_dir():
        raise UserError(f"--json {options.json}: no folder {options.json.absolute().parent}; create it first")
    report = Report(benchmark, options.threads, measure_rates(options.threads, 256 if options.tiny else 2048))
    report.print_header()
    return report
