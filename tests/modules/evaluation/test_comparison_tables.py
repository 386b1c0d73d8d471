"""Tables of a comparison."""

import pytest

from tests.support.evaluation.compared_runs import compare, write_run


@pytest.fixture(autouse=True)
def without_java(monkeypatch, tmp_path):
    """Hide Java: METEOR would be slow."""
    monkeypatch.setenv("PATH", str(tmp_path))


def test_latex_is_a_table(tmp_path):
    one, other = write_run(tmp_path / "one", 0.5, 1), write_run(tmp_path / "o_t^h~e{r}\\", 0.6, 2)
    compare(tmp_path, one, other, "--latex", tmp_path / "table.tex", "--scores", "bleu_4")
    lines = (tmp_path / "table.tex").read_text().splitlines()
    assert lines[0].startswith("% tiny") and lines[-1] == r"\end{tabular}"
    assert [line for line in lines if not line.startswith("%")][0] == r"\begin{tabular}{llrrrr}"
    rows = [line for line in lines if line.startswith(r"bleu\_4")]
    assert len(rows) == 2 and all(row.count("&") == 5 and row.endswith(r"\\") for row in rows)
    assert r"o\_t\textasciicircum{}h\textasciitilde{}e\{r\}\textbackslash{} &" in rows[1]
