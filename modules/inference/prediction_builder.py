"""Turns a model's output for a batch into one `Prediction` per study.

Shapes: B studies, R regions, A attributes per region (padded), T tokens, K observations.
"""

from collections.abc import Iterable, Sequence

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from data.ontology import CHANGES, combine_changes
from data.sections.marked_text import plain_text
from data.text.report_graph import read_report
from data.vocabulary import Vocabularies, is_abnormal
from models.outputs import BoxSource, Generation
from modules.evaluation.sentences import split_into_sentences, subgraph_certainty
from modules.inference.graph_edits import GraphEdits
from modules.inference.prediction import PredictedRegion, PredictedSentence, Prediction
from modules.inference.studies import ReadStudy


def build_predictions(
    generation: Generation, studies: Sequence[ReadStudy], edits: Sequence[GraphEdits | None],
    vocabularies: Vocabularies, box_source: BoxSource,
) -> list[Prediction]:
    """The predictions of a batch. generation: with region attention; edits: those it was generated with."""
    arrays = _GenerationArrays(generation, box_source, len(vocabularies.anatomy.names))
    return [
        _build_prediction(study, edit, arrays, row, vocabularies)
        for row, (study, edit) in enumerate(zip(studies, edits, strict=True))
    ]


class _GenerationArrays:
    """A `Generation` as NumPy arrays.

    token_ids, token_log_probs [B, T]; attention [B, T, R], zeros without a graph; observations [B, K] or None;
    selected [B, R], None without a graph. Only with a graph: visible, probabilities, visible_probabilities [B, R],
    boxes [B, R, 4] in 0..1, attributes, attribute_probabilities [B, R, A], changes [B, R]; prior_boxes [B, R, 4], None
    without priors.
    """

    def __init__(self, generation: Generation, box_source: BoxSource, regions: int):
        encoded = generation.encoded
        self.token_ids = generation.token_ids.cpu().numpy()
        self.token_log_probs = generation.token_log_probs.float().cpu().numpy()
        self.attention = np.zeros((*self.token_ids.shape, regions))
        if generation.region_attention is not None:
            self.attention = generation.region_attention.float().cpu().numpy()
        self.observations = _probabilities(encoded.observation_logits)
        self.selected = None
        if encoded.graph is not None:
            self.selected = encoded.graph.selected.cpu().numpy()
            self.visible = encoded.attribute_regions.cpu().numpy()
            self.boxes = encoded.graph.boxes.float().cpu().numpy()
            self.attributes = encoded.graph.attributes.cpu().numpy()
            self.changes = encoded.graph.changes.cpu().numpy()
            self.prior_boxes = None if encoded.prior_boxes is None else encoded.prior_boxes.float().cpu().numpy()
            self.probabilities = _probabilities(encoded.region_logits)
            self.attribute_probabilities = _probabilities(encoded.attribute_logits)
            # With atlas boxes, every region counts as visible in every image.
            self.visible_probabilities = np.ones_like(self.probabilities)
            if box_source == BoxSource.LOCALIZER:
                self.visible_probabilities = _probabilities(encoded.visible_logits)

    def certainty(self, row: int, slots: NDArray) -> NDArray | None:
        """[R]: the certainty of each sub-graph of a study; None without a graph. slots [R, A]: False for padding."""
        if self.selected is None:
            return None
        return subgraph_certainty(self.attribute_probabilities[row], self.visible[row][:, None] & slots)


