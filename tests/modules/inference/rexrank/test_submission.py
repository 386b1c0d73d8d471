"""The folder to submit to ReXrank works without the repository."""

import json
import subprocess
import sys

import pytest
import yaml

from data.errors import UserError
from modules.inference.rexrank.dataset import write_rexrank_input
from modules.inference.rexrank.submission import write_submission
from modules.rexrank import main
from tests.support.tiny_run import write_tiny_run


def test_the_script_of_the_folder_writes_the_same_reports_as_the_command(tmp_path):
    run_folder, root = write_tiny_run(tmp_path, lively=True)
    write_rexrank_input(root, "test", tmp_path / "in.json", tmp_path / "images")
    write_submission(run_folder, tmp_path / "submission")
    files = ["--input_json_file", str(tmp_path / "in.json"), "--img_root_dir", str(tmp_path / "images")]
    script = [sys.executable, "inference.py", *files, "--save_json_file", str(tmp_path / "theirs.json")]
    process = subprocess.run(script, cwd=tmp_path / "submission", capture_output=True, text=True)
    assert process.returncode == 0, process.stderr
    assert main([*files, "--save_json_file", str(tmp_path / "ours.json"), "--checkpoint", str(run_folder)]) == 0
    ours, theirs = (json.loads((tmp_path / f"{name}.json").read_text()) for name in ("ours", "theirs"))
    assert ours == theirs and all(study["model_prediction"] for study in ours.values())
    environment = yaml.safe_load((tmp_path / "submission/environment.yaml").read_text())
    assert environment["name"] == "sgrrg"
    assert "one frontal image" in (tmp_path / "submission/README.md").read_text()
    assert not list((tmp_path / "submission").rglob("*.jsonl")) and not list(tmp_path.glob(".*"))


def test_the_description_names_the_context_that_the_model_reads(tmp_path):
    for name, override, expected in (
        ("without", "model.context=[]", "one frontal image and no clinical context."),
        ("with", "model.context=[indication]", "one frontal image and the indication."),
    ):
        run_folder, _ = write_tiny_run(tmp_path / name, override)
        write_submission(run_folder, tmp_path / name / "submission")
        assert expected in (tmp_path / name / "submission/README.md").read_text()


def test_an_existing_folder_is_left_alone(tmp_path):
    with pytest.raises(UserError, match="exists: delete it, or give another --submission"):
        write_submission("nowhere", tmp_path)
