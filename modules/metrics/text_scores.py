"""Every score of the texts of generated reports: what a model, `modules.score` and `modules.compare` are judged by."""

from collections.abc import Sequence

from numpy.typing import NDArray

from modules.metrics import diversity, nlg, report_observations, triples
from modules.metrics.cider import DocumentFrequencies
from modules.metrics.diversity import diversity_scores
from modules.metrics.labelers import ReportLabeler
from modules.metrics.nlg import nlg_scores
from modules.metrics.report_observations import report_observation_scores, truth_observation_scores
from modules.metrics.triples import Triple, triple_scores
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


def text_scores(
    references: Sequence[str],
    scored_references: Sequence[str],
    generated: Sequence[str],
    labeler: ReportLabeler,
    triples_of_references: Sequence[frozenset[Triple]],
    triples_of_generated: Sequence[frozenset[Triple]],
    truth: NDArray | None = None,
    truth_known: NDArray | None = None,
    meteor: bool = True,
    frequencies: DocumentFrequencies | None = None,
) -> ScoreSet:
    """All scores of `TEXT_NAMES` for N studies.

    references          complete reports: what labels and triples are read from
    scored_references   what the protocol compares words with
    triples_of_*        see `modules.metrics.triples.triples_of`
    truth, truth_known  [N, 14] bool, the data set's own observations; None without any
    frequencies         CIDEr's document frequencies; None for those of the scored references
    """
    if not generated:
        return absent(TEXT_NAMES, "no study")
    # Reports are repeated, most of all those of a collapsed model: each is labelled once.
    different = list(dict.fromkeys([*references, *generated]))
    labels = dict(zip(different, labeler.label(different), strict=True))
    reference_labels, generated_labels = ([labels[text] for text in texts] for texts in (references, generated))
    return (
        nlg_scores(scored_references, generated, meteor, frequencies)
        | report_observation_scores(reference_labels, generated_labels)
        | truth_observation_scores(truth, truth_known, generated_labels)
        | triple_scores(triples_of_references, triples_of_generated)
        | diversity_scores(references, generated, reference_labels, generated_labels)
    )
