"""Records -> scores: every score of an evaluation, in the groups that tables show.

Shapes: R regions, A attribute slots per region (padded).
"""

from collections.abc import Callable, Collection, Sequence

import numpy as np
from numpy.typing import NDArray

from data.ontology import Anatomy, observation_names
from data.processes.worker_pool import available_cores, ordered_map
from modules.evaluation.metrics import calibration, changes, clinical, graph, selective
from modules.evaluation.metrics.calibration import calibration_scores, decision_table
from modules.evaluation.metrics.claims import is_wrong
from modules.evaluation.metrics.labelers import RuleLabeler, split_into_chunks
from modules.evaluation.metrics.selective import sentence_scores
from modules.evaluation.metrics.text_scores import TEXT_GROUPS, TEXT_NAMES, ParsedReports, ReportParser, text_scores
from modules.evaluation.metrics.triples import abnormal_regions
from modules.evaluation.metrics.weighted import RESAMPLES, ScoreResults, ScoreSet, absent_scores, merge_scores
from modules.evaluation.records import StudyRecord

# Title -> names of its scores, as tables show them.
SCORE_GROUPS: dict[str, tuple[str, ...]] = {
    **TEXT_GROUPS,
    "Scene graph": graph.NAMES,
    "Observations read off the image": clinical.NAMES + clinical.FREQUENT_NAMES,
    "Grounding": graph.GROUNDING_NAMES,
    "Changes since the previous study": changes.NAMES,
    "Calibration and confidence": calibration.NAMES + selective.NAMES,
}
SCORE_NAMES = tuple(name for names in SCORE_GROUPS.values() for name in names)

_STUDIES_WORTH_A_PROCESS, _MAX_PROCESSES = 200, 16


