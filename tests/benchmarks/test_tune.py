"""The search of settings: its options, its trials, and resuming it."""

import json
from pathlib import Path

import pytest

import main_train
from benchmarks import tune
from benchmarks.__main__ import main
from benchmarks.tune import Dimension, best_value, parse_dimension
from data.errors import UserError
from tests.support.tiny_dataset import write_tiny_dataset
from tests.support.tiny_run import TINY


@pytest.mark.parametrize("text, expected", [
    ("optim.lr=1e-5:1e-3:log", Dimension("optim.lr", 1e-5, 1e-3, log=True)),
    ("model.dropout=0:0.5", Dimension("model.dropout", 0, 0.5)),
    ("model.dropout=0:1", Dimension("model.dropout", 0, 1)),
    ("model.decoder_layers=1:4", Dimension("model.decoder_layers", 1, 4, whole=True)),
    ("model.encode=oa-c,oa-d", Dimension("model.encode", choices=("oa-c", "oa-d"))),
])
def test_dimensions_are_parsed(text, expected):
    assert parse_dimension(text) == expected


@pytest.mark.parametrize("text, message", [
    ("optim.lr", "write KEY=LOW:HIGH"), ("=1:2", "write KEY=LOW:HIGH"), ("optim.lr=1:2:lin", "write KEY=LOW:HIGH"),
    ("optim.lr=a:b", "write KEY=LOW:HIGH"), ("optim.lr=2:1", "LOW must be below HIGH"),
    ("optim.lr=0:1:log", "above 0 for log"), ("model.encode=oa-c", "two different choices"),
    ("model.encode=oa-c,oa-c", "two different choices"),
])
def test_malformed_dimensions_are_one_line(text, message):
    with pytest.raises(UserError, match="--search=") as raised:
        parse_dimension(text)
    assert message in str(raised.value)


def test_the_best_value_of_a_run_is_that_of_its_log(tmp_path):
    entries = [{"kind": "train"}, *({"kind": "validation", "monitored": value} for value in (0.25, None, 0.5, 0.125))]
    (tmp_path / "log.jsonl").write_text("".join(json.dumps(entry) + "\n" for entry in entries))
    assert best_value(tmp_path) == 0.5
    (tmp_path / "log.jsonl").write_text(json.dumps(entries[2]) + "\n")
    with pytest.raises(UserError, match="no validation has a value of train.monitor"):
        best_value(tmp_path)


@pytest.fixture
def search(tmp_path, monkeypatch):
    """Run the command on the smallest experiment: (trials, more arguments) -> exit status; trains in this process."""
    pytest.importorskip("optuna", reason="Optuna is not installed: pip install -r requirements-tracking.txt")
    root = write_tiny_dataset(tmp_path / "data", train=4, val=2, test=1, image_size=32)
    config = tmp_path / "tiny.yaml"
    config.write_text("name: tiny\n")
    settings = [
        *TINY, f"data.root={root}", f"results={tmp_path / 'results'}", "optim.batch_size=4", "train.epochs=1",
        "train.track=[]", "train.monitor=bleu_1", "eval.validation_beam_size=1",
    ]

    def run_script(folder: Path, command, threads):
        if main_train.main(command[1:]) != 0:
            raise UserError(f"{folder.name} failed")

    monkeypatch.setattr(tune, "run_script", run_script)
    return lambda trials, *more: main(["tune", str(config), "--trials", str(trials), *settings, *more])


def trials(tmp_path) -> list[dict]:
    header, *lines = (tmp_path / "results/tiny_tune/trials.csv").read_text().splitlines()
    return [dict(zip(header.split(","), line.split(","), strict=True)) for line in lines]


def test_a_search_trains_runs_and_continues(search, tmp_path, capsys):
    chosen = ["--search", "optim.lr=1e-4:1e-2:log", "--search", "model.encode=oa-c,oa-d"]
    assert search(1, *chosen) == 0
    assert "0 of 1 trials are finished" in capsys.readouterr().out
    first = trials(tmp_path)
    assert search(2, *chosen) == 0
    printed = capsys.readouterr().out
    assert "1 of 2 trials are finished" in printed and "name=tiny_tuned" in printed
    rows = trials(tmp_path)
    assert rows[:1] == first and len(rows) == 2 and len({row["optim.lr"] for row in rows}) == 2
    for number, row in enumerate(rows):
        assert 1e-4 <= float(row["optim.lr"]) <= 1e-2 and row["model.encode"] in ("oa-c", "oa-d")
        run_dir = tmp_path / f"results/tiny_tune/trial_{number:03d}"
        assert float(row["value"]) == pytest.approx(best_value(run_dir), abs=1e-6)
        assert f"lr: {float(row['optim.lr'])}" in (run_dir / "config.yaml").read_text()


def test_an_interrupted_trial_is_resumed_and_a_failed_one_is_recorded(search, tmp_path, monkeypatch, capsys):
    seen, working = [], tune.run_script

    def script(folder, command, threads):
        seen.append((folder.name, [part for part in command if part.startswith("optim.lr=")]))
        if len(seen) == 1:
            raise KeyboardInterrupt
        if len(seen) == 3:
            raise UserError("no memory")
        working(folder, command, threads)

    monkeypatch.setattr(tune, "run_script", script)
    assert search(3, "--search", "optim.lr=1e-4:1e-2:log") == 1
    assert capsys.readouterr().err == "error: Interrupted: the same command resumes\n"
    assert search(3, "--search", "optim.lr=1e-4:1e-2:log") == 0
    assert seen[0] == seen[1] and [name for name, _ in seen] == ["trial_000", "trial_000", "trial_002", "trial_003"]
    assert [row["state"] for row in trials(tmp_path)] == ["fail", "complete", "fail", "complete"]
    assert "trial 2 failed: no memory" in capsys.readouterr().err


@pytest.mark.parametrize("arguments, message", [
    (["--trials", "0"], "--trials=0: must be at least 1"),
    (["--trials", "1", "--search", "optim.lrate=0:1"], "optim.lrate"),
    (["--trials", "1", "--search", "model.encode=a,b"], "model.encode=a"),
    (["--trials", "1", "model.dropout=2"], "model.dropout"),
])
def test_what_is_wrong_is_one_line_before_anything_is_trained(arguments, message, capsys):
    assert main(["tune", "configs/demo.yaml", *arguments]) == 1
    (line,) = capsys.readouterr().err.splitlines()
    assert line.startswith("error: ") and message in line


def test_without_optuna_it_says_so(tmp_path, monkeypatch):
    monkeypatch.setitem(__import__("sys").modules, "optuna", None)
    with pytest.raises(UserError, match="pip install -r requirements-tracking.txt"):
        tune.open_study(tmp_path, 0)


def test_settings_may_stand_before_and_after_options(monkeypatch):
    seen = []
    monkeypatch.setattr(tune, "run", lambda options: seen.append(options.overrides))
    assert main(["tune", "configs/demo.yaml", "a=1", "--trials", "1", "b=2"]) == 0
    assert seen == [["a=1", "b=2"]]
    for wrong in ("--nothing", "b"):
        with pytest.raises(SystemExit):
            main(["tune", "configs/demo.yaml", "--trials", "1", wrong])
