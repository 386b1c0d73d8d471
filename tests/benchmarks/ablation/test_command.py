"""The study of the graph: arms, runs, ledger and report."""

import json
import subprocess
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
import torch

from benchmarks.__main__ import main
from benchmarks.ablation import command as ablation
from benchmarks.ablation import training
from benchmarks.ablation.arms import ARMS, BUDGET, FULL, VERSION, Arm, Run, order_runs
from benchmarks.ablation.command import select_current
from benchmarks.ablation.family import family_names
from benchmarks.ablation.ledger import FinishedRun, observation_counts, read_ledger, read_run, record_run, write_ledger
from benchmarks.ablation.report import best_baseline, results_by_arm, write_report
from benchmarks.ablation.statistics import difference, micro_f1
from data.errors import UserError
from models.outputs import GraphSource
from models.trunks.build import build_patch_encoder
from modules.builders import build_model
from modules.checkpoint import load_checkpoint
from modules.config import load_config
from tests.support.tiny_model import tiny_vocabularies

EFFUSION, CLEAR = "There is a left pleural effusion.", "The lungs are clear."


def write_run(run: Run, generated: list[str], ids: list[str] | None = None) -> Run:
    """Write the results of a finished run whose studies all have an effusion."""
    run.folder.mkdir(parents=True, exist_ok=True)
    entries = [
        {"id": name, "generated": text, "reference": EFFUSION, "labels": {"Pleural Effusion": 1, "Edema": 0}}
        for name, text in zip(ids or [f"study{i}" for i in range(len(generated))], generated, strict=True)
    ]
    run.predictions.write_text("".join(json.dumps(entry) + "\n" for entry in entries), encoding="utf-8")
    nearest = {"nearest_image": {"truth_14_micro_f1": 0.25}} if run.arm == FULL else {}
    metrics = {"scores": {"bleu_4": 0.5, "box_iou": None}, "baselines": nearest}
    run.metrics.write_text(json.dumps(metrics), encoding="utf-8")
    log = [
        {"kind": "start", "parameters": 8_200_000 if run.arm == FULL else 7_700_000}, {"kind": "train"},
        *({"kind": "validation", "scores": {"bleu_4": bleu}} for bleu in (0.25, 0.375, None)),
    ]
    (run.folder / "log.jsonl").write_text("".join(json.dumps(line) + "\n" for line in log), encoding="utf-8")
    return run


def read(run: Run) -> FinishedRun:
    """Read the results of `run`; all runs have the same trunk."""
    trunk = run.results / "trunk.pt"
    trunk.write_bytes(b"weights")
    return read_run(run, trunk)


def test_arms_have_names_and_folders_of_their_own():
    assert len({arm.name for arm in ARMS}) == len({arm.folder for arm in ARMS}) == len(ARMS)
    assert all(arm.folder.replace("_", "").replace(".", "").replace("-", "").isalnum() for arm in ARMS)
    assert [arm.graph for arm in ARMS].count(GraphSource.NONE) == 5


@pytest.mark.parametrize("arm", ARMS, ids=lambda arm: arm.folder)
def test_every_arm_builds_and_has_as_many_parameters_as_the_full_one(arm):
    def parameters(settings):
        config = load_config("configs/demo.yaml", [*BUDGET, *settings])
        return sum(parameter.numel() for parameter in build_model(config, tiny_vocabularies()).parameters())

    assert parameters(arm.settings) == pytest.approx(parameters(FULL.settings), rel=0.1)


def test_the_most_telling_runs_come_first():
    order = list(order_runs(ARMS, [0, 1]))
    assert len(order) == len(set(order)) == 2 * len(ARMS)
    assert {arm.name.split(",")[0] for arm, _ in order[:12]} == {"full", "no graph"}
    assert order[0] == (FULL, 0)
    assert [seed for _, seed in order[12:]] == [0] * (len(ARMS) - 6) + [1] * (len(ARMS) - 6)


def test_counts_and_f1_by_hand(tmp_path):
    run = write_run(Run(FULL, 0, tmp_path), [EFFUSION, CLEAR, EFFUSION, ""])
    counts = observation_counts(run.predictions, "generated")
    # "The lungs are clear." is No Finding, which was not simulated; an empty report has no labels.
    assert counts == [[1, 0, 0], [0, 1, 1], [1, 0, 0], [0, 0, 1]]
    assert micro_f1(np.sum(counts, 0)) == pytest.approx(2 * 2 / (2 * 2 + 1 + 2))
    assert micro_f1(np.zeros(3)) == 0
    assert micro_f1(np.sum(observation_counts(run.predictions, "reference"), 0)) == 1


