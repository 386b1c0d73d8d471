"""Scores of the CheXpert observations that the model predicts from the image."""

from numpy.typing import NDArray

from modules.evaluation.metrics.multilabel import label_counts, macro_auroc, macro_scores, micro_scores
from modules.evaluation.metrics.weighted import ScoreSet, absent_scores

NAMES = (
    "observation_micro_precision", "observation_micro_recall", "observation_micro_f1",
    "observation_macro_precision", "observation_macro_recall", "observation_macro_f1", "observation_auroc",
)
FREQUENT_NAMES = ("observation_auroc_frequent",)
# Positive studies that an observation needs to count in `observation_auroc_frequent`: the AUROC of fewer is mostly
# noise, and their number decides which checkpoint is best.
FREQUENT = 10


def observation_scores(
    predicted: NDArray | None, probabilities: NDArray | None, reference: NDArray, known: NDArray
) -> ScoreSet:
    """Return precision, recall, F1 (micro and macro) and macro AUROC over the known labels of studies.

    predicted, reference and known [studies, K] bool, probabilities [studies, K]; predicted and probabilities are None
    if the model has no observation head.
    """
    if predicted is None or probabilities is None:
        return absent_scores(NAMES, "observations are not predicted")
    if not known.any():
        return absent_scores(NAMES, "no study has a known observation")
    counts = label_counts(predicted, reference, known)
    scores = {"observation_auroc": macro_auroc(probabilities, reference, known)}
    for average, by_measure in (("micro", micro_scores(counts)), ("macro", macro_scores(counts))):
        scores |= {f"observation_{average}_{measure}": score for measure, score in by_measure.items()}
    return ScoreSet(scores)


def frequent_observation_scores(probabilities: NDArray | None, reference: NDArray, known: NDArray) -> ScoreSet:
    """Return the mean AUROC of the observations with at least `FREQUENT` positive studies; arguments as above."""
    if probabilities is None:
        return absent_scores(FREQUENT_NAMES, "observations are not predicted")
    return ScoreSet({FREQUENT_NAMES[0]: macro_auroc(probabilities, reference, known, FREQUENT)})
