"""The discriminative map and attention consistency of CAMANet (Wang et al., "CAMANet: Class activation map guided
attention network for radiology report generation", JBHI 2024). Shapes as in `models/outputs.py`."""

from collections.abc import Callable
from dataclasses import dataclass

import torch
import torch.nn.functional as F
from torch import Tensor, nn

# The smallest range of values that is stretched to 0..1.
_SMALLEST_RANGE = 1e-12


@dataclass
class MappedPatches:
    """Patches with their discriminative map.

    tokens      [B, N, C], lowered by the background if the model subtracts it
    map         [B, N], how much each patch speaks for the classes that the model predicts, 0 to 1; without gradient
    foreground  [B, 1, C], the patches summed with the map as weights, normed
    """

    tokens: Tensor
    map: Tensor
    foreground: Tensor


class DiscriminativeMap(nn.Module):
    """The class activation map of the predicted observations, and the foreground row made with it.

    The classifier is the observation head. Nothing is taken from the annotation, in training either.

    norm                  width -> norm
    subtract_background   lower all patches by the normed sum of the patches, weighted with 1 - map
    """

    def __init__(
        self, channels: int, norm: Callable[..., nn.Module] = nn.LayerNorm, subtract_background: bool = False
    ):
        super().__init__()
        self.foreground_norm = norm(channels)
        self.background_norm = norm(channels) if subtract_background else None

    def forward(self, patches: Tensor, mask: Tensor, logits: Tensor, class_weights: Tensor) -> MappedPatches:
        """patches [B, N, C], mask [B, N]; logits [B, K] and class_weights [K, C] of the classifier of mean patches."""
        weights = class_activation_map(patches.detach(), mask, logits.detach(), class_weights.detach())
        weights = weights.to(patches.dtype).unsqueeze(-1)
        foreground = self.foreground_norm((weights * patches).sum(1, keepdim=True))
        if self.background_norm is not None:
            outside = (1 - weights) * mask.unsqueeze(-1)
            patches = patches - self.background_norm((outside * patches).sum(1, keepdim=True))
        return MappedPatches(patches, weights.squeeze(-1), foreground)


def class_activation_map(patches: Tensor, mask: Tensor, logits: Tensor, class_weights: Tensor) -> Tensor:
    """The largest activation of a predicted class in each patch, stretched to 0..1 over the study: [B, N].

    A class is predicted if its logit [B, K] is at least 0. Zeros for a study without one, and for masked patches.
    """
    activations = F.relu(torch.einsum("bnc,kc->bkn", patches.float(), class_weights.float())).float()
    return stretch((activations * (logits >= 0).unsqueeze(-1)).amax(1), mask)


def stretch(values: Tensor, mask: Tensor) -> Tensor:
    """`values` [B, N] shifted and scaled so that those that `mask` keeps range from 0 to 1; zeros elsewhere."""
    lowest = values.masked_fill(~mask, torch.inf).amin(1, keepdim=True)
    shifted = (values - lowest).masked_fill(~mask, 0.0)
    return shifted / shifted.amax(1, keepdim=True).clamp(min=_SMALLEST_RANGE)


def aggregate_attention(
    words: Tensor, is_word: Tensor, query: Tensor, attention: Tensor, mask: Tensor, share: float
) -> Tensor:
    """Where the words that are most similar to the foreground look, stretched to 0..1: [B, N].

    words       [B, T, D], the embeddings of the decoder's input
    is_word     [B, T] bool: BOS and real words
    query       [B, D], the encoded foreground row
    attention   [B, T, N], the attention of words to the patches of `mask` [B, N]
    share       the share of a study's words that is aggregated
    """
    similarity = F.cosine_similarity(words.float(), query.float().unsqueeze(1), dim=-1).masked_fill(~is_word, -1.0)
    rank = similarity.argsort(1, descending=True).argsort(1)
    chosen = rank < words_to_aggregate(is_word, share).unsqueeze(1)
    responses = F.relu(similarity.unsqueeze(-1) * attention.float())
    return stretch(responses.masked_fill(~chosen.unsqueeze(-1), 0.0).amax(1), mask)


def words_to_aggregate(is_word: Tensor, share: float) -> Tensor:
    """`share` of the words of each study, rounded up: is_word [B, T] bool -> [B]."""
    return (share * is_word.sum(1)).ceil()
