"""Rewards of single reports: by hand, and against the scores of the evaluation."""

import numpy as np
import pytest

from data.ontology import observation_names
from modules.evaluation.metrics.labelers import RuleLabeler
from modules.evaluation.metrics.report_observations import report_observation_scores, truth_observation_scores
from modules.evaluation.metrics.text.cider import DocumentFrequencies
from modules.evaluation.metrics.text.nlg import nlg_scores
from modules.evaluation.metrics.triples import extract_triples, triple_scores
from modules.evaluation.rewards.report_rewards import DATA_SET, REWARD_NAMES, ReportRewards, RewardedStudy

REFERENCE = "the heart is enlarged . there is a small left pleural effusion . no pneumothorax ."
REPORTS = (
    REFERENCE,
    "the heart is enlarged . the lungs are clear .",
    "there is a small left pleural effusion . there is a small left pleural effusion .",
    "no acute disease",
    "",
)
FREQUENCIES = DocumentFrequencies.from_reports([*REPORTS[:4], "the lungs are clear . no acute fracture ."], "reports")


def rewards_of(names=REWARD_NAMES, reference=REFERENCE, reports=REPORTS, labels="reference", truth=(), known=()):
    positive = np.array([name in truth for name in observation_names()])
    is_known = np.array([name in known for name in observation_names()])
    study = RewardedStudy(reference, reference, positive, is_known, reports)
    return ReportRewards(tuple(names), FREQUENCIES, labels)(study)


def test_every_reward_is_the_number_of_each_study_in_the_evaluation():
    rewards = rewards_of()
    references = [REFERENCE] * len(REPORTS)
    language = nlg_scores(references, REPORTS, False, FREQUENCIES).per_study
    labels = RuleLabeler().label([REFERENCE, *REPORTS])
    expected = {
        **language,
        "observations": report_observation_scores(labels[:1] * len(REPORTS), labels[1:]).per_study["report_f1"],
        "triples": triple_scores(extract_triples(references), extract_triples(REPORTS)).per_study["triple_f1"],
    }
    for name in set(REWARD_NAMES) - {"length"}:
        assert rewards[name].shape == (len(REPORTS),)
        np.testing.assert_allclose(rewards[name], expected[name], atol=1e-12, err_msg=name)
    assert rewards["bleu_4"][0] == pytest.approx(1, abs=1e-6) and rewards["observations"][0] == 1
    assert all(rewards[name][0] > rewards[name][4] for name in REWARD_NAMES)


def test_length_compares_words_either_way():
    rewards = rewards_of(["length"], reference="a b c d", reports=("a b c d", "a b", "a b c d e f g h", ""))
    assert rewards["length"].tolist() == [1, 0.5, 0.5, 0]


def test_statistics_come_with_every_reward():
    rewards = rewards_of([])
    assert rewards["words"].tolist() == [16, 10, 16, 3, 0]
    assert rewards["repeated_sentences"].tolist() == [0, 0, 0.5, 0, 0]


@pytest.mark.parametrize("known", [("Cardiomegaly", "Edema"), observation_names()])
def test_observations_of_the_data_set_count_where_they_are_known(known):
    truth = ("Cardiomegaly", "Edema")
    rewards = rewards_of(["observations"], labels=DATA_SET, truth=truth, known=known)["observations"]
    positive = np.array([[name in truth for name in observation_names()]] * len(REPORTS))
    is_known = np.array([[name in known for name in observation_names()]] * len(REPORTS))
    scores = truth_observation_scores(positive, is_known, RuleLabeler().label(REPORTS))
    np.testing.assert_allclose(rewards, scores.per_study["truth_f1"])


def test_a_study_without_known_labels_rewards_no_observation():
    assert not rewards_of(["observations"], labels=DATA_SET)["observations"].any()


def test_normal_reports_agree_in_having_no_triple_or_observation():
    rewards = rewards_of(["triples"], reference="unremarkable", reports=("unremarkable", "the heart is enlarged ."))
    assert rewards["triples"].tolist() == [1, 0]
