"""The command that prepares data sets."""

from types import SimpleNamespace

import pytest

from data import prepare
from data.errors import UserError
from data.prepare import main
from data.sources.preparation import add_common_arguments
from data.sources.preparation import prepare as prepare_source
from tests.support.sources.toy_source import ToySource


def test_phantom_is_prepared(tmp_path, capsys):
    out = tmp_path / "made"
    command = ["phantom", "--out", str(out), "--studies", "10", "--image-size", "32", "--two-views", "--workers", "1"]
    assert main(command) == 0
    assert {path.name for path in out.iterdir()} == {
        "annotation.json", "dataset.yaml", "images", "index", "manifest.json", "records.jsonl", "scene_graphs",
        "truth.jsonl"}
    assert len(list((out / "images").iterdir())) == 20
    assert "10 studies (8 train, 1 val, 1 test)" in capsys.readouterr().out
    assert main(command) == 0
    assert main([*command, "--seed", "1"]) == 1
    assert "holds a phantom data set with seed 0 instead of 1" in capsys.readouterr().err


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        ([], "arguments are required: NAME"),
        (["atlantis", "--out", "x"], "invalid choice: 'atlantis'"),
        (["phantom"], "required: --out"),
        (["phantom", "--out", "x", "--studies", "many"], "invalid int value: 'many'"),
        (["phantom", "--out", "x", "--studies", "2"], "--studies=2: must be"),
        (["phantom", "--out", "x", "--colour"], "unrecognized arguments: --colour"),
    ],
)
def test_wrong_arguments_give_one_line(arguments, message, tmp_path, monkeypatch, capsys):
    monkeypatch.chdir(tmp_path)
    assert main(arguments) == 1
    error = capsys.readouterr().err
    assert message in error and error.count("\n") == 1
    assert list(tmp_path.iterdir()) == []


def test_a_file_in_the_way_gives_one_line(tmp_path, capsys):
    (tmp_path / "file").write_text("", encoding="utf-8")
    assert main(["phantom", "--out", str(tmp_path / "file" / "made"), "--studies", "10", "--workers", "1"]) == 1
    assert capsys.readouterr().err.startswith(f"Cannot write {tmp_path / 'file' / 'made'} (")


@pytest.fixture
def toy(monkeypatch):
    """Registers a toy source."""
    def run(arguments):
        source = ToySource(8, paths=tuple(arguments.source), options={"labels": str(arguments.labels)})
        prepare_source(source, arguments.out, arguments.image_size, arguments.workers, arguments.boxes)

    monkeypatch.setitem(prepare.COMMANDS, "toy", SimpleNamespace(add_arguments=add_common_arguments, run=run))


def test_a_real_source_has_the_common_options(tmp_path, toy, capsys):
    out, boxes = tmp_path / "made", tmp_path / "boxes.jsonl"
    boxes.write_text('{"id": "99000000", "boxes": {"spine": [0.4, 0.1, 0.6, 0.9]}}\n', encoding="utf-8")
    command = ["toy", "--source", str(tmp_path / "a"), "--source", str(tmp_path / "b"), "--out", str(out),
               "--image-size", "40", "--workers", "1", "--labels", "labels.csv", "--boxes", str(boxes)]
    assert main(command) == 0
    assert "7 studies (4 train, 1 val, 2 test), 13 images" in capsys.readouterr().out
    assert main(command) == 0
    assert "holds this data set already" in capsys.readouterr().out
    assert main([*command, "--labels", "others.csv"]) == 1
    assert "was prepared with different settings (options.labels)" in capsys.readouterr().err
    assert main(["toy", "--out", str(out)]) == 1
    assert "required: --source" in capsys.readouterr().err
    assert main(["toy", "--source", str(tmp_path), "--out", str(tmp_path / "new")]) == 1
    assert "is inside the source" in capsys.readouterr().err


@pytest.mark.parametrize(("exception", "status", "message"), [
    (KeyboardInterrupt(), 130, "Interrupted: run the same command again"), (UserError("no report"), 1, "no report")])
def test_an_early_end_is_told_in_one_line(toy, monkeypatch, capsys, tmp_path, exception, status, message):
    def build(source, plan):
        raise exception

    monkeypatch.setattr(ToySource, "build", build)
    assert main(["toy", "--source", str(tmp_path / "a"), "--out", str(tmp_path / "made"), "--workers", "1"]) == status
    assert capsys.readouterr().err == f"{message}\n"
