"""Tables of a comparison."""

from contextlib import nullcontext

import numpy as np
import pytest

from modules.evaluation.metrics.comparers import ComparedScore
from tests.support.evaluation.compared_runs import compare, write_run

pytestmark = pytest.mark.usefixtures("without_java")


def test_latex_is_a_table(tmp_path):
    one, other = write_run(tmp_path / "one", 0.5, 1), write_run(tmp_path / "o_t^h~e{r}\\", 0.6, 2)
    compare(tmp_path, one, other, "--latex", tmp_path / "table.tex", "--scores", "bleu_4")
    lines = (tmp_path / "table.tex").read_text().splitlines()
    assert lines[0].startswith("% tiny") and lines[-1] == r"\end{tabular}"
    assert [line for line in lines if not line.startswith("%")][0] == r"\begin{tabular}{llrrrr}"
    rows = [line for line in lines if line.startswith(r"bleu\_4")]
    assert len(rows) == 2 and all(row.count("&") == 5 and row.endswith(r"\\") for row in rows)
    assert r"o\_t\textasciicircum{}h\textasciitilde{}e\{r\}\textbackslash{} &" in rows[1]


@pytest.fixture
def by_a_package(monkeypatch):
    """Let the command find a package with a distance, a mean whose print is rounded, and a score of all reports."""
    class Package:
        name, version = "package", "1.0"

        def compare(self, references, generated):
            same = np.array([float(one == other) for one, other in zip(references, generated, strict=True)])
            return {
                "distance": ComparedScore.mean_of(1 - same, higher_is_better=False),
                "rounded": ComparedScore(round(float(same.mean()), 1), same),
                "pooled": ComparedScore(float(same.sum()), None, no_interval="it pools"),
            }

    monkeypatch.setattr("modules.evaluation.comparison.open_comparers", lambda options: nullcontext([Package()]))


def test_directions_are_shown_and_honoured(by_a_package, tmp_path, capsys):
    one, other = write_run(tmp_path / "one", 0.3, 1), write_run(tmp_path / "other", 1.0, 2)
    latex = tmp_path / "table.tex"
    rows = compare(tmp_path, one, other, "--scores", "rouge_l", "abnormal_as_normal", "--latex", latex)
    distance, rouge = rows["distance", "other"], rows["rouge_l", "other"]
    assert (distance["higher_is_better"], distance["verdict"]) == ("false", "better")
    assert float(distance["high"]) < 0 and float(rouge["low"]) > 0
    assert (rouge["higher_is_better"], rouge["verdict"]) == ("true", "better")
    assert rows["rouge_l", "one"]["verdict"] == "" and rows["abnormal_as_normal", "one"]["higher_is_better"] == "false"
    backwards = compare(tmp_path, other, one, "--scores", "rouge_l")
    assert backwards["distance", "one"]["verdict"] == backwards["rouge_l", "one"]["verdict"] == "worse"
    printed = capsys.readouterr().out
    assert "distance ↓" in printed and "rouge_l ↑" in printed
    (line,) = (line for line in printed.splitlines() if line.startswith("rouge_l") and line.endswith("better"))
    assert "other" in line
    assert r"distance $\downarrow$ & other" in latex.read_text() and r"rouge\_l $\uparrow$ & one" in latex.read_text()


def test_values_are_those_that_the_package_prints(by_a_package, tmp_path, capsys):
    one, other = write_run(tmp_path / "one", 0.6, 1), write_run(tmp_path / "other", 0.8, 2)
    rows = compare(tmp_path, one, other, "--scores", "rouge_l")
    # The value is rounded, the difference is that of the numbers of each report.
    exact = 1 - float(rows["distance", "other"]["value"])
    assert float(rows["rounded", "other"]["value"]) == round(exact, 1)
    difference = float(rows["distance", "one"]["value"]) - float(rows["distance", "other"]["value"])
    assert float(rows["rounded", "other"]["difference"]) == pytest.approx(difference, abs=1e-6)
    assert rows["rounded", "other"]["p"] == rows["distance", "other"]["p"] != ""


def test_a_score_of_all_reports_has_a_difference_without_an_interval(by_a_package, tmp_path, capsys):
    one, other = write_run(tmp_path / "one", 0.3, 1), write_run(tmp_path / "other", 1.0, 2)
    rows = compare(tmp_path, one, other, "--scores", "rouge_l")
    pooled = rows["pooled", "other"]
    assert float(pooled["difference"]) == float(pooled["value"]) - float(rows["pooled", "one"]["value"])
    assert pooled["low"] == pooled["high"] == pooled["p"] == pooled["verdict"] == ""
    assert "pooled has no intervals and p-values: it pools" in capsys.readouterr().out
