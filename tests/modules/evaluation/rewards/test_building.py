"""The pool of a configuration: which rewards it has, CIDEr's document frequencies, and mistakes in settings."""

import sys
from collections import Counter
from dataclasses import replace

import numpy as np
import pytest

from data.dataset import StudyDataset
from data.errors import UserError
from modules.builders import build_dataset, build_vocabularies
from modules.config import load_config
from modules.evaluation.metrics.text.cider import DocumentFrequencies, cider_scores
from modules.evaluation.rewards.building import build_reward_pool, training_frequencies
from modules.settings.reward import RewardConfig
from tests.support.tiny_training import tiny_settings


@pytest.fixture(scope="module")
def training(tmp_path_factory) -> StudyDataset:
    config = load_config(None, tiny_settings(tmp_path_factory.mktemp("data")))
    return build_dataset(config, build_vocabularies(config), "train")


def test_the_rewards_of_the_sum_are_computed(training):
    pool, weights = build_reward_pool(RewardConfig(rewards="cider - 0.5 * length + 0 * bleu_4"), training, str)
    try:
        assert weights == {"cider": 1, "length": -0.5, "bleu_4": 0} and pool.names == ("cider", "length", "bleu_4")
        reference = training.read_reference(0)[1]
        nothing = np.zeros((1, 14), dtype=bool)
        rewards = pool.submit([reference], nothing, nothing, [[reference, "no acute disease ."]]).result()
        assert rewards["cider"][0, 0] > rewards["cider"][0, 1] and rewards["length"][0, 0] == 1
    finally:
        pool.close()


def test_document_frequencies_without_rare_ngrams_give_the_same_cider(training):
    references = [training.read_reference(index)[1] for index in range(len(training))]
    every = DocumentFrequencies.from_reports(references, "reports")
    counted = training_frequencies(training, str)
    assert counted.documents == every.documents == 9
    assert counted.counts == Counter({ngram: count for ngram, count in every.counts.items() if count > 1})
    hypotheses = references[1:] + references[:1]
    np.testing.assert_array_equal(
        cider_scores(references, hypotheses, counted), cider_scores(references, hypotheses, every)
    )


# Stands for the python of an environment with RadEval: every word that both reports have is a point.
FAKE_RADEVAL = """#!{python}
import json, sys
for line in sys.stdin:
    request = json.loads(line)
    answer = {{"version": "0"}}
    if "references" in request:
        pairs = zip(request["references"], request["generated"])
        shared = [len(set(reference.split()) & set(report.split())) for reference, report in pairs]
        scores = {{"rouge1": shared, "bleu": []}}
        means = {{name: sum(values) / len(shared) for name, values in scores.items()}}
        answer = {{"scores": {{name: {{"value": means[name], "per_report": scores[name]}} for name in scores}}}}
    print(json.dumps(answer), flush=True)
"""


def test_scores_of_another_package_are_rewards(training, tmp_path):
    program = tmp_path / "python"
    program.write_text(FAKE_RADEVAL.format(python=sys.executable))
    program.chmod(0o755)
    settings = RewardConfig(
        rewards="length + 0.1 * radeval_rouge1", radeval=["rouge", "bleu"], metrics_python=str(program)
    )
    pool, weights = build_reward_pool(settings, training, str)
    try:
        assert weights == {"length": 1, "radeval_rouge1": 0.1} and pool.names == ("length", "radeval_rouge1")
        nothing = np.zeros((2, 14), dtype=bool)
        pending = pool.submit(["a b c", "d e"], nothing, nothing, [["a b", "x"], ["d e", ""]])
        assert pending.result()["radeval_rouge1"].tolist() == [[2, 0], [2, 0]]
    finally:
        pool.close()
    with pytest.raises(UserError, match="unknown reward 'radeval_bleu'"):  # a score of all reports at once
        build_reward_pool(replace(settings, rewards="radeval_bleu"), training, str)


@pytest.mark.parametrize(("settings", "named"), [
    ({"rewards": "bleu_5"}, "Unknown reward"), ({"rewards": "radgraph_simple"}, "Unknown reward"),
    ({"rewards": "bleu_4 +"}, "reward.rewards"), ({"radeval": ["nothing"]}, "metric"),
    ({"radgraph": "nowhere", "metrics_python": "/nowhere/python"}, "nowhere"),
])
def test_mistakes_are_one_line(training, settings, named):
    with pytest.raises(UserError) as caught:
        build_reward_pool(RewardConfig(**settings), training, str)
    assert named.lower() in str(caught.value).lower() and "\n" not in str(caught.value)