def _build_prediction(
    study: ReadStudy, edit: GraphEdits | None, arrays: _GenerationArrays, row: int, vocabularies: Vocabularies
) -> Prediction:
    has_prior = study.context is not None and bool(study.context.has_prior)
    warnings = [*study.warnings, *(study.prior_warnings if has_prior else ())]
    if edit is not None and not study.frontal:
        warnings.append("without a frontal view there is no graph to edit")
    report = plain_text(vocabularies.tokenizer.decode(arrays.token_ids[row]))
    sentences = _build_sentences(arrays, row, vocabularies, with_changes=has_prior)
    if edit is not None and edit.only is not None:
        sentences = [sentence for sentence in sentences if _names_one_of(sentence.text, edit.only)]
        report = " ".join(sentence.text for sentence in sentences)
        if not sentences:
            warnings.append(f"the model writes nothing about {', '.join(sorted(edit.only))}")
    regions = [] if arrays.selected is None else [
        _build_region(region, study.image_size, arrays, row, vocabularies, has_prior)
        for region in range(len(vocabularies.anatomy.names))
    ]
    observations = {} if arrays.observations is None else {
        name: _rounded(arrays.observations[row, index]) for index, name in enumerate(vocabularies.observations)
    }
    return Prediction(study.name, report, sentences, regions, observations, study.image_size, warnings)


def _build_sentences(
    arrays: _GenerationArrays, row: int, vocabularies: Vocabularies, with_changes: bool
) -> list[PredictedSentence]:
    names = vocabularies.anatomy.names
    generated = split_into_sentences(
        arrays.token_ids[row], arrays.token_log_probs[row], arrays.attention[row],
        arrays.certainty(row, vocabularies.attributes.slots().numpy()), vocabularies.tokenizer,
    )
    sentences = []
    for sentence in generated:
        shares = {names[region]: _rounded(sentence.regions[region]) for region in sentence.regions.nonzero()[0]}
        changes = _stated_changes(sentence.text, names) if with_changes else {}
        sentences.append(
            PredictedSentence(
                sentence.text, _descending(shares), _rounded(sentence.confidence), changes, sentence.section
            )
        )
    return sentences


def _stated_changes(sentence: str, regions: Sequence[str]) -> dict[str, str]:
    """Region -> the change that a sentence states, where it states only one."""
    stated = {
        region: combine_changes(change for part in read_report(sentence) for change in part.changes_of(region))
        for region in regions
    }
    return {region: change for region, change in stated.items() if change is not None}


def _build_region(
    region: int, image_size: tuple[int, int], arrays: _GenerationArrays, row: int, vocabularies: Vocabularies,
    has_prior: bool,
) -> PredictedRegion:
    width, height = image_size
    box = None
    in_graph: dict[str, float] = {}
    others: dict[str, float] = {}
    if arrays.visible[row, region]:
        corners = arrays.boxes[row, region] * np.array([width, height, width, height])
        box = tuple(round(float(corner), 1) for corner in corners)
        for slot, attribute in enumerate(vocabularies.attributes.by_region[region]):
            group = in_graph if arrays.attributes[row, region, slot] else others
            group[attribute] = _rounded(arrays.attribute_probabilities[row, region, slot])
    return PredictedRegion(
        name=vocabularies.anatomy.names[region],
        box=box,
        probability=_rounded(arrays.probabilities[row, region]),
        visible_probability=_rounded(arrays.visible_probabilities[row, region]),
        selected=bool(arrays.selected[row, region]),
        abnormal=any(is_abnormal(attribute) for attribute in in_graph),
        attributes=_descending(in_graph),
        other_attributes=_descending(others),
        change=CHANGES[arrays.changes[row, region]] if arrays.changes[row, region] >= 0 else None,
        prior_box=(
            tuple(round(float(corner), 4) for corner in arrays.prior_boxes[row, region])
            if has_prior and arrays.prior_boxes is not None else None
        ),
    )


def _probabilities(logits: Tensor | None) -> NDArray | None:
    return None if logits is None else torch.sigmoid(logits.float()).cpu().numpy()


def _rounded(value: np.floating) -> float:
    """A probability as a Python float with six decimals."""
    return round(float(value), 6)


def _descending(probabilities: dict[str, float]) -> dict[str, float]:
    """Sort by probability, the largest first, and by name among equals."""
    return dict(sorted(probabilities.items(), key=lambda item: (-item[1], item[0])))


def _names_one_of(sentence: str, regions: Iterable[str]) -> bool:
    """Whether `sentence` names at least one of `regions`."""
    return any(not set(regions).isdisjoint(part.regions) for part in read_report(sentence))
