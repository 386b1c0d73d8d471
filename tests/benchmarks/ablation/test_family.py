"""The study of the R2Gen family: arms of equal size, the choice of learning rates, the ledger, and the report."""

import json

import pytest

from benchmarks.__main__ import main
from benchmarks.ablation import family, training
from benchmarks.ablation.arms import ARMS, BUDGET, FULL, NO_GRAPH, Run
from benchmarks.ablation.family import (
    FURTHER_SETTINGS,
    RATES,
    REWARDS,
    TECHNIQUES,
    family_arm,
    family_names,
    further_arm,
)
from benchmarks.ablation.ledger import read_ledger, write_ledger
from models.outputs import GraphSource
from modules import builders
from modules.config import load_config
from tests.support.tiny_model import tiny_vocabularies

DEMO = "configs/demo.yaml"
EFFUSION, CLEAR = "There is a left pleural effusion.", "The lungs are clear."


def parameters(settings: tuple[str, ...]) -> int:
    model = builders.build_model(load_config(DEMO, [*BUDGET, *settings]), tiny_vocabularies())
    return sum(parameter.numel() for parameter in model.parameters())


@pytest.mark.parametrize("with_graph", [False, True])
@pytest.mark.parametrize("technique", TECHNIQUES)
def test_arms_have_the_parameters_of_the_full_model_within_a_tenth(technique, with_graph):
    arm = family_arm(technique, with_graph, 2e-3)
    assert parameters(arm.settings) == pytest.approx(parameters(FULL.settings), rel=0.1)
    assert arm.graph == (GraphSource.PREDICTED if with_graph else GraphSource.NONE)


def test_the_plain_transformer_has_the_arms_of_the_study_of_the_graph():
    assert family_arm("transformer", True, 2e-3) == FULL
    assert {family_arm("transformer", False, rate) for rate in RATES} < set(ARMS)
    assert FULL.name not in family_names() and "graph, R2Gen, rate 0.001" in family_names()


@pytest.mark.parametrize("kind", FURTHER_SETTINGS)
def test_further_training_is_a_configuration_of_the_same_model(kind):
    arm = further_arm(FULL, kind)
    config = load_config(DEMO, [*BUDGET, *arm.settings, "train.init_from=somewhere"])
    assert config.train.stage == ("reward" if kind == REWARDS else "cross_entropy")
    assert config.train.epochs == 1 and config.loss.observations == 20
    assert config.optim.lr == 2e-4


@pytest.fixture
def commands(monkeypatch, tmp_path):
    """Records the commands in place of running them. Graphs help, and a rate of 0.002 is the best in validation."""
    recorded = []

    def run_script(folder, command, threads=1):
        recorded.append((folder, command))
        if command[0] == "main_train.py":
            (folder / "best").mkdir(parents=True, exist_ok=True)
            score = 0.3 if "optim.lr=0.001" in command else 0.4
            score += 0.1 * (" CAMANet " in folder.name.replace("_", " "))
            log = [{"kind": "start", "parameters": 8_000_000}, {"kind": "validation", "scores": {"bleu_4": score}}]
            (folder / "log.jsonl").write_text("".join(json.dumps(line) + "\n" for line in log))
            return
        graph = command[command.index("--graph") + 1]
        suffix = "_none" if graph == "none" else ""
        right = {"none": 5, "predicted": 7}[graph] + 3 * ("rewards" in folder.name)
        entries = [
            {"id": str(study), "generated": EFFUSION if study < right else CLEAR, "reference": EFFUSION,
             "labels": {"Pleural Effusion": 1}} for study in range(10)
        ]
        (folder / f"predictions{suffix}.jsonl").write_text("".join(json.dumps(entry) + "\n" for entry in entries))
        metrics = {"scores": {"bleu_4": 0.25, "triple_f1": 0.5}, "baselines": {}}
        (folder / f"metrics{suffix}.json").write_text(json.dumps(metrics))

    def trunk(file, data, results, overrides, threads):
        path = tmp_path / "trunk.pt"
        path.write_bytes(b"weights")
        return path

    monkeypatch.setattr(training, "run_script", run_script)
    monkeypatch.setattr(family, "train_trunk", trunk)
    monkeypatch.setattr(family, "prepare", lambda data: data / "phantom")
    return recorded


