"""Runs a model over a split and makes records of it; the same code for validation and test.

The model sees what `modules/model_inputs.py` selects from the batch. The records are scored by
`modules/evaluation/scoring.py`.
Shapes: B studies of a batch, R regions, T tokens.
"""

import sys
import time
from collections.abc import Callable, Iterable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, field
from typing import TypeVar

import numpy as np
import torch
from torch import Tensor, nn
from tqdm import tqdm

from data.batch import Batch
from data.errors import UserError
from data.images.network_input import to_network_input
from data.loaders import SkippedStudy, StudyLoader
from data.vocabulary import Vocabularies
from models.outputs import BoxSource, Encoded, Generation, GraphSource, ModelInputs
from models.sgrrg import GraphParts
from modules.config import Precision
from modules.evaluation.metrics.text_scores import ReportParser
from modules.evaluation.metrics.weighted import RESAMPLES
from modules.evaluation.records import (
    OBSERVATION_THRESHOLD,
    Evaluation,
    Prediction,
    StudyRecord,
    annotations_from_batch,
    text_fields,
)
from modules.evaluation.scoring import score_records
from modules.evaluation.sections.scores import score_sections
from modules.evaluation.sentences import GeneratedSentence, split_into_sentences, subgraph_certainty
from modules.model_inputs import model_inputs
from modules.runtime import autocast, evaluation_mode, gather_objects, gather_to_rank_zero, is_rank_zero
from modules.settings.context import ContextUse
from modules.training.validation import EvaluationStopped

Item = TypeVar("Item")

# Without a terminal, progress is printed at most once in this many seconds.
_PROGRESS_SECONDS = 30.0


