"""Random context for the random batches of the tiny model."""

from dataclasses import replace

import torch

from data.batch import Batch
from data.context.fields import StudyContext
from data.ontology import CHANGES
from tests.support.tiny_model import IMAGE_SIZE, WORDS


def with_context(batch: Batch, seed: int = 0) -> Batch:
    """`batch` with context: every study but the last has a prior with a report, every study but the first an
    indication; half of the mentioned regions have a known change.
    """
    generator = torch.Generator().manual_seed(seed)
    studies = len(batch)
    has_prior, has_indication = torch.arange(studies) < studies - 1, torch.arange(studies) > 0
    image = torch.randn(studies, 3, IMAGE_SIZE, IMAGE_SIZE, generator=generator)
    known = batch.regions.mentioned & (torch.rand(batch.regions.mentioned.shape, generator=generator) < 0.5)
    change = torch.randint(len(CHANGES), known.shape, generator=generator).masked_fill(~known, -1)
    context = StudyContext(
        has_prior=has_prior, prior_image=image * has_prior[:, None, None, None],
        indication=torch.randint(1, len(WORDS), (studies, 5), generator=generator),
        indication_mask=has_indication[:, None] & (torch.arange(5) < 4),
        prior_report=torch.randint(1, len(WORDS), (studies, 6), generator=generator),
        prior_report_mask=has_prior[:, None] & (torch.arange(6) < 5),
    )
    return replace(batch, context=context, regions=replace(batch.regions, change=change))


def with_context_fields(batch: Batch, **changes) -> Batch:
    """`batch` with changed fields of its context."""
    return replace(batch, context=replace(batch.context, **changes))