def options_of(tmp_path, seeds: str) -> list[str]:
    return ["ablation", "--arms", "family", "--seeds", seeds, "--jobs", "1", "--data", str(tmp_path), "--results",
            str(tmp_path / "runs"), "--report", str(tmp_path / "results.md")]


def test_rates_are_chosen_on_the_validation_split_and_finished_runs_are_not_repeated(commands, tmp_path):
    assert main(options_of(tmp_path, "0,1")) == 0
    trained = [command for _, command in commands if command[0] == "main_train.py"]
    arms = 2 * len(TECHNIQUES)
    assert len(trained) == arms * len(RATES) + arms + 2 * len(FURTHER_SETTINGS)
    second = [command for command in trained if "seed=1" in command and "train.epochs=1" not in command]
    assert len(second) == arms and all("optim.lr=0.001" not in command for command in second)
    text = (tmp_path / "family_results.md").read_text(encoding="utf-8")
    row = next(line for line in text.splitlines() if line.startswith("| XProNet |"))
    # F1 of 5 and 7 of 10 studies with an effusion; the others say that there is none.
    assert row.startswith("| XProNet | 2 | 0.002 / 0.002 | 0.500 ± 0.000 | 0.700 ± 0.000 | +0.200 (")
    assert "* XProNet: the scene graph" in text
    assert "The aim of +0.03 is met." in text
    # The best member, by the validation split, is trained further, from its own best checkpoint.
    best = family_arm("CAMANet", True, 2e-3)
    assert f"`{best.name}`" in text and "The aim of +0.02 with BLEU-4 within 0.01 is met." in text
    start = Run(best, 1, tmp_path / "runs").folder
    assert f"train.init_from={start / 'best'}" in trained[-1] and "train.stage=reward" in trained[-1]
    assert commands[-1][1][2].endswith("last")
    # Another machine has the ledger alone.
    (tmp_path / "runs").rename(tmp_path / "lost")
    (tmp_path / "family_results.md").unlink()
    count = len(commands)
    assert main(options_of(tmp_path, "0,1")) == 0 and len(commands) == count
    assert (tmp_path / "family_results.md").read_text(encoding="utf-8") == text


def test_a_lost_checkpoint_is_made_again_but_not_recorded_again(commands, tmp_path):
    assert main(options_of(tmp_path, "0")) == 0
    ledger = tmp_path / "results.jsonl"
    runs = read_ledger(ledger)
    kept = [run for run in runs if not run.arm.endswith("further rewards")]
    write_ledger(ledger, kept)
    (tmp_path / "runs").rename(tmp_path / "lost")
    before = len(commands)
    assert main(options_of(tmp_path, "0")) == 0
    trained = [command for _, command in commands[before:] if command[0] == "main_train.py"]
    assert ["train.stage=reward" in command for command in trained] == [False, True]
    assert sorted(run.key for run in read_ledger(ledger)) == sorted(run.key for run in runs)


def test_a_run_of_the_study_of_the_graph_is_used_if_it_has_a_validation_score(commands, tmp_path):
    assert main(options_of(tmp_path, "0")) == 0
    ledger = tmp_path / "results.jsonl"
    shared = [run for run in read_ledger(ledger) if run.arm in {arm.name for arm in ARMS}]
    assert {run.arm for run in shared} == {FULL.name, f"{NO_GRAPH}, rate 0.001", f"{NO_GRAPH}, rate 0.002"}
    assert main(["ablation", "--report-only", "--report", str(tmp_path / "results.md")]) == 0
    text = (tmp_path / "results.md").read_text(encoding="utf-8")
    assert "Finished runs: 3 of 48;" in text and "CAMANet" not in text


def test_without_a_finished_comparison_the_page_says_so(tmp_path):
    assert main([*options_of(tmp_path, "0"), "--report-only"]) == 0
    assert "No comparison is finished." in (tmp_path / "family_results.md").read_text(encoding="utf-8")
