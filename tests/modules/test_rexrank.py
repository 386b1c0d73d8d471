"""`python -m modules.rexrank`: its options, its exit status and its output."""

import json

import pytest

from modules.rexrank import main
from tests.support.tiny_run import write_tiny_run


def test_from_a_data_set_to_reports_in_one_call(tmp_path, capsys):
    run_folder, root = write_tiny_run(tmp_path, lively=True)
    paths = {name: tmp_path / f"{name}.json" for name in ("in", "out")}
    files = ["--input_json_file", str(paths["in"]), "--save_json_file", str(paths["out"]), "--img_root_dir",
             str(tmp_path / "images"), "--checkpoint", str(run_folder)]
    assert main(["--data", str(root), "--split", "val", *files]) == 0
    studies, predicted = (json.loads(path.read_text()) for path in paths.values())
    assert all(study.pop("model_prediction") for study in predicted.values()) and predicted == studies
    assert f"written: {paths['out']} (3 studies)" in capsys.readouterr().out

    (tmp_path / "images/val1/0.png").write_bytes(b"")
    assert main(files) == 1
    assert "1 of 3 studies have an empty report" in capsys.readouterr().err
    assert (tmp_path / ".out.json.partial.jsonl").is_file()
    assert json.loads(paths["out"].read_text())["val1"]["model_prediction"] == ""


@pytest.mark.parametrize("arguments, message", [
    ([], "Nothing to do"), (["--data", "d"], "--data needs --input_json_file and --img_root_dir"),
    (["--submission", "s"], "--submission needs --checkpoint"),
    (["--save_json_file", "o", "--checkpoint", "c"], "--save_json_file needs --input_json_file and --img_root_dir"),
    (["--save_json_file", "o", "--input_json_file", "nowhere.json", "--img_root_dir", ".", "--checkpoint", "c"],
     "Cannot read nowhere.json"),
    (["--data", "nowhere", "--input_json_file", "i", "--img_root_dir", "."], "No data set at nowhere"),
])
def test_what_is_missing_is_one_line(arguments, message, capsys):
    assert main(arguments) == 1
    captured = capsys.readouterr()
    assert message in captured.err and len(captured.err.splitlines()) == 1 and not captured.out


def test_an_interruption_is_one_line(tmp_path, monkeypatch, capsys):
    def interrupted(path):
        raise KeyboardInterrupt

    monkeypatch.setattr("modules.rexrank.read_studies", interrupted)
    assert main(["--save_json_file", "o", "--input_json_file", "i", "--img_root_dir", ".", "--checkpoint", "c"]) == 130
    assert capsys.readouterr().err == "Interrupted: run the same command again to resume\n"
