"""The scores of RadEval 2.2.1: what they mean, whether higher is better, and on which level they are defined.

docs/evaluation.md names the weights of each.
"""

from dataclasses import dataclass

VERSION = "2.2.1"

METRICS = (
    "bleu", "rouge", "bertscore", "radeval_bertscore", "f1chexbert", "f1radbert_ct", "radgraph", "ratescore",
    "radgraph_radcliq", "radcliq", "srrbert", "temporal", "green", "mammo_green", "crimson", "radfact_ct",
)

# Levels of a score.
MEAN, INVERSE_MEAN, CORPUS = "mean over reports", "1 / mean over reports", "all reports at once"


@dataclass(frozen=True)
class PackageScore:
    """What is known about a score of the package.

    level             MEAN and INVERSE_MEAN are functions of the package's numbers of each report; CORPUS is not
    higher_is_better  None if unknown
    no_interval       why resampling cannot give an interval; empty if it can
    """

    level: str
    higher_is_better: bool | None = True
    no_interval: str = ""


def _corpus(what: str) -> PackageScore:
    return PackageScore(CORPUS, no_interval=f"the package computes it from {what} and has no such number of one report")


_POOLED = _corpus("the decisions of all reports")
_MEAN = PackageScore(MEAN)
_BY_LABEL = "weighted_f1", "weighted_precision", "weighted_recall"

_SCORES: dict[str, PackageScore] = {
    "bleu": _corpus("the n-grams of all reports"),
    **dict.fromkeys(("rouge1", "rouge2", "rougeL"), _MEAN),
    **dict.fromkeys(("bertscore", "radeval_bertscore", "ratescore", "radgraph_radcliq", "temporal_f1"), _MEAN),
    **dict.fromkeys((f"radgraph_{level}" for level in ("simple", "partial", "complete")), _MEAN),
    **dict.fromkeys(("green", "mammo_green", "crimson"), _MEAN),
    **dict.fromkeys((f"radfact_ct_{part}" for part in ("precision", "recall", "f1")), _MEAN),
    "radcliq_v1": PackageScore(INVERSE_MEAN),
    "radcliq_v1_distance": PackageScore(MEAN, higher_is_better=False),
    **dict.fromkeys(
        (f"f1chexbert_{labels}_{mean}_f1" for labels in ("5", "all") for mean in ("micro", "macro", "weighted")),
        _POOLED,
    ),
    **dict.fromkeys(
        (f"f1chexbert_{labels}_example_f1" for labels in ("5", "all")),
        PackageScore(CORPUS, no_interval="the package returns accuracies of each report, and no F1"),
    ),
    **dict.fromkeys(
        ("f1radbert_ct_accuracy", *(f"f1radbert_ct_{mean}_f1" for mean in ("micro", "macro", "weighted"))), _POOLED
    ),
    **dict.fromkeys((f"srrbert_{name}" for name in _BY_LABEL), _POOLED),
}
_UNKNOWN = PackageScore(
    CORPUS, None, f"RadEval {VERSION} does not have this score, so what its numbers of each report mean is unknown"
)


def describe_score(key: str) -> PackageScore:
    """Return what is known about the score that the package calls `key`."""
    return _SCORES.get(key, _UNKNOWN)
