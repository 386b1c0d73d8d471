"""Replacing the boxes in the graphs of a prepared data set: while it is prepared, and afterwards."""

import json
from pathlib import Path

import numpy as np
import pytest
import yaml

from data.errors import UserError
from data.images.boxes import boxes_array
from data.ontology import Anatomy
from data.records import read_records
from data.sources.boxes import describe_boxes, replace_boxes
from data.sources.phantom.dataset import PhantomSettings, prepare_phantom
from data.sources.preparation import prepare
from data.storage.prepared_files import write_manifest
from tests.support.sources.toy_source import SIDE, ToySource, content_without_index, folder_content

BOX = [0.1, 0.2, 0.3, 0.4]


def write_boxes(path: Path, boxes_by_study: dict[str, dict]) -> Path:
    lines = [json.dumps({"id": study_id, "boxes": boxes}) + "\n" for study_id, boxes in boxes_by_study.items()]
    path.write_text("".join(lines), encoding="utf-8")
    return path


def test_a_file_replaces_the_boxes_of_its_studies(tmp_path):
    boxes = write_boxes(
        tmp_path / "boxes.jsonl",
        {
            "99000000": {"left lung": BOX, "carina": [0.5, 0.5, 0.5, 0.6], "spine": [-0.2, 0.1, 1.5, 0.3]},
            "99000001": {},
            "elsewhere": {"spine": BOX},
        },
    )
    description = prepare(ToySource(4), tmp_path / "toy", SIDE, 1, boxes)
    first, second = read_records(tmp_path / "toy", "train")
    regions = first["graph"]["regions"]
    assert first["graph"]["box_source"] == "file"
    assert {name: region["box"] for name, region in regions.items() if region["box"]} == {
        "left lung": BOX,
        "spine": [0.0, 0.1, 1.0, 0.3],
    }
    assert second["graph"]["box_source"] == "file"
    assert not any(region["box"] for region in second["graph"]["regions"].values())
    (other,) = read_records(tmp_path / "toy", "val")
    assert other["graph"] == ToySource(4).build(list(ToySource(4).plans())[2]).graph
    assert description["boxes"]["source"] == "file" and description["graphs_with_given_boxes"] == 2
    assert yaml.safe_load((tmp_path / "toy/dataset.yaml").read_text(encoding="utf-8")) == description
    assert prepare(ToySource(4), tmp_path / "toy", SIDE, 1, boxes) == description
    write_boxes(boxes, {"99000000": {}})
    with pytest.raises(UserError, match=r"was prepared with different settings \(boxes.fingerprint\)"):
        prepare(ToySource(4), tmp_path / "toy", SIDE, 1, boxes)


def test_what_the_graph_says_beside_boxes_stays(tmp_path):
    boxes = write_boxes(tmp_path / "boxes.jsonl", {"99000000": {"left lung": BOX}})
    source = ToySource(4)
    mention = {"box": None, "mentioned": True, "abnormal": True, "attributes": ["nlp|yes|abnormal"]}

    def build(plan):
        study = ToySource.build(source, plan)
        study.graph = {"regions": {"spine": mention}}
        return study

    source.build = build
    prepare(source, tmp_path / "toy", SIDE, 1, boxes)
    record = read_records(tmp_path / "toy", "train")[0]
    assert record["graph"] == {
        "box_source": "file",
        "regions": {
            "spine": mention,
            "left lung": {"box": BOX, "mentioned": False, "abnormal": False, "attributes": []},
        },
    }


@pytest.mark.parametrize("change", [{"graph": None}, {"lateral": True}])
def test_boxes_need_a_graph_and_a_frontal_image(tmp_path, change):
    boxes = write_boxes(tmp_path / "boxes.jsonl", {"99000000": {"spine": BOX}})
    source = ToySource(4)

    def build(plan):
        study = ToySource.build(source, plan)
        if "graph" in change:
            study.graph = None
        else:
            study.images = study.images[::-1]
        return study

    source.build = build
    with pytest.raises(UserError, match="has no boxes for any graph of this data set"):
        prepare(source, tmp_path / "toy", SIDE, 1, boxes)


