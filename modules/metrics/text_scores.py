"""Every score of the texts of generated reports: what a model, `modules.score` and `modules.compare` are judged by."""

from collections.abc import Sequence
from dataclasses import dataclass

from numpy.typing import NDArray

from modules.metrics import diversity, nlg, report_observations, triples
from modules.metrics.cider import DocumentFrequencies
from modules.metrics.diversity import diversity_scores
from modules.metrics.labelers import ReportLabeler
from modules.metrics.nlg import nlg_scores
from modules.metrics.report_observations import report_observation_scores, truth_observation_scores
from modules.metrics.triples import Triple, triple_scores, triples_of
from modules.metrics.weighted import ScoreSet, absent

# The scores as tables show them together: title -> names.
TEXT_GROUPS: dict[str, tuple[str, ...]] = {
    "Language": nlg.NAMES,
    "Observations of the reports": report_observations.REPORT_NAMES,
    "Observations of the reports against the data set's": report_observations.TRUTH_NAMES,
    "Scene graph of the reports": triples.NAMES,
    "Diversity": diversity.NAMES,
}
TEXT_NAMES = tuple(name for names in TEXT_GROUPS.values() for name in names)


@dataclass(frozen=True)
class Readings:
    """What is read from N reports.

    texts    the reports
    labels   see `ReportLabeler.label`
    triples  see `modules.metrics.triples.triples_of`
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


def text_scores(
    references: Readings,
    generated: Readings,
    scored_references: Sequence[str],
    truth: NDArray | None = None,
    truth_known: NDArray | None = None,
    meteor: bool = True,
    frequencies: DocumentFrequencies | None = None,
) -> ScoreSet:
    """All scores of `TEXT_NAMES` for N studies.

    references          complete reports: what labels and triples are read from
    scored_references   what the protocol compares words with
    truth, truth_known  [N, 14] bool, the data set's own observations; None without any
    frequencies         CIDEr's document frequencies; None for those of the scored references
    """
    if not generated.texts:
        return absent(TEXT_NAMES, "no study")
    return (
        nlg_scores(scored_references, generated.texts, meteor, frequencies)
        | report_observation_scores(references.labels, generated.labels)
        | truth_observation_scores(truth, truth_known, generated.labels)
        | triple_scores(references.triples, generated.triples)
        | diversity_scores(references.texts, generated.texts, references.labels, generated.labels)
    )
