"""`python -m data.prepare iu_xray --reports-only`."""

import csv

import pytest
import yaml

from data.prepare import main
from tests.support.sources.iu_fixture import (
    FINDINGS,
    IMPRESSION,
    OPEN_I,
    SPLITS,
    write_files,
)


def test_reports_alone_need_no_images(tmp_path, capsys):
    command = [
        "iu_xray",
        "--source",
        str(write_files(tmp_path / "source", OPEN_I)),
        "--out",
        str(tmp_path / "out"),
        "--reports-only",
    ]
    assert main(command) == 0
    output = capsys.readouterr().out
    assert "4 reports (2 train, 1 val, 1 test)" in output and "differs: train: 2 instead of 2069" in output
    assert not any(text in output for text in FINDINGS.values())
    with (tmp_path / "out/reports.csv").open(encoding="utf-8", newline="") as file:
        rows = list(csv.DictReader(file))
    assert [row["id"] for row in rows] == list(SPLITS)
    assert rows[1] == {
        "id": "CXR9001_IM-9201",
        "split": "val",
        "report": FINDINGS[9001],
        "findings": FINDINGS[9001],
        "impression": IMPRESSION[9001],
    }
    assert yaml.safe_load((tmp_path / "out/dataset.yaml").read_text())["counts"] == {"train": 2, "val": 1, "test": 1}
    assert main(command) == 0
    assert "holds these reports already" in capsys.readouterr().out
    (tmp_path / "source/ecgen-radiology/9006.xml").unlink()
    assert main(command) == 1
    assert "holds something else: delete it" in capsys.readouterr().err


@pytest.mark.parametrize(
    ("out", "options", "message"),
    [
        ("source/out", [], "is inside the source"),
        ("source.file/out", [], "Cannot write"),
        ("out", ["--labels", "x.csv"], "takes neither --labels nor --boxes"),
    ],
)
def test_reports_alone_end_with_one_line_where_they_cannot_be_written(tmp_path, capsys, out, options, message):
    write_files(tmp_path, {"source.file": b""} | {f"source/{name}": content for name, content in OPEN_I.items()})
    command = ["iu_xray", "--source", str(tmp_path / "source"), "--out", str(tmp_path / out), "--reports-only"]
    assert main([*command, *options]) == 1
    error = capsys.readouterr().err
    assert message in error and error.count("\n") == 1