@pytest.mark.parametrize(
    "line",
    [
        "nonsense",
        '{"id": "a", "boxes": {"neck": [0, 0, 1, 1]}}',
        '{"id": [], "boxes": {}}',
        '{"id": "a", "boxes": {"spine": [0, 1]}}',
        '{"id": "a", "boxes": {"spine": 0.5}}',
        '{"id": "a", "boxes": {"spine": [0, 0, 1, 1' + "0" * 400 + "]}}",
        '{"boxes": {}}',
        "[" * 100_000,
    ],
    ids=lambda line: line[:40],
)
def test_a_malformed_file_is_named(tmp_path, line):
    boxes = tmp_path / "boxes.jsonl"
    boxes.write_text('{"id": "b", "boxes": {}}\n' + line + "\n", encoding="utf-8")
    with pytest.raises(UserError, match=r"--boxes=.*boxes\.jsonl line 2 .*is not of the form"):
        prepare(ToySource(4), tmp_path / "toy", SIDE, 1, boxes)


def test_a_missing_file_is_told_before_the_work(tmp_path):
    with pytest.raises(UserError, match=r"Cannot read .*gone\.jsonl \(No such file"):
        prepare(ToySource(4), tmp_path / "toy", SIDE, 1, tmp_path / "gone.jsonl")
    assert list(tmp_path.iterdir()) == []


@pytest.mark.parametrize("names", [["weights.pt"], ["best/weights.pt"], ["model.safetensors"]])
def test_a_checkpoint_instead_of_a_file_is_refused_with_the_two_commands(tmp_path, names):
    checkpoint, out = tmp_path / "run", tmp_path / "toy"
    for name in names:
        (checkpoint / name).parent.mkdir(parents=True, exist_ok=True)
        (checkpoint / name).write_bytes(b"trained")
    with pytest.raises(UserError) as caught:
        prepare(ToySource(4), out, SIDE, 1, checkpoint)
    assert str(caught.value) == (
        f"--boxes {checkpoint} is a folder, but needs a file: run python -m data.prepare toy ... --out {out} without "
        f"--boxes, then python -m modules.region_boxes --checkpoint {checkpoint} --data {out}"
    )
    assert list(tmp_path.iterdir()) == [checkpoint]


def test_a_folder_that_is_no_checkpoint_is_told_before_the_work(tmp_path):
    with pytest.raises(UserError, match="--boxes .* is a folder, but needs a file"):
        prepare(ToySource(4), tmp_path / "toy", SIDE, 1, tmp_path)
    assert list(tmp_path.iterdir()) == []


# Afterwards


@pytest.fixture
def dataset(tmp_path) -> Path:
    """A prepared data set of four studies."""
    prepare(ToySource(4), tmp_path / "toy", SIDE, 1)
    return tmp_path / "toy"


@pytest.fixture
def origin(tmp_path) -> dict:
    """The description of a localizer."""
    weights = tmp_path / "weights.pt"
    weights.write_bytes(b"trained")
    return describe_boxes(weights, "localizer")


def boxes_of(*study_ids: str) -> dict[str, np.ndarray]:
    """Return boxes with the spine only, for these studies."""
    return {study_id: boxes_array({"spine": BOX}, Anatomy.load()) for study_id in study_ids}


def test_boxes_replaced_afterwards_are_recorded_as_in_preparation(tmp_path, dataset, origin):
    before = content_without_index(dataset)
    assert replace_boxes(dataset, boxes_of("99000000", "99000001", "elsewhere"), origin, "X") == 2
    for record in read_records(dataset, "train"):
        assert record["graph"]["box_source"] == "localizer"
        boxes = {name: region["box"] for name, region in record["graph"]["regions"].items() if region["box"]}
        assert boxes == {"spine": BOX}
    after = content_without_index(dataset)
    assert after.keys() == before.keys()
    changed = {name for name in after if after[name] != before[name]}
    assert changed == {"records.jsonl", "dataset.yaml", "manifest.json"}
    description = yaml.safe_load(after["dataset.yaml"])
    assert description == yaml.safe_load(before["dataset.yaml"]) | {"boxes": origin, "graphs_with_given_boxes": 2}
    # The same keys as with --boxes FILE.
    given = write_boxes(tmp_path / "boxes.jsonl", {"99000000": {"spine": BOX}})
    prepared = prepare(ToySource(4), tmp_path / "other", SIDE, 1, given)
    assert prepared.keys() == description.keys() and prepared["boxes"].keys() == description["boxes"].keys()


