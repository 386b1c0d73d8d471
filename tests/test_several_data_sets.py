"""Training, validating and testing on a data set with reports and one without, with the real entry points."""

import json
import subprocess
from pathlib import Path

import pytest
import torch

import main_test
import main_train
from data.collate import collate
from data.images.network_input import to_network_input
from data.mixture.dataset import MixedDataset
from models.outputs import BoxSource, GraphSource
from modules.builders import build_criterion, build_dataset, build_model, build_vocabularies
from modules.config import load_config
from modules.evaluation.predictions import read_predictions
from modules.model_inputs import count_sizes, model_inputs
from tests.support.tiny_dataset import write_tiny_dataset
from tests.support.tiny_training import SMALLEST_SGRRG, tiny_settings
from tests.support.unreported_dataset import OUTLINED, write_unreported_dataset

ROOT = Path(__file__).resolve().parents[1]


@pytest.fixture(scope="module")
def folder(tmp_path_factory):
    """A folder with the data sets `reported` and `films`."""
    folder = tmp_path_factory.mktemp("several")
    write_tiny_dataset(folder / "reported", train=6, val=3, test=3, image_size=32)
    write_unreported_dataset(folder / "films", train=5, val=2, test=2, image_size=32, seed=4)
    (folder / "data").symlink_to("reported")
    return folder


def settings_for(folder, *overrides):
    roots = f"data.root=[{folder / 'reported'},{folder / 'films'}]"
    return [*tiny_settings(folder), *SMALLEST_SGRRG, roots, "train.epochs=1", "data.micro_batch_size=4", *overrides]


@pytest.fixture(scope="module")
def run(folder):
    """The run folder of a finished training on both data sets."""
    settings = settings_for(folder, "data.weights=[1,2]", "train.monitor=observation_auroc")
    assert main_train.main(["--config", "configs/demo.yaml", *settings]) == 0
    return folder / "results/run"


def log_of(run, kind):
    entries = map(json.loads, (run / "log.jsonl").read_text().splitlines())
    return [entry for entry in entries if entry["kind"] == kind]


def test_training_counts_and_validates_both(run):
    assert log_of(run, "start")[0]["studies"] == 11
    (validation,) = log_of(run, "validation")
    assert set(validation["data_sets"]) == {"reported", "films"}
    assert all(set(scores) == {"observation_auroc"} for scores in validation["data_sets"].values())


def test_each_data_set_is_tested_under_its_name(run, monkeypatch, tmp_path, capsys):
    monkeypatch.setenv("PATH", str(tmp_path))  # hides Java: METEOR would be slow
    assert main_test.main(["--checkpoint", str(run), "--graph", "predicted"]) == 0
    printed = capsys.readouterr().out
    assert "reported" in printed and "films" in printed
    reported, films = (json.loads((run / f"on_{name}/metrics.json").read_text()) for name in ("reported", "films"))
    assert (reported["studies"], reported["reports"]) == (3, 3) and (films["studies"], films["reports"]) == (2, 0)
    assert films["scores"]["bleu_4"] is None and films["absent"]["bleu_4"] == "no study has a report"
    assert films["scores"]["box_iou"] is not None and reported["scores"]["bleu_1"] is not None
    assert films["baselines"]["nearest_image"]["bleu_4"] is None and films["baselines"]["blind"]["box_iou"] > 0.3
    lines = [json.loads(line) for line in (run / "on_films/predictions.jsonl").read_text().splitlines()]
    assert all(line["reference"] is line["generated"] is None and line["observations"] for line in lines)
    assert lines[0]["labels"]["Edema"] == 1 and "Fracture" not in lines[0]["labels"]
    assert len(read_predictions(run / "on_reported/predictions.jsonl")) == 3
    assert "the data set has no report" in (run / "on_films/report.html").read_text()


def test_one_of_the_data_sets_is_tested_alone(run, folder, monkeypatch, tmp_path):
    monkeypatch.setenv("PATH", str(tmp_path))
    arguments = ["--checkpoint", str(run), "--data", str(folder / "films"), "--baselines", "none", "--split", "val"]
    assert main_test.main([*arguments, "--out", str(tmp_path / "out")]) == 0
    assert json.loads((tmp_path / "out/metrics_val.json").read_text())["studies"] == 2


