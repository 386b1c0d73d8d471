"""Runs a model over a split and makes records of it; the same code for validation and test.

The model sees what `modules/model_inputs.py` selects from the batch. The records are scored by
`modules/evaluation/scoring.py`.
Shapes: B studies of a batch, R regions, T tokens.
"""

import sys
import time
from collections.abc import Callable, Iterable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from typing import TypeVar

import numpy as np
import torch
from torch import Tensor, nn
from tqdm import tqdm

from data.batch import Batch
from data.vocabulary import Vocabularies
from models.outputs import BoxSource, Encoded, Generation, GraphSource, ModelInputs
from modules.config import Precision
from modules.evaluation.metrics.weighted import RESAMPLES, ScoreResults
from modules.evaluation.records import (
    OBSERVATION_THRESHOLD,
    Evaluation,
    Prediction,
    StudyRecord,
    annotations_from_batch,
)
from modules.evaluation.scoring import SCORE_NAMES, score_records
from modules.evaluation.sentences import GeneratedSentence, split_into_sentences, subgraph_certainty
from modules.model_inputs import model_inputs
from modules.runtime import autocast, broadcast_object, gather_objects, is_rank_zero
from modules.training.validation import EvaluationStopped

Item = TypeVar("Item")

# Without a terminal, progress is printed at most once in this many seconds.
_PROGRESS_SECONDS = 30.0


@dataclass
class Evaluator:
    """Evaluates a model under one protocol and one choice of sources.

    protocol     r2gen: references are cut to max_tokens ids, with <unk> for rare words; full: complete references
    max_tokens   longest generated report in ids, including BOS and EOS
    region_threshold, attribute_threshold, visible_threshold   the model's: a higher probability counts as positive
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
        """Generate and score the reports of all studies of `loader`; no intervals if `resamples` is 0.

        With several processes, `loader` yields the shard of this rank (`rank::world_size`), and every process returns
        the same evaluation of all records in dataset order. The training mode of each submodule is restored. Raises
        EvaluationStopped in all processes if `should_stop()` is true in one; it is called before each batch and before
        scoring.
        """
        records, stopped = [], False
        with inference(model):
            for batch in progress(loader, "evaluating"):
                stopped = should_stop is not None and should_stop()
                if stopped:
                    break
                records += self._evaluate_batch(model, batch, device)
        stopped = stopped or (should_stop is not None and should_stop())
        # A stopped process joins the collective calls too: the others would wait for it forever.
        if any(gather_objects(stopped)):
            raise EvaluationStopped
        records = in_study_order(gather_objects(records))
        # Scoring uses two cores and hundreds of megabytes: only rank zero does it.
        results = score_records(records, meteor, resamples) if is_rank_zero() else ScoreResults({}, {})
        return Evaluation(**vars(broadcast_object(results)), records=records)

    def apply_protocol(self, reference: str) -> str:
        """Return the part of a complete cleaned reference that generated reports are compared with."""
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
                scored_reference=self.apply_protocol(reference),
                annotation=annotation,
                generated=tokenizer.decode(token_ids),
                log_probability=log_probability,
                prediction=prediction,
                sentences=sentences,
            )
            for study_id, reference, annotation, token_ids, log_probability, prediction, sentences in zip(
                batch.study_ids, batch.references, annotations_from_batch(batch), generation.token_ids.tolist(),
                generation.scores.tolist(), predictions, self._sentences(generation, predictions), strict=True,
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

    def _predictions(self, inputs: ModelInputs, encoded: Encoded) -> list[Prediction]:
        """The model's predictions for every study of a batch.

        With a predicted graph, the selected regions are those of the graph. With an annotated graph or none, they are
        chosen from the model's probabilities: above the threshold and visible. Attributes are predicted for the
        regions of the graph, so with `oracle` for the annotated ones.
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
                selected = (probabilities > self.region_threshold) & inputs.frontal[:, None]
                selected = selected if visible is None else selected & visible
            tensors |= {"region_probabilities": probabilities, "region_selected": selected}

        if encoded.graph is not None and encoded.attribute_logits is not None:
            slots = self.vocabularies.attributes.slots().to(encoded.attribute_logits.device)
            probabilities = _sigmoid(encoded.attribute_logits) * (encoded.attribute_regions[..., None] & slots)
            attributes = (probabilities > self.attribute_threshold) & encoded.graph.selected[..., None]
            tensors |= {"attribute_probabilities": probabilities, "attributes": attributes}

        if encoded.observation_logits is not None:
            probabilities = _sigmoid(encoded.observation_logits)
            tensors |= {
                "observation_probabilities": probabilities, "observations": probabilities > OBSERVATION_THRESHOLD,
            }
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


@contextmanager
def inference(model: nn.Module) -> Iterator[None]:
    """Evaluation mode for all submodules, without gradients; restores the mode of each submodule on exit."""
    modes = [(module, module.training) for module in model.modules()]
    model.eval()
    try:
        with torch.inference_mode():
            yield
    finally:
        for module, mode in modes:
            module.training = mode


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
