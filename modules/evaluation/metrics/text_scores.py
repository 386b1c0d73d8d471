"""All scores of the texts of generated reports, for the evaluation of models, `modules.score` and `modules.compare`."""

from collections.abc import Callable, Collection, Sequence
from dataclasses import dataclass
from typing import TypeVar

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

Parsed = TypeVar("Parsed")

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
    without_reference = name.startswith("generated_words") or name in (
        "distinct_reports", "most_frequent_share", "repeated_sentences",
    )
    return "nothing" if without_reference else "complete references"


class ReportParser:
    """Reads labels and triples from reports: each distinct text once, and only when they are asked for.

    A model often repeats reports, and the reports of a split are compared with those of several systems.
    """

    def __init__(self, labeler: ReportLabeler, workers: int = 1):
        """workers: processes that read triples; the labeler has its own."""
        self._labeler = labeler
        self._workers = workers
        self._labels: dict[str, dict[str, int]] = {}
        self._triples: dict[str, frozenset[Triple]] = {}

    def labels(self, texts: Sequence[str]) -> list[dict[str, int]]:
        """Return the labels of every text, as `ReportLabeler.label` does."""
        return _look_up(texts, self._labels, self._labeler.label)

    def triples(self, texts: Sequence[str]) -> list[frozenset[Triple]]:
        """Return the triples of every text, as `modules.evaluation.metrics.triples.extract_triples` does."""
        return _look_up(texts, self._triples, lambda new: extract_triples(new, self._workers))


@dataclass(frozen=True)
class ParsedReports:
    """Reports, and the labels and triples that `parser` reads from them."""

    texts: Sequence[str]
    parser: ReportParser

    @property
    def labels(self) -> list[dict[str, int]]:
        """See `ReportLabeler.label`."""
        return self.parser.labels(self.texts)

    @property
    def triples(self) -> list[frozenset[Triple]]:
        """See `modules.evaluation.metrics.triples.extract_triples`."""
        return self.parser.triples(self.texts)

    def select(self, included: NDArray) -> "ParsedReports":
        """Return the reports `included` [reports] bool."""
        return ParsedReports([self.texts[number] for number in included.nonzero()[0]], self.parser)


def _look_up(
    texts: Sequence[str], known: dict[str, Parsed], parse: Callable[[list[str]], list[Parsed]]
) -> list[Parsed]:
    """Return what is `known` about every text, after adding what `parse` says about new ones."""
    new = [text for text in dict.fromkeys(texts) if text not in known]
    if new:
        known.update(zip(new, parse(new), strict=True))
    return [known[text] for text in texts]


def has_reference(references: Sequence[str], scored_references: Sequence[str]) -> NDArray:
    """Return [reports] bool: the reference is not empty, neither complete nor as scored.

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
    names: Collection[str] = TEXT_NAMES,
    workers: int = 1,
) -> ScoreSet:
    """Return the scores `names` of all studies, by default all of `TEXT_NAMES`.

    references          complete reports, compared by labels and triples
    scored_references   references as the protocol prepares them, compared by language scores
    truth, truth_known  [studies, 14] bool, the data set's labels and which of them are known; None if it has none
    meteor              False leaves METEOR out
    frequencies         CIDEr's document frequencies; None to count them in the scored references
    truth_certain       `truth` with uncertain observations as negative; None if no label is uncertain
    workers             processes for the language scores of each report; the scores do not depend on their number
    """
    names = frozenset(names)
    if not generated.texts:
        return absent_scores(TEXT_NAMES, "no study").select(names)
    included = has_reference(references.texts, scored_references)
    compared = absent_scores(_COMPARED_NAMES, NO_REFERENCE)
    if included.any():
        scored = [scored_references[number] for number in included.nonzero()[0]]
        reference, hypothesis = references.select(included), generated.select(included)
        compared = ScoreSet()
        if names.intersection(nlg.NAMES):
            compared |= nlg_scores(scored, hypothesis.texts, meteor, frequencies, names, workers)
        if names.intersection(report_observations.REPORT_NAMES):
            compared |= report_observation_scores(reference.labels, hypothesis.labels)
        if names.intersection(triples.NAMES):
            compared |= triple_scores(reference.triples, hypothesis.triples)
        compared = compared.expand_to_all(included)
    scores = compared
    if names.intersection(report_observations.TRUTH_NAMES):
        scores |= truth_observation_scores(truth, truth_known, generated.labels, truth_certain)
    if names.intersection(diversity.NAMES):
        scores |= diversity_scores(references.texts, generated.texts, references.labels, generated.labels)
    scores |= ScoreSet({"empty_references": score_from_sums(~included, lambda sums: sums[:, 0])})
    return scores.select(names)
