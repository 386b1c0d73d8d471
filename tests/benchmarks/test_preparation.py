"""The benchmark of preparing data sets runs with tiny sizes and measures all processes."""

import json
import os
import subprocess
import sys
import time

from benchmarks import preparation
from benchmarks.__main__ import main
from benchmarks.preparation import proportional_mib
from benchmarks.support.measure import Case


def in_this_process(name: str, contenders: list, repeats: int, threads: int) -> Case:
    """`compare` without separate processes, to save the time that they take to start."""
    case = Case(name)
    for contender in contenders:
        timed = contender.build()
        start = time.perf_counter()
        case.results[contender.name] = timed()
        case.seconds[contender.name] = [time.perf_counter() - start]
    return case


def test_rates_memory_and_projection_are_told(tmp_path, monkeypatch):
    monkeypatch.setattr(preparation, "compare", in_this_process)
    file = tmp_path / "numbers.json"
    assert main([
        "prepare", "--tiny", "--images", "30", "--full-size-images", "3", "--threads", "2", "--json", str(file),
    ]) == 0
    (case,) = json.loads(file.read_text(encoding="utf-8"))["cases"].values()
    notes = case["notes"]
    assert notes["images"] == {"phantom": 30, "full_size": 3}
    assert notes["images per second"].keys() == notes["CPU milliseconds per image"].keys() == case["seconds"].keys()
    assert notes["CPU milliseconds per image"]["full_size"] > 5
    hours = notes["MIMIC-CXR (377,110 images): hours with these workers"]
    assert abs(hours - 377_110 / 3 * case["seconds"]["full_size"] / 3600) < 0.01
    assert all(peak > 50 for peak in case["peak_mib"].values())


def test_memory_of_descendants_counts():
    alone = proportional_mib(os.getpid())
    hold = "held = bytearray(b'x') * (80 * 2**20); print(flush=True); input()"
    nested = f"import subprocess, sys; subprocess.run([sys.executable, '-c', {hold!r}])"
    with subprocess.Popen([sys.executable, "-c", nested], stdin=subprocess.PIPE, stdout=subprocess.PIPE) as process:
        process.stdout.readline()
        assert proportional_mib(os.getpid()) > alone + 70
        process.communicate(b"\n")
    assert proportional_mib(10**9) == 0.0
