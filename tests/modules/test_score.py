"""Errors of `python -m modules.score`; for its scores see tests/modules/evaluation/test_text_scoring.py."""

import json

import pytest

from modules.score import main
from tests.support.evaluation.scored_table import write_table


@pytest.fixture(autouse=True)
def without_java(monkeypatch, tmp_path):
    """Hide Java: METEOR would be slow."""
    monkeypatch.setenv("PATH", str(tmp_path))


@pytest.mark.parametrize("arguments, message", [
    (["--labeler", "chexbert"], "--weights"),
    (["--labeler", "chexbert", "--weights", "nowhere"], "CheXbert needs"),
    (["--radgraph", "nowhere"], "RadGraph needs"),
    (["--radeval", "bleu"], "RadEval needs the package radeval"),
    (["--radeval", "blue"], "--radeval: unknown metric 'blue'; did you mean 'bleu'?"),
    (["--radeval", "bleu:n"], "write NAME or NAME:KEY=VALUE"),
    (["--document-frequencies", "training"], "--training-reports"),
    (["--labels", "nowhere.csv"], "nowhere.csv"),
    (["--studies", "patient"], "no 'patient'"),
    (["--workers", "0"], "--workers"),
    (["--resamples", "-1"], "--resamples"),
])
def test_what_a_user_can_mend_is_one_line(tmp_path, capsys, monkeypatch, arguments, message):
    monkeypatch.setattr("modules.evaluation.metrics.packages.radeval_process.find_spec", lambda name: None)
    assert main([str(write_table(tmp_path / "table.csv")), *arguments]) == 1
    captured = capsys.readouterr()
    assert message in captured.err and len(captured.err.splitlines()) == 1 and not captured.out


def test_another_protocol_than_there_are_is_refused(tmp_path, capsys):
    with pytest.raises(SystemExit) as stopped:
        main([str(write_table(tmp_path / "table.csv")), "--protocol", "rgen"])
    assert stopped.value.code == 2 and "invalid choice: 'rgen'" in capsys.readouterr().err


def test_reports_of_other_programs_are_scored_and_written_for_them(tmp_path, capsys):
    table = write_table(tmp_path / "table.csv")

    def scores(*arguments) -> dict:
        out = tmp_path / "scores.json"
        assert main([*map(str, arguments), "--resamples", "0", "--workers", "1", "--out", str(out)]) == 0
        return json.loads(out.read_text())

    expected = scores(table, "--format", "rexrank")
    rexrank = tmp_path / "table_rexrank.json"
    assert expected["applied"]["read as"] == "CSV: id from 'id', reference from 'reference', generated from 'generated'"
    assert f"written: {rexrank}" in capsys.readouterr().out.splitlines()
    findings = scores(rexrank, "--section", "findings", "--format", "cxr-report-metric", "--format-out", tmp_path / "c")
    assert findings["scores"] == expected["scores"]
    assert "read as: ReXrank's JSON: reference from section_findings" in capsys.readouterr().out
    pair = scores(tmp_path / "c/predicted_reports.csv", "--references", tmp_path / "c/gt_reports.csv")
    assert pair["scores"] == expected["scores"]