def test_report_of_what_is_finished(tmp_path):
    runs = [
        write_run(Run(FULL, 0, tmp_path), [EFFUSION] * 9 + [CLEAR]),
        write_run(Run(FULL, 1, tmp_path), [EFFUSION] * 10),
        write_run(Run(ARMS[1], 0, tmp_path), [CLEAR] * 9 + [EFFUSION]),
        write_run(Run(ARMS[2], 0, tmp_path), [CLEAR] * 8 + [EFFUSION] * 2),
    ]
    page = tmp_path / "docs" / "results.md"
    *others, best = map(read, runs)
    write_report(page, [*others, replace(best, validation_bleu_4=0.5)])
    text = page.read_text(encoding="utf-8").replace("\n", " ")
    assert "Finished runs: 4 of 48;" in text and "it reaches 1.000" in text
    assert "All start from the same trunk" in text and "(7.7 million against 8.2 million)" in text
    assert f"minus {ARMS[2].name}" in text  # the best arm without graph
    assert "* The scene graph raises the F1 of generated reports: +0." in text and "(2 and 1 seeds)" in text
    assert "| full | 1 | 1.000 |" in text and "| full | 2 | 0.950 ± 0.071 | +0." in text
    assert "The difference is +0.750, the interval begins at +0." in text and text.count("The target is met.") == 2
    assert "| full | 2 | 0.950 ± 0.071 |" in text and text.count("| 0.250 |") == 1
    assert "noise" not in text.split("## Findings")[1]


def test_validation_chooses_the_arm_without_graph(tmp_path):
    full, good_test, good_validation = (
        read(write_run(Run(arm, 0, tmp_path), [EFFUSION] * right + [CLEAR] * (10 - right)))
        for arm, right in [(FULL, 10), (ARMS[1], 9), (ARMS[2], 1)]
    )
    good_validation = replace(good_validation, validation_bleu_4=0.5)
    page = tmp_path / "page.md"
    write_report(page, [full, good_test, good_validation])
    assert f"minus {ARMS[2].name}" in page.read_text(encoding="utf-8")
    write_report(page, [full, good_test, replace(good_validation, validation_bleu_4=None)])
    assert f"minus {ARMS[1].name}" in page.read_text(encoding="utf-8")


@pytest.mark.parametrize(("right", "verdict"), [
    (10, "The difference is +0.000, the interval begins at +0.000. The target is missed: see [tried.md](tried.md)."),
    (9, "The difference is +0.100, the interval begins at +0.000. The target is missed: see [tried.md](tried.md)."),
])
def test_a_missed_target_is_reported(tmp_path, right, verdict):
    runs = [
        write_run(Run(FULL, 0, tmp_path), [EFFUSION] * 10),
        write_run(Run(ARMS[1], 0, tmp_path), [EFFUSION] * right + [CLEAR] * (10 - right)),
    ]
    page = tmp_path / "page.md"
    write_report(page, [read(run) for run in runs], ["train.max_steps=2"])
    text = page.read_text(encoding="utf-8")
    assert verdict in text and "These runs differ from them in train.max_steps=2." in text


def test_runs_of_other_trunks_and_settings_are_told_apart(tmp_path, capsys):
    runs = [read(write_run(Run(FULL, seed, tmp_path), [EFFUSION])) for seed in (0, 1)]
    page = tmp_path / "page.md"
    write_report(page, [runs[0], replace(runs[1], trunk="other")])
    text = page.read_text(encoding="utf-8")
    assert "All start from one of 2 trunks" in text and "| full | 1 | 1.000 | other |" in text
    outdated = [replace(runs[0], arm="an arm that was"), replace(runs[1], experiment="before")]
    assert select_current([runs[0], *outdated], ()) == [runs[0]]
    assert select_current(runs, ("train.max_steps=2",)) == []
    write_ledger(tmp_path / "page.jsonl", [runs[0], *outdated])
    assert main(["ablation", "--report-only", "--report", str(page)]) == 0
    assert "2 runs of an earlier version or with other settings are left out" in capsys.readouterr().out


def test_runs_of_an_earlier_version_are_left_out(tmp_path, capsys):
    new, old = (read(write_run(Run(FULL, seed, tmp_path), [EFFUSION])) for seed in (0, 1))
    old = replace(old, version=VERSION - 1)
    assert select_current([old, new], ()) == [new]
    write_ledger(tmp_path / "page.jsonl", [old, new])
    assert main(["ablation", "--report-only", "--report", str(tmp_path / "page.md")]) == 0
    assert "1 runs of an earlier version or with other settings are left out" in capsys.readouterr().out
    assert "Finished runs: 1 of 48;" in (tmp_path / "page.md").read_text(encoding="utf-8")


