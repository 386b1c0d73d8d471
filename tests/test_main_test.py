"""main_test.py with a real model of a few thousand weights."""

import json
import os
import shutil
import socket
import subprocess
import sys
from pathlib import Path

import pytest
import torch
import yaml

import main_test
from modules.evaluation.baselines.names import NAMES
from modules.evaluation.scoring import SCORE_NAMES
from tests.support.checkpoint_files import update_manifest
from tests.support.tiny_dataset import write_tiny_dataset
from tests.support.tiny_run import prefer_unknown_words, save_tiny_run, write_tiny_run


@pytest.fixture(scope="module")
def trained(tmp_path_factory):
    """A run folder with the checkpoint of an untrained model, and its data set."""
    return write_tiny_run(tmp_path_factory.mktemp("trained"))


@pytest.fixture
def run_folder(trained, tmp_path, without_java):
    """A copy of the run folder. Java is hidden."""
    return Path(shutil.copytree(trained[0], tmp_path / "run"))


def read_metrics(path):
    return json.loads(path.read_text(encoding="utf-8"))


def test_a_run_folder_is_scored_with_the_predicted_graph(run_folder, capsys):
    assert main_test.main(["--checkpoint", str(run_folder), "--split", "test", "--graph", "predicted"]) == 0
    metrics = read_metrics(run_folder / "metrics.json")
    described = {key: metrics[key] for key in
                 ("split", "graph_source", "box_source", "protocol", "list", "beam_size", "seed", "studies", "dataset")}
    assert described == {
        "split": "test", "graph_source": "predicted", "box_source": "localizer", "protocol": "r2gen", "beam_size": 2,
        "seed": 5, "studies": 3, "dataset": "tiny", "list": None,
    }
    assert metrics["checkpoint"] == str(run_folder / "best")
    assert metrics["applied"]["CIDEr's document frequencies"] == "of the 3 references"
    assert metrics["applied"]["rare words"] == "<unk> for those outside the checkpoint's vocabulary"
    assert metrics["applied"]["references"].startswith("cut to ") and "'corrected'" in metrics["applied"]["cleaning"]
    assert metrics["cleaning"] == "corrected"
    assert set(metrics["scores"]) == set(SCORE_NAMES)
    assert "Java" in metrics["absent"]["meteor"]
    assert set(metrics["absent"]) == {name for name, value in metrics["scores"].items() if value is None}
    assert set(metrics["intervals"]) == set(SCORE_NAMES)
    for about in ("baselines", "baseline_intervals", "absent_baselines"):
        assert tuple(metrics[about]) == NAMES
    low, high = metrics["baseline_intervals"]["blind"]["bleu_1"]
    assert low <= metrics["baselines"]["blind"]["bleu_1"] <= high
    assert metrics["baselines"]["blind"]["box_iou"] > 0.4
    assert len((run_folder / "predictions.jsonl").read_text().splitlines()) == 3
    printed = capsys.readouterr().out
    assert "with the checkpoint's own vocabularies" in printed
    for name in ("metrics.json", "predictions.jsonl", "report.html"):
        assert (run_folder / name).is_file()
        assert f"written: {run_folder / name}" in printed


def test_the_same_twice_and_other_sources_beside_it(run_folder):
    arguments = ["--checkpoint", str(run_folder / "best")]
    assert main_test.main(arguments) == 0
    first = read_metrics(run_folder / "metrics.json")
    assert main_test.main([*arguments, "--graph", "none", "eval.beam_size=1", "--boxes", "atlas"]) == 0
    none = read_metrics(run_folder / "metrics_none.json")
    assert (none["graph_source"], none["box_source"], none["beam_size"]) == ("none", "atlas", 1)
    assert main_test.main(arguments) == 0
    assert read_metrics(run_folder / "metrics.json") == first


