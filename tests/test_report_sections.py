"""Reports in two sections, with the real entry points: trained, tested, predicted and scored again."""

import json

import pytest

import main_predict
import main_test
import main_train
from modules import score
from modules.inference.predictor import Predictor
from modules.rexrank import main as rexrank
from tests.support.sections.tiny_sections import add_impressions
from tests.support.tiny_dataset import write_tiny_dataset
from tests.support.tiny_training import SMALLEST_SGRRG, tiny_settings


@pytest.fixture(scope="module", autouse=True)
def without_java():
    """Without Java there is no METEOR, which takes seconds to start."""
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("PATH", "")
        yield


@pytest.fixture(scope="module")
def folder(tmp_path_factory):
    folder = tmp_path_factory.mktemp("sections")
    root = add_impressions(write_tiny_dataset(folder / "data", train=12, val=3, test=6, image_size=32))
    # Enough to learn the markers and the most frequent words.
    settings = [
        *tiny_settings(folder), *SMALLEST_SGRRG, "data.sections=both", "data.max_tokens=40", "train.epochs=15",
        "train.validate_from=15", "optim.lr=0.01", "optim.warmup_steps=1", "optim.batch_size=4", "eval.beam_size=1",
        "data.micro_batch_size=4", "train.least_epochs=1", f"data.root={root}",
        "train.monitor=findings_bleu_1 + 2 * impression_bleu_1",
    ]
    assert main_train.main(["--config", "configs/demo.yaml", *settings]) == 0
    assert main_test.main(["--checkpoint", str(folder / "results/run"), "--workers", "1"]) == 0
    return folder


def test_the_best_checkpoint_can_be_that_of_a_section(folder):
    entries = map(json.loads, (folder / "results/run/log.jsonl").read_text().splitlines())
    (entry,) = (entry for entry in entries if entry["kind"] == "validation")
    findings, impression = (entry["scores"][f"{name}_bleu_1"] for name in ("findings", "impression"))
    assert entry["monitored"] == findings + 2 * impression > 0 and entry["improved"]
    assert entry["blind"]["impression_bleu_1"] > 0


def test_metrics_have_each_section_and_both_together(folder):
    metrics = json.loads((folder / "results/run/metrics.json").read_text())
    assert metrics["writes"] == "both" and metrics["scores"]["bleu_1"] > 0.2
    assert {name: each["reports"] for name, each in metrics["sections"].items()} == {"findings": 4, "impression": 4}
    for section in metrics["sections"].values():
        assert section["scores"]["bleu_1"] > 0 and section["intervals"]["bleu_1"] is not None
        assert set(section["baselines"]) == set(metrics["baselines"])
        assert section["baselines"]["most_frequent_report"]["bleu_1"] > 0
    page = (folder / "results/run/report.html").read_text()
    assert "Scores of each section" in page and '<li class="section">Impression</li>' in page


def test_tables_and_heading_name_the_sections(folder, capsys):
    checkpoint, out = str(folder / "results/run"), str(folder / "other")
    assert main_test.main(["--checkpoint", checkpoint, "--baselines", "blind", "--workers", "1", "--out", out]) == 0
    printed = capsys.readouterr().out
    assert "findings and impressions, boxes" in printed
    for section in ("findings", "impression"):
        assert f"The {section} alone, over the 4 studies that have it" in printed


def test_graph_sources_are_compared_in_each_section(folder, capsys):
    out = folder / "compared"
    arguments = ["--checkpoint", str(folder / "results/run"), "--graph", "predicted,none", "--baselines", "none"]
    assert main_test.main([*arguments, "--workers", "1", "--out", str(out)]) == 0
    first, none = (json.loads((out / name).read_text()) for name in ("metrics.json", "metrics_none.json"))
    for name, section in first["sections"].items():
        compared = section["graph_sources"]
        assert list(compared) == ["predicted", "none"]
        assert compared["none"]["scores"] == none["sections"][name]["scores"]
        difference = none["sections"][name]["scores"]["bleu_1"] - section["scores"]["bleu_1"]
        assert compared["none"]["difference"]["bleu_1"] == difference
        low, high = compared["none"]["interval"]["bleu_1"]
        assert low <= difference <= high and compared["predicted"]["interval"]["bleu_1"] == [0, 0]
        assert "graph_sources" not in none["sections"][name]
    assert "The impression alone" in capsys.readouterr().out.partition("Effect of the scene graph")[2]
    page = (out / "report.html").read_text().partition("<h2>Effect of the scene graph</h2>")[2].partition("</section>")
    assert "<h3>Findings alone</h3>" in page[0] and "<h3>Impression alone</h3>" in page[0]


def test_texts_have_no_markers_and_can_be_scored_again_by_section(folder):
    path = folder / "results/run/predictions.jsonl"
    lines = [json.loads(line) for line in path.read_text().splitlines()]
    for line in lines:
        assert "<findings>" not in json.dumps([line["generated"], line["reference"], line["sentences"]])
        assert line["generated"] == " ".join(sentence["text"] for sentence in line["sentences"])
        assert set(line["sections"]) == {"findings", "impression"}
    assert lines[2]["sections"]["impression"]["reference"] is None
    scores = folder / "scores.json"
    arguments = [str(path), "--section", "impression", "--out", str(scores), "--workers", "1", "--resamples", "0"]
    assert score.main(arguments) == 0
    again = json.loads(scores.read_text())
    metrics = json.loads((folder / "results/run/metrics.json").read_text())
    assert again["reports"] == 4
    for name in ("bleu_1", "bleu_4", "rouge_l", "report_14_micro_f1"):
        assert again["scores"][name] == metrics["sections"]["impression"]["scores"][name]


def test_predictions_have_sections(folder, capsys):
    (image, *_) = sorted((folder / "data/images").glob("test*.png"))
    arguments = ["--checkpoint", str(folder / "results/run"), "--device", "cpu", "--out", str(folder / "predicted")]
    assert main_predict.main([*arguments, str(image)]) == 0
    printed = capsys.readouterr().out
    assert "\nFindings: " in printed and "\nImpression: " in printed and "<" not in printed
    content = json.loads((folder / "predicted" / f"{image.name}.json").read_text())
    assert list(content["sections"]) == ["findings", "impression"]
    assert content["report"] == " ".join(content["sections"].values())
    assert {sentence["section"] for sentence in content["sentences"]} == {"findings", "impression"}
    (prediction,) = Predictor(folder / "results/run", "cpu").predict([image])
    assert prediction.sections == content["sections"]


def test_rexrank_gets_both_behind_their_headings(folder):
    (image, *_) = sorted((folder / "data/images").glob("test*.png"))
    given, written = folder / "in.json", folder / "out.json"
    given.write_text(json.dumps({"s": {"image_path": [image.name], "key_image_path": image.name}}))
    assert rexrank([
        "--input_json_file", str(given), "--save_json_file", str(written), "--img_root_dir", str(image.parent),
        "--checkpoint", str(folder / "results/run"), "--device", "cpu",
    ]) == 0
    report = json.loads(written.read_text())["s"]["model_prediction"]
    assert report.startswith("Findings: ") and " Impression: " in report
