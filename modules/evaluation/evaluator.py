"""Loader -> model.generate -> records -> scores; the same code for validation and test.

The model sees what `modules/model_inputs.py` lets it see. Everything that a score needs stands in the records as numpy
arrays, so scoring is a function of records alone, and baselines are scored by putting other answers into them.
Shapes: R regions, A attribute slots a region (padded), K observations.
"""

import sys
import time
from collections.abc import Callable, Iterable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, field
from typing import Any, TypeVar

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor, nn
from tqdm import tqdm

from data.batch import Batch
from data.ontology import Anatomy, observation_names
from data.vocabulary import Vocabularies
from models.outputs import BoxSource, Encoded, Generation, GraphSource, ModelInputs
from modules.config import Precision
from modules.evaluation.metrics import calibration, clinical, graph, selective
from modules.evaluation.metrics.calibration import calibration_scores, decision_table
from modules.evaluation.metrics.claims import is_wrong
from modules.evaluation.metrics.labelers import RuleLabeler
from modules.evaluation.metrics.selective import sentence_scores
from modules.evaluation.metrics.text_scores import TEXT_GROUPS, Readings, text_scores
from modules.evaluation.metrics.triples import abnormal_regions
from modules.evaluation.metrics.weighted import RESAMPLES, Interval, Scored, ScoreSet, absent, merged
from modules.evaluation.sentences import GeneratedSentence, sentences_of, subgraph_certainty
from modules.model_inputs import model_inputs
from modules.runtime import autocast, broadcast_object, gather_objects, is_rank_zero
from modules.training.validation import EvaluationStopped

Item = TypeVar("Item")

# The scores as tables show them together: title -> names.
SCORE_GROUPS: dict[str, tuple[str, ...]] = {
    **TEXT_GROUPS,
    "Scene graph": graph.NAMES,
    "Observations read off the image": clinical.NAMES,
    "Grounding": graph.GROUNDING_NAMES,
    "Calibration and confidence": calibration.NAMES + selective.NAMES,
}
SCORE_NAMES = tuple(name for names in SCORE_GROUPS.values() for name in names)

# Probability above which an observation counts as positive.
OBSERVATION_THRESHOLD = 0.5
# Seconds between two lines of progress where there is no terminal for a bar.
_SECONDS_A_LINE = 30.0


@dataclass
class Prediction:
    """What is answered about one image; None where nothing answers.

    region_probabilities [R]     "the report will speak of this region"; region_selected [R] bool
    boxes [R, 4]                 visible_probabilities [R]; visible [R] bool
    attribute_probabilities [R, A], zero where no attributes were predicted; attributes [R, A] bool, given to regions
    observation_probabilities [K], observations [K] bool
    """

    region_probabilities: NDArray | None = None
    region_selected: NDArray | None = None
    boxes: NDArray | None = None
    visible_probabilities: NDArray | None = None
    visible: NDArray | None = None
    attribute_probabilities: NDArray | None = None
    attributes: NDArray | None = None
    observation_probabilities: NDArray | None = None
    observations: NDArray | None = None


@dataclass
class Annotation:
    """The references of one image: arrays as in `data.batch.RegionAnnotation` and `Sample`, without a batch axis."""

    boxes: NDArray
    visible: NDArray
    mentioned: NDArray
    abnormal: NDArray
    attributes: NDArray
    graph_known: bool
    boxes_known: bool
    observations: NDArray
    observations_known: NDArray


@dataclass
class StudyRecord:
    """One study: what was written and predicted, and what it is compared with.

    reference         the full cleaned report
    scored_reference  what the protocol compares with
    generated         the written report
    log_probability   its summed log-probability / number of tokens; None for a text that no model wrote
    sentences         of `generated`, in order; empty for a text that no model wrote
    """

    study_id: str
    reference: str
    scored_reference: str
    annotation: Annotation
    generated: str
    log_probability: float | None
    prediction: Prediction
    sentences: list[GeneratedSentence] = field(default_factory=list)


@dataclass
class Evaluation:
    """The scores of a split as in `Scored`, and the records in study order."""

    scores: dict[str, float | None]
    absent: dict[str, str]
    records: list[StudyRecord]
    intervals: dict[str, Interval | None] = field(default_factory=dict)
    resampled: dict[str, NDArray] = field(default_factory=dict, compare=False)
    per_study: dict[str, NDArray] = field(default_factory=dict)
    tables: dict[str, dict[str, dict[str, float | None]]] = field(default_factory=dict)
    curves: dict[str, Any] = field(default_factory=dict)


