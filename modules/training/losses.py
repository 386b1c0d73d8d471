"""The loss: model output and batch -> named terms and their weighted sum. The terms are in `loss_terms.py`.

Each term is a sum divided by a count. The counts come from the batch alone, so that the trainer can first add them up
over an accumulation window and over all processes: gradients are then those of the one large batch. A term whose count
is 0 is a zero that is still connected to its inputs, so every parameter gets a gradient.
"""

from dataclasses import dataclass

import torch
from torch import Tensor

from data.batch import Batch
from models.outputs import SGRRGOutput
from modules.training.loss_terms import LOSS_TERMS


@dataclass
class Losses:
    """terms: name -> unweighted scalar; total: their weighted sum, to be backpropagated."""

    terms: dict[str, Tensor]
    total: Tensor


class ReportCriterion:
    """The terms of the paper (its table of weights is in `LossConfig`), two for the localizer, and those of others.

    weights           name of a term -> its weight; terms that are absent or of weight 0 are not computed
    attribute_slots   [R, A] bool, the attributes that each region can have
    contrast_margin   cosine above which sub-graphs of different abnormality are pushed apart
    attribute_weights [R, A], the weight of a positive attribute; None: 1
    consistency_words the share of a report's words whose attention is aggregated
    change_weights    weight of each change; None: 1
    """

    TERMS = tuple(term.name for term in LOSS_TERMS)

    def __init__(
        self, weights: dict[str, float], attribute_slots: Tensor, contrast_margin: float = 0.4,
        attribute_weights: Tensor | None = None, consistency_words: float = 0.25, change_weights: Tensor | None = None,
    ):
        unknown = set(weights) - set(self.TERMS)
        assert not unknown, f"unknown loss terms {sorted(unknown)}"
        self.weights = {name: weight for name, weight in weights.items() if weight != 0}
        self.terms = {
            term.name: term(attribute_slots, contrast_margin, attribute_weights, consistency_words, change_weights)
            for term in LOSS_TERMS
        }

    def counts(self, batch: Batch) -> Tensor:
        """Return what each of `TERMS` divides by in this batch: [len(TERMS)] float64 on the batch's device."""
        return torch.stack([term.count(batch).double() for term in self.terms.values()])

    def __call__(self, output: SGRRGOutput, batch: Batch, counts: Tensor, world_size: int = 1) -> Losses:
        """Return the terms of one micro-batch on one of `world_size` processes.

        counts: `counts(batch)` summed over the accumulation window and all processes. Each term is multiplied by
        `world_size` to undo the mean that DDP takes over gradients (the contrast term counts 1 per process).
        A term is left out if the model has no such output.
        """
        terms = {}
        for term, divisor in zip(self.terms.values(), counts.clamp(min=1).to(torch.float32), strict=True):
            if term.name in self.weights:
                summed = term.sum(output, batch)
                if summed is not None:
                    terms[term.name] = summed * world_size / divisor
        return Losses(terms, sum(self.weights[name] * term for name, term in terms.items()))
