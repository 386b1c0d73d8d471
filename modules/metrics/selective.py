"""Is confidence of use? How the error rate falls as the least confident answers are set aside.

Sources: El-Yaniv and Wiener, "On the foundations of noise-free selective classification", JMLR 2010 (risk and
coverage); Geifman, Uziel, El-Yaniv, "Bias-reduced uncertainty estimation for deep neural classifiers", ICLR 2019 (the
area).
"""

import numpy as np
from numpy.typing import NDArray

# Shares of the answers that are kept, in per cent.
COVERAGES = (100, 80, 60, 40, 20)
NAMES = (*(f"sentence_error_at_{coverage}" for coverage in COVERAGES), "sentence_error_area")


def risk_curve(confidences: NDArray, wrong: NDArray) -> NDArray:
    """[n]: the share of wrong answers among the k most confident ones, for k = 1 .. n.

    confidences [n], wrong [n] bool. Answers of equal confidence count as if in random order (the expected share), so
    the curve does not depend on the order in which answers are given.
    """
    if not len(confidences):
        return np.zeros(0)
    order = np.argsort(-confidences, kind="stable")
    _, group, sizes = np.unique(-confidences[order], return_inverse=True, return_counts=True)
    errors_of_group = np.bincount(group, weights=wrong[order].astype(np.float64))
    expected = (errors_of_group / sizes)[group]
    return np.cumsum(expected) / np.arange(1, len(order) + 1)


def error_by_coverage(confidences: NDArray, wrong: NDArray) -> list[float]:
    """The error rate of the 1, 2, ... 100 per cent most confident answers, rounded up to whole ones; [] without any."""
    curve = risk_curve(confidences, wrong)
    return [float(curve[-(-percent * len(curve) // 100) - 1]) for percent in range(1, 101)] if len(curve) else []


def sentence_scores(confidences: NDArray, wrong: NDArray) -> tuple[dict[str, float | None], dict[str, str]]:
    """The error rate of n generated sentences as the least confident are set aside, and why scores are absent.

    confidences [n], wrong [n] bool: of the sentences that claim something (`modules/metrics/claims.py`).
    sentence_error_at_C   error rate of the C per cent most confident (rounded up to whole sentences)
    sentence_error_area   mean of `risk_curve`: the area under error over coverage, 0 at best; an order by chance has
                          the error rate of all sentences
    """
    if not len(confidences):
        return dict.fromkeys(NAMES), dict.fromkeys(NAMES, "no sentence with a confidence claims anything")
    errors = error_by_coverage(confidences, wrong)
    scores: dict[str, float | None] = {
        f"sentence_error_at_{coverage}": errors[coverage - 1] for coverage in COVERAGES
    }
    return scores | {"sentence_error_area": float(risk_curve(confidences, wrong).mean())}, {}