@dataclass
class Evaluator:
    """Evaluates a model under one protocol and one choice of sources.

    protocol     r2gen: references are cut to max_tokens ids and have <unk> for rare words; full: complete references
    max_tokens   ids a generated report may have, counting BOS and EOS
    region_threshold, attribute_threshold, visible_threshold   probabilities above which each counts; the model's own
    """

    vocabularies: Vocabularies
    protocol: str
    max_tokens: int
    graph_source: GraphSource
    box_source: BoxSource
    beam_size: int
    precision: Precision = Precision.FP32
    region_threshold: float = 0.2
    attribute_threshold: float = 0.5
    visible_threshold: float = 0.5

    @property
    def score_names(self) -> tuple[str, ...]:
        """The names of all scores of an evaluation."""
        return SCORE_NAMES

    def evaluate(
        self, model: nn.Module, loader: Iterable[Batch], device: torch.device, meteor: bool = True,
        should_stop: Callable[[], bool] | None = None, resamples: int = RESAMPLES,
    ) -> Evaluation:
        """Write and score the reports of all studies of `loader`; with `resamples` 0 without intervals.

        Under several processes `loader` feeds this process's share (`rank::world_size`); the records of all are put in
        study order, and every process returns the same evaluation. The modes (training or not) of the model and its
        parts are restored. Raises EvaluationStopped in all processes when `should_stop()` is true in one; it is asked
        between batches and before scoring.
        """
        records, stopped = [], False
        with inference(model):
            for batch in progress(loader, "evaluating"):
                stopped = should_stop is not None and should_stop()
                if stopped:
                    break
                records += self._evaluate_batch(model, batch, device)
        stopped = stopped or (should_stop is not None and should_stop())
        # A process that stopped takes part in the gathering too: the others would wait for it otherwise.
        if any(gather_objects(stopped)):
            raise EvaluationStopped
        records = in_study_order(gather_objects(records))
        # Scoring takes both cores and hundreds of megabytes: one process a run is enough.
        scored = broadcast_object(score_records(records, meteor, resamples) if is_rank_zero() else Scored({}, {}))
        return Evaluation(**vars(scored), records=records)

    def scored_text(self, reference: str) -> str:
        """What the protocol compares generated reports with, for a full cleaned reference."""
        if self.protocol == "full":
            return reference
        return self.vocabularies.tokenizer.protocol_reference(reference, self.max_tokens)

    def _evaluate_batch(self, model: nn.Module, batch: Batch, device: torch.device) -> list[StudyRecord]:
        inputs = model_inputs(batch.to(device), self.graph_source, self.box_source)
        with autocast(self.precision, device):
            generation: Generation = model.generate(
                inputs, graph_source=self.graph_source, box_source=self.box_source, beam_size=self.beam_size,
                max_tokens=self.max_tokens, with_region_attention=True,
            )
        predictions = self._predictions(inputs, generation.encoded)
        tokenizer = self.vocabularies.tokenizer
        return [
            StudyRecord(
                study_id=study_id,
                reference=reference,
                scored_reference=self.scored_text(reference),
                annotation=annotation,
                generated=tokenizer.decode(token_ids),
                log_probability=log_probability,
                prediction=prediction,
                sentences=sentences,
            )
            for study_id, reference, annotation, token_ids, log_probability, prediction, sentences in zip(
                batch.study_ids, batch.references, annotations(batch), generation.token_ids.tolist(),
                generation.scores.tolist(), predictions, self._sentences(generation, predictions), strict=True,
            )
        ]

    def _sentences(self, generation: Generation, predictions: list[Prediction]) -> list[list[GeneratedSentence]]:
        """The sentences of every report of a batch."""
        token_ids, log_probs = generation.token_ids.cpu().numpy(), generation.token_log_probs.float().cpu().numpy()
        regions = len(self.vocabularies.anatomy.regions)
        attention = np.zeros((*token_ids.shape, regions))
        if generation.region_attention is not None:
            attention = generation.region_attention.float().cpu().numpy()
        certainties = [
            None if probabilities is None else subgraph_certainty(probabilities, probabilities > 0)
            for probabilities in (prediction.attribute_probabilities for prediction in predictions)
        ]
        return [
            sentences_of(*study, self.vocabularies.tokenizer)
            for study in zip(token_ids, log_probs, attention, certainties, strict=True)
        ]

    def _predictions(self, inputs: ModelInputs, encoded: Encoded) -> list[Prediction]:
        """The model's answers for the studies of a batch.

        With a predicted graph, the regions are those of the graph. Otherwise (no graph, or the annotated one) they are
        the model's own choice as well: above the threshold and visible. Attributes are those of the regions in the
        graph, so with `oracle` they are predicted for annotated regions.
        """
        answers: dict[str, Tensor | None] = {}
        boxes, visible_probabilities = self._boxes(inputs, encoded)
        visible = None if visible_probabilities is None else visible_probabilities > self.visible_threshold
        if self.box_source != BoxSource.ORACLE_BOXES and boxes is not None:
            answers |= {"boxes": boxes, "visible_probabilities": visible_probabilities, "visible": visible}

        if encoded.region_logits is not None:
            probabilities = _probabilities(encoded.region_logits)
            if self.graph_source == GraphSource.PREDICTED and encoded.graph is not None:
                selected = encoded.graph.selected
            else:
                selected = (probabilities > self.region_threshold) & inputs.frontal[:, None]
                selected = selected if visible is None else selected & visible
            answers |= {"region_probabilities": probabilities, "region_selected": selected}

        if encoded.graph is not None and encoded.attribute_logits is not None:
            slots = self.vocabularies.attributes.slots().to(encoded.attribute_logits.device)
            probabilities = _probabilities(encoded.attribute_logits) * (encoded.attribute_regions[..., None] & slots)
            given = (probabilities > self.attribute_threshold) & encoded.graph.selected[..., None]
            answers |= {"attribute_probabilities": probabilities, "attributes": given}

        if encoded.observation_logits is not None:
            probabilities = _probabilities(encoded.observation_logits)
            answers |= {
                "observation_probabilities": probabilities, "observations": probabilities > OBSERVATION_THRESHOLD,
            }
        arrays = {name: tensor.cpu().numpy() for name, tensor in answers.items()}
        return [
            Prediction(**{name: array[study] for name, array in arrays.items()}) for study in range(len(inputs.images))
        ]

    def _boxes(self, inputs: ModelInputs, encoded: Encoded) -> tuple[Tensor | None, Tensor | None]:
        """The boxes [B, R, 4] of the box source and the probabilities [B, R] that they are visible; None without."""
        if self.box_source == BoxSource.LOCALIZER:
            if encoded.boxes is None:
                return None, None
            return encoded.boxes.float().clamp(0, 1), _probabilities(encoded.visible_logits)
        if self.box_source == BoxSource.ATLAS:
            boxes = self.vocabularies.anatomy.boxes.to(inputs.images.device).expand(len(inputs.images), -1, -1)
            return boxes, torch.ones_like(boxes[..., 0])
        return inputs.detector_boxes, inputs.detector_visible.float()


