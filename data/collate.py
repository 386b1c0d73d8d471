"""Collating samples into a batch."""

from dataclasses import fields

import torch
import torch.nn.functional as F
from torch import Tensor
from torch.nn.utils.rnn import pad_sequence

from data.batch import Batch, RegionAnnotation, Sample
from data.context.fields import collate_context, collate_flags, pad_warp


def collate(samples: list[Sample], pad_id: int) -> Batch:
    """Collate `samples` into a batch.

    Reports are padded with `pad_id` to the longest report, at least to two tokens, views with zeros to the largest
    number of views, and images of different sizes, at the right and at the bottom, with zeros to the largest one. This
    changes no pixel: what a warp reads beyond an image is black in any case.
    """
    view_counts = torch.tensor([len(sample.images) for sample in samples])
    token_counts = torch.tensor([len(sample.token_ids) for sample in samples])
    images = _collate_images(samples, int(view_counts.max()))
    token_ids = pad_sequence([sample.token_ids for sample in samples], batch_first=True, padding_value=pad_id)
    if token_ids.shape[1] == 1:  # no study has a report
        token_ids = F.pad(token_ids, (0, 1), value=pad_id)
    return Batch(
        study_ids=[sample.study_id for sample in samples],
        images=images,
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
        token_regions=_collate_token_regions(samples, token_ids.shape[1]),
        image_size=samples[0].image_size,
        warps=_collate_warps(samples, images.shape[-1]),
        intensities=_collate_views([sample.intensities for sample in samples]),
        context=collate_context([sample.context for sample in samples], pad_id),
        untrained_tokens=collate_flags([sample.untrained_tokens for sample in samples]),
    )


def _collate_images(samples: list[Sample], views: int) -> Tensor:
    """Return [B, V, S, S] uint8, where S is the side of the largest image."""
    side = max(len(image) for sample in samples for image in sample.images)
    images = torch.zeros(len(samples), views, side, side, dtype=torch.uint8)
    for rows, sample in zip(images, samples, strict=True):
        for row, image in zip(rows, sample.images, strict=False):
            row[: len(image), : len(image)] = image
    return images


def _collate_warps(samples: list[Sample], side: int) -> Tensor | None:
    """Return [B, V, 2, 3] float, with sources in -1..1 of images that are padded to `side`; None without warps."""
    if samples[0].warps is None:
        return None
    warps = []
    for sample in samples:
        padded = zip(sample.warps, sample.images, strict=True)
        warps.append(torch.stack([pad_warp(warp, len(image), side) for warp, image in padded]))
    return _collate_views(warps)


def _collate_views(values: list[Tensor | None]) -> Tensor | None:
    """Return values by view, [V, ...] each, as [B, V, ...], zero-padded; None if there are none."""
    return None if values[0] is None else pad_sequence(values, batch_first=True)


def _collate_token_regions(samples: list[Sample], tokens: int) -> Tensor | None:
    """Return [B, T, R] bool for T `tokens`, False for padding; None if a sample has no token regions."""
    token_regions = [sample.token_regions for sample in samples]
    if any(regions is None for regions in token_regions):
        return None
    padded = pad_sequence(token_regions, batch_first=True)
    return F.pad(padded, (0, 0, 0, tokens - padded.shape[1]))
