"""Comparing trunks on real X-rays: with a few invented images in the layout of ChestX-ray14, and the statistics."""

import csv
import json

import numpy as np
import pytest
from PIL import Image

import main_test
import main_train
from benchmarks.__main__ import main
from benchmarks.real import image_side
from benchmarks.real.image_side import (
    ARMS,
    FRESH_SMALL,
    IMAGENET_EFFICIENT,
    IMAGENET_LARGE,
    MIXED,
    PHANTOM_SMALL,
    Reference,
    ScoredRun,
    read_reference,
    summarise,
)
from data.errors import UserError

TINY = ["data.image_size=32", "train.epochs=1", "optim.batch_size=8", "optim.warmup_steps=1", "train.device=cpu"]


@pytest.fixture
def real(tmp_path):
    """ChestX-ray14's layout: 8 training and 24 validation images; every second one has an effusion."""
    folder = tmp_path / "real" / "nih_cxr14"
    (folder / "images").mkdir(parents=True)
    rows = []
    for number in range(32):
        name = f"{number // 2:08d}_{number % 2:03d}.png"
        pixels = np.random.default_rng(number).integers(0, 256, (40, 40), dtype=np.uint8)
        Image.fromarray(pixels).save(folder / "images" / name)
        rows.append({
            "image": name, "findings": "Effusion|Mass" if number % 2 else "No Finding", "patient": number // 2,
            "view": "PA", "boxes": "[]", "split": "train" if number < 8 else "val",
        })
    with (folder / "labels.csv").open("w", newline="") as file:
        writer = csv.DictWriter(file, list(rows[0]))
        writer.writeheader()
        writer.writerows(rows)
    return tmp_path / "real"


@pytest.fixture
def scripts(monkeypatch):
    """Run the scripts in this process; the list of what ran."""
    ran = []

    def run_script(folder, command):
        ran.append((command[0], folder.name))
        script = {"main_train.py": main_train, "main_test.py": main_test}[command[0]]
        assert script.main(list(command[1:])) == 0

    monkeypatch.setattr(image_side, "run_script", run_script)
    return ran


def run(real, tmp_path, *options: str) -> dict:
    arguments = ["real_images", "--data", str(real), "--out", str(tmp_path / "out.json"), "--phantoms", "12",
                 "--results", str(tmp_path / "results"), *options, *TINY]
    assert main(arguments) == 0
    return json.loads((tmp_path / "out.json").read_text())


def test_arms_are_trained_scored_and_not_repeated(real, tmp_path, scripts, capsys):
    arms = f"{FRESH_SMALL};{PHANTOM_SMALL};{MIXED}"
    result = run(real, tmp_path, "--arms", arms, "--seeds", "3")
    assert result["studies"] == 24 and result["findings"] == ["No Finding", "Lung Lesion", "Pleural Effusion"]
    assert [(each["arm"], each["seed"]) for each in result["runs"]] == [(arm, 3) for arm in arms.split(";")]
    assert all(0 <= each["auroc"] <= 1 for each in result["runs"])
    assert result["mixed_into"] in (FRESH_SMALL, PHANTOM_SMALL) and TINY[0] in result["settings"]
    assert {tuple(each["arms"]) for each in result["differences"]} == {
        (PHANTOM_SMALL, FRESH_SMALL), (MIXED, FRESH_SMALL), (MIXED, PHANTOM_SMALL)
    }
    assert "24 images; findings: No Finding" in capsys.readouterr().out
    trained = len(scripts)
    assert trained == 7 if result["mixed_into"] == FRESH_SMALL else 7 <= trained <= 8
    assert run(real, tmp_path, "--arms", arms, "--seeds", "3") == result and len(scripts) == trained


