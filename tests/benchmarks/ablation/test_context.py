"""The study of the context: arms, commands, ledger and report."""

import json
from dataclasses import replace
from pathlib import Path

import pytest
import yaml

from benchmarks.__main__ import main
from benchmarks.ablation import context, training
from benchmarks.ablation.arms import BUDGET, VERSION, Run
from benchmarks.ablation.context import ARMS, select_current
from benchmarks.ablation.context_ledger import ContextRun, count_by_patient
from benchmarks.ablation.context_report import write_context_report
from benchmarks.ablation.ledger import read_ledger
from data.errors import UserError
from modules.config import load_config

# What the model sees of each study, and what is true of it.
WORSE, SAME = "The left pleural effusion has worsened.", "The left pleural effusion is unchanged."
PLAIN = "There is edema."
STUDIES = [("a1", "a", None), ("a2", "a", "a1"), ("b1", "b", None)]


def write_records(folder: Path, change: str = "worsened") -> None:
    """Write a data set of two patients; the effusion of the study with a prior has changed."""
    folder.mkdir(parents=True)
    scores = {"indication": 0.38, "previous report": 0.64}
    (folder / "dataset.yaml").write_text(yaml.safe_dump({
        "name": "phantom", "counts": {"test": len(STUDIES)}, "f1_without_images": scores,
    }))
    with (folder / "records.jsonl").open("w") as file:
        for order, (name, patient, prior) in enumerate(STUDIES):
            region = {"box": None, "mentioned": True, "abnormal": True, "attributes": []}
            if prior is not None:
                region["change"] = change
            file.write(json.dumps({
                "id": name, "split": "test", "images": [f"{name}.png"], "views": ["PA"], "report": PLAIN,
                "observations": {"Pleural Effusion": 1}, "graph": {"regions": {"left costophrenic angle": region}},
                "patient": patient, "taken": f"{order}", "indication": None, "comparison": None, "impression": None,
                "prior": prior,
            }) + "\n")


def write_test(folder: Path, reports: list[str], reads: list[str]) -> None:
    """Write the results of a test whose studies are those of `STUDIES`."""
    folder.mkdir(parents=True, exist_ok=True)
    entries = [
        {"id": name, "generated": text, "labels": {"Pleural Effusion": 1}}
        for (name, *_), text in zip(STUDIES, reports, strict=True)
    ]
    (folder / "predictions.jsonl").write_text("".join(json.dumps(entry) + "\n" for entry in entries))
    read = {"context": {"reads": reads, "shown": "all"}} if reads else {}
    (folder / "metrics.json").write_text(json.dumps({"scores": {"bleu_4": 0.25, "change_macro_f1": None}} | read))


@pytest.mark.parametrize("arm", ARMS, ids=lambda arm: arm.name)
def test_every_arm_is_a_configuration(arm):
    config = load_config("configs/demo.yaml", [*BUDGET, *arm.settings])
    assert config.loss.change == 2 and len(config.model.context) == {"none": 0, "both": 2}.get(arm.name[9:], 1)
    assert config.model.indication_evidence == (arm.name[9:] in ("both", "indication as evidence"))


def test_counts_are_sums_over_the_studies_of_a_patient(tmp_path):
    write_records(tmp_path / "data")
    records = {record["id"]: record for record in context_records(tmp_path / "data")}
    write_test(tmp_path, [SAME, WORSE, WORSE], ["prior"])
    counts = count_by_patient(tmp_path / "predictions.jsonl", records, reads_prior=True)
    assert counts["observations"] == [[2, 0, 0], [1, 0, 0]]
    # Only the study with a prior has a known change: the report is right, and "no change" would be wrong.
    assert counts["comparisons"] == [[1, 0, 1], [0, 0, 0]]
    assert counts["unseen"] == [[1, 1], [1, 1]] and counts["priors"] == [[1, 1], [0, 0]]
    counts = count_by_patient(tmp_path / "predictions.jsonl", records, reads_prior=False)
    assert counts["unseen"] == [[2, 2], [1, 1]] and counts["priors"] == [[0, 0], [0, 0]]


def test_general_remarks_are_invented_comparisons_too(tmp_path):
    write_records(tmp_path / "data")
    records = {record["id"]: record for record in context_records(tmp_path / "data")}
    write_test(tmp_path, ["comparison is made with the prior study .", PLAIN, PLAIN], ["prior"])
    counts = count_by_patient(tmp_path / "predictions.jsonl", records, reads_prior=True)
    assert counts["unseen"] == [[1, 1], [0, 1]] and counts["comparisons"] == [[0, 0, 0], [0, 0, 0]]


def context_records(folder: Path) -> list[dict]:
    return [json.loads(line) for line in (folder / "records.jsonl").read_text().splitlines()]