@contextmanager
def inference(model: nn.Module) -> Iterator[None]:
    """Every part of `model` in evaluation mode and nothing recorded for gradients; then each part's mode as it was."""
    modes = [(module, module.training) for module in model.modules()]
    model.eval()
    try:
        with torch.inference_mode():
            yield
    finally:
        for module, mode in modes:
            module.training = mode


def score_records(records: list[StudyRecord], meteor: bool = True, resamples: int = RESAMPLES) -> Scored:
    """All scores of `SCORE_NAMES` for `records`, with bootstrap intervals from so many `resamples`, or without for 0.

    Words are compared by the records' protocol; labels and triples are read from complete references; regions and
    attributes are compared only over studies with an annotated graph, boxes only over studies with annotated boxes,
    observations only over known labels (see `modules/evaluation/metrics`).
    """
    if not records:
        return absent(SCORE_NAMES, "no study").scored(0, resamples)

    def annotated(name: str) -> NDArray:
        return np.stack([getattr(record.annotation, name) for record in records])

    def predicted(name: str) -> NDArray | None:
        arrays = [getattr(record.prediction, name) for record in records]
        return None if any(array is None for array in arrays) else np.stack(arrays)

    references, generated = (
        Readings.of([getattr(record, name) for record in records], RuleLabeler()) for name in ("reference", "generated")
    )
    names = Anatomy.load().names
    found = np.array([[name in abnormal_regions(each) for name in names] for each in generated.triples])
    graph_known, boxes_known = annotated("graph_known"), annotated("boxes_known")
    mentioned, visible = annotated("mentioned"), annotated("visible")
    regions = (predicted("region_selected"), predicted("region_probabilities"), mentioned)
    attributes = (predicted("attributes"), predicted("attribute_probabilities"), annotated("attributes"))
    observations = (
        predicted("observations"), predicted("observation_probabilities"), annotated("observations"),
        annotated("observations_known"),
    )
    region_known = np.broadcast_to(graph_known[:, None], mentioned.shape)
    return merged([
        text_scores(
            references, generated, [record.scored_reference for record in records], annotated("observations"),
            annotated("observations_known"), meteor,
        ),
        graph.region_scores(*regions, graph_known),
        graph.attribute_scores(*attributes, mentioned, graph_known),
        graph.box_scores(predicted("boxes"), predicted("visible"), annotated("boxes"), visible, boxes_known),
        clinical.observation_scores(*observations),
        graph.grounding_scores(
            predicted("boxes"), predicted("visible"), annotated("boxes"), visible & boxes_known[:, None],
            mentioned & annotated("abnormal") & graph_known[:, None], found,
        ),
        calibration_scores("region", *regions[1:], region_known),
        calibration_scores(
            "attribute", *attributes[1:], _attributes_predicted(*attributes[1:], mentioned & region_known)
        ),
        calibration_scores("observation", *observations[1:]),
        sentence_scores(*_sentence_errors(records)),
        ScoreSet(tables={
            "regions in the graph": decision_table(*regions, region_known, names),
            "observations read off the image": decision_table(*observations, observation_names()),
        }),
    ]).scored(len(records), resamples)


