"""Selective prediction: how the error rate falls when the least confident answers are discarded.

Sources: El-Yaniv and Wiener, "On the foundations of noise-free selective classification", JMLR 2010 (risk and
coverage); Geifman, Uziel, El-Yaniv, "Bias-reduced uncertainty estimation for deep neural classifiers", ICLR 2019 (the
area under the risk-coverage curve).
"""

from collections.abc import Callable
from functools import partial

import numpy as np
from numpy.typing import NDArray

from modules.evaluation.metrics.weighted import Score, ScoreSet, absent_scores

# Shares of sentences, in per cent: the error rate is that of the most confident ones.
COVERAGES = (100, 80, 60, 40, 20)
NAMES = (*(f"sentence_error_at_{coverage}" for coverage in COVERAGES), "sentence_error_area")
# Title of a curve with the keys `sentences` (number of sentences that claim something), `wrong` (number of these that
# are wrong) and `by_coverage` (error rates of the 1, 2, ..., 100 per cent most confident).
ERROR_BY_COVERAGE = "errors of sentences by coverage"


class RankedAnswers:
    """n answers from most to least confident; equal confidences form one group."""

    def __init__(self, confidences: NDArray, wrong: NDArray):
        """confidences [n], wrong [n] bool; n > 0."""
        self.order = np.argsort(-confidences, kind="stable")
        ranked = confidences[self.order]
        self._wrong = wrong[self.order]
        self._group_starts = np.flatnonzero(np.concatenate([[True], ranked[1:] != ranked[:-1]]))

    def risk_curve(self, weights: NDArray) -> NDArray:
        """Return [m]: the share of wrong answers among the k most confident ones, for k = 1 .. m.

        weights [n]: how often each answer counts, in the order of the constructor's arguments; m is their sum. Answers
        of equal confidence count as if in random order (expected share), so the order of the arguments does not matter.
        """
        weights = weights[self.order]
        answered = np.cumsum(np.add.reduceat(weights, self._group_starts))
        errors = np.cumsum(np.add.reduceat(weights * self._wrong, self._group_starts))
        answers = np.arange(1, int(answered[-1]) + 1)
        return np.interp(answers, np.concatenate([[0], answered]), np.concatenate([[0], errors])) / answers


def sentence_scores(confidences: NDArray, wrong: NDArray, studies: NDArray) -> ScoreSet:
    """Return the error rates of n generated sentences when the least confident ones are discarded.

    confidences [n], wrong [n] bool, studies [n] int (index of each sentence's study), for the sentences that claim
    something (`modules/evaluation/metrics/claims.py`).

    sentence_error_at_C   error rate of the C per cent most confident sentences (rounded up to whole sentences)
    sentence_error_area   mean of `risk_curve`: the area under error over coverage. 0 is best; a random order has the
                          error rate of all sentences
    """
    if not len(confidences):
        return absent_scores(NAMES, "no sentence with a confidence claims anything")
    ranked = RankedAnswers(confidences, wrong)

    def curve_score(summarise: Callable[[NDArray], float]) -> Score:
        def compute(weights: NDArray) -> NDArray:
            curves = (ranked.risk_curve(row[studies]) for row in weights)
            return np.array([summarise(curve) if len(curve) else np.nan for curve in curves])

        return Score(compute, "no sentence of these studies claims anything")

    scores = {
        f"sentence_error_at_{coverage}": curve_score(partial(error_at_coverage, coverage=coverage))
        for coverage in COVERAGES
    }
    curve = ranked.risk_curve(np.ones(len(confidences)))
    return ScoreSet(
        scores | {"sentence_error_area": curve_score(np.mean)},
        curves={ERROR_BY_COVERAGE: {
            "sentences": len(wrong), "wrong": int(wrong.sum()),
            "by_coverage": [error_at_coverage(curve, coverage) for coverage in range(1, 101)],
        }},
    )


def error_at_coverage(curve: NDArray, coverage: int) -> float:
    """Return the value of a `risk_curve` at `coverage` per cent of its answers, rounded up to whole answers."""
    return float(curve[-(-coverage * len(curve) // 100) - 1])
