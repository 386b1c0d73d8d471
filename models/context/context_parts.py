"""The parts of a model that reads the indication and the patient's previous study. Shapes as in `models/outputs.py`.

Not part of the published model. What is absent is masked, so that one model serves with and without.
"""

import math
from dataclasses import dataclass, replace

import torch
from torch import Tensor, nn

from models.context.change_head import ChangeHead
from models.context.indication_evidence import IndicationEvidence
from models.context.text_encoder import TextEncoder
from models.image_encoder import ImageEncoder
from models.layers.embeddings import WordEmbedding
from models.outputs import Encoded, ModelInputs
from models.patch_encoder import PatchEncoder, Patches
from models.region_localizer import RegionLocalizer
from models.region_pooler import RegionPooler

# Rows of the type embedding.
_INDICATION, _PRIOR, _PRIOR_REPORT = range(3)


@dataclass
class PriorStudy:
    """The previous frontal image of each study, zeros where there is none.

    tokens [B, G * G, C], grid [B, C, G, G], has_prior [B] bool
    """

    tokens: Tensor
    grid: Tensor
    has_prior: Tensor


@dataclass
class ContextText:
    """A text of the context, as the model reads it: a row of the type embedding, states [B, Q, D] and mask [B, Q]."""

    kind: int
    states: Tensor
    mask: Tensor


