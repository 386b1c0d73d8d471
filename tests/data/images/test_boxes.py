"""Boxes from elsewhere for the graphs of a prepared data set."""

import json
import subprocess
from pathlib import Path

import numpy as np
import pytest
import yaml
from hypothesis import given
from hypothesis import strategies as st

from data.errors import UserError
from data.images import boxes as box_annotation
from data.images.boxes import read_boxes
from data.ontology import Anatomy
from data.records import read_records
from data.sources.preparation import prepare
from tests.support.toy_source import ToySource

SIDE = 32
BOX = [0.1, 0.2, 0.3, 0.4]


def write_boxes(path: Path, boxes_by_study: dict[str, dict]) -> Path:
    lines = [json.dumps({"id": study_id, "boxes": boxes}) + "\n" for study_id, boxes in boxes_by_study.items()]
    path.write_text("".join(lines), encoding="utf-8")
    return path


@pytest.fixture
def checkpoint(tmp_path) -> Path:
    """A folder that looks like a checkpoint."""
    folder = tmp_path / "best"
    folder.mkdir()
    (folder / "weights.pt").write_bytes(b"trained")
    return folder


@pytest.fixture
def localizer(monkeypatch):
    """Stands for the process that runs a checkpoint's localizer; its list holds the commands, its status is 0."""
    commands = []

    def run(command, cwd, check):
        commands.append(command)
        options = dict(zip(command[3::2], command[4::2], strict=True))
        train = read_records(options["--data"], "train")
        if run.status == 0:
            write_boxes(Path(options["--out"]), {record["id"]: {"spine": BOX} for record in train})
        return subprocess.CompletedProcess(command, run.status)

    run.status, run.commands = 0, commands
    monkeypatch.setattr(box_annotation.subprocess, "run", run)
    return run


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
    with pytest.raises(UserError, match="prepared with another boxes.fingerprint"):
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


corners = st.integers() | st.floats() | st.none() | st.text(max_size=3) | st.lists(st.floats(), max_size=2)
boxes_of_a_study = st.dictionaries(
    st.sampled_from(["spine", "left lung", "neck"]), st.lists(corners, min_size=3, max_size=5) | corners, max_size=3
)


studies = st.fixed_dictionaries({"id": st.text() | corners, "boxes": boxes_of_a_study | corners}) | corners


@pytest.fixture(scope="module")
def changing_file(tmp_path_factory) -> Path:
    """A path for the files of all examples."""
    return tmp_path_factory.mktemp("changing") / "boxes.jsonl"


@given(studies, st.integers(0))
def test_any_line_gives_boxes_or_one_line_that_names_the_file(changing_file, content, cut):
    path, text = changing_file, json.dumps(content)
    path.write_text(text[: cut % (2 * len(text))], encoding="utf-8")
    try:
        for boxes in read_boxes(path, "--boxes", Anatomy.load()).values():
            assert boxes.shape == (29, 4) and boxes.dtype == np.float32
    except UserError as error:
        assert str(error).startswith(f"--boxes={path} line 1 (") and "\n" not in str(error)


def test_a_missing_file_is_told_before_the_work(tmp_path):
    with pytest.raises(UserError, match=r"Cannot read .*gone\.jsonl: No such file"):
        prepare(ToySource(4), tmp_path / "toy", SIDE, 1, tmp_path / "gone.jsonl")
    assert list(tmp_path.iterdir()) == []


def test_a_checkpoints_localizer_looks_at_the_packed_images(tmp_path, checkpoint, localizer):
    description = prepare(ToySource(4), tmp_path / "toy", SIDE, 1, checkpoint)
    (command,) = localizer.commands
    assert command[1:5] == ["-m", "modules.region_boxes", "--checkpoint", str(checkpoint)]
    for record in read_records(tmp_path / "toy", "train"):
        assert record["graph"]["box_source"] == "localizer" and record["graph"]["regions"]["spine"]["box"] == BOX
    assert description["boxes"]["source"] == "localizer" and description["graphs_with_given_boxes"] == 2
    # A run folder stands for its best checkpoint; other weights find other boxes.
    assert prepare(ToySource(4), tmp_path / "toy", SIDE, 1, tmp_path) == description
    (checkpoint / "weights.pt").write_bytes(b"longer")
    with pytest.raises(UserError, match="prepared with another boxes.fingerprint"):
        prepare(ToySource(4), tmp_path / "toy", SIDE, 1, checkpoint)


def test_a_folder_that_is_no_checkpoint_is_told_before_the_work(tmp_path):
    with pytest.raises(UserError, match=r"Cannot read .*weights\.pt: No such file"):
        prepare(ToySource(4), tmp_path / "toy", SIDE, 1, tmp_path)
    assert list(tmp_path.iterdir()) == []


def test_after_a_failing_localizer_the_images_are_kept(tmp_path, checkpoint, localizer, monkeypatch):
    localizer.status = 1
    with pytest.raises(UserError, match="The localizer of --boxes .*best failed with status 1"):
        prepare(ToySource(4), tmp_path / "toy", SIDE, 1, checkpoint)
    localizer.status = 0
    monkeypatch.setattr(ToySource, "build", lambda self, plan: pytest.fail("everything was built"))
    prepare(ToySource(4), tmp_path / "toy", SIDE, 1, checkpoint)
    assert len(localizer.commands) == 2 and (tmp_path / "toy/dataset.yaml").exists()
