"""Errors of `python -m modules.score`; for its scores see tests/modules/evaluation/test_text_scoring.py."""

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
    (["--document-frequencies", "training"], "--training-reports"),
    (["--labels", "nowhere.csv"], "nowhere.csv"),
    (["--studies", "patient"], "no 'patient'"),
    (["--workers", "0"], "--workers"),
    (["--resamples", "-1"], "--resamples"),
])
def test_what_a_user_can_mend_is_one_line(tmp_path, capsys, arguments, message):
    assert main([str(write_table(tmp_path / "table.csv")), *arguments]) == 1
    captured = capsys.readouterr()
    assert message in captured.err and len(captured.err.splitlines()) == 1 and not captured.out


def test_another_protocol_than_there_are_is_refused(tmp_path, capsys):
    with pytest.raises(SystemExit) as stopped:
        main([str(write_table(tmp_path / "table.csv")), "--protocol", "rgen"])
    assert stopped.value.code == 2 and "invalid choice: 'rgen'" in capsys.readouterr().err
