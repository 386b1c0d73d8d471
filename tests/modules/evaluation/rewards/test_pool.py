"""Rewards of batches: the same as in this process, with scores of other packages, and what a killed worker causes."""

import os
import signal
from contextlib import nullcontext
from dataclasses import dataclass

import numpy as np
import pytest

from data.errors import UserError
from modules.evaluation.metrics.comparers import ComparedScore
from modules.evaluation.rewards.pool import RewardPool
from modules.evaluation.rewards.report_rewards import ReportRewards, RewardedStudy

NAMES = ("bleu_4", "observations", "length")
REFERENCES = ["the heart is enlarged . no effusion .", "the lungs are clear ."]
REPORTS = [["the heart is enlarged .", "no effusion .", ""], ["the lungs are clear .", "edema .", "edema . edema ."]]
NOTHING = np.zeros((2, 14), dtype=bool)


def first_words(reference):
    return " ".join(reference.split()[:4])


@pytest.mark.parametrize("workers", [1, 3])
def test_rewards_do_not_depend_on_the_processes(workers):
    rewards = ReportRewards(NAMES)
    pool = RewardPool(rewards, workers, first_words)
    try:
        first, second = (pool.submit(REFERENCES, NOTHING, NOTHING, REPORTS) for _ in range(2))
        for result in (second.result(), first.result()):
            assert result.keys() == {*NAMES, "words", "repeated_sentences"}
            for row, reference in enumerate(REFERENCES):
                study = RewardedStudy(reference, first_words(reference), NOTHING[0], NOTHING[0], tuple(REPORTS[row]))
                for name, values in rewards(study).items():
                    np.testing.assert_array_equal(result[name][row], values)
    finally:
        pool.close()


@dataclass
class WordComparer:
    """Shares of the reference's words, and a score of all pairs together."""

    name: str = "words"

    def compare(self, references, generated):
        shares = [
            len(set(reference.split()) & set(text.split())) / len(set(reference.split())) if text else np.nan
            for reference, text in zip(references, generated, strict=True)
        ]
        return {"shared_words": ComparedScore.mean_of(np.array(shares)), "corpus": ComparedScore(0.5, None)}


def test_scores_of_other_packages_are_rewards_if_they_have_a_number_for_each_report():
    pool = RewardPool(ReportRewards(("length",)), 1, str, nullcontext([WordComparer()]))
    try:
        assert pool.names == ("length", "shared_words")
        result = pool.submit(REFERENCES, NOTHING, NOTHING, REPORTS).result()
    finally:
        pool.close()
    assert "corpus" not in result
    np.testing.assert_allclose(result["shared_words"], [[5 / 7, 3 / 7, 0], [1, 1 / 5, 1 / 5]])


def test_workers_finish_their_jobs_after_sigterm():
    pool = RewardPool(ReportRewards(("length",)), 1, str)
    try:
        (worker,) = pool._workers._pool._processes
        os.kill(worker, signal.SIGTERM)
        assert pool.submit(REFERENCES, NOTHING, NOTHING, REPORTS).result()["length"].shape == (2, 3)
    finally:
        pool.close()


def test_a_killed_worker_is_one_line():
    pool = RewardPool(ReportRewards(("length",)), 1, str)
    try:
        (worker,) = pool._workers._pool._processes
        os.kill(worker, signal.SIGKILL)
        with pytest.raises(UserError, match="fewer reward.workers"):
            pool.submit(REFERENCES, NOTHING, NOTHING, REPORTS).result()
    finally:
        pool.close()
