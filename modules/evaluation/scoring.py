"""Records -> scores: every score of an evaluation, in the groups that tables show.

Shapes: R regions, A attribute slots per region (padded).
"""

from collections.abc import Sequence

import numpy as np
from numpy.typing import NDArray

from data.ontology import Anatomy, observation_names
from modules.evaluation.metrics import calibration, clinical, graph, selective
from modules.evaluation.metrics.calibration import calibration_scores, decision_table
from modules.evaluation.metrics.claims import is_wrong
from modules.evaluation.metrics.labelers import RuleLabeler
from modules.evaluation.metrics.selective import sentence_scores
from modules.evaluation.metrics.text_scores import TEXT_GROUPS, ParsedReports, text_scores
from modules.evaluation.metrics.triples import abnormal_regions
from modules.evaluation.metrics.weighted import RESAMPLES, ScoreResults, ScoreSet, absent_scores, merge_scores
from modules.evaluation.records import StudyRecord

# Title -> names of its scores, as tables show them.
SCORE_GROUPS: dict[str, tuple[str, ...]] = {
    **TEXT_GROUPS,
    "Scene graph": graph.NAMES,
    "Observations read off the image": clinical.NAMES,
    "Grounding": graph.GROUNDING_NAMES,
    "Calibration and confidence": calibration.NAMES + selective.NAMES,
}
SCORE_NAMES = tuple(name for names in SCORE_GROUPS.values() for name in names)


def score_records(records: Sequence[StudyRecord], meteor: bool = True, resamples: int = RESAMPLES) -> ScoreResults:
    """Compute all scores of `SCORE_NAMES`, with bootstrap intervals from `resamples` (none if 0).

    Scores of words compare with the protocol's references; labels and triples are read from complete references. Only
    known labels count: regions and attributes of studies with an annotated graph, boxes of studies with annotated
    boxes, observations with a label.
    """
    if not records:
        return absent_scores(SCORE_NAMES, "no study").evaluate(0, resamples)
    references = ParsedReports.from_texts([record.reference for record in records], RuleLabeler())
    generated = ParsedReports.from_texts([record.generated for record in records], RuleLabeler())
    return merge_scores([
        text_scores(
            references, generated, [record.scored_reference for record in records],
            _stack_annotations(records, "observations"), _stack_annotations(records, "observations_known"), meteor,
        ),
        _image_scores(records, generated),
        sentence_scores(*_judge_sentences(records)),
    ]).evaluate(len(records), resamples)


def _image_scores(records: Sequence[StudyRecord], generated: ParsedReports) -> ScoreSet:
    """The scores of what a model predicts from the image; for grounding also of the findings in its reports."""

    def annotated(name: str) -> NDArray:
        return _stack_annotations(records, name)

    def predicted(name: str) -> NDArray | None:
        return _stack_predictions(records, name)

    names = Anatomy.load().names
    graph_known, boxes_known = annotated("graph_known"), annotated("boxes_known")
    mentioned, visible = annotated("mentioned"), annotated("visible")
    regions = (predicted("region_selected"), predicted("region_probabilities"), mentioned)
    attributes = (predicted("attributes"), predicted("attribute_probabilities"), annotated("attributes"))
    boxes = (predicted("boxes"), predicted("visible"), annotated("boxes"))
    observations = (
        predicted("observations"), predicted("observation_probabilities"), annotated("observations"),
        annotated("observations_known"),
    )
    region_known = np.broadcast_to(graph_known[:, None], mentioned.shape)
    generated_abnormal = np.array([[name in abnormal_regions(each) for name in names] for each in generated.triples])
    return merge_scores([
        graph.region_scores(*regions, graph_known),
        graph.attribute_scores(*attributes, mentioned, graph_known),
        graph.box_scores(*boxes, visible, boxes_known),
        clinical.observation_scores(*observations),
        graph.grounding_scores(
            *boxes, visible & boxes_known[:, None], mentioned & annotated("abnormal") & graph_known[:, None],
            generated_abnormal,
        ),
        calibration_scores("region", *regions[1:], region_known),
        calibration_scores(
            "attribute", *attributes[1:], _predicted_attribute_mask(*attributes[1:], mentioned & region_known)
        ),
        calibration_scores("observation", *observations[1:]),
        ScoreSet(tables={
            "regions in the graph": decision_table(*regions, region_known, names),
            "observations read off the image": decision_table(*observations, observation_names()),
        }),
    ])


def _stack_annotations(records: Sequence[StudyRecord], name: str) -> NDArray:
    """The annotation field `name` of all studies, stacked."""
    return np.stack([getattr(record.annotation, name) for record in records])


def _stack_predictions(records: Sequence[StudyRecord], name: str) -> NDArray | None:
    """The prediction field `name` of all studies, stacked; None if a study lacks it."""
    arrays = [getattr(record.prediction, name) for record in records]
    return None if any(array is None for array in arrays) else np.stack(arrays)


def _predicted_attribute_mask(
    probabilities: NDArray | None, reference: NDArray, mentioned: NDArray
) -> NDArray | None:
    """[studies, R, A] bool: the attributes whose calibration is measured, those predicted for `mentioned` regions.

    A probability of 0 means that the attribute was not predicted or that its slot is padding. If no mentioned region
    has any `reference` attribute, the annotation uses another vocabulary and nothing counts.
    """
    if probabilities is None:
        return None
    mentioned = mentioned[..., None]
    return mentioned & (probabilities > 0) & (mentioned & reference).any()


def _judge_sentences(records: Sequence[StudyRecord]) -> tuple[NDArray, NDArray, NDArray]:
    """Confidence, wrong or not, and study index of every generated sentence that makes a claim.

    Sentences of studies without a reference are left out: there is nothing to judge them by.
    """
    judged = [
        (sentence.confidence, is_wrong(sentence.text, record.reference), study)
        for study, record in enumerate(records) if record.reference.strip() for sentence in record.sentences
    ]
    claims = [(confidence, bool(wrong), study) for confidence, wrong, study in judged if wrong is not None]
    confidences, wrong, studies = np.array(claims, dtype=np.float64).reshape(-1, 3).T
    return confidences, wrong.astype(bool), studies.astype(int)
