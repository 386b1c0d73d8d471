"""`python -m benchmarks gpu` on the CPU, with tiny sizes and all parts in this process."""

import json

import pytest
import torch

from benchmarks.__main__ import main
from benchmarks.gpu import device_tests, parts
from benchmarks.gpu.decoding import TRANSFORMERS
from benchmarks.gpu.parts import NotPossible, Outcome, Part
from benchmarks.gpu.training import CONFIGS
from benchmarks.support.measure import OURS
from data.errors import UserError
from modules.config import load_config
from modules.runtime import choose_precision

COMPILED = [f"{name}, compiled" for name in CONFIGS]


@pytest.fixture(autouse=True)
def in_this_process(monkeypatch):
    """Run parts in this process, to save the time that processes take to start (see `test_parts.py`)."""
    def run_part(part: Part, limit: float) -> Outcome:
        outcome = Outcome()
        try:
            part.measure(outcome.values.update)
        except (NotPossible, UserError) as error:
            outcome.missing = str(error)
        return outcome

    monkeypatch.setattr(parts, "run_part", run_part)
    monkeypatch.setattr(torch.cuda, "is_available", lambda: False)


def test_all_parts_run_without_a_gpu(tmp_path, capsys):
    file = tmp_path / "gpu.json"
    assert main(["gpu", "--minutes", "100", "--json", str(file)]) == 0
    report = json.loads(file.read_text())
    assert report["benchmark"] == "gpu" and report["tiny"] and report["device"] == "CPU"
    assert report["parts"].keys() == report["seconds"].keys() == {"tests", "rates", *CONFIGS, "decoding", *COMPILED}
    for case in report["parts"]["decoding"].values():
        assert case["seconds"][OURS] > 0
        assert case["seconds"].keys() | case["absent"].keys() == {OURS, TRANSFORMERS}
        assert 0 < case["share_of_peak"][OURS] < 1
    assert [case["batch"] for case in report["parts"]["decoding"].values()] == [1, 2, 1, 2]
    for name in CONFIGS:
        values = report["parts"][name]
        assert values["steps"] == 2 and values["micro_batches"] == 2 and values["studies_per_step"] == 4
        assert values["views"] == (2 if name == "iu_xray" else 1)
        assert values["images_per_second"] == pytest.approx(4 * values["views"] / values["step_seconds"])
        assert values["headroom"] == pytest.approx(values["loader_images_per_second"] / values["images_per_second"])
        assert 0 < values["share_of_peak"] < 1
        assert values["gradient_bytes"] == 4 * values["parameters"]
        precision = load_config(f"configs/{name}.yaml").train.precision
        assert values["precision"] == choose_precision(precision, torch.device("cpu"))
    one_view, two_views = (report["parts"][name]["input_bytes_per_study"] for name in ("mimic_cxr", "iu_xray"))
    assert two_views > one_view
    assert set(report["not_done"]) == {"tests", *COMPILED}
    output = capsys.readouterr().out
    assert "No GPU: tiny sizes on the CPU" in output
    assert "Not done: tests: the tests marked gpu need a GPU" in output
    for name in CONFIGS:
        assert f"| `{name}` | 4, " in output
        assert f"Not done: {name}, compiled: train.compile is not measured on a CPU" in output


def test_without_time_every_part_is_skipped_and_the_report_is_written(tmp_path, capsys):
    file = tmp_path / "gpu.json"
    assert main(["gpu", "--minutes", "0.001", "--json", str(file)]) == 0
    report = json.loads(file.read_text())
    assert report["not_done"].keys() == report["parts"].keys() and len(report["parts"]) == 9
    assert all(reason.startswith("no time left") for reason in report["not_done"].values())
    assert capsys.readouterr().out.count("Not done: ") == 9


@pytest.mark.parametrize(("arguments", "message"), [
    (["--minutes", "0"], "--minutes=0.0: must be above 0"),
    (["--json", "no/file"], "--json no/file: no folder"),
])
def test_unusable_option_is_one_line(arguments, message, capsys):
    assert main(["gpu", *arguments]) == 1
    (line,) = capsys.readouterr().err.splitlines()
    assert line.startswith(f"error: {message}")


@pytest.mark.parametrize(("output", "expected"), [
    ("14 passed, 900 deselected in 20.1s", {"passed": 14, "failures": []}),
    ("FAILED tests/a.py::test_b[fp16] - assert 1 == 2\n1 failed, 13 passed in 2s",
     {"passed": 13, "failed": 1, "failures": ["tests/a.py::test_b[fp16]"]}),
    ("ERROR tests/a.py - ImportError\n1 error in 2s", {"error": 1, "failures": ["tests/a.py"]}),
])
def test_results_of_the_device_tests_are_counted(monkeypatch, output, expected):
    values = {}
    monkeypatch.setattr(device_tests, "run_pytest", lambda tests: output)
    device_tests.run_device_tests(values.update, "cuda")
    assert values == expected


def test_device_tests_run_without_the_plugins_of_pyproject():
    output = device_tests.run_pytest("tests/data/test_batch.py")
    # On a machine without a GPU they fail, but they are found.
    assert "deselected" in output and ("1 passed" in output or "1 failed" in output), output
