"""All scores of the texts of generated reports, for the evaluation of models, `modules.score` and `modules.compare`."""

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
from modules.evaluation.metrics.triples import Triple, extract_triples, triple_scores
from modules.evaluation.metrics.weighted import ScoreSet, absent_scores, score_from_sums

# Groups of scores in printed tables: title -> names.
TEXT_GROUPS: dict[str, tuple[str, ...]] = {
    "Language": nlg.NAMES,
    "Observations of the reports": report_observations.REPORT_NAMES,
    "Observations of the reports against the data set's": report_observations.TRUTH_NAMES,
    "Scene graph of the reports": triples.NAMES,
    "Diversity": (*diversity.NAMES, "empty_references"),
}
TEXT_NAMES = tuple(name for names in TEXT_GROUPS.values() for name in names)
# Scores that compare a generated report with its reference report.
_COMPARED_NAMES = nlg.NAMES + report_observations.REPORT_NAMES + triples.NAMES
NO_REFERENCE = "every reference is empty"


def describe_comparison(name: str, protocol: str) -> str:
    """Say what the score `name` compares generated reports with; only language scores depend on the `protocol`."""
    if name in nlg.NAMES:
        return protocol
    if name in report_observations.TRUTH_NAMES:
        return "data set's labels"
    without_reference = name.startswith("generated_words") or name in ("distinct_reports", "most_frequent_share")
    return "nothing" if without_reference else "complete references"


@dataclass(frozen=True)
class ParsedReports:
    """N reports with the labels and triples extracted from them.

    texts    the reports
    labels   see `ReportLabeler.label`
    triples  see `modules.evaluation.metrics.triples.extract_triples`
    """

    texts: Sequence[str]
    labels: Sequence[dict[str, int]]
    triples: Sequence[frozenset[Triple]]

    @classmethod
    def from_texts(cls, texts: Sequence[str], labeler: ReportLabeler, workers: int = 1) -> "ParsedReports":
        """Parse `texts`, each distinct one only once: a model often repeats reports."""
        distinct = list(dict.fromkeys(texts))
        labels = dict(zip(distinct, labeler.label(distinct), strict=True))
        triples = dict(zip(distinct, extract_triples(distinct, workers), strict=True))
        return cls(texts, [labels[text] for text in texts], [triples[text] for text in texts])

    def select(self, included: NDArray) -> "ParsedReports":
        """Return the reports `included` [N] bool."""
        return ParsedReports(*([each[number] for number in included.nonzero()[0]] for each in vars(self).values()))


def has_reference(references: Sequence[str], scored_references: Sequence[str]) -> NDArray:
    """Return [N] bool: the reference is not empty, neither complete nor as scored.

    Reports without a reference are left out of every comparison: an empty reference is missing data, and any
    generated report would be wrong.
    """
    pairs = zip(references, scored_references, strict=True)
    return np.array([bool(reference.strip() and scored.strip()) for reference, scored in pairs], dtype=bool)


def text_scores(
    references: ParsedReports,
    generated: ParsedReports,
    scored_references: Sequence[str],
    truth: NDArray | None = None,
    truth_known: NDArray | None = None,
    meteor: bool = True,
    frequencies: DocumentFrequencies | None = None,
    truth_certain: NDArray | None = None,
) -> ScoreSet:
    """Return all scores of `TEXT_NAMES` for N studies.

    references          complete reports, compared by labels and triples
    scored_references   references as the protocol prepares them, compared by language scores
    truth, truth_known  [N, 14] bool, the data set's labels and which of them are known; None if it has none
    meteor              False leaves METEOR out
    frequencies         CIDEr's document frequencies; None to count them in the scored references
    truth_certain       `truth` with uncertain observations as negative; None if no label is uncertain
    """
    if not generated.texts:
        return absent_scores(TEXT_NAMES, "no study")
    included = has_reference(references.texts, scored_references)
    compared = absent_scores(_COMPARED_NAMES, NO_REFERENCE)
    if included.any():
        scored = [scored_references[number] for number in included.nonzero()[0]]
        reference, hypothesis = references.select(included), generated.select(included)
        compared = (
            nlg_scores(scored, hypothesis.texts, meteor, frequencies)
            | report_observation_scores(reference.labels, hypothesis.labels)
            | triple_scores(reference.triples, hypothesis.triples)
        ).expand_to_all(included)
    return (
        compared
        | truth_observation_scores(truth, truth_known, generated.labels, truth_certain)
        | diversity_scores(references.texts, generated.texts, references.labels, generated.labels)
        | ScoreSet({"empty_references": score_from_sums(~included, lambda sums: sums[:, 0])})
    )
