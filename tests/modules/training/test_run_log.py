"""The log of a run: its lines, its files, and what resuming keeps of them."""

import json
import resource
import sys
import time

import pytest
import torch
from tensorboard.backend.event_processing.event_accumulator import EventAccumulator

from data.errors import UserError
from modules.training import run_log
from modules.training.run_log import RunLog, read_curves
from modules.training.tracking.tracker import TrackingError
from modules.training.validation import ValidationScores
from modules.training.window_losses import TOTAL, StepResult

CPU = torch.device("cpu")


def entries(folder) -> list[dict]:
    return [json.loads(line) for line in (folder / "log.jsonl").read_text(encoding="utf-8").splitlines()]


def train(log: RunLog, first: int, last: int) -> None:
    for step in range(first, last + 1):
        result = StepResult({TOTAL: float(step), "report": step / 2}, 2.0, skipped=False, stop_requested=False)
        log.train_step(step, result, rates={"rest": 0.1}, images=4)


def validate(log: RunLog, score: float) -> None:
    scores = ValidationScores({"bleu_4": score, "meteor": None}, {"meteor": "no Java"}, {"bleu_4": 0.125})
    log.validation(scores, score, 0.125, "bleu_4", True, graph_source="predicted")


def test_lines_average_over_the_steps_since_the_last_one(tmp_path, capsys):
    log = RunLog(tmp_path, total_steps=5, log_every=2)
    log.begin_epoch(1, 1, 5, 0)
    train(log, 1, 5)
    log.close()
    assert [(entry["step"], entry["loss"], entry["terms"]["report"]) for entry in entries(tmp_path)] == [
        (2, 1.5, 0.75), (4, 3.5, 1.75), (5, 5.0, 2.5),
    ]
    lines = capsys.readouterr().err.splitlines()
    assert len(lines) == 3
    for part in ("epoch 1, step 2/5", "loss 1.500", "report 0.750", "lr 1.00e-01", "images/s", "left"):
        assert part in lines[0]


def test_means_of_sampled_reports_are_beside_the_losses(tmp_path, capsys):
    log = RunLog(tmp_path, total_steps=2, log_every=2)
    for step, reward in ((1, 0.25), (2, 0.75)):
        sampled = {"sampled/reward": reward, "sampled/words": 30.0, "sampled/cider": 2 * reward}
        terms = {TOTAL: 1.0, "policy": 0.5, **sampled}
        log.train_step(step, StepResult(terms, 2.0, False, False), rates={"rest": 0.1}, images=4)
    log.close()
    line = capsys.readouterr().err
    assert "policy 0.500, reward 0.500, lr" in line and "cider" not in line
    assert entries(tmp_path)[0]["terms"]["sampled/words"] == 30
    assert read_curves(tmp_path) == {
        "Training losses": {"total": [(2, 1.0)], "policy": [(2, 0.5)]},
        "Sampled reports": {"reward": [(2, 0.5)], "cider": [(2, 1.0)]},
    }


def test_every_entry_is_on_disk_at_once(tmp_path):
    log = RunLog(tmp_path, total_steps=1, log_every=1)
    log.message("hallo")
    assert entries(tmp_path)[-1]["text"] == "hallo"
    log.close()


def test_start_tells_code_packages_and_device(tmp_path):
    log = RunLog(tmp_path, total_steps=1, log_every=1)
    log.start(CPU, processes=1)
    log.close()
    (entry,) = entries(tmp_path)
    assert entry["kind"] == "start" and entry["processes"] == 1
    assert entry["environment"]["packages"]["torch"] == torch.__version__.split("+")[0]
    assert entry["environment"]["device"].startswith("cpu")
    assert "git_commit" in entry["environment"]


def test_validation_keeps_absent_scores_and_their_reasons(tmp_path, capsys):
    log = RunLog(tmp_path, total_steps=1, log_every=1)
    validate(log, 0.25)
    log.close()
    (entry,) = entries(tmp_path)
    assert entry["scores"] == {"bleu_4": 0.25, "meteor": None}
    assert entry["absent"] == {"meteor": "no Java"}
    assert (entry["monitored"], entry["improved"], entry["graph_source"]) == (0.25, True, "predicted")
    assert "meteor" not in capsys.readouterr().err


def test_a_validation_has_the_image_blind_baseline_beside_each_score(tmp_path, capsys):
    log = RunLog(tmp_path, total_steps=1, log_every=1)
    validate(log, 0.25)
    log.validation(ValidationScores({"bleu_4": 0.5}, {}), 0.5, None, "bleu_4", False)
    log.close()
    assert [entry["blind"] for entry in entries(tmp_path)] == [{"bleu_4": 0.125}, {}]
    assert capsys.readouterr().err.splitlines() == [
        "epoch 1, validation (graph_source predicted): bleu_4 0.2500 (image-blind 0.1250)",
        "epoch 1, bleu_4 = 0.2500 (image-blind 0.1250), the best so far",
        "epoch 1, validation (): bleu_4 0.5000",
        "epoch 1, bleu_4 = 0.5000",
    ]