def test_a_decoder_in_int8_writes_as_many_reports_and_says_so(run_folder, tmp_path):
    """The rest of the model computes in fp32, whatever precision the run was trained in."""
    folders = []
    for name, settings in (("fp32", []), ("int8", ["eval.int8=true", "train.precision=bf16"])):
        folders.append(tmp_path / name)
        assert main_test.main(["--checkpoint", str(run_folder), "--out", str(folders[-1]), *settings]) == 0
    plain, quantised = (read_metrics(folder / "metrics.json") for folder in folders)
    assert [(metrics["precision"], metrics["int8"]) for metrics in (plain, quantised)] == [
        ("fp32", False), ("fp32", True),
    ]  # fmt: skip
    entries, in_int8 = (
        [json.loads(line) for line in (folder / "predictions.jsonl").read_text().splitlines()] for folder in folders
    )
    for entry, other in zip(entries, in_int8, strict=True):
        assert entry["score"] != other["score"] and abs(entry["score"] - other["score"]) < 0.1
        assert all(entry[part] == other[part] for part in ("id", "regions", "attributes", "observations"))


@pytest.mark.parametrize("arguments", [["--graph", "oracle"], ["eval.graph_source=oracle", "eval.box_source=atlas"]])
def test_the_oracle_graph_is_named_with_its_own_boxes_however_it_is_asked_for(run_folder, capsys, arguments):
    assert main_test.main(["--checkpoint", str(run_folder), "eval.beam_size=1", *arguments]) == 0
    printed = capsys.readouterr()
    assert "graph oracle, boxes oracle_boxes" in printed.out and "annotated graphs have none" not in printed.err
    assert read_metrics(run_folder / "metrics_oracle.json")["box_source"] == "oracle_boxes"
    assert "oracle_boxes" in (run_folder / "report_oracle.html").read_text()


def test_an_oracle_graph_without_any_attribute_of_the_checkpoint_is_warned_of(trained, run_folder, tmp_path, capsys):
    root = Path(shutil.copytree(trained[1], tmp_path / "renamed"))
    lines = [json.loads(line) for line in (root / "records.jsonl").read_text().splitlines()]
    for region in (region for line in lines if line["graph"] for region in line["graph"]["regions"].values()):
        region["attributes"] = [f"other/{number}" for number, _ in enumerate(region["attributes"])]
    (root / "records.jsonl").write_text("".join(json.dumps(line) + "\n" for line in lines))
    arguments = ["--checkpoint", str(run_folder), "--data", str(root), "--out", str(tmp_path / "out")]
    assert main_test.main([*arguments, "--graph", "oracle", "eval.beam_size=1"]) == 0
    assert "The annotated graphs have none of the checkpoint's attributes (such as '" in capsys.readouterr().err
    metrics = read_metrics(tmp_path / "out" / "metrics_oracle.json")
    assert metrics["scores"]["attribute_ece"] is None and metrics["scores"]["region_ece"] is not None


def test_three_graphs_side_by_side(run_folder, capsys):
    arguments = ["--checkpoint", str(run_folder), "eval.beam_size=1", "--graph", "oracle,predicted,none"]
    assert main_test.main([*arguments, "--boxes", "localizer"]) == 0
    printed = capsys.readouterr().out
    by_suffix = {suffix: read_metrics(run_folder / f"metrics{suffix}.json") for suffix in ("", "_predicted", "_none")}
    sources = ("oracle", "predicted", "none")
    assert tuple(metrics["graph_source"] for metrics in by_suffix.values()) == sources
    assert [metrics["box_source"] for metrics in by_suffix.values()] == ["oracle_boxes", "localizer", "localizer"]
    compared = by_suffix[""]["graph_sources"]
    assert tuple(compared) == sources and "graph_sources" not in by_suffix["_none"]
    for metrics, source in zip(by_suffix.values(), sources, strict=True):
        assert compared[source]["scores"] == metrics["scores"]
        assert metrics["baselines"] == by_suffix[""]["baselines"]
    value = by_suffix["_none"]["scores"]["bleu_1"] - by_suffix[""]["scores"]["bleu_1"]
    assert compared["none"]["difference"]["bleu_1"] == pytest.approx(value)
    low, high = compared["none"]["interval"]["bleu_1"]
    assert low <= value <= high and compared["none"]["interval"]["attribute_micro_f1"] is None
    assert "Effect of the scene graph" in printed and "3 of 3 studies have an annotated graph" in printed
    for name in ("predictions.jsonl", "predictions_predicted.jsonl", "predictions_none.jsonl", "report.html"):
        assert (run_folder / name).is_file() and f"written: {run_folder / name}" in printed
    assert len(list(run_folder.glob("report*.html"))) == 1
    assert "Effect of the scene graph" in (run_folder / "report.html").read_text(encoding="utf-8")

    # A single source gives the same scores, in the file that it has alone.
    assert main_test.main([*arguments[:-1], "none"]) == 0
    assert read_metrics(run_folder / "metrics_none.json")["scores"] == by_suffix["_none"]["scores"]


