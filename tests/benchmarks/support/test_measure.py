"""Contenders in separate processes, and their report."""

import json
import multiprocessing
import os
import subprocess
import sys
import time
from functools import partial

import numpy as np
import pytest

from benchmarks.support.measure import (
    ALLOCATOR,
    OURS,
    Case,
    Contender,
    Rates,
    Report,
    compare,
    measure_rates,
    peak_mib,
    private_mib,
)
from data.errors import UserError
from tests.support.checkout import ROOT


def built(source: str) -> partial:
    """A `build` that runs `source` and returns nothing, for contenders that end before they are timed."""
    return partial(exec, source)


def dict_of_environment() -> dict[str, str]:
    return dict(os.environ)


@pytest.fixture
def case() -> Case:
    return Case("a case", {OURS: [1.0, 2.0, 4.0], "other": [6.0]}, {OURS: 10.0, "other": 20.0}, floor_seconds=0.5)


def test_contenders_take_turns_in_processes_of_their_own(tmp_path):
    log = tmp_path / "log"
    log.touch()
    mark = "open({!r}, 'a').write('{} ' + str(__import__('os').getpid()) + chr(10))"
    contenders = [
        Contender(name, partial(partial, exec, mark.format(str(log), name)), runs=runs)
        for name, runs in ((OURS, None), ("other", None), ("once", 1))
    ]
    case = compare("turns", [*contenders, Contender("missing", built(
        "from benchmarks.support.measure import Absent; raise Absent('it is not installed')"))], repeats=3, threads=1)
    lines = [line.split() for line in log.read_text().splitlines()]
    assert [name for name, _ in lines] == [OURS, "other", "once", OURS, "other", OURS, "other"]
    assert len({process for _, process in lines}) == 3
    assert str(os.getpid()) not in {process for _, process in lines}
    assert {name: len(times) for name, times in case.seconds.items()} == {OURS: 3, "other": 3, "once": 1}
    assert case.absent == {"missing": "it is not installed"}
    assert all(peak > 1 for peak in case.peak_mib.values())


def test_contenders_have_the_memory_settings_of_the_run_scripts(monkeypatch):
    for name in ALLOCATOR:
        monkeypatch.delenv(name, raising=False)
    monkeypatch.setenv("MALLOC_TRIM_THRESHOLD_", "1")  # what the user has set stays
    printed = f"{sys.executable} -c 'import json, os; print(json.dumps(dict(os.environ)))'"
    script = f"source ./environment.sh; tune_memory; {printed}"
    output = subprocess.run(["bash", "-c", script], cwd=ROOT, capture_output=True, text=True, check=True).stdout
    of_scripts = {name: value for name, value in json.loads(output).items() if name in ALLOCATOR}
    case = compare("environment", [Contender(OURS, partial(partial, dict_of_environment))], repeats=1, threads=1)
    of_contender = {name: value for name, value in case.results[OURS].items() if name in ALLOCATOR}
    assert of_scripts == of_contender == ALLOCATOR | {"MALLOC_TRIM_THRESHOLD_": "1"}
    assert os.environ.keys() & ALLOCATOR.keys() == {"MALLOC_TRIM_THRESHOLD_"}


BROKEN = "raise ValueError('broken')"


@pytest.mark.parametrize("build", [built(BROKEN), partial(partial, exec, BROKEN)])
def test_a_failing_contender_is_an_error_with_its_traceback(build):
    with pytest.raises(RuntimeError, match="The contender other failed(.|\n)*ValueError: broken"):
        compare("failing", [Contender("other", build)], repeats=1, threads=1)


def test_a_dying_contender_is_an_error():
    with pytest.raises(RuntimeError, match="died"):
        compare("dying", [Contender("other", partial(os._exit, 1))], repeats=1, threads=1)


