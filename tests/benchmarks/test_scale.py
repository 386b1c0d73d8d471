"""The benchmark of large data sets runs with a small one, and writes its rows as JSON."""

import json

import pytest

from benchmarks import scale
from benchmarks.__main__ import main
from data.records import SPLITS, read_records


@pytest.fixture(autouse=True)
def in_this_process(monkeypatch):
    """Measure in this process, and without METEOR, to save time."""
    monkeypatch.setattr(scale, "run_alone", lambda measure, root, threads: measure(root))
    monkeypatch.setattr(scale.shutil, "which", lambda name: None)


def test_all_rows_are_printed_and_written(tmp_path, capsys):
    file, root = tmp_path / "scale.json", tmp_path / "data"
    command = ["scale", "--tiny", "--studies", "120", "--threads", "1", "--data", str(root), "--json", str(file)]
    assert main(command) == 0
    content = json.loads(file.read_text())
    assert content["benchmark"] == "scale" and content["studies"] == 120 and content["scored_studies"] >= 1
    assert all(content[row] > 0 for row in scale.ROWS)
    assert content["rank_private_mib"] < content["rank_mib"]
    assert {"startup_seconds", "rank_mib", "sample_ms", "score_ms_per_study"} <= scale.ROWS.keys()
    printed = capsys.readouterr().out
    assert all(f"  {row} " in printed for row in scale.ROWS)
    records = read_records(root, "train")
    assert len({name.split("@")[0] for record in records for name in record["images"]}) == scale.SHARDS
    assert all(len(record["graph"]["regions"]) == 29 for record in records)
    assert sum(len(read_records(root, split)) for split in SPLITS) == 120

    before = (root / "records.jsonl").stat().st_mtime_ns
    assert main(command) == 0
    assert (root / "records.jsonl").stat().st_mtime_ns == before
    assert main([*command, "--studies", "130"]) == 1
    assert "holds another data set: delete it, or choose another folder" in capsys.readouterr().err


def test_too_few_studies(capsys):
    assert main(["scale", "--studies", "99"]) == 1
    assert "--studies=99: must be at least 100" in capsys.readouterr().err
