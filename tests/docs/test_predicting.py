"""docs/predicting.md: its Python code and its commands run."""

import re
import shlex
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

import main_predict
from modules.inference.predictor import Predictor
from tests.support.tiny_run import save_tiny_run, write_tiny_run

DOCUMENT = (Path(__file__).resolve().parents[2] / "docs/predicting.md").read_text(encoding="utf-8")


@pytest.fixture
def folder(tmp_path, monkeypatch):
    """A working directory with the files that the document names."""
    run_folder, root = write_tiny_run(tmp_path / "made", lively=True)
    (tmp_path / "results").mkdir()
    run_folder.rename(tmp_path / "results/demo")
    save_tiny_run(tmp_path / "results/context", root, "model.context=[indication,prior]", lively=True)
    (tmp_path / "xrays").mkdir()
    generator = np.random.default_rng(0)
    for name in ("chest.png", "another.png", "earlier.png", "frontal.dcm", "lateral.dcm", "xrays/one.png"):
        pixels = generator.integers(0, 255, (1500, 1000), dtype=np.uint8)
        Image.fromarray(pixels).save(tmp_path / name, "PNG")
    monkeypatch.chdir(tmp_path)
    return tmp_path


def test_python_block_runs(folder, capsys):
    names = {}
    exec(re.search(r"```python\n(.*?)```", DOCUMENT, re.DOTALL).group(1), names)
    assert names["prediction"] == Predictor("results/demo").predict(["chest.png", "another.png"])[0]
    assert names["prediction"].report in capsys.readouterr().out
    selected = {region.name for region in names["only"].regions if region.selected}
    assert selected == {"right lung"}


def test_commands_work(folder):
    commands = [
        shlex.split(line, comments=True) for line in DOCUMENT.splitlines() if line.startswith("python main_predict.py")
    ]
    assert len(commands) == 6
    for command in commands:
        assert main_predict.main(command[2:]) == 0
    assert len(list((folder / "predictions").glob("*.json"))) == 3
