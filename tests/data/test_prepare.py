"""The command that prepares data sets."""

import pytest

from data.prepare import main


def test_phantom_is_prepared(tmp_path, capsys):
    out = tmp_path / "made"
    command = ["phantom", "--out", str(out), "--studies", "10", "--image-size", "32", "--two-views", "--workers", "1"]
    assert main(command) == 0
    assert {path.name for path in out.iterdir()} == {
        "annotation.json", "dataset.yaml", "images", "records.jsonl", "scene_graphs", "truth.jsonl"}
    assert len(list((out / "images").iterdir())) == 20
    assert "10 studies (8 train, 1 val, 1 test)" in capsys.readouterr().out
    assert main(command) == 0
    assert main([*command, "--seed", "1"]) == 1
    assert "holds a phantom with seed 0 instead of 1" in capsys.readouterr().err


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        ([], "arguments are required: NAME"),
        (["atlantis", "--out", "x"], "invalid choice: 'atlantis'"),
        (["phantom"], "required: --out"),
        (["phantom", "--out", "x", "--studies", "many"], "invalid int value: 'many'"),
        (["phantom", "--out", "x", "--studies", "2"], "studies is 2"),
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
    assert capsys.readouterr().err.startswith(f"Cannot write {tmp_path / 'file' / 'made'}: ")
