"""Arguments of `python -m modules.compare`; for its results see tests/modules/evaluation/test_comparison.py."""

import pytest

from modules.compare import main
from tests.support.evaluation.compared_runs import write_run


@pytest.fixture(autouse=True)
def without_java(monkeypatch, tmp_path):
    """Hide Java: METEOR would be slow."""
    monkeypatch.setenv("PATH", str(tmp_path))


@pytest.mark.parametrize("arguments, message", [
    ([], "takes two systems"), (["--group", "x"], "NAME=RUN"), (["{one}", "{one}"], "one name"),
    (["{one}", "{other}", "--scores", "blue"], "--scores: unknown score 'blue'"),
    (["{one}", "{other}", "--scores", "region_micro_f1"], "cannot be computed from texts"),
    (["{one}", "--group", "seeds={other},{other}/predictions.jsonl"], "has a run twice"),
    (["{one}", "{other}", "--resamples", "0"], "--resamples"),
])
def test_what_a_user_can_mend_is_one_line(tmp_path, capsys, arguments, message):
    folders = {name: write_run(tmp_path / name, 0.5) for name in ("one", "other")}
    assert main([argument.format(**folders) for argument in arguments]) == 1
    captured = capsys.readouterr()
    assert message in captured.err and len(captured.err.splitlines()) == 1
