"""What a metric loads, and what is said if it is missing and no network is there. Needs no package."""

import sys
from pathlib import Path

import pytest

from data.errors import UserError
from modules.evaluation.metrics.packages import radeval_files
from modules.evaluation.metrics.packages.radeval_files import check_files, hub_cache, weight_files
from modules.evaluation.metrics.packages.radeval_scores import METRICS
from modules.score import main
from tests.support.evaluation.scored_table import write_table

PYTHON = Path(sys.executable)
RUN_ON_APIS = {"bleu", "rouge", "temporal", "mammo_green", "radfact_ct"}


@pytest.fixture(autouse=True)
def empty_caches(monkeypatch, tmp_path):
    """Caches without a file, and no network."""
    for name in ("HF_HUB_CACHE", "HF_HOME", "NLTK_DATA"):
        monkeypatch.delenv(name, raising=False)
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path / "cache"))
    monkeypatch.setenv("HOME", str(tmp_path))
    monkeypatch.setenv("HF_HUB_OFFLINE", "1")


def write_hub_file(repository, name, cache=None):
    path = (cache or hub_cache()) / f"models--{repository.replace('/', '--')}" / "snapshots" / "1a" / name
    path.parent.mkdir(parents=True, exist_ok=True)
    path.touch()


@pytest.mark.parametrize("metric", METRICS)
def test_one_line_names_the_missing_file_and_where_to_put_it(metric, tmp_path, capsys):
    table = str(write_table(tmp_path / "table.csv"))
    if metric in RUN_ON_APIS:
        assert check_files({metric: {}}, PYTHON)
        return
    assert main([table, "--no-meteor", "--radeval", metric, "--metrics-python", "elsewhere/python"]) == 1
    captured = capsys.readouterr()
    assert len(captured.err.splitlines()) == 1 and not captured.out
    assert f"RadEval's {metric} needs " in captured.err and str(tmp_path / "cache") in captured.err
    assert "cannot be reached" in captured.err and ("hf download" in captured.err or "unpack" in captured.err)


def test_files_that_are_there_need_no_network(tmp_path):
    assert [file.name for file in weight_files("bertscore", {}, PYTHON)] == [
        "config.json", "model.safetensors", "tokenizer.json"
    ]
    for name in ("config.json", "pytorch_model.bin"):
        write_hub_file("distilbert-base-uncased", name)
    with pytest.raises(UserError, match="needs tokenizer.json from huggingface.co/distilbert-base-uncased, which"):
        check_files({"bertscore": {}}, PYTHON)
    write_hub_file("distilbert-base-uncased", "vocab.txt")
    assert check_files({"bertscore": {}, "bleu": {}}, PYTHON)


def test_options_name_other_files(tmp_path):
    assert not any(weight_files("bertscore", {"model_type": str(tmp_path)}, PYTHON))
    assert not any(weight_files("crimson", {"model_name": str(tmp_path)}, PYTHON))
    assert not any(weight_files("crimson", {"provider": "openai"}, PYTHON))
    (first, *_) = weight_files("radgraph", {"model_type": "echograph", "model_cache_dir": "models"}, PYTHON)
    assert first.name == "echograph/config.json" and "echograph.tar.gz" in first.fix and "models" in first.fix
    (first, *_) = weight_files("srrbert", {"model_type": "upper"}, PYTHON)
    assert first.origin.endswith("SRR-BERT-Upper")


def test_the_encoder_of_radgraph_is_read_from_its_configuration(tmp_path):
    folder = tmp_path / "radgraph-xl"
    folder.mkdir()
    (folder / "weights.th").touch()
    (folder / "config.json").write_text('{"model": {"embedder": {"token_embedders": {"bert": {"model_name": "a/b"}}}}}')
    with pytest.raises(UserError, match="needs config.json .*from huggingface.co/a/b"):
        check_files({"radgraph": {"model_cache_dir": str(tmp_path)}}, PYTHON)
    (folder / "config.json").write_text("{}")
    assert check_files({"radgraph": {"model_cache_dir": str(tmp_path)}}, PYTHON)


def test_a_hub_that_answers_may_be_asked(monkeypatch):
    monkeypatch.setattr(radeval_files, "_reach_hub", lambda: True)
    assert not check_files({"bertscore": {}}, PYTHON)


def test_an_address_that_does_not_answer_is_out_of_reach(monkeypatch):
    monkeypatch.delenv("HF_HUB_OFFLINE")
    for address in ("http://127.0.0.1:9", "not an address"):
        monkeypatch.setenv("HF_ENDPOINT", address)
        with pytest.raises(UserError, match="cannot be reached"):
            check_files({"green": {}}, PYTHON)
