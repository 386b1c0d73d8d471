"""Settings of reward training, and the contradictions that are refused."""

import pytest

from data.errors import UserError
from modules.config import load_config
from modules.settings.weighted_sum import parse_sum

STAGE = ["train.stage=reward", "train.init_from=results/demo/best"]


@pytest.mark.parametrize(("settings", "named"), [
    (["reward.share=0"], "reward.share"), (["reward.share=1.1"], "reward.share"),
    (["reward.samples=1"], "reward.baseline=mean"), (["reward.samples=0", "reward.baseline=greedy"], "reward.samples"),
    (["reward.baseline=worst"], "reward.baseline"), (["reward.labels=both"], "reward.labels"),
    (["reward.length_factor=0.5"], "reward.length_factor"), (["train.stage=second"], "train.stage"),
    (["train.stage=reward"], "set train.init_from"), ([*STAGE, "model.report=false"], "model.report=false"),
    ([*STAGE, "train.graph_source=mixed"], "train.graph_source"),
])
def test_contradictions_are_one_line(settings, named):
    with pytest.raises(UserError) as caught:
        load_config(None, settings)
    assert named in str(caught.value) and "\n" not in str(caught.value)


def test_one_sample_is_enough_beside_the_greedy_report():
    settings = ["reward.samples=1", "reward.baseline=greedy", "reward.rewards=bleu_4 + 2 * cider"]
    config = load_config(None, [*STAGE, *settings])
    assert parse_sum(config.reward.rewards, "reward.rewards") == {"bleu_4": 1.0, "cider": 2.0}


@pytest.mark.parametrize(("text", "weights"), [
    ("bleu_4", {"bleu_4": 1}), ("-a + .5*b", {"a": -1, "b": 0.5}), ("0 * a - 2 * b + b", {"a": 0, "b": -1}),
])
def test_sums(text, weights):
    assert parse_sum(text, "some.setting") == weights


@pytest.mark.parametrize("text", ["", "a b", "2", "a +", "a * 2"])
def test_what_is_not_a_sum_is_named(text):
    with pytest.raises(UserError, match=r"Cannot parse some\.setting"):
        parse_sum(text, "some.setting")