def test_report_refuses_what_cannot_be_compared(tmp_path):
    with pytest.raises(UserError, match="No run of the study is finished"):
        write_report(tmp_path / "page.md", [])
    runs = [write_run(Run(FULL, 0, tmp_path), [EFFUSION]), write_run(Run(FULL, 1, tmp_path), [EFFUSION, CLEAR])]
    with pytest.raises(UserError, match="'full' were tested on different studies"):
        results_by_arm([read(run) for run in runs])
    runs[0].predictions.write_text('{"id": "study0", "generated": "", "labels": {}}\n', encoding="utf-8")
    with pytest.raises(UserError, match="study0 has no labels"):
        read(runs[0])


def test_the_ledger_keeps_what_a_run_gave(tmp_path):
    run = read(write_run(Run(FULL, 0, tmp_path, ("train.max_steps=2",)), [EFFUSION, CLEAR]))
    assert run.settings == [*BUDGET, *FULL.settings, "train.max_steps=2", "noise=0"]
    assert run.validation_bleu_4 == 0.375  # the best
    path = tmp_path / "results.jsonl"
    assert read_ledger(path) == []
    other = replace(run, seed=1)
    write_ledger(path, [run, other])
    assert read_ledger(path) == [run, other] and isinstance(read_ledger(path)[0], FinishedRun)
    again = replace(run, validation_bleu_4=0.5)
    assert record_run(path, again) == read_ledger(path) == [other, again]  # in place of the first
    path.write_text(path.read_text() + '{"arm": "full"}\n')
    with pytest.raises(UserError, match=r"results.jsonl, line 3 is damaged \(it is not a run of the study\)"):
        read_ledger(path)


@pytest.fixture
def phantoms(monkeypatch):
    """Replaces simulation and the training of the trunk; returns the requested phantoms."""
    requested = []
    monkeypatch.setattr(ablation, "train_trunk", lambda file, *_: file)
    monkeypatch.setattr(training, "prepare_phantom", lambda folder, settings: requested.append((folder.name, settings)))
    return requested


def test_finished_runs_are_skipped_and_others_made(tmp_path, monkeypatch, phantoms):
    commands = []

    def process(command, **_):
        commands.append(command[1:])
        if command[1] == "main_test.py":
            tested = Path(command[command.index("--checkpoint") + 1])
            write_run(next(run for run in runs if run.folder == tested), [EFFUSION])
        return subprocess.CompletedProcess(command, 0)

    monkeypatch.setattr(subprocess, "run", process)
    noisy = next(arm for arm in ARMS if arm.noise == 20)
    runs = [
        Run(arm, 3, tmp_path / "runs", (f"train.max_steps={steps}",)) for steps in (2, 3) for arm in (FULL, noisy)
    ]
    assert len({run.folder for run in runs}) == 4
    page, ledger, trunk = tmp_path / "page.md", tmp_path / "page.jsonl", tmp_path / "trunk"
    trunk.write_bytes(b"weights")
    write_ledger(ledger, [read(write_run(runs[0], [EFFUSION]))])
    arguments = [
        "ablation", "--arms", f"{FULL.name};{noisy.name}", "--seeds", "3", "--jobs", "1", "--results",
        str(tmp_path / "runs"), "--data", str(tmp_path), "--report", str(page), "--trunk", str(trunk),
        "train.max_steps=2",
    ]
    assert main(arguments) == 0
    assert [name for name, _ in phantoms] == ["phantom_noise20"] and phantoms[0][1].annotation_noise == 0.2
    train, test = commands
    assert train[0] == "main_train.py" and {"seed=3", "train.resume=true", "train.max_steps=2"} <= set(train)
    assert f"data.root={tmp_path / 'phantom_noise20'}" in train
    assert f"model.patch_encoder.weights={trunk}" in train
    assert test[0] == "main_test.py" and test[-1] == "predicted"
    assert "Finished runs: 2 of 48;" in page.read_text(encoding="utf-8")
    assert [run.arm for run in read_ledger(ledger)] == [FULL.name, noisy.name]
    assert main(arguments) == 0 and len(commands) == 2
    # Other settings make it another run; the old one stays in the ledger.
    assert main([*arguments[:-1], "train.max_steps=3"]) == 0 and len(commands) == 6
    assert len(read_ledger(ledger)) == 4
    page.unlink()
    assert main(["ablation", "--report-only", "--report", str(page), "train.max_steps=2"]) == 0
    assert len(commands) == 6 and "Finished runs: 2 of 48;" in page.read_text(encoding="utf-8")