@pytest.fixture
def commands(monkeypatch, tmp_path):
    """Records the commands in place of running them; models that see the prior are right about the change."""
    recorded = []

    def run_script(folder, command, threads=1):
        recorded.append((folder.name, command))
        if command[0] == "main_train.py":
            folder.mkdir(parents=True)
            (folder / "log.jsonl").write_text('{"kind": "start", "parameters": 8000000}\n')
            return
        reads = [name for name in ("indication", "prior") if name in folder.name or "both" in folder.name]
        for shown in command[-1].split(","):
            sees_prior = "prior" in reads and shown == "all"
            reports = [PLAIN, WORSE, PLAIN] if sees_prior else [SAME if not reads else PLAIN, SAME, PLAIN]
            write_test(folder / ("" if shown == "all" else f"context_{shown}"), reports, reads)

    def trunk(file, data, results, overrides, threads):
        path = tmp_path / "trunk.pt"
        path.write_bytes(b"weights")
        return path

    def prepare_phantom(folder, settings):
        assert settings.priors > 0
        if not folder.exists():
            write_records(folder)

    monkeypatch.setattr(training, "run_script", run_script)
    monkeypatch.setattr(context, "train_trunk", trunk)
    monkeypatch.setattr(context, "prepare_phantom", prepare_phantom)
    return recorded


def test_runs_are_made_once_and_the_page_is_written_from_their_ledger(commands, tmp_path, capsys):
    page, ledger = tmp_path / "docs/context_results.md", tmp_path / "docs/context_results.jsonl"
    options = ["ablation", "--arms", "context", "--seeds", "0,1", "--jobs", "1", "--data", str(tmp_path / "data"),
               "--results", str(tmp_path / "results"), "--report", str(tmp_path / "docs/results.md")]
    assert main(options) == 0
    assert "context_results.md" in capsys.readouterr().out
    assert len(commands) == 2 * 2 * len(ARMS)
    assert [command[-1] for _, command in commands if command[0] == "main_test.py"][:4] == [
        "all", "all", "all", "all,none",
    ]
    train = commands[0][1]
    assert f"model.patch_encoder.weights={tmp_path / 'trunk.pt'}" in train and "model.context=[]" in train
    text = page.read_text(encoding="utf-8")
    both = next(line for line in text.splitlines() if line.startswith("| both | all |"))
    # Resamples of two patients may lack the only known change.
    assert both.startswith("| both | all | 2 | 1.000 (0.000 to 1.000) | +1.000 (+0.000 to +1.000) | 1.000 ")
    assert "0.20 above \"no change\". Found: 1.000 and +1.000. Met." in text
    assert "* Both read: at most 1 % invented comparisons. Found: 0.0%. Met." in text
    assert "* Both read, none shown: at most 1 % invented comparisons. Found: 33.3%. Missed." in text
    assert "indication alone predicts these with an F1 of 0.380" in " ".join(text.split())
    # A checkout without the run folders needs neither data nor training.
    (tmp_path / "data").rename(tmp_path / "elsewhere")
    (tmp_path / "results").rename(tmp_path / "lost")
    page.unlink()
    assert main([*options, "--report-only"]) == 0 and page.read_text(encoding="utf-8") == text
    assert main(options) == 0 and len(commands) == 2 * 2 * len(ARMS)
    assert len(read_ledger(ledger, ContextRun)) == 2 * len(ARMS)


def test_the_shipped_page_is_what_its_ledger_makes(tmp_path):
    docs = Path(__file__).resolve().parents[3] / "docs"
    recorded = read_ledger(docs / "context_results.jsonl", ContextRun)
    write_context_report(tmp_path / "page.md", select_current(recorded, ()))
    assert (tmp_path / "page.md").read_text("utf-8") == (docs / "context_results.md").read_text("utf-8")


def test_runs_with_other_settings_or_of_an_earlier_version_are_left_out():
    run = Run(ARMS[0], 0, Path())
    line = ContextRun(
        arm=ARMS[0].name, settings=run.settings, seed=0, experiment=run.experiment, trunk="", parameters=1,
        version=VERSION, without_images={}, tests={},
    )
    others = [replace(line, experiment="before"), replace(line, version=VERSION - 1), replace(line, arm="another")]
    assert select_current([line, *others], ()) == [line]
    assert select_current([line], ("train.max_steps=2",)) == []


def test_what_cannot_be_reported_is_refused(tmp_path):
    with pytest.raises(UserError, match="No run of the study of the context is finished"):
        write_context_report(tmp_path / "page.md", [])
    rows = {name: [[1, 1]] for name in ("unseen", "priors")} | {"scores": {}}
    tests = [rows | {"observations": [[1, 0, 0]] * n, "comparisons": [[1, 0, 1]] * n} for n in (1, 2)]
    runs = [
        ContextRun(arm="context, none", settings=[], seed=seed, experiment="", trunk="", parameters=1,
                   version=VERSION, without_images={"indication": None, "previous report": None}, tests={"all": test})
        for seed, test in enumerate(tests)
    ]
    with pytest.raises(UserError, match="'context, none' were tested on different patients"):
        write_context_report(tmp_path / "page.md", runs)


def test_a_run_that_fails_is_named(commands, monkeypatch, tmp_path, capsys):
    def fail(folder, command, threads=1):
        raise UserError(f"{folder.name}: {command[0]} ended with status 1")

    monkeypatch.setattr(training, "run_script", fail)
    assert main(["ablation", "--arms", "context", "--jobs", "1", "--data", str(tmp_path / "data"), "--results",
                 str(tmp_path), "--report", str(tmp_path / "results.md")]) == 1
    assert f"{Run(ARMS[0], 0, tmp_path).name}: main_train.py ended" in capsys.readouterr().err
