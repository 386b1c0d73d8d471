"""docs/rexrank.md: its round trip runs at toy size."""

import importlib
import json
import re
import shlex
from pathlib import Path

from tests.support.tiny_run import write_tiny_run

DOCUMENT = (Path(__file__).resolve().parents[2] / "docs/rexrank.md").read_text(encoding="utf-8")
COMMAND = re.compile(r"python -m (modules\.\w+) (.+)")


def test_the_round_trip_runs_and_its_scores_agree(tmp_path, monkeypatch, capsys):
    run_folder, root = write_tiny_run(tmp_path / "made", lively=True)
    for source, target in ((run_folder, "results/demo"), (root, "data/phantom")):
        (tmp_path / target).parent.mkdir()
        source.rename(tmp_path / target)
    monkeypatch.chdir(tmp_path)
    printed = []
    for block in re.findall(r"```bash\n(.*?)```", DOCUMENT, re.DOTALL):
        for line in block.splitlines():
            module, arguments = COMMAND.fullmatch(line).groups()
            more = [] if module.endswith("rexrank") else ["--no-meteor", "--resamples", "20", "--workers", "1"]
            assert importlib.import_module(module).main([*shlex.split(arguments), *more]) == 0
            printed.append(capsys.readouterr().out)
    assert len(printed) == 8
    tables = [text.split("\nLanguage")[1].split("\nwritten")[0] for text in printed if "\nLanguage" in text]
    assert len(tables) == 3 and tables[0] == tables[2] != tables[1]
    scores = json.loads(Path("rexrank/scores.json").read_text())
    assert scores["reports"] == 3 and "section_findings" in scores["applied"]["read as"]
    assert Path("rexrank/leaderboard.html").is_file() and Path("rexrank/submission/inference.py").is_file()


def test_the_rexrank_test_set_of_iu_xray_has_the_stated_number_of_studies():
    split = (Path(__file__).resolve().parents[2] / "files/iu_xray/splits.csv").read_text(encoding="utf-8").splitlines()
    assert sum(line.endswith(",test") for line in split) == 590 and "590" in DOCUMENT
