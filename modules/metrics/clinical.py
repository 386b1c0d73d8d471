"""Scores of the CheXpert observations that the model reads off the image."""

from numpy.typing import NDArray

from modules.metrics.multilabel import ONE_CLASS, macro_auroc, macro_scores, micro_scores

NAMES = (
    "observation_micro_precision", "observation_micro_recall", "observation_micro_f1",
    "observation_macro_precision", "observation_macro_recall", "observation_macro_f1", "observation_auroc",
)


def observation_scores(
    predicted: NDArray | None, probabilities: NDArray | None, reference: NDArray, known: NDArray
) -> tuple[dict[str, float | None], dict[str, str]]:
    """Precision, recall, F1 (micro, macro) and macro AUROC of N studies by K observations, over known labels only.

    predicted, reference and known [N, K] bool, probabilities [N, K]; predicted and probabilities are None where the
    model has no observation head. Returns the scores, and why those that are None are absent.
    """
    scores: dict[str, float | None] = dict.fromkeys(NAMES)
    if predicted is None or probabilities is None:
        return scores, dict.fromkeys(NAMES, "observations are not predicted")
    if not known.any():
        return scores, dict.fromkeys(NAMES, "no study has a known observation")
    for average, function in (("micro", micro_scores), ("macro", macro_scores)):
        values = function(predicted, reference, known)
        for name, value in zip(("precision", "recall", "f1"), values, strict=True):
            scores[f"observation_{average}_{name}"] = value
    scores["observation_auroc"] = macro_auroc(probabilities, reference, known)
    return scores, {} if scores["observation_auroc"] is not None else {"observation_auroc": ONE_CLASS}
