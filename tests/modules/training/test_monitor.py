"""The score that a run monitors: a sum of scores, and its errors."""

import hypothesis.strategies as st
import pytest
from hypothesis import given

from data.errors import UserError
from modules.evaluation.scoring import SCORE_NAMES
from modules.training.monitor import Monitor
from tests.support.tiny_training import tiny_trainer


@given(st.lists(st.tuples(st.sampled_from("+-"), st.integers(0, 400), st.sampled_from(SCORE_NAMES)), min_size=1))
def test_monitor_is_the_sum_that_it_is_written_as(terms):
    text = " ".join(f"{sign} {hundredths / 100} * {name}" for sign, hundredths, name in terms)
    scores = {name: number + 1.0 for number, name in enumerate(SCORE_NAMES)}
    expected = sum((1 if sign == "+" else -1) * hundredths / 100 * scores[name] for sign, hundredths, name in terms)
    assert Monitor.parse(text, SCORE_NAMES).value(scores) == pytest.approx(expected, abs=1e-9)


def test_monitor_of_the_paper():
    monitor = Monitor.parse("bleu_4 + 0.5 * meteor", SCORE_NAMES)
    assert monitor.value({"bleu_4": 0.1, "meteor": 0.3}) == pytest.approx(0.25)


@pytest.mark.parametrize("scores", [{"bleu_4": 0.1, "meteor": None}, {"bleu_4": 0.1}])
def test_a_sum_with_an_absent_score_is_absent(scores):
    monitor = Monitor.parse("bleu_4 + 0.5 * meteor", SCORE_NAMES)
    assert monitor.value(scores) is None
    assert monitor.missing(scores) == ["meteor"]


@pytest.mark.parametrize(
    "text", ["", "bleu_4 +", "bleu_4 meteor", "0.5 bleu_4", "bleu_4 * 0.5", "bleu_4 + 0.5 * ", "2"]
)
def test_monitor_that_cannot_be_read(text):
    with pytest.raises(UserError, match="Cannot parse train.monitor=.* at .*: write a score"):
        Monitor.parse(text, SCORE_NAMES)


def test_monitor_of_an_unknown_score_is_refused_before_training(tmp_path):
    with pytest.raises(UserError, match="train.monitor='blue_4': unknown score 'blue_4'; did you mean 'bleu_4'?"):
        tiny_trainer(tmp_path, "train.monitor=blue_4")
