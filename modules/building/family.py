"""Builds the parts of the R2Gen family from the settings of the model. Each is None if the settings leave it out."""

import dataclasses
from functools import partial

from data.vocabulary import Vocabularies
from models.family.cross_modal_memory import CrossModalMemory
from models.family.discriminative_map import DiscriminativeMap
from models.family.prototypes import Prototypes
from models.family.relational_memory import ConditionalNorm, RelationalMemory
from models.family.shared_memory import SharedMemory
from models.layers.norms import LayerStyle
from modules.settings.model import ModelConfig


def decoder_layer_style(settings: ModelConfig, style: LayerStyle) -> LayerStyle:
    """Return `style`, with conditional norms for `model.decoder.norms: memory`."""
    if settings.decoder.norms == "plain":
        return style
    condition_width = settings.decoder.memory_slots * settings.width
    norm = partial(ConditionalNorm, condition_width=condition_width, norm=style.norm)
    return dataclasses.replace(style, norm=norm)


def build_relational_memory(settings: ModelConfig) -> RelationalMemory | None:
    """Build the memory of `model.decoder.norms: memory`."""
    if settings.decoder.norms == "plain":
        return None
    decoder = settings.decoder
    return RelationalMemory(settings.width, decoder.memory_slots, decoder.memory_heads, settings.dropout)


def build_shared_memory(settings: ModelConfig, vocabularies: Vocabularies) -> SharedMemory | None:
    """Build `model.cross_modal_memory` or `model.prototypes`."""
    cross_modal, prototypes = settings.cross_modal_memory, settings.prototypes
    if prototypes.per_observation is not None:
        return Prototypes(
            settings.width, len(vocabularies.observations), prototypes.per_observation, prototypes.channels,
            prototypes.heads, prototypes.responding, settings.dropout,
        )
    if cross_modal.rows is None:
        return None
    return CrossModalMemory(
        settings.width, cross_modal.rows, cross_modal.heads, cross_modal.responding, settings.dropout
    )


def build_discriminative_map(settings: ModelConfig, channels: int, style: LayerStyle) -> DiscriminativeMap | None:
    """Build `model.discriminative_map` over patches of `channels` channels."""
    if not settings.discriminative_map:
        return None
    return DiscriminativeMap(channels, style.norm, settings.subtract_background)
