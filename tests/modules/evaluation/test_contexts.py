"""main_test.py with several contexts side by side."""

import json

import pytest

import main_test
from tests.support.context.tiny_context import save_context_run
from tests.support.tiny_run import save_tiny_run


def read_metrics(path):
    return json.loads(path.read_text(encoding="utf-8"))


@pytest.fixture(scope="module")
def reading(tmp_path_factory):
    """The run folder of a model that reads the context, and its data set."""
    return save_context_run(tmp_path_factory.mktemp("reading"))


def test_contexts_side_by_side(reading, tmp_path, capsys, without_java):
    out = tmp_path / "out"
    command = ["--checkpoint", str(reading[0]), "--out", str(out), "--baselines", "none"]
    assert main_test.main([*command, "--context", "all,none,prior"]) == 0
    printed = capsys.readouterr().out
    assert "context all of indication and prior and prior report" in printed
    assert "Effect of the context" in printed and "invented_comparisons" in printed
    metrics = {use: read_metrics(out / folder / "metrics.json") for use, folder in
               (("all", ""), ("none", "context_none"), ("prior", "context_prior"))}
    for use, content in metrics.items():
        assert content["context"] == {"reads": ["indication", "prior", "prior report"], "shown": use}
    lines = {use: (out / folder / "predictions.jsonl").read_text().splitlines()
             for use, folder in (("all", ""), ("none", "context_none"))}
    shown, withheld = ([json.loads(line) for line in lines[use]] for use in ("all", "none"))
    assert [line["generated"] for line in shown] != [line["generated"] for line in withheld]
    assert all("changes" in line for line in shown) and not any("changes" in line for line in withheld)
    contexts = metrics["all"]["contexts"]
    assert list(contexts) == ["all", "none", "prior"] and "contexts" not in metrics["none"]
    for use, compared in contexts.items():
        assert compared["scores"] == metrics[use]["scores"]
        difference, (low, high) = compared["difference"]["bleu_1"], compared["interval"]["bleu_1"]
        assert difference == metrics[use]["scores"]["bleu_1"] - metrics["all"]["scores"]["bleu_1"]
        assert low <= difference <= high
    assert contexts["none"]["interval"]["bleu_1"][0] < contexts["none"]["interval"]["bleu_1"][1]
    assert contexts["all"]["interval"]["bleu_1"] == [0, 0]
    assert "Effect of the context" in (out / "report.html").read_text()


def test_contexts_are_compared_in_each_section(reading, tmp_path, capsys, without_java):
    save_tiny_run(tmp_path / "run", reading[1], "model.context=[prior]", "data.sections=both", lively=True)
    command = ["--checkpoint", str(tmp_path / "run"), "--baselines", "none", "--context", "all,none"]
    assert main_test.main(command) == 0
    first, none = (read_metrics(tmp_path / "run" / folder / "metrics.json") for folder in ("", "context_none"))
    for name, section in first["sections"].items():
        compared = section["contexts"]
        assert list(compared) == ["all", "none"] and compared["none"]["scores"] == none["sections"][name]["scores"]
        assert set(compared["none"]["difference"]) == set(section["scores"])
    assert "The impression alone" in capsys.readouterr().out.partition("Effect of the context")[2]
    assert "<h3>Impression alone</h3>" in (tmp_path / "run/report.html").read_text()
