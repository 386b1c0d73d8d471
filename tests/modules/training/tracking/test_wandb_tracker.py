"""Weights & Biases in its offline mode: what it wrote is read back."""

import json

import pytest

from data.errors import UserError
from modules.training.tracking.tracker import read_ids
from modules.training.tracking.wandb_tracker import STEP, WandbTracker
from tests.support.training.wandb_records import read_records

wandb = pytest.importorskip("wandb", reason="wandb is not installed: pip install -r requirements-tracking.txt")


def history(run_dir) -> list[dict]:
    return [
        {item.nested_key[0] if item.nested_key else item.key: json.loads(item.value_json) for item in record.item}
        for record in read_records(run_dir, "history")
    ]


def test_a_run_is_recorded_resumed_and_gets_its_results(tmp_path):
    run_dir = tmp_path / "mine"
    run_dir.mkdir()
    tracker = WandbTracker(run_dir, {"seed": 3, "optim": {"lr": 0.5}}, resumed=False)
    tracker.log_scalars({"loss/total": 2.5}, 10)
    tracker.close()
    run_id = read_ids(run_dir)["wandb"]
    (run,) = read_records(run_dir, "run")
    assert (run.run_id, run.project, run.display_name) == (run_id, "sgrrg", "mine")
    settings = {update.key: json.loads(update.value_json) for update in run.config.update}
    assert settings["seed"] == 3 and settings["optim"] == {"lr": 0.5}

    tracker = WandbTracker(run_dir, None, resumed=True)
    tracker.log_scalars({"loss/total": 1.5}, 11)
    page = tmp_path / "report.html"
    page.write_text("a page")
    tracker.log_results({"test/bleu_4": 0.25}, page)
    tracker.close()
    assert {run.run_id for run in read_records(run_dir, "run")} == {run_id}
    assert [(row["loss/total"], row[STEP]) for row in history(run_dir)] == [(2.5, 10), (1.5, 11)]
    (artifact,) = read_records(run_dir, "artifact")
    assert artifact.type == "report" and [entry.path for entry in artifact.manifest.contents] == ["report.html"]
    summary = {update.key or update.nested_key[0]: update.value_json
               for record in read_records(run_dir, "summary") for update in record.update}
    assert json.loads(summary["test/bleu_4"]) == 0.25


def test_a_start_that_fails_is_one_line(tmp_path, monkeypatch):
    def init(**settings):
        raise wandb.Error("no API key\nconfigured")

    monkeypatch.setattr(wandb, "init", init)
    with pytest.raises(UserError, match=r"wandb cannot start \(no API key configured\): run wandb login, or set"):
        WandbTracker(tmp_path, {}, resumed=False)
    assert read_ids(tmp_path) == {}