def test_several_graphs_of_a_split_carry_its_name(run_folder):
    arguments = ["--checkpoint", str(run_folder), "--split", "val", "--graph", "predicted,none", "eval.beam_size=1"]
    assert main_test.main(arguments) == 0
    assert {path.name for path in run_folder.glob("metrics*")} == {"metrics_val.json", "metrics_val_none.json"}
    assert (run_folder / "report_val.html").is_file()


def test_a_model_without_graph_has_no_gap_and_says_so(trained, tmp_path, monkeypatch, capsys):
    monkeypatch.setenv("PATH", str(tmp_path))
    save_tiny_run(tmp_path / "run", trained[1], "model.graph_in=none")
    assert main_test.main(["--checkpoint", str(tmp_path / "run"), "--graph", "predicted,oracle,none"]) == 0
    printed = capsys.readouterr().out
    assert "built without a scene graph" in printed and "there is nothing to compare" in printed
    assert "graph predicted (of a model without graph)" in printed
    metrics = read_metrics(tmp_path / "run" / "metrics.json")
    assert metrics["graph_in"] == "none" and "graph_sources" not in metrics
    assert [path.name for path in (tmp_path / "run").glob("metrics*")] == ["metrics.json"]


def test_reference_observations_that_choose_prototypes_are_named(trained, tmp_path, monkeypatch):
    monkeypatch.setenv("PATH", str(tmp_path))
    prototypes = "model.prototypes={per_observation: 2, channels: 8, heads: 2}"
    save_tiny_run(tmp_path / "run", trained[1], "model.graph_in=none", prototypes)
    assert main_test.main(["--checkpoint", str(tmp_path / "run"), "--graph", "predicted,oracle"]) == 0
    assert read_metrics(tmp_path / "run" / "metrics.json")["graph_source"] == "predicted"
    assert read_metrics(tmp_path / "run" / "metrics_oracle.json")["graph_source"] == "oracle"


def test_the_page_draws_the_course_of_the_run(run_folder):
    entry = {"kind": "train", "step": 1, "loss": 2.0, "terms": {"report": 1.5}}
    (run_folder / "log.jsonl").write_text(json.dumps(entry) + "\n")
    assert main_test.main(["--checkpoint", str(run_folder), "--out", str(run_folder / "out")]) == 0
    assert "Training curves" in (run_folder / "out" / "report.html").read_text(encoding="utf-8")


@pytest.mark.parametrize("log", [
    b"\xff\n", b'{"kind": "train", "step": 1, "loss": 1, "terms": {"x": %s}}\n' % (b"9" * 400),
    b'{"kind": "train", "step": %s, "loss": 1, "terms": {}}\n' % (b"9" * 400), b'{"kind": "train", "step": "one"}\n',
], ids=["byte", "value", "step", "type"])
def test_odd_files_beside_the_results_cost_no_result(trained, run_folder, log, tmp_path, capsys):
    root = Path(shutil.copytree(trained[1], tmp_path / "odd"))
    (root / "dataset.yaml").write_text("name: [1, {2: 3}]\nlist: 2024-01-01\ncounts: {test: 3}\n")
    (run_folder / "log.jsonl").write_bytes(log)
    (run_folder / "tracking.json").write_bytes(b"\xff")
    arguments = ["--checkpoint", str(run_folder), "--data", str(root), "--baselines", "none", "--out"]
    assert main_test.main([*arguments, str(run_folder / "out")]) == 0
    assert read_metrics(run_folder / "out/metrics.json")["list"] == "2024-01-01"
    printed = capsys.readouterr()
    assert "Traceback" not in printed.err and "Warning: the results were not recorded." in printed.out


