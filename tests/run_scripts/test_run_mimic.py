"""From MIMIC-CXR-JPG, its reports and Chest ImaGenome to scores, with the commands that a user runs."""

import json
import os
import subprocess
import sys
from pathlib import Path

import pytest

from data.prepare import main as prepare
from modules.evaluation.scoring import SCORE_NAMES
from tests.support.checkout import path_without_java
from tests.support.sources.mimic_fixture import write_mimic_fixture
from tests.support.tiny_training import SMALLEST_SGRRG

ROOT = Path(__file__).resolve().parents[2]


def run(folder: Path, script: str, *arguments: str) -> subprocess.CompletedProcess:
    variables = os.environ | {
        "PATH": path_without_java(folder), "PYTHON": sys.executable, "CUDA_VISIBLE_DEVICES": "",
        "OMP_NUM_THREADS": "1",
    }
    command = ["bash", script, *arguments]
    return subprocess.run(command, cwd=ROOT, env=variables, capture_output=True, text=True, check=False)


def train(folder: Path, data: Path, *settings: str) -> subprocess.CompletedProcess:
    return run(
        folder, "run_mimic.sh", f"data.root={data}", f"results={folder / 'results'}", *SMALLEST_SGRRG,
        "data.image_size=32", "data.max_tokens=20", "data.min_word_count=1", "data.min_attribute_count=1",
        "optim.batch_size=4", "data.workers=0", "train.epochs=1", "train.precision=fp32", "train.device=cpu",
        "eval.meteor_in_validation=false", *settings,
    )  # fmt: skip


# Three processes import PyTorch.
@pytest.mark.timeout(400)
def test_mimic_is_prepared_trained_on_and_tested(tmp_path):
    fixture = write_mimic_fixture(tmp_path / "downloads")
    data = tmp_path / "prepared"
    sources = [f"--source={path}" for path in fixture.sources]
    assert prepare(["mimic_cxr", *sources, "--out", str(data), "--image-size", "32", "--workers", "1"]) == 0
    training = train(tmp_path, data)
    assert training.returncode == 0, training.stderr
    results = tmp_path / "results/mimic_cxr"
    metrics = json.loads((results / "metrics.json").read_text(encoding="utf-8"))
    assert (metrics["split"], metrics["graph_source"], metrics["studies"]) == ("test", "predicted", 3)
    assert metrics["list"] == "mimic-cxr-2.0.0, frontal images only"
    assert "mimic_cxr (list mimic-cxr-2.0.0, frontal images only), split test, 3 studies" in training.stdout
    assert set(metrics["scores"]) == set(SCORE_NAMES)
    assert metrics["scores"]["box_iou"] > 0 and metrics["scores"]["meteor"] is None
    attributes = json.loads((results / "best/vocabularies.json").read_text(encoding="utf-8"))["attributes"]
    assert attributes["rule"] == "default" and len(attributes["by_region"]["left lung"]) > 2

    (results / "metrics.json").unlink()
    options = ["--checkpoint", str(results), "--data", str(data), "train.device=cpu"]
    testing = run(tmp_path, "test_mimic.sh", *options)
    assert testing.returncode == 0, testing.stderr
    assert json.loads((results / "metrics.json").read_text(encoding="utf-8")) == metrics


@pytest.mark.timeout(400)
def test_mimic_is_trained_on_with_indication_and_prior(tmp_path):
    fixture = write_mimic_fixture(tmp_path / "downloads")
    data = tmp_path / "prepared"
    sources = [f"--source={path}" for path in fixture.sources]
    assert prepare(["mimic_cxr", *sources, "--out", str(data), "--image-size", "32", "--workers", "1"]) == 0
    training = train(tmp_path, data, "model.context=[indication,prior]", "model.prior_report=true")
    assert training.returncode == 0, training.stderr
    metrics = json.loads((tmp_path / "results/mimic_cxr/metrics.json").read_text(encoding="utf-8"))
    assert metrics["context"] == {"reads": ["indication", "prior", "prior report"], "shown": "all"}
    assert "context all of indication and prior and prior report" in training.stdout
