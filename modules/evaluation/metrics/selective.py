"""Is confidence of use? How the error rate falls as the least confident answers are set aside.

Sources: El-Yaniv and Wiener, "On the foundations of noise-free selective classification", JMLR 2010 (risk and
coverage); Geifman, Uziel, El-Yaniv, "Bias-reduced uncertainty estimation for deep neural classifiers", ICLR 2019 (the
area).
"""

from collections.abc import Callable

import numpy as np
from numpy.typing import NDArray

from modules.evaluation.metrics.weighted import Score, ScoreSet, absent

# Shares of the sentences that are kept, in per cent.
COVERAGES = (100, 80, 60, 40, 20)
NAMES = (*(f"sentence_error_at_{coverage}" for coverage in COVERAGES), "sentence_error_area")
# Title of the curve: how many `sentences` claim something, how many of them are `wrong`, and the error rate of the
# 1, 2, ... 100 per cent most confident, `by_coverage`.
ERROR_BY_COVERAGE = "errors of sentences by coverage"


class RankedAnswers:
    """n answers from the most to the least confident, those of equal confidence together."""

    def __init__(self, confidences: NDArray, wrong: NDArray):
        """confidences [n], wrong [n] bool; n > 0."""
        self.order = np.argsort(-confidences, kind="stable")
        ranked = confidences[self.order]
        self._wrong = wrong[self.order]
        self._starts = np.flatnonzero(np.concatenate([[True], ranked[1:] != ranked[:-1]]))

    def risk_curve(self, times: NDArray) -> NDArray:
        """[m]: the share of wrong answers among the k most confident ones, for k = 1 .. m.

        times [n]: how often each answer (as given, not as ranked) counts; m is their sum. Answers of equal confidence
        count as if in random order (the expected share), so the order in which answers are given does not matter.
        """
        times = times[self.order]
        kept = np.cumsum(np.add.reduceat(times, self._starts))
        errors = np.cumsum(np.add.reduceat(times * self._wrong, self._starts))
        answers = np.arange(1, int(kept[-1]) + 1)
        return np.interp(answers, np.concatenate([[0], kept]), np.concatenate([[0], errors])) / answers


def sentence_scores(confidences: NDArray, wrong: NDArray, studies: NDArray) -> ScoreSet:
    """The error rate of n generated sentences as the least confident are set aside.

    confidences [n], wrong [n] bool, studies [n] int, the study of each: of the sentences that claim something
    (`modules/evaluation/metrics/claims.py`).
    sentence_error_at_C   error rate of the C per cent most confident (rounded up to whole sentences)
    sentence_error_area   mean of `risk_curve`: the area under error over coverage, 0 at best; an order by chance has
                          the error rate of all sentences
    """
    if not len(confidences):
        return absent(NAMES, "no sentence with a confidence claims anything")
    ranked = RankedAnswers(confidences, wrong)

    def score(value: Callable[[NDArray], float]) -> Score:
        def of(weights: NDArray) -> NDArray:
            curves = (ranked.risk_curve(row[studies]) for row in weights)
            return np.array([value(curve) if len(curve) else np.nan for curve in curves])

        return Score(of, "no sentence of these studies claims anything")

    scores = {
        f"sentence_error_at_{coverage}": score(lambda curve, coverage=coverage: error_at(curve, coverage))
        for coverage in COVERAGES
    }
    curve = ranked.risk_curve(np.ones(len(confidences)))
    return ScoreSet(
        scores | {"sentence_error_area": score(np.mean)},
        curves={ERROR_BY_COVERAGE: {
            "sentences": len(wrong), "wrong": int(wrong.sum()),
            "by_coverage": [error_at(curve, coverage) for coverage in range(1, 101)],
        }},
    )


def error_at(curve: NDArray, coverage: int) -> float:
    """The error rate of the `coverage` per cent most confident answers, rounded up to whole ones, of a `risk_curve`."""
    return float(curve[-(-coverage * len(curve) // 100) - 1])