def test_a_run_is_resumed_only_with_the_same_mixture(run, folder, capsys):
    settings = settings_for(folder, "data.weights=[2,1]", "train.monitor=observation_auroc", "train.resume=true")
    assert main_train.main(["--config", "configs/demo.yaml", *settings]) == 1
    assert "draws of each data set in an epoch was [4, 7], now [7, 4]" in capsys.readouterr().err


def losses_of(config, samples, vocabularies, model):
    criterion = build_criterion(config, vocabularies)
    batch = collate(samples, vocabularies.tokenizer.pad_id)
    sources = {"graph_source": GraphSource.ORACLE, "box_source": BoxSource.LOCALIZER}
    inputs = model_inputs(to_network_input(batch), **sources, training=True, sizes=count_sizes(batch))
    output = model(inputs, batch.token_ids, batch.token_mask, **sources)
    return batch, criterion(output, batch, criterion.counts(batch)), criterion.counts(batch)


def test_films_without_reports_add_only_to_the_losses_of_the_image_side(folder):
    config = load_config(None, settings_for(folder))
    vocabularies = build_vocabularies(config)
    torch.manual_seed(0)
    model = build_model(config, vocabularies).eval()
    dataset = build_dataset(config, vocabularies, "train")
    assert isinstance(dataset, MixedDataset)
    studies, films = [dataset[0], dataset[4]], [dataset[6], dataset[9]]
    _, reported, counts = losses_of(config, studies, vocabularies, model)
    batch, both, both_counts = losses_of(config, [*studies, *films], vocabularies, model)
    assert batch.has_report.tolist() == [True, True, False, False]
    names = list(build_criterion(config, vocabularies).TERMS)
    for name in ("report", "regions", "attributes"):
        assert counts[names.index(name)] == both_counts[names.index(name)]
        assert torch.allclose(reported.terms[name], both.terms[name], atol=1e-5)
    for name in ("observations", "boxes", "visibility"):
        assert both_counts[names.index(name)] > counts[names.index(name)]
    observed = batch.observations_known[2]
    assert observed.sum() == len(vocabularies.observations) - 1  # Fracture is unknown, the unnamed ones are absent
    visibility = batch.regions.visibility_known[2]
    assert visibility.sum() == sum(name in OUTLINED for name in vocabularies.anatomy.names) == 3


def test_films_alone_are_trained_on(folder):
    config = load_config(None, settings_for(folder))
    vocabularies = build_vocabularies(config)
    torch.manual_seed(0)
    model = build_model(config, vocabularies)
    dataset = build_dataset(config, vocabularies, "train")
    batch, losses, _ = losses_of(config, [dataset[6], dataset[7]], vocabularies, model)
    assert batch.token_ids.shape == (2, 2) and not batch.has_report.any() and batch.references == ["", ""]
    losses.total.backward()
    assert losses.terms["report"] == 0 and torch.isfinite(losses.total)
    # With several processes, a parameter without a gradient would stop the training.
    gradients = {name: parameter.grad for name, parameter in model.named_parameters()}
    assert [name for name, gradient in gradients.items() if gradient is None or not gradient.isfinite().all()] == []
    assert any(gradient.abs().sum() > 0 for name, gradient in gradients.items() if name.startswith("patch_encoder"))
    assert not any(gradient.any() for name, gradient in gradients.items() if name.startswith("decoder"))


def test_the_scripts_look_at_every_folder_of_a_list(folder):
    def check(*roots):
        command = f"source ./environment.sh; require_data_set iu_xray '[{','.join(map(str, roots))}]' ''"
        return subprocess.run(["bash", "-c", command], cwd=ROOT, capture_output=True, text=True, check=False)

    assert check(folder / "reported", folder / "films").returncode == 0
    result = check(folder / "reported", "/nowhere")
    assert result.returncode == 2 and "/nowhere/dataset.yaml does not exist" in result.stderr
