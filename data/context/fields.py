"""What is known of a study before its image is read: its indication, and the patient's previous study.

Shapes use the letters of `models/outputs.py`; Q tokens of the longest indication, and of the longest previous report.
"""

from dataclasses import dataclass

import torch
import torch.nn.functional as F
from torch import Tensor
from torch.nn.utils.rnn import pad_sequence

from data.text.tokenizer import Tokenizer

# Most tokens of an indication; a previous report has as many as a report.
MOST_INDICATION_TOKENS = 40


@dataclass
class StudyContext:
    """The context of a study, or with a batch axis, of a batch. What is not requested is None, what is absent masked.

    has_prior           [B] bool      the study has a prior with a frontal image
    prior_image         [B, S, S] uint8, zeros without a prior; after `data.images.network_input.to_network_input`,
                        [B, 3, H, H] float, normalised
    prior_warp          [B, 2, 3] float, as `warps` in `data.batch.Sample`; None if images are not warped
    prior_intensities   [B, 2] float, as `intensities` there; None if they are not changed
    indication          [B, Q] long, token ids without BOS and EOS; indication_mask [B, Q] bool
    prior_report        [B, Q] long, of the previous report; prior_report_mask [B, Q] bool
    unseen_comparison   [B, T] bool   in training: tokens of sentences that compare with a prior which is not shown.
                                      Learning to write them would be learning to invent comparisons
    """

    has_prior: Tensor | None = None
    prior_image: Tensor | None = None
    prior_warp: Tensor | None = None
    prior_intensities: Tensor | None = None
    indication: Tensor | None = None
    indication_mask: Tensor | None = None
    prior_report: Tensor | None = None
    prior_report_mask: Tensor | None = None
    unseen_comparison: Tensor | None = None


def encode_text(text: str, tokenizer: Tokenizer, most: int) -> Tensor:
    """Return the ids of the first `most` words of a cleaned text, [Q] long, without BOS and EOS."""
    return torch.tensor(tokenizer.encode(text, most + 2)[1:-1], dtype=torch.long)


def collate_context(contexts: list[StudyContext | None], pad_id: int) -> StudyContext | None:
    """Return the contexts of several studies as those of a batch; None if they were not requested."""
    if contexts[0] is None:
        return None
    indication, indication_mask = _collate_texts([context.indication for context in contexts], pad_id)
    prior_report, prior_report_mask = _collate_texts([context.prior_report for context in contexts], pad_id)
    images = [context.prior_image for context in contexts]
    warps = [context.prior_warp for context in contexts]
    if images[0] is not None:
        side = max(len(image) for image in images)
        if warps[0] is not None:
            warps = [pad_warp(warp, len(image), side) for warp, image in zip(warps, images, strict=True)]
        images = [F.pad(image, (0, side - len(image), 0, side - len(image))) for image in images]
    return StudyContext(
        has_prior=_stack([context.has_prior for context in contexts]), prior_image=_stack(images),
        prior_warp=_stack(warps), prior_intensities=_stack([context.prior_intensities for context in contexts]),
        indication=indication, indication_mask=indication_mask, prior_report=prior_report,
        prior_report_mask=prior_report_mask,
        unseen_comparison=collate_flags([context.unseen_comparison for context in contexts]),
    )


def pad_warp(warp: Tensor, side: int, padded_side: int) -> Tensor:
    """Return a warp [..., 2, 3] of an image with this side for the image padded at the right and at the bottom."""
    # Along each axis, position p of an image is at p * share + (share - 1) of the padded one.
    share = side / padded_side
    return warp * share + (share - 1) * torch.tensor([0.0, 0.0, 1.0])


def _collate_texts(texts: list[Tensor | None], pad_id: int) -> tuple[Tensor | None, Tensor | None]:
    """Return token ids [B, Q] and their mask, with at least one column; None if they were not requested."""
    if texts[0] is None:
        return None, None
    counts = torch.tensor([len(text) for text in texts])
    ids = pad_sequence(texts, batch_first=True, padding_value=pad_id)
    if ids.shape[1] == 0:
        ids = ids.new_full((len(texts), 1), pad_id)
    return ids, torch.arange(ids.shape[1]) < counts[:, None]


def collate_flags(flags: list[Tensor | None]) -> Tensor | None:
    """Return flags of tokens, [T] bool each, as [B, T], False for padding, with at least two columns as a batch has."""
    if flags[0] is None:
        return None
    padded = pad_sequence(flags, batch_first=True)
    return F.pad(padded, (0, max(0, 2 - padded.shape[1])))


def _stack(values: list[Tensor | None]) -> Tensor | None:
    return None if values[0] is None else torch.stack(values)
