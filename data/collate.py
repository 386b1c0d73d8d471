"""Collating samples into a batch."""

from dataclasses import fields

import torch
from torch import Tensor
from torch.nn.utils.rnn import pad_sequence

from data.batch import Batch, RegionAnnotation, Sample


def collate(samples: list[Sample], pad_id: int) -> Batch:
    """Collate `samples` into a batch.

    Reports are padded with `pad_id` to the longest report, and views with zeros to the largest number of views.
    """
    view_counts = torch.tensor([len(sample.images) for sample in samples])
    token_counts = torch.tensor([len(sample.token_ids) for sample in samples])
    token_ids = pad_sequence([sample.token_ids for sample in samples], batch_first=True, padding_value=pad_id)
    return Batch(
        study_ids=[sample.study_id for sample in samples],
        images=pad_sequence([sample.images for sample in samples], batch_first=True),
        view_mask=torch.arange(int(view_counts.max())) < view_counts[:, None],
        frontal=torch.tensor([sample.frontal for sample in samples]),
        regions=RegionAnnotation(
            **{
                field.name: torch.stack([getattr(sample.regions, field.name) for sample in samples])
                for field in fields(RegionAnnotation)
            }
        ),
        observations=torch.stack([sample.observations for sample in samples]),
        observations_known=torch.stack([sample.observations_known for sample in samples]),
        token_ids=token_ids,
        # By length, not by id: BOS, EOS and padding may share an id.
        token_mask=torch.arange(token_ids.shape[1]) < token_counts[:, None],
        references=[sample.reference for sample in samples],
        detector_boxes=torch.stack([sample.detector_boxes for sample in samples]),
        detector_visible=torch.stack([sample.detector_visible for sample in samples]),
        token_regions=_collate_token_regions(samples),
    )


def _collate_token_regions(samples: list[Sample]) -> Tensor | None:
    """Return [B, T, R] bool, False for padding; None if a sample has no token regions."""
    token_regions = [sample.token_regions for sample in samples]
    return None if any(regions is None for regions in token_regions) else pad_sequence(token_regions, batch_first=True)
