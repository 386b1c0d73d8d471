"""From the real images of IU X-Ray to scores, with the commands that a user runs."""

import json
import os
import subprocess
import sys
from pathlib import Path

import pytest

from data.prepare import main as prepare
from modules.evaluation.baselines.names import NAMES
from modules.evaluation.scoring import SCORE_NAMES
from tests.support.checkout import path_without_java
from tests.support.tiny_training import SMALLEST_SGRRG

ROOT = Path(__file__).resolve().parents[2]
SAMPLE = ROOT.parent / "shared" / "real" / "iu_xray" / "r2gen_sample"


def run(script: str, *arguments: str, **variables: str) -> subprocess.CompletedProcess:
    variables = os.environ | {"PYTHON": sys.executable, "CUDA_VISIBLE_DEVICES": "", "OMP_NUM_THREADS": "1"} | variables
    command = ["bash", script, *arguments]
    return subprocess.run(command, cwd=ROOT, env=variables, capture_output=True, text=True, check=False)


# Three processes import PyTorch, and METEOR starts Java once.
@pytest.mark.timeout(400)
@pytest.mark.skipif(not SAMPLE.is_dir(), reason="no real IU X-Ray images next to the checkout")
def test_real_images_are_prepared_trained_on_and_tested(tmp_path):
    data, results = tmp_path / "prepared", tmp_path / "results"
    assert prepare(["iu_xray", "--source", str(SAMPLE), "--out", str(data), "--workers", "1"]) == 0
    training = run(
        "run_iu.sh", f"data.root={data}", f"results={results}", *SMALLEST_SGRRG, "eval.split=train", "train.epochs=1",
        "data.image_size=32", "data.min_word_count=1", "data.min_attribute_count=1", "data.workers=0",
        "train.device=cpu", "eval.meteor_in_validation=false", PATH=path_without_java(tmp_path),
    )  # fmt: skip
    assert training.returncode == 0, training.stderr
    path = results / "iu_xray" / "metrics_train.json"
    metrics = json.loads(path.read_text(encoding="utf-8"))
    assert (metrics["split"], metrics["graph_source"], metrics["studies"]) == ("train", "predicted", 4)
    assert set(metrics["scores"]) == set(SCORE_NAMES) and metrics["scores"]["region_auroc"] > 0
    assert metrics["scores"].pop("meteor") is None and metrics["baselines"].keys() == set(NAMES)

    path.unlink()
    checkpoint = str(results / "iu_xray")
    options = ["--data", str(data), "--baselines", "none", "eval.split=train", "train.device=cpu"]
    testing = run("test_iu.sh", "--checkpoint", checkpoint, *options)
    assert testing.returncode == 0, testing.stderr
    scores = json.loads(path.read_text(encoding="utf-8"))["scores"]
    assert 0 <= scores.pop("meteor") <= 1 and scores == metrics["scores"]