def test_imagenet_weights_come_from_the_package(real, tmp_path, monkeypatch):
    commands = []

    def run_script(folder, command):
        """Instead of training and testing: predictions that rank by the number of the image."""
        commands.append(command)
        folder.mkdir(exist_ok=True)
        names = {text.partition("=")[0] for text in image_side.OBSERVATIONS}
        truth = read_reference(tmp_path / "results" / "nih_cxr14", "val")
        entries = [{"id": each, "observations": dict.fromkeys(names, number)} for number, each in enumerate(truth.ids)]
        (folder / "predictions_val.jsonl").write_text("".join(json.dumps(entry) + "\n" for entry in entries))

    monkeypatch.setattr(image_side, "run_script", run_script)
    result = run(real, tmp_path, "--arms", IMAGENET_EFFICIENT, "--seeds", "0")
    assert list(result["arms"]) == [IMAGENET_EFFICIENT] and result["differences"] == []
    weights = tmp_path / "results" / "efficientnet_lite0.safetensors"
    assert weights.is_file() and f"model.patch_encoder.weights={weights}" in commands[0]
    assert "model.patch_encoder.backbone=timm:tf_efficientnet_lite0" in commands[0]
    commands.clear()
    monkeypatch.setattr(image_side, "_best_arm", lambda finished, reference: IMAGENET_LARGE)
    run(real, tmp_path, "--arms", f"{IMAGENET_LARGE};{MIXED}", "--seeds", "0")
    assert len(commands) == 2  # training alone: the predictions are there
    for command in commands:
        sizes = [setting for setting in command if setting.startswith("data.image_size=")]
        assert sizes == ["data.image_size=128", "data.image_size=224", TINY[0]]
        assert f"model.patch_encoder.weights={weights}" in command
    assert any(f"{tmp_path}/results/phantom_12_224]" in setting for setting in commands[1])
    with Image.open(next((tmp_path / "results/phantom_12_224").rglob("*.png"))) as image:
        assert max(image.size) == 224


@pytest.mark.parametrize(("options", "message"), [
    (["--arms", "tiny"], "--arms: unknown arm 'tiny'"),
    (["--arms", MIXED], "name at least one of them"),
    (["--seeds", "x"], "--seeds=x: must be whole numbers"),
    (["--data", "absent"], "No table of ChestX-ray14 at absent/nih_cxr14/labels.csv"),
])  # fmt: skip
def test_errors_are_one_line(real, tmp_path, options, message, capsys):
    assert main(["real_images", "--data", str(real), "--out", str(tmp_path / "x.json"), *options]) == 1
    (line,) = capsys.readouterr().err.splitlines()
    assert message in line


def reference(studies: int = 60) -> Reference:
    labels = np.random.default_rng(0).random((studies, 2)) < 0.4
    known = np.ones_like(labels)
    return Reference([str(number) for number in range(studies)], ["A", "B"], labels, known, np.arange(studies) // 2)


def test_differences_are_paired_and_averaged_over_seeds():
    """An arm that ranks perfectly and one that guesses, with two seeds each."""
    truth, generator = reference(), np.random.default_rng(1)
    runs = []
    for seed in (0, 1):
        runs.append(ScoredRun(PHANTOM_SMALL, seed, truth.labels + 0.1 * generator.random(truth.labels.shape)))
        runs.append(ScoredRun(FRESH_SMALL, seed, generator.random(truth.labels.shape)))
    summary = summarise(runs, truth)
    assert summary["arms"][PHANTOM_SMALL] == {"auroc": 1.0, "interval": [1.0, 1.0], "seeds": 2}
    guesses = [each["auroc"] for each in summary["runs"] if each["arm"] == FRESH_SMALL]
    assert summary["arms"][FRESH_SMALL]["auroc"] == pytest.approx(np.mean(guesses))
    (difference,) = summary["differences"]
    assert difference["arms"] == [PHANTOM_SMALL, FRESH_SMALL]
    assert difference["auroc"] == pytest.approx(1 - np.mean(guesses)) and difference["interval"][0] > 0.2


def test_a_split_without_frequent_findings_has_no_score():
    with pytest.raises(UserError, match="AUROC of this split is undefined"):
        summarise([ScoredRun(ARMS[0], 0, np.random.default_rng(0).random((12, 2)))], reference(12))


def test_patients_are_read_from_the_names_of_images(real, tmp_path):
    films = image_side.prepare_films(real, tmp_path / "films")
    found = read_reference(films, "val")
    assert len(found.ids) == 24 and len(set(found.patients)) == 12
    assert found.labels[:, found.names.index("Pleural Effusion")].sum() == 12
    assert found.known.all()
