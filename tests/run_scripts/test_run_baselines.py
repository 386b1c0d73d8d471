"""The table of baselines: which commands the script starts, and a real run of a few steps."""

import json
import os
import subprocess
import sys
from pathlib import Path

import pytest

from modules.config import load_config
from tests.support.checkout import Checkout, path_without_java
from tests.support.tiny_dataset import write_tiny_dataset

ROOT = Path(__file__).resolve().parents[2]
SYSTEMS = ["r2gen", "cmn", "camanet", "xpronet", "sgrrg"]


@pytest.fixture
def checkout(tmp_path) -> Checkout:
    made = Checkout(tmp_path)
    made.variables["PYTHON"] = str(made.add_python("stub"))
    return made


@pytest.mark.parametrize("data_set", ["iu_xray", "mimic_cxr"])
def test_every_system_is_trained_tested_and_compared(checkout, data_set):
    checkout.add_data_set(data_set)
    result = checkout.run("run_baselines.sh", data_set, "train.epochs=2")
    assert result.returncode == 0, result.stderr
    *runs, comparison = checkout.commands()
    assert len(runs) == 2 * len(SYSTEMS)
    for system, train, test in zip(SYSTEMS, runs[::2], runs[1::2], strict=True):
        config = data_set if system == "sgrrg" else f"{data_set}_{system}"
        assert train == (
            f"stub [main_train.py] [--config] [configs/{config}.yaml] [name={data_set}_{system}] [train.resume=true] "
            "[train.epochs=2]"
        )
        assert (ROOT / "configs" / f"{config}.yaml").is_file()
        assert f"[--checkpoint] [results/{data_set}_{system}] [--split] [test] [--graph] [predicted]" in test
    folders = " ".join(f"[results/{data_set}_{system}/metrics.json]" for system in SYSTEMS)
    assert comparison == f"stub [-m] [modules.compare] {folders} [--html] [results/{data_set}_baselines.html]"


def test_systems_with_results_are_kept(checkout):
    checkout.add_data_set("iu_xray")
    (checkout.folder / "results/iu_xray_cmn").mkdir(parents=True)
    (checkout.folder / "results/iu_xray_cmn/metrics.json").touch()
    result = checkout.run("run_baselines.sh", "iu_xray", "--only", "r2gen,cmn")
    train, test, comparison = checkout.commands()
    assert "iu_xray_r2gen" in train and "iu_xray_r2gen" in test
    assert "cmn: keeping results/iu_xray_cmn/metrics.json" in result.stderr
    assert "[results/iu_xray_r2gen/metrics.json] [results/iu_xray_cmn/metrics.json]" in comparison


def test_settings_on_the_phantom_are_valid_and_those_of_the_techniques(checkout):
    assert checkout.run("run_baselines.sh", "phantom").returncode == 0
    prepare, *runs, _ = checkout.commands()
    assert "[data.prepare] [phantom] [--out] [data/phantom] [--studies] [3000]" in prepare
    for system, train in zip(SYSTEMS, runs[::2], strict=True):
        settings = [part.rstrip("]") for part in train.split(" [")][4:]
        model = load_config(ROOT / "configs/demo.yaml", settings).model
        found = (model.decoder.norms == "memory", model.cross_modal_memory.rows is not None,
                 model.discriminative_map, model.prototypes.per_observation is not None)
        assert found == (system in ("r2gen", "camanet"), system == "cmn", system == "camanet", system == "xpronet")
        assert (model.graph_in, model.norm) == (("decoder", "layer") if system == "sgrrg" else ("none", "std"))


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        ((), "Usage: bash run_baselines.sh iu_xray|mimic_cxr|phantom"),
        (("nih_cxr14",), "Usage: bash run_baselines.sh"),
        (("phantom", "--slow"), "Usage: bash run_baselines.sh"),
        (("phantom", "--only", "r2gen,gpt"), "'gpt' is not a system"),
        (("phantom", "name=mine"), "name=mine would give all systems the same run folder"),
    ],
)
def test_mistakes_are_named(checkout, arguments, message):
    result = checkout.run("run_baselines.sh", *arguments)
    assert result.returncode == 1 and message in result.stderr
    assert checkout.commands() == []


def test_absent_data_set_ends_with_status_2(checkout):
    result = checkout.run("run_baselines.sh", "iu_xray")
    assert result.returncode == 2 and "bash run_baselines.sh iu_xray data.root=FOLDER" in result.stderr


@pytest.mark.timeout(400)  # two processes import PyTorch
def test_quick_run_trains_and_tests(tmp_path):
    write_tiny_dataset(tmp_path / "phantom", train=6, val=2, test=2, image_size=32)
    variables = os.environ | {
        "PYTHON": sys.executable, "CUDA_VISIBLE_DEVICES": "", "OMP_NUM_THREADS": "1",
        "PATH": path_without_java(tmp_path),
    }
    settings = ("data.image_size=32", "data.min_word_count=1", "model.width=32", "model.feedforward=32")
    result = subprocess.run(
        ["bash", "run_baselines.sh", "phantom", "--quick", "--only", "camanet", f"results={tmp_path}",
         f"data.root={tmp_path / 'phantom'}", *settings],
        cwd=ROOT, env=variables, capture_output=True, text=True, check=False,
    )
    assert result.returncode == 0, result.stderr
    metrics = json.loads((tmp_path / "phantom_camanet_quick/metrics.json").read_text(encoding="utf-8"))
    assert metrics["graph_in"] == "none" and metrics["studies"] == 2