def test_a_page_that_fails_costs_no_result(run_folder, monkeypatch, capsys):
    monkeypatch.setattr("modules.evaluation.results_writer.choose_studies", lambda *_: 1 / 0)
    assert main_test.main(["--checkpoint", str(run_folder), "--baselines", "none"]) == 0
    assert (run_folder / "metrics.json").exists() and (run_folder / "predictions.jsonl").exists()
    assert "report.html was not written. ZeroDivisionError: division by zero" in capsys.readouterr().err


@pytest.mark.parametrize("graph", ["predicted", "none"])
def test_weights_that_give_nan_end_with_one_line(run_folder, graph, capsys):
    weights = torch.load(run_folder / "best" / "weights.pt", weights_only=True)
    name = "decoder.word_head.bias" if graph == "none" else "patch_encoder.trunk.0.weight"
    torch.save(weights | {name: weights[name] * torch.nan}, run_folder / "best" / "weights.pt")
    update_manifest(run_folder / "best")
    assert main_test.main(["--checkpoint", str(run_folder), "--graph", graph, "--baselines", "none"]) == 1
    (line,) = (line for line in capsys.readouterr().err.splitlines() if "run folder" not in line)
    assert line.startswith("The model gives numbers that are not finite for study test0: its weights are damaged")
    assert not (run_folder / "metrics.json").exists()


def test_another_data_set_is_scored_with_the_checkpoints_vocabularies(trained, run_folder, tmp_path, capsys):
    other = write_tiny_dataset(tmp_path / "other", train=3, val=2, test=2, image_size=32, seed=9)
    lines = [json.loads(line) for line in (other / "records.jsonl").read_text().splitlines()]
    for line in lines:
        line["report"] = "Quux heart. " + line["report"]
    (other / "records.jsonl").write_text("".join(json.dumps(line) + "\n" for line in lines))
    assert main_test.main(["--checkpoint", str(run_folder), "--data", str(other)]) == 0
    assert not (run_folder / "metrics.json").exists()
    metrics = read_metrics(run_folder / "on_other" / "metrics.json")
    assert metrics["studies"] == 2
    assert str(other) in capsys.readouterr().out
    entry = json.loads((run_folder / "on_other" / "predictions.jsonl").read_text().splitlines()[0])
    assert entry["reference"].startswith("quux heart")  # complete, though the word is not in the checkpoint


def test_baselines_by_name(run_folder, capsys):
    arguments = ["--checkpoint", str(run_folder), "eval.beam_size=1", "--baselines"]
    for value, names in (("none", ()), ("random_report,blind", ("blind", "random_report")), ("all", NAMES)):
        assert main_test.main([*arguments, value]) == 0
        metrics = read_metrics(run_folder / "metrics.json")
        for about in ("baselines", "baseline_intervals", "absent_baselines"):
            assert tuple(metrics[about]) == names
        assert ("nearest image" in capsys.readouterr().out) == ("nearest_image" in names)


def test_without_baselines_the_training_split_is_not_read(run_folder, monkeypatch):
    monkeypatch.setattr(main_test, "build_fitting_dataset", lambda *_: pytest.fail("a split was read"))
    assert main_test.main(["--checkpoint", str(run_folder), "eval.beam_size=1", "--baselines", "none"]) == 0


def test_baselines_are_found_once_for_a_checkpoint_and_a_data_set(run_folder, monkeypatch):
    arguments = ["--checkpoint", str(run_folder), "--graph", "none"]
    assert main_test.main(arguments) == 0
    first = read_metrics(run_folder / "metrics_none.json")
    with monkeypatch.context() as patch:
        patch.setattr(main_test, "build_fitting_dataset", lambda *_: pytest.fail("a split was read"))
        assert main_test.main([*arguments, "eval.beam_size=1", "--graph", "predicted"]) == 0
    assert read_metrics(run_folder / "metrics.json")["baselines"] == first["baselines"]
    stored = (run_folder / "baselines.json").read_bytes()
    weights = torch.load(run_folder / "best" / "weights.pt", weights_only=True)
    name = next(name for name in weights if name.startswith("patch_encoder."))
    torch.save(weights | {name: weights[name] + 1}, run_folder / "best" / "weights.pt")
    update_manifest(run_folder / "best")
    assert main_test.main(arguments) == 0  # another trunk: other nearest images
    assert (run_folder / "baselines.json").read_bytes() != stored


