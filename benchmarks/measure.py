"""How all benchmarks measure: contenders in processes of their own, turn by turn, beside what the machine can do.

Every contender lives in a process of its own, so that its peak memory is its own, and they take turns within one
measurement, so that whatever slows the machine slows all of them. Memory is the most that the process held, and the
most that each process held which it started meanwhile.
"""

import argparse
import importlib.metadata
import json
import multiprocessing
import os
import platform
import resource
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

from data.errors import UserError

OURS = "ours"
# A contender that took longer than this is not asked again: its spread would cost more minutes than it tells.
LONG_SECONDS = 20.0
MIB = 2**20
_SECONDS_BETWEEN_LOOKS = 0.1


class Absent(Exception):
    """A contender that cannot take part here; the text says why and what mends it."""


@dataclass
class Contender:
    """name, and `build`, which in the contender's process prepares everything and returns what is to be timed.

    `build` must be importable (a function of a module, or a `functools.partial` of one). What the timed function
    returns comes back pickled. `runs`: how often at most; None: as often as the others.
    """

    name: str
    build: Callable[[], Callable[[], Any]]
    runs: int | None = None


@dataclass
class Case:
    """One comparison: seconds of every run and peak memory by contender, who is absent and why, the floor.

    results: what the last run of each contender returned; not written to JSON. notes: further numbers of the case.
    """

    name: str
    seconds: dict[str, list[float]] = field(default_factory=dict)
    peak_mib: dict[str, float] = field(default_factory=dict)
    absent: dict[str, str] = field(default_factory=dict)
    floor_seconds: float | None = None
    notes: dict[str, Any] = field(default_factory=dict)
    results: dict[str, Any] = field(default_factory=dict)

    def median(self, name: str) -> float:
        """Seconds of the middle run of contender `name`."""
        return statistics.median(self.seconds[name])

    def ratio(self, name: str) -> float:
        """How many times as long as ours contender `name` takes."""
        return self.median(name) / self.median(OURS)

    def to_dict(self) -> dict[str, Any]:
        """Plain JSON."""
        return {
            "seconds": {name: self.median(name) for name in self.seconds},
            "spread": {name: [min(times), max(times)] for name, times in self.seconds.items()},
            "runs": {name: len(times) for name, times in self.seconds.items()},
            "ratio": {name: self.ratio(name) for name in self.seconds if OURS in self.seconds},
            "floor_seconds": self.floor_seconds, "peak_mib": self.peak_mib, "absent": self.absent, "notes": self.notes,
        }


@dataclass
class Rates:
    """What the machine does: fp32 matrix products and reading of memory, measured."""

    gflops: float
    gigabytes_per_second: float

    def floor(self, flops: float, read_bytes: float = 0.0) -> float:
        """Seconds that so many operations and so many bytes take at least."""
        return max(flops / (self.gflops * 1e9), read_bytes / (self.gigabytes_per_second * 1e9))


def add_common_arguments(parser: argparse.ArgumentParser) -> None:
    """The options that every measurement has."""
    parser.add_argument("--json", type=Path, metavar="FILE", help="write the numbers there")
    parser.add_argument("--threads", type=int, default=torch.get_num_threads(), help="threads of every contender")
    parser.add_argument("--repeats", type=int, default=5, help="runs of every contender, taken in turn")
    parser.add_argument("--tiny", action="store_true", help="sizes that take seconds and mean nothing, to try it out")


def at_least(least: int, options: argparse.Namespace, *names: str) -> None:
    """Raise UserError where one of the options `names` is given and smaller than `least`."""
    for name in names:
        value = getattr(options, name)
        if value is not None and value < least:
            raise UserError(f"--{name.replace('_', '-')} {value} is too few: give at least {least}")


def compare(name: str, contenders: list[Contender], repeats: int, threads: int) -> Case:
    """Run the contenders in turn, `repeats` times, each in a process of its own.

    Raises RuntimeError with the traceback of a contender that fails.
    """
    case = Case(name)
    context = multiprocessing.get_context("spawn")
    running: dict[str, tuple[Connection, Any, int]] = {}
    try:
        for contender in contenders:
            ours, theirs = context.Pipe()
            process = context.Process(target=_work, args=(theirs, contender.build, threads))
            process.start()
            theirs.close()
            running[contender.name] = (ours, process, contender.runs or repeats)
            kind, content = _receive(ours, contender.name)
            if kind == "absent":
                case.absent[contender.name] = content
                del running[contender.name]
        for turn in range(repeats):
            for contender_name, (connection, _, runs) in running.items():
                done = case.seconds.setdefault(contender_name, [])
                if turn >= runs or (done and max(done) > LONG_SECONDS):
                    continue
                connection.send("run")
                _, (seconds, peak, result) = _receive(connection, contender_name)
                done.append(seconds)
                case.peak_mib[contender_name] = peak
                case.results[contender_name] = result
    finally:
        for connection, process, _ in running.values():
            connection.close()
            process.join(timeout=10)
            process.kill()
    return case


def _receive(connection: Connection, name: str) -> tuple[str, Any]:
    try:
        kind, content = connection.recv()
    except EOFError as error:
        raise RuntimeError(f"The contender {name} died (out of memory?)") from error
    if kind == "failed":
        raise RuntimeError(f"The contender {name} failed:\n{content}")
    return kind, content