def test_repeating_the_preparation_afterwards_destroys_nothing_and_names_the_difference(
    tmp_path, dataset, origin, capsys
):
    replace_boxes(dataset, boxes_of("99000000"), origin, "X")
    before = folder_content(dataset)
    capsys.readouterr()
    description = prepare(ToySource(4), dataset, SIDE, 1)
    assert capsys.readouterr().out.splitlines() == [
        "toy: invented numbers",
        f"{dataset} holds this data set already, but with boxes from a localizer (graphs_with_given_boxes: 1)",
    ]
    assert description["boxes"] == origin and folder_content(dataset) == before
    given = write_boxes(tmp_path / "boxes.jsonl", {"99000000": {"spine": BOX}})
    with pytest.raises(UserError, match=r"was prepared with different settings \(boxes.source, boxes.fingerprint\)"):
        prepare(ToySource(4), dataset, SIDE, 1, given)
    assert folder_content(dataset) == before


def test_repeating_the_preparation_of_a_phantom_names_the_difference(tmp_path, origin, capsys):
    out = tmp_path / "phantom"
    settings = PhantomSettings(studies=10, image_size=32)
    prepare_phantom(out, settings, workers=1)
    record = read_records(out, "val")[0]
    replace_boxes(out, boxes_of(record["id"]), origin, "X")
    before = folder_content(out)
    capsys.readouterr()
    prepare_phantom(out, settings, workers=1)
    assert capsys.readouterr().out == (
        f"{out} holds this data set already, but with boxes from a localizer (graphs_with_given_boxes: 1)\n"
    )
    assert folder_content(out) == before


def test_boxes_for_no_graph_change_nothing(dataset, origin):
    before = folder_content(dataset)
    with pytest.raises(UserError, match="The localizer of X has no boxes for any graph of this data set"):
        replace_boxes(dataset, boxes_of("elsewhere"), origin, "The localizer of X")
    assert folder_content(dataset) == before


@pytest.mark.parametrize("step", [1, 2, 3])
def test_after_a_failure_between_the_two_files_the_same_call_completes(dataset, origin, monkeypatch, step):
    before = folder_content(dataset)
    rename, steps = Path.replace, []

    def fail(path, target):
        steps.append(target)
        if len(steps) == step:
            raise OSError(28, "No space left on device")
        return rename(path, target)

    with monkeypatch.context() as patch:
        patch.setattr(Path, "replace", fail)
        with pytest.raises(UserError, match=r"Cannot write .*toy \(No space left on device\): free space, then run"):
            replace_boxes(dataset, boxes_of("99000000"), origin, "X")
    assert folder_content(dataset).keys() == before.keys()
    assert folder_content(dataset)["dataset.yaml"] == before["dataset.yaml"]
    assert (folder_content(dataset)["records.jsonl"] == before["records.jsonl"]) == (step < 3)
    assert replace_boxes(dataset, boxes_of("99000000"), origin, "X") == 1
    description = yaml.safe_load((dataset / "dataset.yaml").read_text(encoding="utf-8"))
    assert description["graphs_with_given_boxes"] == 1


@pytest.mark.parametrize("content", [None, "{"])
def test_a_data_set_that_cannot_be_read_is_named(dataset, origin, content):
    (dataset / "dataset.yaml").unlink()
    if content is not None:
        (dataset / "dataset.yaml").write_text(content, encoding="utf-8")
    with pytest.raises(UserError, match=r"Cannot read .*dataset\.yaml \(.*\): prepare the data set again"):
        replace_boxes(dataset, boxes_of("99000000"), origin, "X")


def test_an_incomplete_graph_stays_incomplete(tmp_path):
    source = ToySource(4)
    description = prepare(source, tmp_path / "toy", SIDE, 1)
    assert description["counts"]["train"] == 2
    path = tmp_path / "toy/records.jsonl"
    records = [json.loads(line) for line in path.read_text().splitlines()]
    records[0]["graph"] = {"complete": False, "regions": {"spine": {"box": BOX}}}
    path.write_text("".join(json.dumps(record) + "\n" for record in records))
    write_manifest(tmp_path / "toy")
    anatomy = Anatomy.load()
    boxes = {"99000000": boxes_array({"left lung": BOX}, anatomy)}
    assert replace_boxes(tmp_path / "toy", boxes, {"source": "localizer", "fingerprint": "0"}, "it") == 1
    graph = read_records(tmp_path / "toy", "train")[0]["graph"]
    assert graph["complete"] is False and graph["box_source"] == "localizer"
    assert graph["regions"]["left lung"]["box"] == BOX and graph["regions"]["spine"]["box"] is None