def scoring_workers(studies: int) -> int:
    """Return how many processes to use for the scores of `studies` studies: at most one for each core.

    For a few hundred studies, starting processes takes longer than scoring.
    """
    return max(1, min(available_cores(), studies // _STUDIES_WORTH_A_PROCESS, _MAX_PROCESSES))


def score_records(
    records: Sequence[StudyRecord], meteor: bool = True, resamples: int = RESAMPLES,
    names: Collection[str] = SCORE_NAMES, workers: int = 1, parser: ReportParser | None = None,
) -> ScoreResults:
    """Compute the scores `names`, by default all, with bootstrap intervals from `resamples` (none if 0).

    Scores of words compare with the protocol's references; labels and triples are read from complete references. Only
    known labels count: regions and attributes of studies with an annotated graph, boxes of studies with annotated
    boxes, observations with a label. Studies without a report count in no score of texts.

    workers   processes; the scores do not depend on their number
    parser    of earlier calls for the same studies: reports that it has read are not read again
    """
    names = frozenset(names)
    if not records:
        return absent_scores(SCORE_NAMES, "no study").select(names).evaluate(0, resamples)
    if parser is None:
        parser = rule_parser(workers)
    generated = ParsedReports([record.generated for record in records], parser)
    parts = [
        _text_scores(records, parser, meteor, names, workers),
        *(compute() for part, compute in _image_scores(records, generated) if names.intersection(part)),
    ]
    if names.intersection(selective.NAMES):
        parts.append(sentence_scores(*_judge_sentences(records, workers)))
    return merge_scores(parts).select(names).evaluate(len(records), resamples, workers=workers)


def rule_parser(workers: int = 1) -> ReportParser:
    """Return a parser of reports with our own labeler."""
    return ReportParser(RuleLabeler(workers), workers)


def _text_scores(
    records: Sequence[StudyRecord], parser: ReportParser, meteor: bool, names: Collection[str], workers: int
) -> ScoreSet:
    """The scores of generated reports, over the studies that have a report."""
    has_report = np.array([record.has_report for record in records], dtype=bool)
    reported = [record for record in records if record.has_report]
    if not reported:
        return absent_scores(TEXT_NAMES, "no study has a report").select(names)
    return text_scores(
        ParsedReports([record.reference for record in reported], parser),
        ParsedReports([record.generated for record in reported], parser),
        [record.scored_reference for record in reported],
        _stack_annotations(reported, "observations"), _stack_annotations(reported, "observations_known"), meteor,
        names=names, workers=workers,
    ).expand_to_all(has_report)


def _image_scores(
    records: Sequence[StudyRecord], generated: ParsedReports
) -> list[tuple[Sequence[str], Callable[[], ScoreSet]]]:
    """The scores of what a model predicts from the image; for grounding also of the findings in its reports.

    Returns (names, the function that computes them) of each part.
    """

    def annotated(name: str) -> NDArray:
        return _stack_annotations(records, name)

    def predicted(name: str) -> NDArray | None:
        return _stack_predictions(records, name)

    regions_named = Anatomy.load().names
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

    def grounding() -> ScoreSet:
        findings = [abnormal_regions(triples) for triples in generated.triples]
        return graph.grounding_scores(
            *boxes, visible & boxes_known[:, None], mentioned & annotated("abnormal") & graph_known[:, None],
            np.array([[name in abnormal for name in regions_named] for abnormal in findings]),
        )

    prior_shown = np.array([record.prior_shown for record in records])

    def comparisons() -> ScoreSet:
        has_report = np.array([record.has_report for record in records])
        generated_texts = [record.generated for record in records]
        return changes.comparison_scores(generated_texts, _known_changes(records), prior_shown, has_report)

    def region_calibration() -> ScoreSet:
        table = decision_table(*regions, region_known, regions_named)
        return calibration_scores("region", *regions[1:], region_known) | ScoreSet(
            tables={"regions in the graph": table}
        )

    def attribute_calibration() -> ScoreSet:
        mask = _predicted_attribute_mask(*attributes[1:], mentioned & region_known)
        return calibration_scores("attribute", *attributes[1:], mask)

    def observation_calibration() -> ScoreSet:
        table = decision_table(*observations, observation_names())
        return calibration_scores("observation", *observations[1:]) | ScoreSet(
            tables={"observations read off the image": table}
        )

    by_region, by_attribute, by_observation = calibration.NAMES
    return [
        (graph.REGION_NAMES, lambda: graph.region_scores(*regions, graph_known)),
        (
            graph.ATTRIBUTE_NAMES,
            lambda: graph.attribute_scores(*attributes, mentioned, graph_known, records[0].abnormal_slots),
        ),
        (graph.BOX_NAMES, lambda: graph.box_scores(*boxes, visible, boxes_known)),
        (clinical.NAMES, lambda: clinical.observation_scores(*observations)),
        (clinical.FREQUENT_NAMES, lambda: clinical.frequent_observation_scores(*observations[1:])),
        (graph.GROUNDING_NAMES, grounding),
        (
            changes.HEAD_NAMES,
            lambda: changes.change_scores(predicted("change"), _known_changes(records), prior_shown),
        ),
        (changes.REPORT_NAMES, comparisons),
        ((by_region,), region_calibration),
        ((by_attribute,), attribute_calibration),
        ((by_observation,), observation_calibration),
    ]


def _stack_annotations(records: Sequence[StudyRecord], name: str) -> NDArray:
    """The annotation field `name` of all studies, stacked."""
    return np.stack([getattr(record.annotation, name) for record in records])


def _known_changes(records: Sequence[StudyRecord]) -> NDArray:
    """The annotated changes of all studies, [studies, R]; -1 where unknown."""
    return np.stack([
        np.full(record.annotation.mentioned.shape, -1) if record.annotation.change is None
        else record.annotation.change for record in records
    ])


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


def _judge_sentences(records: Sequence[StudyRecord], workers: int) -> tuple[NDArray, NDArray, NDArray]:
    """Confidence, wrong or not, and study index of every generated sentence that makes a claim.

    Sentences of studies without a reference are left out: there is nothing to judge them by.
    """
    judged = [study for study, record in enumerate(records) if record.reference.strip() and record.sentences]
    texts = [
        (records[study].reference, [sentence.text for sentence in records[study].sentences]) for study in judged
    ]
    chunks = ordered_map(_are_wrong, split_into_chunks(texts), workers)
    verdicts = [of_study for chunk in chunks for of_study in chunk]
    claims = [
        (sentence.confidence, bool(wrong), study)
        for study, of_study in zip(judged, verdicts, strict=True)
        for sentence, wrong in zip(records[study].sentences, of_study, strict=True) if wrong is not None
    ]
    confidences, wrong, studies = np.array(claims, dtype=np.float64).reshape(-1, 3).T
    return confidences, wrong.astype(bool), studies.astype(int)


def _are_wrong(studies: Sequence[tuple[str, list[str]]]) -> list[list[bool | None]]:
    """`is_wrong` for the sentences of studies (reference, sentences)."""
    return [[is_wrong(sentence, reference) for sentence in sentences] for reference, sentences in studies]
