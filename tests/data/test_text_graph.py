"""The command that writes the content of report sentences as JSON lines."""

import json

import pytest

from data import text_graph
from data.text.report_graph import region_groups


def test_the_command_writes_a_line_a_report(tmp_path):
    table, out = tmp_path / "reports.csv", tmp_path / "out.jsonl"
    text = "No effusion, lungs clear. Mild left edema, unchanged."
    table.write_text(f'id,report\n99000001,"{text}"\n99000002,\n', encoding="utf-8")
    assert text_graph.main([str(table), str(out)]) == 0
    first, second = (json.loads(line) for line in out.read_text(encoding="utf-8").splitlines())
    assert first["id"] == "99000001" and second == {"id": "99000002", "sentences": []}
    assert first["sentences"][1] == {
        "text": "Mild left edema, unchanged.",
        "regions": ["left lung"],
        "changes": {"left lung": ["no change"]},
        "polarity": "present",
        "attributes": [
            "anatomicalfinding|yes|pulmonary edema/hazy opacity",
            "severity|yes|mild",
            "laterality|yes|left",
            "nlp|yes|abnormal",
        ],
    }
    assert [path.name for path in tmp_path.iterdir() if "unfinished" in path.name] == []


def test_the_command_adds_scene_graphs(tmp_path):
    table, out = tmp_path / "reports.csv", tmp_path / "out.jsonl"
    table.write_text("id,report\n99000001,Mild left edema.\n", encoding="utf-8")
    assert text_graph.main([str(table), str(out), "--graph"]) == 0
    regions = json.loads(out.read_text(encoding="utf-8"))["graph"]["regions"]
    assert len(regions) == 29 and "severity|yes|mild" in regions["left lung"]["attributes"]


def test_the_command_prints_the_groups(capsys):
    assert text_graph.main(["--groups"]) == 0
    rows = dict(line.split("\t") for line in capsys.readouterr().out.splitlines())
    assert rows == region_groups()


@pytest.mark.parametrize(
    ("content", "message"),
    [
        (b"id,text\n1,a\n", "has no column 'report'"),
        (b"", "has no column 'id'"),
        (b"id,report\n1,\xff\n", "is not a CSV file in UTF-8"),
        (None, "Cannot read"),
    ],
)
def test_what_is_wrong_with_a_table_is_said_in_one_line(tmp_path, capsys, content, message):
    table = tmp_path / "reports.csv"
    if content is not None:
        table.write_bytes(content)
    assert text_graph.main([str(table), str(tmp_path / "out.jsonl")]) == 1
    error = capsys.readouterr().err
    assert message in error and error.count("\n") == 1 and not (tmp_path / "out.jsonl").exists()


def test_the_command_needs_both_files(capsys):
    assert text_graph.main([]) == 1
    assert "REPORTS.csv and OUT.jsonl" in capsys.readouterr().err
