"""Samples reports of micro-batches, and starts the computation of their rewards in other processes."""

from dataclasses import dataclass

import numpy as np
import torch
from torch import Tensor, nn

from data.batch import Batch
from data.images.network_input import to_network_input
from data.sections.marked_text import plain_text, split_sections
from data.text.tokenizer import Tokenizer
from models.outputs import BoxSource, GraphSource
from models.sampling.reports import sample_reports
from modules.config import Precision
from modules.model_inputs import model_inputs
from modules.runtime import autocast, evaluation_mode, rank
from modules.training.rewards.scorer import PendingRewards, RewardScorer

# Sets the seeds of samples apart from those of `seed_everything`.
_STREAM = 0x5C57


@dataclass
class SampledReports:
    """Reports sampled for the studies of a micro-batch that have a reference, S for each.

    studies    [n] long, the studies in the micro-batch
    token_ids  [n, S, T] long, as in `models.sampling.reports`; the greedy report, if it is the baseline, is not here
    texts      n lists of S reports, of which sections that the reference lacks are left out
    greedy     whether rewards have a column more: that of the greedy report comes first
    pending    None if no study has a reference
    """

    studies: Tensor
    token_ids: Tensor
    texts: list[list[str]]
    greedy: bool
    pending: PendingRewards | None


@dataclass
class ReportSampler:
    """Draws samples from a model, in evaluation mode: they are reports as the model would write them.

    samples        for each study
    with_greedy    also score the greedy report of each study
    max_tokens     longest report, BOS and EOS included
    excluded_ids   tokens that are never generated
    seed           of the run. The seed of a draw follows from it, the rank, the step and the micro-batch: that is all
                   the state that sampling has, so a resumed run draws the same samples
    """

    scorer: RewardScorer
    tokenizer: Tokenizer
    samples: int
    with_greedy: bool
    max_tokens: int
    graph_source: GraphSource
    box_source: BoxSource
    precision: Precision
    excluded_ids: tuple[int, ...]
    seed: int

    def draw(
        self, model: nn.Module, window: list[Batch], step: int, memory_format: torch.memory_format
    ) -> list[SampledReports]:
        """Sample reports for each micro-batch of `window`, which is on the CPU, in the optimiser step after `step`.

        The rewards of one micro-batch are computed while the next one is sampled.
        """
        with evaluation_mode(model):
            return [
                self._draw(model, batch, (self.seed, rank(), step, number, _STREAM), memory_format)
                for number, batch in enumerate(window)
            ]

    def _draw(
        self, model: nn.Module, batch: Batch, seed: tuple[int, ...], memory_format: torch.memory_format
    ) -> SampledReports:
        device = next(model.parameters()).device
        studies = studies_with_reference(batch)
        if not studies:
            nothing = torch.zeros(0, dtype=torch.long, device=device)
            return SampledReports(nothing, nothing.view(0, self.samples, 0), [], self.with_greedy, None)
        batch = batch.select(studies)
        state = np.random.SeedSequence(seed).generate_state(1)
        generator = torch.Generator(device).manual_seed(int(state[0]))
        inputs = model_inputs(
            to_network_input(batch.to(device), memory_format), self.graph_source, self.box_source
        )
        with autocast(self.precision, device):
            token_ids = sample_reports(
                model, inputs, self.graph_source, self.box_source, self.samples, self.max_tokens, generator,
                self.with_greedy, self.excluded_ids,
            )
        texts = [
            [plain_text(self.tokenizer.decode(ids), split_sections(reference)) for ids in reports]
            for reports, reference in zip(token_ids.tolist(), batch.references, strict=True)
        ]
        pending = self.scorer.submit(
            batch.references, batch.observations.numpy() > 0, batch.observations_known.numpy(), texts
        )
        first = int(self.with_greedy)
        return SampledReports(
            torch.tensor(studies, device=device), token_ids[:, first:], [reports[first:] for reports in texts],
            self.with_greedy, pending,
        )


def studies_with_reference(batch: Batch) -> list[int]:
    """Return the studies whose reference is not empty: others have nothing to compare a report with."""
    return [study for study, reference in enumerate(batch.references) if reference.strip()]