def _work(connection: Connection, build: Callable[[], Callable[[], Any]], threads: int) -> None:
    """A contender's process: prepare, then run whenever asked, until the other side closes."""
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
            with descendants_mib() as others:
                start = time.perf_counter()
                result = timed()
                seconds = time.perf_counter() - start
            connection.send(("ran", (seconds, peak_mib() + sum(others.values()), result)))
    except EOFError:
        return
    except Exception:  # whatever it is, the other side must hear of it
        connection.send(("failed", traceback.format_exc()))


def peak_mib() -> float:
    """The most resident memory that this process has had, libraries included."""
    status = Path("/proc/self/status")
    if status.exists():  # the resource module would count what the parent had before the fork
        line = next(line for line in status.read_text().splitlines() if line.startswith("VmHWM"))
        return int(line.split()[1]) / 1024
    peak = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
    return peak / MIB if sys.platform == "darwin" else peak / 1024


@contextmanager
def descendants_mib() -> Iterator[dict[int, float]]:
    """The most resident memory of each process that this one and its children start meanwhile; empty without /proc.

    They are looked at while they live: what the system keeps of ended children counts this process's own memory too.
    """
    peaks: dict[int, float] = {}
    done = threading.Event()

    def look(parent: str) -> None:
        for children in Path("/proc", parent, "task").glob("*/children"):
            for child in children.read_text(encoding="ascii").split():
                lines = Path("/proc", child, "status").read_text(encoding="utf-8").splitlines()
                # A process that just ended has no memory any more.
                peaks.update(
                    (int(child), int(line.split()[1]) / 1024) for line in lines if line.startswith("VmHWM")
                )
                look(child)

    def watch() -> None:
        while not done.wait(_SECONDS_BETWEEN_LOOKS):
            with suppress(OSError):  # a thread or a process ended while it was looked at
                look("self")

    watcher = threading.Thread(target=watch)
    watcher.start()
    try:
        yield peaks
    finally:
        done.set()
        watcher.join()


def measure_rates(threads: int, side: int = 2048, runs: int = 7) -> Rates:
    """Best of `runs` products of two matrices [side, side], and of `runs` sums over 256 MiB, with `threads` threads."""
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


def machine() -> dict[str, Any]:
    """Processor, cores, memory and load of this machine."""
    model, memory = platform.processor() or platform.machine(), None
    if Path("/proc/cpuinfo").exists():
        names = [line for line in Path("/proc/cpuinfo").read_text().splitlines() if line.startswith("model name")]
        model = names[0].split(":", 1)[1].strip() if names else model
        memory = os.sysconf("SC_PAGE_SIZE") * os.sysconf("SC_PHYS_PAGES") / MIB
    return {
        "processor": model, "cores": os.cpu_count(), "memory_mib": memory, "system": platform.platform(),
        "load_before": os.getloadavg()[0],
    }


def versions() -> dict[str, str | None]:
    """Python's version and those of the packages that do the work; None where one is not installed."""
    found: dict[str, str | None] = {"python": platform.python_version()}
    for package in ("torch", "torchvision", "numpy", "Pillow", "pycocoevalcap", "transformers"):
        try:
            found[package] = importlib.metadata.version(package)
        except importlib.metadata.PackageNotFoundError:
            found[package] = None
    return found


@dataclass
class Report:
    """Everything that one command measured; printed as it comes, written to JSON at the end."""

    benchmark: str
    threads: int
    rates: Rates
    cases: list[Case] = field(default_factory=list)
    machine: dict[str, Any] = field(default_factory=machine)
    versions: dict[str, str | None] = field(default_factory=versions)

    def print_header(self) -> None:
        """Machine, threads, versions and rates."""
        print(f"{self.machine['processor']}, {self.machine['cores']} cores, {self.threads} threads, "
              f"load before {self.machine['load_before']:.2f}")
        print(", ".join(f"{name} {version or 'absent'}" for name, version in self.versions.items()))
        print(f"measured: {self.rates.gflops:.0f} GFLOP/s in fp32 matrix products, "
              f"{self.rates.gigabytes_per_second:.0f} GB/s read from memory")

    def add(self, case: Case) -> None:
        """Keep `case` and print its table."""
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
        """Write JSON to `path`, if it is given. Raises UserError where that is impossible."""
        if path is None:
            return
        content = {
            "benchmark": self.benchmark, "machine": self.machine, "threads": self.threads, "versions": self.versions,
            "rates": {"matmul_gflops": self.rates.gflops, "read_gigabytes_per_second": self.rates.gigabytes_per_second},
            "cases": {case.name: case.to_dict() for case in self.cases},
        }
        partial = path.with_name(f".{path.name}.partial")
        try:
            partial.write_text(json.dumps(content, indent=2) + "\n", encoding="utf-8")
            partial.replace(path)
        except OSError as error:
            raise UserError(f"Cannot write {path}: {error.strerror}; choose another --json") from error
        print(f"\nwritten: {path}")


def start_report(benchmark: str, options: argparse.Namespace) -> Report:
    """A report with the rates measured now and its header printed.

    Raises UserError for options that cannot be, before anything is measured.
    """
    at_least(1, options, "threads", "repeats")
    if options.json is not None and not options.json.absolute().parent.is_dir():
        raise UserError(f"--json {options.json}: there is no folder {options.json.absolute().parent}; create it first")
    report = Report(benchmark, options.threads, measure_rates(options.threads, 256 if options.tiny else 2048))
    report.print_header()
    return report