def test_the_scores_do_not_depend_on_the_number_of_processes(run_folder, monkeypatch):
    monkeypatch.setattr("modules.evaluation.scoring._STUDIES_WORTH_A_PROCESS", 1)
    monkeypatch.setattr("modules.evaluation.scoring.available_cores", lambda: 2)
    found = []
    for workers in ("1", "2"):
        out = run_folder / workers
        assert main_test.main(["--checkpoint", str(run_folder), "--workers", workers, "--out", str(out)]) == 0
        found.append([(out / name).read_bytes() for name in ("metrics.json", "predictions.jsonl", "baselines.json")])
    assert found[0] == found[1]


def test_the_protocol_full_writes_no_unknown_word(trained, tmp_path, monkeypatch):
    monkeypatch.setenv("PATH", str(tmp_path))
    run_folder = Path(shutil.copytree(trained[0], tmp_path / "run"))
    prefer_unknown_words(run_folder / "best")
    generated = {}
    for protocol in ("r2gen", "full"):
        arguments = ["--checkpoint", str(run_folder), f"eval.protocol={protocol}", "--baselines", "none"]
        assert main_test.main(arguments) == 0
        lines = (run_folder / "predictions.jsonl").read_text().splitlines()
        generated[protocol] = [json.loads(line)["generated"] for line in lines]
    assert all("<unk>" in text for text in generated["r2gen"])
    assert all("<unk>" not in text for text in generated["full"])


def test_two_processes_give_the_scores_of_one_and_may_score_for_longer_than_collectives_last(run_folder, tmp_path):
    """Rank one leaves before rank zero scores, which then waits for longer than the timeout of collectives."""
    arguments = ["--checkpoint", str(run_folder), "eval.beam_size=1", "--graph", "predicted,none", "--out"]
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        port = probe.getsockname()[1]
    variables = os.environ | {
        "OMP_NUM_THREADS": "1", "WORLD_SIZE": "2", "MASTER_ADDR": "127.0.0.1", "MASTER_PORT": str(port),
    }
    processes = [
        subprocess.Popen(
            [sys.executable, "-m", "tests.support.evaluation.slow_scoring", str(tmp_path), *arguments,
             str(tmp_path / "both")],
            cwd=Path(main_test.__file__).parent, env=variables | {"RANK": str(rank)}, stderr=subprocess.PIPE, text=True,
        )
        for rank in range(2)
    ]
    assert processes[1].wait(timeout=240) == 0, processes[1].stderr.read()
    assert processes[0].poll() is None
    (tmp_path / "rank_one_has_left").touch()
    assert processes[0].wait(timeout=240) == 0, processes[0].stderr.read()
    for process in processes:
        process.stderr.close()
    assert main_test.main([*arguments, str(tmp_path / "alone")]) == 0
    for name in ("metrics.json", "metrics_none.json"):  # other batches: equal up to rounding
        both, alone = (read_metrics(tmp_path / folder / name) for folder in ("both", "alone"))
        assert both["baselines"] == alone["baselines"] and both["scores"] == pytest.approx(alone["scores"])
    reports = [
        [(entry["id"], entry["generated"]) for entry in map(json.loads, path.read_text().splitlines())]
        for path in (tmp_path / folder / "predictions.jsonl" for folder in ("both", "alone"))
    ]
    assert reports[0] == reports[1] and len(reports[0]) == 3


def test_a_data_set_with_a_test_split_alone_has_no_baselines(trained, run_folder, tmp_path):
    lone = write_tiny_dataset(tmp_path / "lone", train=0, val=0, test=2, image_size=32)
    out = tmp_path / "out"
    assert main_test.main(["--checkpoint", str(run_folder), "--data", str(lone), "--out", str(out)]) == 0
    metrics = read_metrics(out / "metrics.json")
    assert metrics["scores"]["bleu_1"] is not None
    assert set(metrics["baselines"]["blind"].values()) == {None}
    assert "training" in metrics["absent_baselines"]["blind"]["bleu_4"]


