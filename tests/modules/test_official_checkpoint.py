"""The command that converts a release checkpoint."""

import json

import pytest

import main_test
from modules.official_checkpoint import main
from tests.support.release_files import OVERRIDES, UNUSED
from tests.support.tiny_dataset import write_tiny_dataset


def test_the_command_lists_what_it_did_not_use_and_the_result_is_tested(
    small_trunk, release, tokens, tmp_path, capsys, monkeypatch
):
    out = tmp_path / "out"
    assert main([str(release), "--vocabulary", str(tokens), "--out", str(out), *OVERRIDES, "data.image_size=64"]) == 0
    printed = capsys.readouterr().out
    assert all(f"  {name}\n" in printed for name in UNUSED)
    assert f"Written: {out}" in printed
    root = write_tiny_dataset(tmp_path / "tiny", test=2)
    monkeypatch.setenv("PATH", str(tmp_path))  # no Java, which takes seconds to start
    results = tmp_path / "results"
    arguments = ["--checkpoint", str(out), "--data", str(root), "--out", str(results), "data.workers=0"]
    assert main_test.main([*arguments, "eval.beam_size=2", "train.device=cpu"]) == 0
    metrics = json.loads((results / "metrics.json").read_text())
    assert (metrics["studies"], metrics["graph_source"], metrics["box_source"]) == (2, "predicted", "atlas")
    assert metrics["scores"]["bleu_1"] is not None


@pytest.mark.parametrize("out, said", [
    ("mydata", "holds sub, which a checkpoint there would replace"), (".", "which a checkpoint there would replace"),
    ("mydata/sub/..", "holds sub, which"), ("/", "which a checkpoint there would replace"),
    ("mydata/thesis.txt", "thesis.txt (Not a directory): choose another folder"),
    ("mydata/thesis.txt/out", "or choose another folder with --out"),
])
def test_nothing_of_others_is_replaced(out, said, small_trunk, release, tokens, tmp_path, capsys, monkeypatch):
    (tmp_path / "mydata/sub").mkdir(parents=True)
    (tmp_path / "mydata/sub/run.txt").write_text("precious")
    (tmp_path / "mydata/thesis.txt").write_text("precious")
    before = sorted(tmp_path.rglob("*"))
    monkeypatch.chdir(tmp_path)
    assert main([str(release), "--vocabulary", str(tokens), "--out", out, *OVERRIDES]) == 1
    printed = capsys.readouterr().err
    assert said in printed and printed.count("\n") == 1
    assert sorted(tmp_path.rglob("*")) == before