def test_a_run_that_fails_names_its_log(tmp_path, monkeypatch, phantoms, capsys):
    monkeypatch.setattr(subprocess, "run", lambda command, **_: subprocess.CompletedProcess(command, 1))
    folders = ["--results", str(tmp_path), "--report", str(tmp_path / "page.md")]
    assert main(["ablation", "--arms", "full", "--seeds", "0", *folders]) == 1
    assert f"{Run(FULL, 0, tmp_path).name}: main_train.py ended with status 1" in capsys.readouterr().err


@pytest.mark.parametrize(("option", "value", "message"), [
    ("--arms", "empty", "--arms: unknown arm 'empty'; choose from full; no graph"),
    ("--arms", "contxt", "40 % noise, or one of context, family\n"),
    ("--seeds", "0,x", "--seeds=0,x: must be whole numbers separated by commas"),
    ("--jobs", "0", "--jobs=0: must be at least 1"),
])
def test_what_cannot_be_run_is_refused_in_one_line(tmp_path, capsys, option, value, message):
    folders = ["--results", str(tmp_path), "--report", str(tmp_path / "page.md")]
    assert main(["ablation", option, value, *folders]) == 1
    assert message in capsys.readouterr().err


@pytest.mark.timeout(600)  # starts four processes
def test_one_run_for_real(tmp_path, monkeypatch, without_java):
    """Train two steps of a small arm on a phantom of ten studies, and test it."""
    monkeypatch.setattr(training, "STUDIES", 10)
    monkeypatch.setattr(training, "IMAGE_SIZE", 32)
    arm = Arm("full", ("data.image_size=32", "model.width=32", "model.feedforward=32", "data.min_word_count=1"))
    monkeypatch.setattr(ablation, "ARMS", (arm,))
    page, trunk = tmp_path / "page.md", tmp_path / "trunk.safetensors"
    assert main([
        "ablation", "--seeds", "0", "--data", str(tmp_path / "data"), "--results", str(tmp_path / "runs"), "--report",
        str(page), "--trunk", str(trunk), "train.max_steps=2", "eval.beam_size=1",
    ]) == 0
    assert "| full | 0 | 0." in page.read_text(encoding="utf-8")
    (trained,) = (tmp_path / "runs").glob("trunk_*")
    source = load_checkpoint(trained).weights
    first = build_patch_encoder("small_resnet", 16, str(trunk)).trunk.state_dict()
    for name, value in first.items():
        rounding = 1e-3 if value.dim() > 1 else 0  # convolutions are stored in half precision
        torch.testing.assert_close(value, source[f"patch_encoder.trunk.{name}"], rtol=rounding, atol=1e-7)
    # The next study takes the file as it is.
    assert training.train_trunk(trunk, tmp_path / "no data", tmp_path / "no results", (), 1) == trunk


def test_the_shipped_trunk_fits_the_demo():
    root = Path(__file__).resolve().parents[3]
    trunk = build_patch_encoder("small_resnet", 16, str(root / "files/phantom_trunk.safetensors")).trunk
    # Trained: after 1,500 steps, the running means of BatchNorm are far from their initial zeros.
    assert trunk.state_dict()["1.running_mean"].abs().max() > 0.01
    assert (root / "files/phantom_trunk.safetensors").stat().st_size < 6e6


def test_the_shipped_page_is_what_its_ledger_makes_and_the_readme_agrees(tmp_path):
    root = Path(__file__).resolve().parents[3]
    recorded = read_ledger(root / "docs/results.jsonl")
    runs = select_current(recorded, ())
    assert len(runs) == sum(run.arm not in family_names() for run in recorded)
    page = tmp_path / "results.md"
    write_report(page, runs)
    assert page.read_text(encoding="utf-8") == (root / "docs/results.md").read_text(encoding="utf-8")
    results = results_by_arm(runs)
    baseline = best_baseline(results)
    value, low, high = difference(results[FULL.name].counts, results[baseline].counts)
    readme = " ".join((root / "README.md").read_text(encoding="utf-8").split())
    assert f"have an observation F1 of {results[FULL.name].f1.mean():.3f}" in readme
    assert f"of equal size {results[baseline].f1.mean():.3f} (difference {value:.3f}" in readme
    assert f"95 % interval {low:.3f} to {high:.3f})" in readme