def test_images_alone_are_enough_and_the_rest_changes_no_prediction(trained, run_folder, tmp_path):
    """Without report, labels, boxes and graph, the checkpoint makes the same predictions."""
    bare = Path(shutil.copytree(trained[1], tmp_path / "bare"))
    records = [json.loads(line) for line in (bare / "records.jsonl").read_text().splitlines()]
    bare_records = [
        record | {"report": "", "observations": None, "graph": None} for record in records if record["split"] == "test"
    ]
    (bare / "records.jsonl").write_text("".join(json.dumps(record) + "\n" for record in bare_records))
    description = yaml.safe_load((bare / "dataset.yaml").read_text())
    (bare / "dataset.yaml").write_text(yaml.safe_dump(description | {"counts": {"test": len(bare_records)}}))

    predictions = []
    for root, out in ((trained[1], tmp_path / "annotated"), (bare, tmp_path / "alone")):
        assert main_test.main(["--checkpoint", str(run_folder), "--data", str(root), "--out", str(out)]) == 0
        entries = [json.loads(line) for line in (out / "predictions.jsonl").read_text().splitlines()]
        from_the_data_set = ("reference", "scored_reference", "labels")
        predictions.append([
            {key: value for key, value in entry.items() if key not in from_the_data_set} for entry in entries
        ])
    assert predictions[0] == predictions[1] and len(predictions[1]) == len(bare_records)
    assert all(entry["regions"] and entry["observations"] and entry["generated"] for entry in predictions[1])
    scores = read_metrics(tmp_path / "alone" / "metrics.json")["scores"]
    assert scores["box_iou"] is None and scores["region_micro_f1"] is None and scores["observation_micro_f1"] is None


@pytest.mark.parametrize("arguments, message", [
    (["--checkpoint", "{folder}/nowhere"], "nowhere"),
    (["--checkpoint", "{folder}", "--data", "{folder}/nodata"], "nodata"),
    (["--checkpoint", "{folder}", "eval.beam_sice=2"], "beam_sice"),
    (["--checkpoint", "{folder}", "--boxes", "file"], "boxes_file"),
    (["--checkpoint", "{folder}", "--boxes", "atlas", "--graph", "oracle"], "--boxes atlas has no effect on the"),
    (["--checkpoint", "{folder}", "model.width=32"], "does not fit"),
])
def test_what_a_user_can_mend_is_one_line(run_folder, capsys, arguments, message):
    assert main_test.main([argument.format(folder=run_folder) for argument in arguments]) == 1
    last = capsys.readouterr().err.strip().splitlines()[-1]
    assert message in last and "Traceback" not in last
    assert not (run_folder / "metrics.json").exists()


def test_weights_of_the_trunk_are_not_fetched(trained, run_folder):
    path = run_folder / "best" / "config.yaml"
    path.write_text(path.read_text().replace("weights: none", "weights: missing_file.pth"))
    update_manifest(run_folder / "best")
    assert main_test.main(["--checkpoint", str(run_folder), "--out", str(run_folder / "out")]) == 0


@pytest.mark.parametrize("argument", [
    "--baselines=best", "--baselines=", "--graph=mixed", "--graph=none,none", "--graph=",
    "--boxes=guess", "--split=dev",
])
def test_unknown_choices_are_refused(run_folder, argument):
    with pytest.raises(SystemExit):
        main_test.main(["--checkpoint", str(run_folder), argument])


def test_a_model_without_context_is_tested_once_and_says_so(run_folder, capsys):
    assert main_test.main(["--checkpoint", str(run_folder), "--baselines", "none", "--context", "none,all"]) == 0
    assert "This model reads no context" in capsys.readouterr().out
    assert "context" not in read_metrics(run_folder / "metrics.json")
    assert not list(run_folder.glob("context_*"))


def test_an_unknown_context_is_refused(run_folder):
    with pytest.raises(SystemExit):
        main_test.main(["--checkpoint", str(run_folder), "--context", "history"])
