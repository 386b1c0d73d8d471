"""Every score of the texts of generated reports: what a model, `modules.score` and `modules.compare` are judged by."""

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from modules.evaluation.metrics import report_observations, triples
from modules.evaluation.metrics.labelers import ReportLabeler
from modules.evaluation.metrics.report_observations import report_observation_scores, truth_observation_scores
from modules.evaluation.metrics.text import diversity, nlg
from modules.evaluation.metrics.text.cider import DocumentFrequencies
from modules.evaluation.metrics.text.diversity import diversity_scores
from modules.evaluation.metrics.text.nlg import nlg_scores
from modules.evaluation.metrics.triples import Triple, triple_scores, triples_of
from modules.evaluation.metrics.weighted import ScoreSet, absent, of_sums

# The scores as tables show them together: title -> names.
TEXT_GROUPS: dict[str, tuple[str, ...]] = {
    "Language": nlg.NAMES,
    "Observations of the reports": report_observations.REPORT_NAMES,
    "Observations of the reports against the data set's": report_observations.TRUTH_NAMES,
    "Scene graph of the reports": triples.NAMES,
    "Diversity": (*diversity.NAMES, "empty_references"),
}
TEXT_NAMES = tuple(name for names in TEXT_GROUPS.values() for name in names)
# Those of one text beside the other.
_COMPARED_NAMES = nlg.NAMES + report_observations.REPORT_NAMES + triples.NAMES
NO_REFERENCE = "every reference is empty"


def compared_with(name: str, protocol: str) -> str:
    """What the score `name` compares generated reports with, in short; only scores of words follow the `protocol`."""
    if name in nlg.NAMES:
        return protocol
    if name in report_observations.TRUTH_NAMES:
        return "data set's labels"
    alone = name.startswith("generated_words") or name in ("distinct_reports", "most_frequent_share")
    return "nothing" if alone else "complete references"


@dataclass(frozen=True)
class Readings:
    """What is read from N reports.

    texts    the reports
    labels   see `ReportLabeler.label`
    triples  see `modules.evaluation.metrics.triples.triples_of`
    """

    texts: Sequence[str]
    labels: Sequence[dict[str, int]]
    triples: Sequence[frozenset[Triple]]

    @classmethod
    def of(cls, texts: Sequence[str], labeler: ReportLabeler, workers: int = 1) -> "Readings":
        """Read each different report once: they are repeated, most of all those of a collapsed model."""
        different = list(dict.fromkeys(texts))
        labels = dict(zip(different, labeler.label(different), strict=True))
        triples = dict(zip(different, triples_of(different, workers), strict=True))
        return cls(texts, [labels[text] for text in texts], [triples[text] for text in texts])

    def among(self, kept: NDArray) -> "Readings":
        """What is read from the reports `kept` [N] bool."""
        return Readings(*([each[number] for number in kept.nonzero()[0]] for each in vars(self).values()))


def with_reference(references: Sequence[str], scored_references: Sequence[str]) -> NDArray:
    """[N] bool: which reports have something to be compared with.

    The others are left out of every score that compares with a reference: one that was lost says nothing, and nothing
    that is written could be right by it.
    """
    pairs = zip(references, scored_references, strict=True)
    return np.array([bool(reference.strip() and scored.strip()) for reference, scored in pairs], dtype=bool)


def text_scores(
    references: Readings,
    generated: Readings,
    scored_references: Sequence[str],
    truth: NDArray | None = None,
    truth_known: NDArray | None = None,
    meteor: bool = True,
    frequencies: DocumentFrequencies | None = None,
    truth_certain: NDArray | None = None,
) -> ScoreSet:
    """All scores of `TEXT_NAMES` for N studies; those without a reference count in no comparison with it.

    references          complete reports: what labels and triples are read from
    scored_references   what the protocol compares words with
    truth, truth_known  [N, 14] bool, the data set's own observations; None without any
    frequencies         CIDEr's document frequencies; None for those of the scored references
    truth_certain       `truth` with uncertain observations as negative; None where it has none
    """
    if not generated.texts:
        return absent(TEXT_NAMES, "no study")
    kept = with_reference(references.texts, scored_references)
    compared = absent(_COMPARED_NAMES, NO_REFERENCE)
    if kept.any():
        scored = [scored_references[number] for number in kept.nonzero()[0]]
        told, written = references.among(kept), generated.among(kept)
        compared = (
            nlg_scores(scored, written.texts, meteor, frequencies)
            | report_observation_scores(told.labels, written.labels)
            | triple_scores(told.triples, written.triples)
        ).among(kept)
    return (
        compared
        | truth_observation_scores(truth, truth_known, generated.labels, truth_certain)
        | diversity_scores(references.texts, generated.texts, references.labels, generated.labels)
        | ScoreSet({"empty_references": of_sums(~kept, lambda sums: sums[:, 0])})
    )