@pytest.mark.parametrize(("rerun", "kept_validations"), [(False, [2, 4]), (True, [2])])
def test_going_on_cuts_what_came_after(tmp_path, monkeypatch, rerun, kept_validations):
    log = RunLog(tmp_path, total_steps=9, log_every=1)
    for step in (1, 2, 3, 4, 5, 6):
        train(log, step, step)
        if step % 2 == 0:
            validate(log, step / 10)
    log.close()
    with (tmp_path / "log.jsonl").open("a") as file:
        file.write('{"kind": "train", "st')  # a crash in the middle of a line
    now = time.time()
    monkeypatch.setattr(time, "time", lambda: now + 60)  # TensorBoard orders files by their second of creation
    log = RunLog(tmp_path, total_steps=9, log_every=1, done_steps=4, rerun_validation=rerun)
    train(log, 5, 5)
    log.close()
    assert [entry["step"] for entry in entries(tmp_path) if entry["kind"] == "train"] == [1, 2, 3, 4, 5]
    assert [entry["step"] for entry in entries(tmp_path) if entry["kind"] == "validation"] == kept_validations
    curves = EventAccumulator(str(tmp_path / "tensorboard")).Reload()
    assert [point.step for point in curves.Scalars("loss/total")] == [1, 2, 3, 4, 5]
    assert [point.value for point in curves.Scalars("loss/report")] == [0.5, 1, 1.5, 2, 2.5]


def test_starting_anew_forgets_an_old_log(tmp_path):
    (tmp_path / "log.jsonl").write_text('{"kind": "train", "step": 0}\n')
    RunLog(tmp_path, total_steps=1, log_every=1).close()
    assert entries(tmp_path) == []


def test_other_processes_write_nothing(tmp_path, capsys):
    log = RunLog(tmp_path / "run", total_steps=1, log_every=1, enabled=False)
    log.start(CPU)
    log.begin_epoch(1, 1, 1, 0)
    train(log, 1, 1)
    validate(log, 0.5)
    log.message("hallo")
    log.close()
    assert not (tmp_path / "run").exists()
    assert capsys.readouterr().err == ""


def test_a_terminal_gets_a_bar_with_terms_and_time_left(tmp_path, capsys, monkeypatch):
    monkeypatch.setattr(sys.stderr, "isatty", lambda: True, raising=False)
    monkeypatch.setenv("COLUMNS", "200")
    log = RunLog(tmp_path, total_steps=4, log_every=1)
    log.begin_epoch(1, 2, 2, 1)
    train(log, 2, 2)
    log.close()
    console = capsys.readouterr().err
    assert "epoch 1/2" in console and "2/2" in console
    assert "loss 2.000, report 1.000, all " in console
    assert "images/s" not in console
    assert [entry["step"] for entry in entries(tmp_path)] == [2]


@pytest.mark.usefixtures("capsys")  # otherwise pytest captures to a file, which the limit applies to as well
def test_a_full_disk_is_one_line(tmp_path):
    log = RunLog(tmp_path, total_steps=1, log_every=1)
    soft, hard = resource.getrlimit(resource.RLIMIT_FSIZE)
    resource.setrlimit(resource.RLIMIT_FSIZE, (50, hard))
    try:
        with pytest.raises(UserError, match=rf"Cannot write the log in {tmp_path} \(.*\): free space, then resume"):
            log.message("a line that is longer than fifty characters, together with its JSON keys")
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, (soft, hard))


def test_the_course_of_a_run_is_read_back(tmp_path):
    log = RunLog(tmp_path, total_steps=4, log_every=2)
    log.message("hallo")
    train(log, 1, 4)
    validate(log, 0.25)
    log.train_step(4, StepResult({TOTAL: float("nan")}, 2.0, False, False), rates={"rest": 0.1}, images=4)
    log.close()
    with (tmp_path / "log.jsonl").open("a") as file:
        file.write('{"kind": "train", "st')  # a line cut short by a crash
    assert read_curves(tmp_path) == {
        "Training losses": {"total": [(2, 1.5), (4, 3.5)], "report": [(2, 0.75), (4, 1.75)]},
        "Validation scores": {"bleu_4": [(4, 0.25)]},
    }
    assert read_curves(tmp_path / "nowhere") == {}


class FailingTracker:
    """Records the first call only."""

    def __init__(self):
        self.values: list[dict] = []

    def log_scalars(self, values, step):
        if self.values:
            raise TrackingError("no server")
        self.values.append(values)

    def close(self):
        raise AssertionError("a tracker that failed is left alone")


def test_a_tracker_that_fails_is_left_out_and_the_run_goes_on(tmp_path, monkeypatch):
    failing = FailingTracker()
    monkeypatch.setattr(run_log, "open_trackers", lambda names, *_: dict.fromkeys(names, failing))
    log = RunLog(tmp_path, total_steps=3, log_every=1, track=["wandb"], configuration={"seed": 1})
    train(log, 1, 3)
    log.close()
    assert [entry["kind"] for entry in entries(tmp_path)] == ["train", "train", "message", "train"]
    assert entries(tmp_path)[2]["text"] == "Warning: wandb does not record this run any longer (no server)"
    assert failing.values[0]["loss/total"] == 1.0 and not (tmp_path / "tensorboard").exists()


def test_a_validation_names_its_data_sets(tmp_path, capsys):
    log = RunLog(tmp_path, total_steps=1, log_every=1)
    for by_data_set in ({"films": {"bleu_4": 0.5}}, {"films": {"bleu_4": None}, "phantom": {"bleu_4": 0.5}}):
        log.validation(ValidationScores({"bleu_4": 0.5}, {}, by_data_set=by_data_set), 0.5, None, "bleu_4", False)
    log.close()
    assert entries(tmp_path)[1]["data_sets"] == {"films": {"bleu_4": None}, "phantom": {"bleu_4": 0.5}}
    assert capsys.readouterr().err.splitlines() == [
        "epoch 1, validation of films (): bleu_4 0.5000",
        "epoch 1, bleu_4 = 0.5000",
        "epoch 1, validation of films, phantom (): bleu_4 0.5000",
        "epoch 1, validation of films alone: no score",
        "epoch 1, validation of phantom alone: bleu_4 0.5000",
        "epoch 1, bleu_4 = 0.5000",
    ]
