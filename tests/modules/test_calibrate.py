"""The command that tunes thresholds, and everything that then uses them."""

import json
import shutil
from pathlib import Path

import numpy as np
import pytest
import torch

import main_test
from data.errors import UserError
from modules import calibrate
from modules.builders import load_model
from modules.checkpoint import load_checkpoint
from modules.config import load_config
from modules.evaluation.threshold_tuning import Tuning
from modules.inference.export_folder import write_weights
from modules.predictor import Predictor
from tests.support.tiny_run import write_tiny_run


@pytest.fixture(scope="module")
def run(tmp_path_factory):
    """A run folder, and the data set of the run. By default, every region is selected and has all attributes."""
    everything = [f"model.{name}_threshold=0" for name in ("region", "attribute", "visible")]
    return write_tiny_run(tmp_path_factory.mktemp("trained"), *everything, lively=True)


@pytest.fixture
def copied(run, tmp_path):
    """A copy of the run folder."""
    return shutil.copytree(run[0], tmp_path / "run")


@pytest.fixture
def strict(monkeypatch):
    """Tuning that makes the first region and the second one's first attribute unreachable, and keeps the others."""

    def tune(predicted, default_regions, default_attributes):
        tunings = []
        for default, first in ((default_regions, (0,)), (default_attributes, (1, 0))):
            thresholds, tuned = default.copy(), np.zeros(default.shape, dtype=bool)
            thresholds[first], tuned[first] = 1.0, True
            tunings.append(Tuning(thresholds, tuned, 0.5, 0.625))
        return tuple(tunings)

    monkeypatch.setattr(calibrate, "tune_graph_thresholds", tune)


def tune(checkpoint: Path, *overrides: str) -> int:
    return calibrate.main(["--checkpoint", str(checkpoint), *overrides])


def metrics_of(folder: Path, root: Path, *overrides: str) -> dict:
    """The content of metrics.json after a test."""
    arguments = ["--checkpoint", str(folder), "--data", str(root), "--graph", "predicted", "--baselines", "none"]
    assert main_test.main([*arguments, *overrides]) == 0
    return json.loads((folder / "metrics.json").read_text())


def test_thresholds_are_stored_by_name_and_loaded(run, copied, strict, capsys):
    before = load_checkpoint(copied)
    assert before.thresholds is None
    assert tune(copied) == 0
    printed = capsys.readouterr().out
    assert "tiny, split val, 3 studies with an annotated graph, boxes localizer" in printed
    assert "regions: 1 thresholds tuned (micro-F1 0.625 instead of 0.500 on studies not tuned on)" in printed
    after = load_checkpoint(copied)
    names, attributes = after.vocabularies.anatomy.names, after.vocabularies.attributes
    assert after.thresholds.regions == {names[0]: 1.0}
    assert after.thresholds.attributes == {names[1]: {attributes.by_region[1][0]: 1.0}}
    assert after.thresholds.origin["split"] == "val" and after.thresholds.origin["studies"] == 3
    assert all(torch.equal(value, after.weights[name]) for name, value in before.weights.items())
    graph = load_model(after, after.config).graph
    assert graph.tuned_thresholds
    assert graph.region_thresholds.nonzero().tolist() == [[0]] and graph.region_thresholds[0] == 1
    assert graph.attribute_thresholds.nonzero().tolist() == [[1, 0]] and graph.attribute_thresholds[1, 0] == 1


def test_default_thresholds_can_be_chosen(copied, strict):
    tune(copied)
    checkpoint = load_checkpoint(copied)
    path = checkpoint.directory / "config.yaml"
    graph = load_model(checkpoint, load_config(path, ["eval.thresholds=default", "model.region_threshold=0.3"])).graph
    assert not graph.tuned_thresholds and graph.region_thresholds.tolist() == pytest.approx([0.3] * 29)
    with pytest.raises(UserError, match="model.region_threshold=0.3: .* has tuned thresholds: add eval.thresholds=def"):
        load_model(checkpoint, load_config(path, ["model.region_threshold=0.3"]))


def test_predictions_and_scores_use_them_and_say_so(run, copied, strict, without_java, capsys):
    image = sorted((run[1] / "images").glob("test*"))[0]
    first, second = Predictor(copied, device="cpu").predict([image])[0].regions[:2]
    assert first.selected and second.selected and not second.other_attributes
    metrics = metrics_of(copied, run[1])
    assert metrics["thresholds"] == "default"
    tune(copied)
    first, second = Predictor(copied, device="cpu").predict([image])[0].regions[:2]
    assert not first.selected and second.selected
    name = load_checkpoint(copied).vocabularies.attributes.by_region[1][0]
    assert set(second.other_attributes) == {name}
    metrics = metrics_of(copied, run[1])
    assert metrics["thresholds"] == "tuned"
    assert "tuned thresholds" in capsys.readouterr().out
    lines = [json.loads(line) for line in (copied / "predictions.jsonl").read_text().splitlines()]
    assert not any(line["regions"][first.name]["selected"] for line in lines)
    assert not any(name in line["attributes"].get(second.name, {}) for line in lines)
    assert metrics_of(copied, run[1], "eval.thresholds=default")["thresholds"] == "default"


def test_an_exported_model_has_them_and_its_card_says_so(copied, strict, tmp_path, capsys):
    tune(copied)
    checkpoint = load_checkpoint(copied)
    (tmp_path / "exported").mkdir()
    write_weights(tmp_path / "exported", checkpoint)
    assert load_checkpoint(tmp_path / "exported").thresholds == checkpoint.thresholds
    card = (tmp_path / "exported" / "README.md").read_text()
    assert "1 regions and 1 attributes have thresholds tuned on the split `val` of `tiny`" in card
    assert tune(tmp_path / "exported") == 1
    assert "whose programs have their thresholds built in" in capsys.readouterr().err


def test_tuning_again_starts_from_the_defaults(copied, strict, monkeypatch):
    tune(copied)
    given = []

    def record(predicted, *defaults):
        given.extend(defaults)
        return tuple(Tuning(default, np.zeros(default.shape, dtype=bool), 0.5, 0.4) for default in defaults)

    monkeypatch.setattr(calibrate, "tune_graph_thresholds", record)
    tune(copied)
    assert not given[0].any() and not given[1].any()
    checkpoint = load_checkpoint(copied)
    assert checkpoint.thresholds.regions == {} and not load_model(checkpoint, checkpoint.config).graph.tuned_thresholds


def test_refusals_are_one_line_and_write_nothing(run, copied, tmp_path, capsys):
    without, root = write_tiny_run(tmp_path / "without", "model.graph_in=none")
    for checkpoint, overrides, message in (
        (copied, ["eval.split=test"], "thresholds tuned on the test split"),
        (without, [], "has no scene graph"),
        (tmp_path / "nowhere", [], "No checkpoint at"),
        (copied, [f"data.root={tmp_path / 'nowhere'}"], "No data set at"),
    ):
        assert tune(checkpoint, *overrides) == 1
        error = capsys.readouterr().err.strip().splitlines()[-1]
        assert message in error
    assert not (copied / "best" / "thresholds.json").exists()


def test_a_training_that_cannot_tune_says_so_and_is_complete(copied, capsys):
    config = load_config(copied / "best" / "config.yaml", [f"results={copied.parent}", "name=nowhere"])
    calibrate.calibrate_after_training(config)
    assert "Warning: the thresholds were not tuned. No checkpoint at" in capsys.readouterr().err
