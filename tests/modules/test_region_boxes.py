"""The localizer's boxes as a file, with a real model of a few thousand weights."""

import json
from pathlib import Path

import pytest
import torch
import yaml

from data.loaders import evaluation_loader
from data.ontology import Anatomy
from models.outputs import BoxSource, GraphSource
from modules.builders import build_dataset, build_model
from modules.checkpoint import load_checkpoint, load_weights, save_checkpoint
from modules.config import load_config
from modules.evaluation.evaluator import inference
from modules.model_inputs import model_inputs
from modules.region_boxes import main
from tests.support.tiny_dataset import write_tiny_dataset
from tests.support.tiny_run import TINY, write_tiny_run

STUDIES = {"train": 8, "val": 3, "test": 3}
# Visibility is a coin's throw with weights that nobody trained.
ALL_VISIBLE = "model.visible_threshold=0.0"


@pytest.fixture(scope="module")
def trained(tmp_path_factory):
    return write_tiny_run(tmp_path_factory.mktemp("trained"))


def read_lines(path: Path) -> dict[str, dict[str, list[float]]]:
    entries = [json.loads(line) for line in path.read_text(encoding="utf-8").splitlines()]
    assert all(entry.keys() == {"id", "boxes"} for entry in entries)
    return {entry["id"]: entry["boxes"] for entry in entries}


def locate(trained, tmp_path, *arguments: str) -> dict[str, dict[str, list[float]]]:
    run, root = trained
    out = tmp_path / "out" / "boxes.jsonl"
    assert main(["--checkpoint", str(run), "--data", str(root), "--out", str(out), *arguments]) == 0
    assert [path.name for path in out.parent.iterdir()] == ["boxes.jsonl"]
    return read_lines(out)


def test_all_splits_and_the_models_own_boxes(trained, tmp_path, capsys):
    boxes = locate(trained, tmp_path, ALL_VISIBLE)
    assert set(boxes) == {f"{split}{number}" for split, count in STUDIES.items() for number in range(count)}
    assert "boxes of 14 studies" in capsys.readouterr().out

    checkpoint = load_checkpoint(trained[0])
    config = load_config(checkpoint.directory / "config.yaml")
    model = build_model(config, checkpoint.vocabularies)
    load_weights(model, checkpoint.weights)
    dataset = build_dataset(config, checkpoint.vocabularies, "test")
    (batch,) = evaluation_loader(dataset, 8, 0, 0, 1, 0, pin_memory=False)
    with inference(model):
        inputs = model_inputs(batch, GraphSource.NONE, BoxSource.LOCALIZER)
        expected = model.encode(inputs, GraphSource.NONE, BoxSource.LOCALIZER).boxes.clamp(0, 1)
    for study, study_id in enumerate(batch.study_ids):
        found = torch.tensor([boxes[study_id][name] for name in Anatomy.load().names])
        torch.testing.assert_close(found, expected[study], atol=1e-5, rtol=0)


def test_only_visible_regions(trained, tmp_path):
    assert all(not boxes for boxes in locate(trained, tmp_path, "model.visible_threshold=1.0").values())


def test_chosen_splits(trained, tmp_path):
    assert set(locate(trained, tmp_path, "--split", "val", "test")) == {
        f"{split}{number}" for split in ("val", "test") for number in range(3)
    }


def test_the_file_is_one_that_data_sets_take(trained, tmp_path):
    boxes = locate(trained, tmp_path, ALL_VISIBLE)
    checkpoint = load_checkpoint(trained[0])
    overrides = [f"data.boxes_file={tmp_path / 'out' / 'boxes.jsonl'}"]
    config = load_config(checkpoint.directory / "config.yaml", overrides)
    sample = build_dataset(config, checkpoint.vocabularies, "test")[0]
    assert sample.detector_visible.all()
    assert sample.detector_boxes[0].tolist() == pytest.approx(boxes["test0"]["left lung"], abs=1e-5)


def test_a_study_without_a_frontal_image_and_a_split_without_studies(trained, tmp_path):
    root = write_tiny_dataset(tmp_path / "data", train=2, val=0, test=1, image_size=32)
    records = [json.loads(line) for line in (root / "records.jsonl").read_text().splitlines()]
    records[0]["views"] = ["LATERAL"]
    (root / "records.jsonl").write_text("".join(json.dumps(record) + "\n" for record in records))
    assert set(locate((trained[0], root), tmp_path)) == {"train1", "test0"}


def test_what_a_user_can_mend_is_one_line_and_no_file(trained, tmp_path, capsys):
    run, root = trained
    out = tmp_path / "boxes.jsonl"

    def said(*arguments: str) -> str:
        assert main([*arguments, "--out", str(out)]) == 1
        assert list(tmp_path.glob("*.jsonl*")) == []
        (line,) = capsys.readouterr().err.splitlines()
        return line

    best = str(run / "best")
    assert "No checkpoint at" in said("--checkpoint", str(tmp_path / "none"), "--data", str(root))
    assert "No data set at" in said("--checkpoint", best, "--data", str(tmp_path / "none"))

    config = load_config(None, [*TINY, f"data.root={root}", "model.localizer=false", "eval.box_source=atlas"])
    vocabularies = load_checkpoint(best).vocabularies
    save_checkpoint(tmp_path / "blind", build_model(config, vocabularies), config, vocabularies)
    assert "no localizer" in said("--checkpoint", str(tmp_path / "blind"), "--data", str(root))

    damaged = write_tiny_dataset(tmp_path / "damaged", train=1, val=1, test=2, image_size=32)
    (damaged / "images" / "test1_0.png").write_bytes(b"no picture")
    assert "Study test1" in said("--checkpoint", best, "--data", str(damaged))


def test_the_splits_are_asked_for_where_the_data_set_counts_none(trained, tmp_path, capsys):
    root = write_tiny_dataset(tmp_path / "data", train=1, val=0, test=1, image_size=32)
    (root / "dataset.yaml").write_text(yaml.safe_dump({"name": "uncounted"}))
    out = tmp_path / "boxes.jsonl"
    arguments = ["--checkpoint", str(trained[0] / "best"), "--data", str(root), "--out", str(out)]
    assert main(arguments) == 1
    assert "The split 'val'" in capsys.readouterr().err
    assert main([*arguments, "--split", "train", "test"]) == 0
    assert set(read_lines(out)) == {"train0", "test0"}