@dataclass
class Evaluator:
    """Evaluates a model under one protocol and one choice of sources.

    protocol     r2gen: references are cut to max_tokens ids, with <unk> for rare words; full: complete references, and
                 reports without <unk>
    max_tokens   longest generated report in ids, including BOS and EOS
    visible_threshold   the model's: a region with a higher probability is visible
    writes_reports      the model's: one without a decoder gets no scores of texts
    context      what is shown of the context of studies, to a model that reads it
    skipped      studies that the last `generate` could not read, of all processes; known on rank zero
    """

    vocabularies: Vocabularies
    protocol: str
    max_tokens: int
    graph_source: GraphSource
    box_source: BoxSource
    beam_size: int
    precision: Precision = Precision.FP32
    visible_threshold: float = 0.5
    writes_reports: bool = True
    context: ContextUse = ContextUse.ALL
    skipped: list[SkippedStudy] = field(default_factory=list, init=False)

    def evaluate(
        self, model: nn.Module, loader: Iterable[Batch], device: torch.device, meteor: bool = True,
        resamples: int = RESAMPLES,
    ) -> Evaluation:
        """Generate and score the reports of all studies of `loader`, in a single process.

        No intervals if `resamples` is 0.
        """
        return evaluation_of(model, self.generate(model, loader, device), meteor, resamples)

    def generate(
        self, model: nn.Module, loader: Iterable[Batch], device: torch.device,
        should_stop: Callable[[], bool] | None = None,
    ) -> list[StudyRecord] | None:
        """Generate the reports of all studies of `loader`, and return their records in dataset order.

        With several processes, `loader` yields the shard of this rank (`rank::world_size`). Rank zero returns the
        records of all studies that can be read, the others None: scoring takes one process, and the others need not
        wait for it. The training mode of each submodule is restored. Raises EvaluationStopped in all processes if
        `should_stop()` is true in one; it is called before each batch and after the last one.
        """
        records, stopped = [], False
        with inference(model):
            for batch in progress(loader, "evaluating"):
                stopped = should_stop is not None and should_stop()
                if stopped:
                    break
                records += self._generate_batch(model, batch, device)
        stopped = stopped or (should_stop is not None and should_stop())
        # A stopped process joins the collective calls too: the others would wait for it forever.
        if any(gather_objects(stopped)):
            raise EvaluationStopped
        skipped = list(loader.skipped.values()) if isinstance(loader, StudyLoader) else []
        shards = gather_to_rank_zero((loader.align(records) if skipped else records, skipped))
        if shards is None:
            return None
        self.skipped = [study for _, studies in shards for study in studies]
        records = in_study_order([records for records, _ in shards])
        if isinstance(loader, StudyLoader):
            for index, record in enumerate(records):
                if record is not None:
                    record.data_set = loader.dataset.data_set_name(index)
        return [record for record in records if record is not None]

    def apply_protocol(self, reference: str) -> str:
        """Return the part of a complete cleaned reference that generated reports are compared with.

        Markers stay, and count as words, as they do in the model's output.
        """
        if self.protocol == "full":
            return reference
        return self.vocabularies.tokenizer.protocol_reference(reference, self.max_tokens)

    @property
    def excluded_ids(self) -> tuple[int, ...]:
        """The tokens that are never generated: <unk>, unless the protocol's references have it too, as in r2gen."""
        return (self.vocabularies.tokenizer.unk_id,) if self.protocol == "full" else ()

    def _generate_batch(self, model: nn.Module, batch: Batch, device: torch.device) -> list[StudyRecord]:
        """Return the records of a batch; reports are generated only for studies that have one to compare with."""
        has_report = [has and self.writes_reports for has in batch.has_report.tolist()]
        reported = [study for study, has in enumerate(has_report) if has]
        if len(reported) == len(batch):
            return self._records_with_reports(model, batch, device)
        others = [study for study, has in enumerate(has_report) if not has]
        records = dict(zip(others, self._records_without_reports(model, batch.select(others), device), strict=True))
        if reported:
            generated = self._records_with_reports(model, batch.select(reported), device)
            records |= dict(zip(reported, generated, strict=True))
        return [records[study] for study in range(len(batch))]

    def _inputs(self, batch: Batch, device: torch.device) -> ModelInputs:
        return model_inputs(
            to_network_input(batch.to(device)), self.graph_source, self.box_source, context=self.context
        )

    def _records_without_reports(self, model: nn.Module, batch: Batch, device: torch.device) -> list[StudyRecord]:
        inputs = self._inputs(batch, device)
        with autocast(self.precision, device):
            encoded = model.encode(inputs, self.graph_source, self.box_source)
        check_finite(batch.study_ids, *encoded.predictions)
        abnormal_slots = self.vocabularies.attributes.abnormal_slots().numpy()
        return [
            StudyRecord(
                study_id=study_id, reference="", scored_reference="", annotation=annotation, generated="",
                log_probability=None, prediction=prediction, abnormal_slots=abnormal_slots, has_report=False,
                prior_shown=prior_shown,
            )
            for study_id, annotation, prediction, prior_shown in zip(
                batch.study_ids, annotations_from_batch(batch), self._predictions(inputs, encoded, model.graph),
                _priors_shown(model, inputs), strict=True,
            )
        ]

    def _records_with_reports(self, model: nn.Module, batch: Batch, device: torch.device) -> list[StudyRecord]:
        inputs = self._inputs(batch, device)
        with autocast(self.precision, device):
            generation: Generation = model.generate(
                inputs, graph_source=self.graph_source, box_source=self.box_source, beam_size=self.beam_size,
                max_tokens=self.max_tokens, with_region_attention=True, excluded_ids=self.excluded_ids,
            )
        check_finite(batch.study_ids, generation.scores, *generation.encoded.predictions)
        predictions = self._predictions(inputs, generation.encoded, model.graph)
        tokenizer = self.vocabularies.tokenizer
        abnormal_slots = self.vocabularies.attributes.abnormal_slots().numpy()
        return [
            StudyRecord(
                study_id=study_id,
                annotation=annotation,
                **text_fields(
                    reference, self.apply_protocol(reference), tokenizer.decode(token_ids), sentences,
                    tokenizer.marks_sections,
                ),
                log_probability=log_probability,
                prediction=prediction,
                abnormal_slots=abnormal_slots,
                prior_shown=prior_shown,
            )
            for study_id, reference, annotation, token_ids, log_probability, prediction, sentences, prior_shown in zip(
                batch.study_ids, batch.references, annotations_from_batch(batch), generation.token_ids.tolist(),
                generation.scores.tolist(), predictions, self._sentences(generation, predictions),
                _priors_shown(model, inputs), strict=True,
            )
        ]

    def _sentences(self, generation: Generation, predictions: list[Prediction]) -> list[list[GeneratedSentence]]:
        """The sentences of every generated report of a batch."""
        token_ids, log_probs = generation.token_ids.cpu().numpy(), generation.token_log_probs.float().cpu().numpy()
        attention = np.zeros((*token_ids.shape, len(self.vocabularies.anatomy.regions)))  # [B, T, R]
        if generation.region_attention is not None:
            attention = generation.region_attention.float().cpu().numpy()
        certainties = [
            None if probabilities is None else subgraph_certainty(probabilities, probabilities > 0)
            for probabilities in (prediction.attribute_probabilities for prediction in predictions)
        ]
        return [
            split_into_sentences(*study, self.vocabularies.tokenizer)
            for study in zip(token_ids, log_probs, attention, certainties, strict=True)
        ]

    def _predictions(self, inputs: ModelInputs, encoded: Encoded, parts: GraphParts | None) -> list[Prediction]:
        """The model's predictions for every study of a batch.

        With a predicted graph, the selected regions are those of the graph. With an annotated graph or none, they are
        chosen from the model's probabilities: above the thresholds of `parts` and visible. Attributes are predicted
        for the regions of the graph, so with `oracle` for the annotated ones.
        """
        tensors: dict[str, Tensor | None] = {}
        boxes, visible_probabilities = self._boxes(inputs, encoded)
        visible = None if visible_probabilities is None else visible_probabilities > self.visible_threshold
        if self.box_source != BoxSource.ORACLE_BOXES and boxes is not None:
            tensors |= {"boxes": boxes, "visible_probabilities": visible_probabilities, "visible": visible}

        if encoded.region_logits is not None:
            probabilities = _sigmoid(encoded.region_logits)
            if self.graph_source == GraphSource.PREDICTED and encoded.graph is not None:
                selected = encoded.graph.selected
            else:
                selected = (probabilities > parts.region_thresholds) & inputs.frontal[:, None]
                selected = selected if visible is None else selected & visible
            tensors |= {"region_probabilities": probabilities, "region_selected": selected}

        if encoded.graph is not None and encoded.attribute_logits is not None:
            slots = self.vocabularies.attributes.slots().to(encoded.attribute_logits.device)
            probabilities = _sigmoid(encoded.attribute_logits) * (encoded.attribute_regions[..., None] & slots)
            attributes = (probabilities > parts.attribute_thresholds) & encoded.graph.selected[..., None]
            tensors |= {"attribute_probabilities": probabilities, "attributes": attributes}

        if encoded.observation_logits is not None:
            probabilities = _sigmoid(encoded.observation_logits)
            tensors |= {
                "observation_probabilities": probabilities, "observations": probabilities > OBSERVATION_THRESHOLD,
            }
        if encoded.change_logits is not None:
            likeliest = encoded.change_logits.float().argmax(-1)
            tensors |= {"change": likeliest.masked_fill(~encoded.change_regions, -1)}
            if encoded.graph is not None:
                tensors |= {"stated_change": encoded.graph.changes}
        arrays = {name: tensor.cpu().numpy() for name, tensor in tensors.items()}
        return [
            Prediction(**{name: array[study] for name, array in arrays.items()}) for study in range(len(inputs.images))
        ]

    def _boxes(self, inputs: ModelInputs, encoded: Encoded) -> tuple[Tensor | None, Tensor | None]:
        """Boxes [B, R, 4] of the box source and their probabilities [B, R] of being visible; None if absent."""
        if self.box_source == BoxSource.LOCALIZER:
            if encoded.boxes is None:
                return None, None
            return encoded.boxes.float().clamp(0, 1), _sigmoid(encoded.visible_logits)
        if self.box_source == BoxSource.ATLAS:
            boxes = self.vocabularies.anatomy.boxes.to(inputs.images.device).expand(len(inputs.images), -1, -1)
            return boxes, torch.ones_like(boxes[..., 0])
        return inputs.detector_boxes, inputs.detector_visible.float()