def test_an_interrupt_ends_the_contenders_in_silence(capfd):
    """Ctrl-C in a terminal reaches all processes."""
    kill = "[os.kill(one, signal.SIGINT) for one in (os.getpid(), os.getppid())]"
    code = f"import os, signal, time; {kill}; time.sleep(60)"
    with pytest.raises(KeyboardInterrupt):
        compare("interrupted", [Contender(OURS, partial(partial, exec, code))], repeats=1, threads=1)
    assert multiprocessing.active_children() == []
    assert capfd.readouterr().err == ""


def test_a_contender_that_takes_long_is_not_asked_again(monkeypatch):
    monkeypatch.setattr("benchmarks.support.measure.LONG_SECONDS", 0.01)
    case = compare("long", [Contender(OURS, partial(partial, time.sleep, 0.02))], repeats=3, threads=1)
    assert len(case.seconds[OURS]) == 1


def test_medians_ratios_and_the_floor(case):
    content = case.to_dict()
    assert content["seconds"] == {OURS: 2.0, "other": 6.0}
    assert content["spread"] == {OURS: [1.0, 4.0], "other": [6.0, 6.0]}
    assert content["ratio"] == {OURS: 1.0, "other": 3.0}
    assert content["runs"] == {OURS: 3, "other": 1}
    assert content["floor_seconds"] == 0.5
    assert Rates(gflops=2, gigabytes_per_second=4).floor(4e9, 4e9) == 2.0
    assert Rates(gflops=2, gigabytes_per_second=4).floor(4e9, 16e9) == 4.0


def test_rates_are_positive_and_threads_stay_as_they_were():
    import torch

    before = torch.get_num_threads()
    rates = measure_rates(threads=before + 1, side=64, runs=2)
    assert rates.gflops > 0 and rates.gigabytes_per_second > 0
    assert torch.get_num_threads() == before


def test_a_report_is_printed_and_written(case, tmp_path, capsys):
    report = Report("decode", 2, Rates(100, 20))
    report.print_header()
    case.absent["missing"] = "not installed"
    report.add(case)
    printed = capsys.readouterr().out
    for part in ("2 threads", "100 GFLOP/s", "torch ", "3.00x", "missing", "not installed", "4.00 times the floor"):
        assert part in printed
    file = tmp_path / "numbers.json"
    report.write(file)
    content = json.loads(file.read_text())
    assert content.keys() == {"benchmark", "machine", "threads", "versions", "rates", "cases"}
    assert content["cases"]["a case"]["absent"] == {"missing": "not installed"}
    assert content["machine"]["cores"] == os.cpu_count()
    assert [path.name for path in tmp_path.iterdir()] == ["numbers.json"]
    with pytest.raises(UserError, match="--json"):
        report.write(tmp_path / "nowhere" / "numbers.json")


def test_the_peak_counts_what_processes_of_a_contender_hold():
    hold = "held = bytearray(b'x') * (80 * 2**20); __import__('time').sleep(0.5)"
    nested = f"import subprocess, sys; subprocess.run([sys.executable, '-c', {hold!r}])"
    run_nested = f"import subprocess, sys; subprocess.run([sys.executable, '-c', {nested!r}])"
    case = compare("nested", [
        Contender(OURS, partial(partial, exec, run_nested)), Contender("other", partial(partial, exec, "pass")),
    ], repeats=1, threads=1)
    assert case.peak_mib[OURS] > case.peak_mib["other"] + 70


def test_the_peak_counts_what_this_process_has_held():
    before = peak_mib()
    held = bytearray(int((before + 50) * 2**20))
    assert peak_mib() >= before + 50
    del held


def test_private_memory_leaves_out_mapped_files(tmp_path):
    path = tmp_path / "file"
    path.write_bytes(bytes(50 << 20))
    before = private_mib()
    mapped = np.memmap(path, mode="r")
    assert mapped.sum() == 0 and private_mib() < before + 25
    kept = np.ones(50 << 20, np.uint8)
    assert kept.sum() > 0 and private_mib() > before + 40
