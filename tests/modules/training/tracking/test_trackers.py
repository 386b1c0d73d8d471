"""Choosing trackers, and adding the results of a test to a run."""

import importlib.util

import pytest

from data.errors import UserError
from modules.settings.tracking import check_trackers
from modules.training.tracking import trackers
from modules.training.tracking.tracker import TrackingError, read_ids, save_id
from modules.training.tracking.trackers import check_installed, open_trackers, record_results


class FakeTracker:
    """Keeps what it is given; `failing` makes it unable to record."""

    made: list["FakeTracker"] = []
    failing = False

    def __init__(self, run_dir, configuration, resumed):
        self.arguments, self.results, self.closed = (run_dir, configuration, resumed), None, False
        FakeTracker.made.append(self)
        if FakeTracker.failing:
            raise TrackingError("no server")

    def log_results(self, scores, page):
        self.results = scores, page

    def close(self):
        self.closed = True


@pytest.fixture
def fake(monkeypatch):
    monkeypatch.setattr(FakeTracker, "made", [])
    monkeypatch.setattr(trackers, "WandbTracker", FakeTracker)
    monkeypatch.setattr(importlib.util, "find_spec", lambda name: object())
    return FakeTracker


def test_unknown_and_repeated_names_are_refused():
    check_trackers(["tensorboard", "wandb", "mlflow"])
    check_trackers([])
    with pytest.raises(UserError, match="train.track: unknown tracker 'tensorbord'; did you mean 'tensorboard'"):
        check_trackers(["tensorbord"])
    with pytest.raises(UserError, match="name every tracker once"):
        check_trackers(["wandb", "wandb"])


def test_a_missing_package_is_one_line(monkeypatch):
    monkeypatch.setattr(importlib.util, "find_spec", lambda name: None)
    check_installed(["tensorboard"])
    for name in ("wandb", "mlflow"):
        with pytest.raises(UserError, match=rf"train.track={name} needs the package {name}: pip install -r req"):
            check_installed([name])


def test_trackers_are_opened_by_name(fake, tmp_path):
    opened = open_trackers(["wandb"], tmp_path, {"seed": 1}, done_steps=4)
    assert opened == {"wandb": fake.made[0]} and fake.made[0].arguments == (tmp_path, {"seed": 1}, True)
    assert open_trackers([], tmp_path, {}, 0) == {}


def test_a_tracker_that_cannot_start_is_one_line(fake, tmp_path, monkeypatch):
    monkeypatch.setattr(fake, "failing", True)
    with pytest.raises(UserError, match="train.track: no server: correct its settings, or leave it out"):
        open_trackers(["wandb"], tmp_path, {}, 0)


def test_results_are_added_to_the_record_of_the_run(fake, tmp_path, monkeypatch):
    page = tmp_path / "report.html"
    assert record_results(tmp_path, "test", {"bleu_4": 0.5}, page) == []
    save_id(tmp_path, "wandb", "abc")
    assert record_results(tmp_path, "test", {"bleu_4": 0.5, "meteor": None}, page) == [
        "recorded by wandb: 1 scores and report.html"
    ]
    assert fake.made[0].results == ({"test/bleu_4": 0.5}, page) and fake.made[0].closed
    assert fake.made[0].arguments == (tmp_path, None, True)
    monkeypatch.setattr(fake, "failing", True)
    (line,) = record_results(tmp_path, "test", {}, page)
    assert line.startswith("Warning: wandb did not record the results (train.track: no server")


def test_ids_are_kept_by_tracker_and_a_damaged_file_is_named(tmp_path):
    assert read_ids(tmp_path) == {}
    save_id(tmp_path, "wandb", "a")
    save_id(tmp_path, "mlflow", "b")
    assert read_ids(tmp_path) == {"wandb": "a", "mlflow": "b"}
    (tmp_path / "tracking.json").write_text("[")
    with pytest.raises(UserError, match="tracking.json .*: delete it"):
        read_ids(tmp_path)
