"""Reward training by main_train.py, from a checkpoint of another run, with real validations."""

import json

import pytest

import main_train
from tests.support.tiny_run import TINY, write_tiny_run


@pytest.fixture(scope="module")
def start(tmp_path_factory):
    folder = tmp_path_factory.mktemp("start")
    run, data = write_tiny_run(folder, lively=True)
    return folder, [
        *TINY, f"results={folder}", f"data.root={data}", f"train.init_from={run / 'best'}", "train.stage=reward",
        "train.graph_source=predicted", "optim.batch_size=4", "reward.samples=2", "reward.workers=1", "train.epochs=1",
        "reward.largest_drop=1", "reward.length_factor=100", "reward.most_repeated=1", "reward.least_distinct=0",
    ]


def test_a_checkpoint_is_trained_on_rewards(start, without_java):
    folder, settings = start
    assert main_train.main([*settings, "name=rewarded", "train.monitor=triple_f1"]) == 0
    entries = [json.loads(line) for line in (folder / "rewarded/log.jsonl").read_text().splitlines()]
    validations = [entry for entry in entries if entry["kind"] == "validation"]
    assert [entry["step"] for entry in validations] == [0, 2]
    watched = {"bleu_4", "rouge_l", "cider", "report_14_micro_f1", "triple_f1", "distinct_reports",
               "generated_words_mean", "repeated_sentences"}
    assert all(entry["scores"].keys() == watched for entry in validations)
    (step,) = [entry for entry in entries if entry["kind"] == "train"][-1:]
    assert {"policy", "report", "sampled/observations", "sampled/triples"} <= step["terms"].keys()


@pytest.mark.parametrize(("setting", "named"), [
    ("reward.watch=[bleu_5]", "unknown score 'bleu_5'"), ("reward.rewards=beauty", "unknown reward 'beauty'"),
    ("train.init_from=null", "set train.init_from"),
])
def test_mistakes_end_before_training_with_one_line(start, capfd, setting, named):
    folder, settings = start
    assert main_train.main([*settings, "name=mistaken", setting]) == 1
    (line,) = capfd.readouterr().err.splitlines()
    assert named in line and not (folder / "mistaken").exists()