class ContextParts(nn.Module):
    """Reads the context of a study into the decoder's memory, and the change of each region.

    text_encoder     for indications and previous reports; None if the model reads neither
    reads_indication, reads_prior, reads_prior_report   what the model reads; the others are ignored
    change_head      None without regions or without priors
    evidence         adds the indication to the features of the image; None if it reaches the decoder alone
    resolved         index of the change "resolved"
    abnormal_slots   [R, A] bool: attributes that affirm a finding
    """

    def __init__(
        self, width: int, text_encoder: TextEncoder | None, reads_indication: bool, reads_prior: bool,
        reads_prior_report: bool, change_head: ChangeHead | None, resolved: int, abnormal_slots: Tensor,
        evidence: IndicationEvidence | None = None,
    ):
        super().__init__()
        self.text_encoder = text_encoder
        self.reads_indication, self.reads_prior = reads_indication, reads_prior
        self.reads_prior_report = reads_prior_report
        self.change_head = change_head
        self.evidence = evidence
        self.resolved = resolved
        self.type_embedding = nn.Embedding(3, width)
        # Added to the study's own patches where no prior is shown. The decoder hardly notices what is masked: without
        # it, reports compare with priors that it does not see. Like the embedding of words, it is scaled by the root of
        # its width, or else it would stay small beside the patches.
        self.alone_embedding = nn.Parameter(torch.zeros(width)) if reads_prior else None
        self.register_buffer("abnormal_slots", abnormal_slots.clone(), persistent=False)

    def encode_patches(self, encoder: PatchEncoder, inputs: ModelInputs) -> tuple[Patches, PriorStudy | None]:
        """Encode all views, and the previous image beside them if the model reads it and the inputs have it.

        BatchNorm's statistics are those of all images; missing ones do not enter them.
        """
        context, sizes = inputs.context, inputs.sizes
        views = sizes and sizes.views
        if not self.reads_prior or context is None or context.has_prior is None:
            return encoder(inputs.images, inputs.view_mask, views), None
        images = torch.cat([inputs.images, context.prior_image.unsqueeze(1)], 1)
        view_mask = torch.cat([inputs.view_mask, context.has_prior.unsqueeze(1)], 1)
        patches = encoder(images, view_mask, sizes and sizes.views + sizes.priors)
        count = patches.tokens.shape[1] // images.shape[1]  # patches of a view
        tokens, side = patches.tokens[:, -count:], patches.frontal_grid.shape[-1]
        grid = tokens.transpose(-1, -2).unflatten(-1, (side, side))
        current = replace(patches, tokens=patches.tokens[:, :-count], mask=patches.mask[:, :-count])
        return current, PriorStudy(tokens, grid, context.has_prior)

    def read_changes(
        self, encoded: Encoded, prior: PriorStudy | None, localizer: RegionLocalizer | None, pooler: RegionPooler,
        atlas: Tensor, features: Tensor, regions: Tensor, count: int | None,
    ) -> Tensor | None:
        """Return the logits [B, R, changes] of the change of `regions` [B, R]; None without a prior.

        features [B, R, C] of these regions now. Their boxes in the previous image are those that the localizer finds
        there, or without one those of the `atlas` [R, 4]. The first call also stores logits and boxes in `encoded`:
        those of annotated regions, if there are any.
        """
        if prior is None or self.change_head is None:
            return None
        if localizer is None:
            boxes = atlas.expand(len(features), -1, -1)
        else:
            with torch.no_grad():
                boxes = localizer(prior.grid)[0].clamp(0, 1)
        logits = self.change_head(features, pooler(prior.grid, boxes, regions, count))
        if encoded.change_logits is None:
            encoded.change_logits, encoded.change_regions = logits, regions & prior.has_prior.unsqueeze(1)
            encoded.prior_boxes = boxes
        return logits

    def predicted_changes(self, prior: PriorStudy | None, logits: Tensor | None, attributes: Tensor) -> Tensor | None:
        """The most likely change [B, R] long of each region, -1 for none; None without logits.

        Reports compare what is abnormal, or was: of other regions, only that something has resolved is told. attributes
        [B, R, A] bool: those that the regions have.
        """
        if logits is None:
            return None
        changes = logits.float().argmax(-1)
        is_abnormal = (attributes & self.abnormal_slots).any(-1)
        return changes.masked_fill(~(is_abnormal | (changes == self.resolved)) | ~prior.has_prior.unsqueeze(1), -1)

    def annotated_changes(
        self, prior: PriorStudy | None, logits: Tensor | None, changes: Tensor | None
    ) -> Tensor | None:
        """The annotated changes [B, R] of studies whose prior the model sees, -1 elsewhere; None without logits."""
        if logits is None:
            return None
        if changes is None:
            return torch.full(logits.shape[:2], -1, dtype=torch.long, device=logits.device)
        return changes.masked_fill(~prior.has_prior.unsqueeze(1), -1)

    def read_texts(self, inputs: ModelInputs, embedding: WordEmbedding) -> list[ContextText]:
        """The texts that the model reads; embedding: of the report's words."""
        context, texts = inputs.context, []
        if context is not None and self.reads_indication and context.indication is not None:
            texts.append((_INDICATION, context.indication, context.indication_mask))
        if context is not None and self.reads_prior_report and context.prior_report is not None:
            texts.append((_PRIOR_REPORT, context.prior_report, context.prior_report_mask))
        return [ContextText(kind, self.text_encoder(embedding(ids), mask), mask) for kind, ids, mask in texts]

    def find_evidence(self, texts: list[ContextText]) -> Tensor | None:
        """What the indication adds to the features of the image, [B, C]; None without an indication."""
        indications = [text for text in texts if text.kind == _INDICATION]
        if self.evidence is None or not indications:
            return None
        return self.evidence(indications[0].states, indications[0].mask)

    def extend_memory(
        self, encoded: Encoded, texts: list[ContextText], prior: PriorStudy | None, image_encoder: ImageEncoder
    ) -> tuple[Tensor, Tensor]:
        """The memory of `encoded` and its mask, followed by the states of the context: [B, N', D] and [B, N'].

        The prior's patches read a shared memory as those of the study do; a discriminative map is of the study alone.
        """
        states, masks = [self._mark_alone(encoded.memory, prior)], [encoded.memory_mask]
        if prior is not None:
            mask = prior.has_prior.unsqueeze(1).expand(prior.tokens.shape[:2])
            # Rows without a prior are computed too, and masked for the decoder.
            # The responses to the study's own patches are kept for the losses.
            shared = encoded.shared_memory and replace(encoded.shared_memory, patch_response=None)
            rows = image_encoder(prior.tokens, torch.ones_like(mask), shared_memory=shared)
            states.append(rows + self.type_embedding.weight[_PRIOR])
            masks.append(mask)
        for text in texts:
            states.append(text.states + self.type_embedding.weight[text.kind])
            masks.append(text.mask)
        return torch.cat(states, 1), torch.cat(masks, 1)

    def _mark_alone(self, memory: Tensor, prior: PriorStudy | None) -> Tensor:
        """The memory [B, N, D] of the study's own patches, marked where the model reads priors but is shown none."""
        if self.alone_embedding is None:
            return memory
        mark = math.sqrt(len(self.alone_embedding)) * self.alone_embedding
        return memory + (mark if prior is None else ~prior.has_prior[:, None, None] * mark)