def _attributes_predicted(probabilities: NDArray | None, reference: NDArray, told: NDArray) -> NDArray | None:
    """[N, R, A] bool: attributes that were predicted in the regions that the report tells of (`told` [N, R]).

    Where no attribute was predicted, and in slots that stand for none, the probability is 0. Where the reference
    [N, R, A] gives no told region any attribute, it has none of this vocabulary: nothing is known of them.
    """
    if probabilities is None:
        return None
    told = told[..., None]
    return told & (probabilities > 0) & (told & reference).any()


def _sentence_errors(records: Sequence[StudyRecord]) -> tuple[NDArray, NDArray, NDArray]:
    """Of all n generated sentences that claim something: confidence, whether it is wrong, and position of its study.

    Without a reference nobody knows what is wrong: the sentences of such a study are left out.
    """
    judged = [
        (sentence.confidence, is_wrong(sentence.text, record.reference), study)
        for study, record in enumerate(records) if record.reference.strip() for sentence in record.sentences
    ]
    counted = [(confidence, bool(wrong), study) for confidence, wrong, study in judged if wrong is not None]
    confidences, wrong, studies = np.array(counted, dtype=np.float64).reshape(-1, 3).T
    return confidences, wrong.astype(bool), studies.astype(int)


def annotations(batch: Batch) -> list[Annotation]:
    """The references of every study of `batch`, as numpy arrays."""
    arrays = {name: tensor.cpu().numpy() for name, tensor in vars(batch.regions).items()}
    observations = batch.observations.cpu().numpy() > OBSERVATION_THRESHOLD
    observations_known = batch.observations_known.cpu().numpy()
    return [
        Annotation(
            **{name: array[study] for name, array in arrays.items()},
            observations=observations[study], observations_known=observations_known[study],
        )
        for study in range(len(batch))
    ]


def progress(batches: Iterable[Item], title: str) -> Iterator[Item]:
    """`batches`, with a bar on a terminal and otherwise a line on stderr now and then; one process reports for all."""
    if not is_rank_zero():
        yield from batches
    elif sys.stderr.isatty():
        yield from tqdm(batches, desc=title, leave=False)
    else:
        total = f" of {len(batches)}" if hasattr(batches, "__len__") else ""
        reported = time.monotonic()
        for done, batch in enumerate(batches):
            if time.monotonic() - reported > _SECONDS_A_LINE:
                reported = time.monotonic()
                print(f"{title}: {done}{total} batches", file=sys.stderr, flush=True)
            yield batch


def in_study_order(shards: list[list[Item]]) -> list[Item]:
    """Undoes the dealing of studies to processes: shard r holds studies r, r + world size, ..."""
    studies = [None] * sum(len(shard) for shard in shards)
    for rank, shard in enumerate(shards):
        studies[rank :: len(shards)] = shard
    return studies


def _probabilities(logits: Tensor) -> Tensor:
    return torch.sigmoid(logits.float())
