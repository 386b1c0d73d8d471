"""Boxes of a localizer as a file or in the data set itself, with a real model of a few thousand weights."""

import json
from pathlib import Path

import pytest
import torch
import yaml

from data.errors import UserError
from data.images.network_input import to_network_input
from data.loaders import evaluation_loader
from data.ontology import Anatomy
from data.records import read_records
from data.sources.preparation import prepare
from models.outputs import BoxSource, GraphSource
from modules.builders import build_dataset, build_model
from modules.checkpoint import load_checkpoint
from modules.config import load_config
from modules.evaluation.evaluator import inference
from modules.inference import region_boxes
from modules.inference.region_boxes import replace_region_boxes, write_region_boxes
from modules.model_inputs import model_inputs
from modules.weights import load_weights
from tests.support.sources.toy_source import SIDE, ToySource, content_without_index, folder_content
from tests.support.tiny_dataset import write_tiny_dataset
from tests.support.tiny_run import write_tiny_run

STUDIES = {"train": 8, "val": 3, "test": 3}
# Untrained weights call regions visible at random.
ALL_VISIBLE = "model.visible_threshold=0.0"


@pytest.fixture(scope="module")
def trained(tmp_path_factory):
    """A run folder, and the data set of the run."""
    return write_tiny_run(tmp_path_factory.mktemp("trained"))


@pytest.fixture
def dataset(tmp_path) -> Path:
    """A prepared data set of four studies, packed."""
    prepare(ToySource(4), tmp_path / "toy", SIDE, 1)
    return tmp_path / "toy"


def read_lines(path: Path) -> dict[str, dict[str, list[float]]]:
    """Return study id -> boxes by region of a boxes file."""
    entries = [json.loads(line) for line in path.read_text(encoding="utf-8").splitlines()]
    assert all(entry.keys() == {"id", "boxes"} for entry in entries)
    return {entry["id"]: entry["boxes"] for entry in entries}


def locate(trained, tmp_path, *overrides: str, splits=None) -> dict[str, dict[str, list[float]]]:
    """Write a boxes file, and read it back."""
    run, root = trained
    out = tmp_path / "out" / "boxes.jsonl"
    boxes_written = write_region_boxes(run, root, out, splits, overrides)
    assert [path.name for path in out.parent.iterdir()] == ["boxes.jsonl"]
    boxes = read_lines(out)
    assert len(boxes) == boxes_written
    return boxes


# A file


def test_all_splits_and_the_models_own_boxes(trained, tmp_path):
    boxes = locate(trained, tmp_path, ALL_VISIBLE)
    assert set(boxes) == {f"{split}{number}" for split, count in STUDIES.items() for number in range(count)}

    checkpoint = load_checkpoint(trained[0])
    config = load_config(checkpoint.directory / "config.yaml")
    model = build_model(config, checkpoint.vocabularies)
    load_weights(model, checkpoint.weights)
    dataset = build_dataset(config, checkpoint.vocabularies, "test")
    (batch,) = evaluation_loader(dataset, 8, 0, 0, 1, 0, pin_memory=False)
    with inference(model):
        inputs = model_inputs(to_network_input(batch), GraphSource.NONE, BoxSource.LOCALIZER)
        expected = model.encode(inputs, GraphSource.NONE, BoxSource.LOCALIZER).boxes.clamp(0, 1)
    for study, study_id in enumerate(batch.study_ids):
        found = torch.tensor([boxes[study_id][name] for name in Anatomy.load().names])
        torch.testing.assert_close(found, expected[study], atol=1e-5, rtol=0)


def test_only_visible_regions(trained, tmp_path):
    assert all(not boxes for boxes in locate(trained, tmp_path, "model.visible_threshold=1.0").values())


def test_chosen_splits(trained, tmp_path):
    assert set(locate(trained, tmp_path, splits=["val", "test"])) == {
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


# The data set itself


def test_a_checkpoints_localizer_looks_at_the_packed_images(trained, tmp_path, dataset):
    """The boxes in the graphs are those of the boxes file, and dataset.yaml states the localizer."""
    expected = locate((trained[0], dataset), tmp_path, ALL_VISIBLE)
    before = yaml.safe_load((dataset / "dataset.yaml").read_text(encoding="utf-8"))
    assert replace_region_boxes(trained[0], dataset, [ALL_VISIBLE]) == 4
    for split in ("train", "val", "test"):
        for record in read_records(dataset, split):
            boxes = {name: region["box"] for name, region in record["graph"]["regions"].items() if region["box"]}
            assert record["graph"]["box_source"] == "localizer"
            assert boxes.keys() == expected[record["id"]].keys()
            for name, box in boxes.items():
                assert box == pytest.approx(expected[record["id"]][name], abs=1.1e-5)
    after = yaml.safe_load((dataset / "dataset.yaml").read_text(encoding="utf-8"))
    assert after == before | {"boxes": after["boxes"], "graphs_with_given_boxes": 4}
    assert after["boxes"].keys() == {"source", "fingerprint"} and after["boxes"]["source"] == "localizer"


def test_a_run_folder_is_its_best_checkpoint_and_other_weights_are_told_apart(trained, tmp_path, dataset):
    def fingerprint() -> str:
        return yaml.safe_load((dataset / "dataset.yaml").read_text(encoding="utf-8"))["boxes"]["fingerprint"]

    replace_region_boxes(trained[0], dataset, [ALL_VISIBLE])
    first, content = fingerprint(), folder_content(dataset)
    replace_region_boxes(trained[0] / "best", dataset, [ALL_VISIBLE])
    assert folder_content(dataset) == content
    other, _ = write_tiny_run(tmp_path / "other", "seed=6")
    replace_region_boxes(other, dataset, [ALL_VISIBLE])
    assert fingerprint() != first


def test_repeating_the_preparation_keeps_the_localizers_boxes(trained, dataset, capsys):
    replace_region_boxes(trained[0], dataset, [ALL_VISIBLE])
    content = folder_content(dataset)
    prepare(ToySource(4), dataset, SIDE, 1)
    assert folder_content(dataset) == content
    assert "holds this data set already, but with boxes from a localizer" in capsys.readouterr().out


def test_after_a_failing_localizer_the_images_are_kept(trained, dataset, monkeypatch):
    """The data set is unchanged, and the same call succeeds later."""
    content = folder_content(dataset)

    def fail(*_):
        yield "99000000", {"spine": [0.1, 0.2, 0.3, 0.4]}
        raise UserError("no memory")

    with monkeypatch.context() as patch:
        patch.setattr(region_boxes, "_find_boxes_of_split", fail)
        with pytest.raises(UserError, match="no memory"):
            replace_region_boxes(trained[0], dataset)
    assert folder_content(dataset) == content
    assert replace_region_boxes(trained[0], dataset, [ALL_VISIBLE]) == 4


def test_a_data_set_without_graphs_is_refused(trained, tmp_path):
    root = write_tiny_dataset(tmp_path / "data", train=1, val=0, test=0, image_size=32)
    record = json.loads((root / "records.jsonl").read_text())
    (root / "records.jsonl").write_text(json.dumps(record | {"graph": None}) + "\n")
    content = content_without_index(root)
    with pytest.raises(UserError, match="The localizer of .*run has no boxes for any graph of this data set"):
        replace_region_boxes(trained[0], root)
    assert content_without_index(root) == content