def evaluation_of(
    model: nn.Module, records: list[StudyRecord], meteor: bool = True, resamples: int = RESAMPLES, workers: int = 1,
    parser: ReportParser | None = None,
) -> Evaluation:
    """Score the `records` that an evaluator generated with `model`; arguments as in `score_records`."""
    results = score_records(records, meteor, resamples, workers=workers, parser=parser)
    sections = score_sections(records, meteor, resamples, workers, parser)
    tuned = model.graph is not None and model.graph.tuned_thresholds
    return Evaluation(**vars(results), records=records, tuned_thresholds=tuned, sections=sections)


def check_finite(study_ids: Sequence[str], *outputs: Tensor | None) -> None:
    """Raise UserError, naming the first study, if one of the `outputs` of a model, [B, ...], is NaN or infinite.

    Beam search gives NaN log-probabilities the score of no report, minus infinity.
    """
    for output in outputs:
        if output is not None and not output.isfinite().all():
            study = int((~output.isfinite()).nonzero()[0, 0])
            raise UserError(
                f"The model gives numbers that are not finite for study {study_ids[study]}: its weights are damaged, "
                "or its training diverged; use another checkpoint"
            )


def _priors_shown(model: nn.Module, inputs: ModelInputs) -> list[bool]:
    """Whether the model sees the previous study, of every study of a batch."""
    context = getattr(model, "context", None)
    if context is None or not context.reads_prior or inputs.context is None or inputs.context.has_prior is None:
        return [False] * len(inputs.images)
    return inputs.context.has_prior.tolist()


@contextmanager
def inference(model: nn.Module) -> Iterator[None]:
    """Evaluation mode for all submodules, without gradients; restores the mode of each submodule on exit."""
    with evaluation_mode(model), torch.inference_mode():
        yield


def progress(batches: Iterable[Item], title: str) -> Iterator[Item]:
    """Yield from `batches`; rank zero shows a progress bar on a terminal, else prints a line to stderr now and then."""
    if not is_rank_zero():
        yield from batches
    elif sys.stderr.isatty():
        yield from tqdm(batches, desc=title, leave=False)
    else:
        total = f" of {len(batches)}" if hasattr(batches, "__len__") else ""
        reported = time.monotonic()
        for done, batch in enumerate(batches):
            if time.monotonic() - reported > _PROGRESS_SECONDS:
                reported = time.monotonic()
                print(f"{title}: {done}{total} batches", file=sys.stderr, flush=True)
            yield batch


def in_study_order(shards: list[list[Item]]) -> list[Item]:
    """Restore dataset order from per-rank shards: shard r holds studies r, r + world size, ..."""
    studies = [None] * sum(len(shard) for shard in shards)
    for rank, shard in enumerate(shards):
        studies[rank :: len(shards)] = shard
    return studies


def _sigmoid(logits: Tensor) -> Tensor:
    """Probabilities in float32, whatever the precision of the logits."""
    return torch.sigmoid(logits.float())
