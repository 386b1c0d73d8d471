"""An SGRRG with a few thousand weights, and random batches for it; needs no files."""

import math
from copy import deepcopy
from dataclasses import fields, replace
from functools import cache, partial
from unittest import mock

import torch
from torch import Tensor, nn

from data.batch import Batch, RegionAnnotation
from data.ontology import Anatomy, observation_names
from data.text.tokenizer import UNKNOWN_WORD, Tokenizer
from data.vocabulary import AttributeVocabulary, Vocabularies
from models.outputs import BoxSource, GraphSource, SGRRGOutput
from models.patch_encoder import PatchEncoder
from models.region_localizer import RegionLocalizer
from models.sgrrg import SGRRG
from modules import builders
from modules.config import Config, load_config
from modules.model_inputs import model_inputs
from modules.training.losses import Losses

CHANNELS, WIDTH, IMAGE_SIZE, LONGEST = 16, 16, 32, 12
WORDS = tuple(f"word{number:02}" for number in range(19))  # 23 ids with <unk>, padding, BOS and EOS
ATTRIBUTES_PER_REGION = tuple(region % 5 for region in range(29))

_SETTINGS = [
    f"data.image_size={IMAGE_SIZE}", f"data.max_tokens={LONGEST}", f"model.width={WIDTH}", "model.heads=2",
    "model.feedforward=24", "model.image_layers=1", "model.graph_layers=2", "model.decoder_layers=2", "model.dropout=0",
    "model.image_dropout=0", "model.memory_slots=8", "model.memory_heads=4", "model.memory_top=3",
]


@cache
def tiny_vocabularies(distinct_special_tokens: bool = True) -> Vocabularies:
    """The shipped anatomy, 0 to 4 attributes per region, 14 observations, 23 token ids (21 if special ones share)."""
    anatomy = Anatomy.load()
    by_region = tuple(
        tuple(f"anatomicalfinding|yes|finding {number}" for number in range(count)) for count in ATTRIBUTES_PER_REGION
    )
    tokenizer = Tokenizer((UNKNOWN_WORD, *WORDS), distinct_special_tokens)
    return Vocabularies(anatomy, AttributeVocabulary(by_region, "default"), observation_names(), tokenizer)


def tiny_config(*overrides: str) -> Config:
    """The settings of the tiny model, with `key=value` overrides."""
    return deepcopy(_merged_config(overrides))


@cache
def _merged_config(overrides: tuple[str, ...]) -> Config:
    return load_config(None, [*_SETTINGS, *overrides])


def tiny_trunk() -> nn.Module:
    """Two convolutions, [B, 3, 32, 32] -> [B, 16, 4, 4], without BatchNorm: studies do not affect each other."""
    return nn.Sequential(nn.Conv2d(3, CHANNELS, 4, 4), nn.GELU(), nn.Conv2d(CHANNELS, CHANNELS, 2, 2))


def tiny_model(*overrides: str, seed: int = 0, vocabularies: Vocabularies | None = None) -> SGRRG:
    """The tiny model with `tiny_trunk`, in training mode.

    Its weights are larger than initial ones, so that regions, attributes and tokens differ between studies.
    """
    torch.manual_seed(seed)
    with (
        mock.patch.object(builders, "build_patch_encoder", lambda *_: PatchEncoder(tiny_trunk(), CHANNELS)),
        mock.patch.object(builders, "RegionLocalizer", partial(RegionLocalizer, squeezed=4, hidden=16)),
    ):
        model = builders.build_model(tiny_config(*overrides), vocabularies or tiny_vocabularies())
    enliven(model)
    return model


@torch.no_grad()
def enliven(model: SGRRG) -> None:
    """Replace the weights by larger random ones."""
    for name, parameter in model.named_parameters():
        if parameter.dim() > 1:
            fan_in = math.prod(parameter.shape[2 if parameter.dim() == 3 else 1 :])  # 3: one matrix per region
            scale = {"decoder.word_head.weight": 3.0, "graph.localizer.shift.weight": 0.1}.get(name, 1.5)
            parameter.normal_(0, scale * fan_in**-0.5)
        elif name.endswith("bias"):
            parameter.normal_(0, 0.1)
    if model.decoder is not None:
        model.decoder.word_head.bias[model.eos_id] += 2  # otherwise hardly any report would end


def tiny_batch(
    studies: int = 2, views: int = 1, seed: int = 0, tokens: int = 8, vocabularies: Vocabularies | None = None
) -> Batch:
    """Random, fully annotated studies; reports have `tokens` ids or fewer, decreasing over the studies."""
    vocabularies = vocabularies or tiny_vocabularies()
    tokenizer, slots = vocabularies.tokenizer, vocabularies.attributes.slots()
    generator = torch.Generator().manual_seed(seed)
    regions = len(slots)

    def chance(probability: float, *shape: int) -> Tensor:
        return torch.rand(shape, generator=generator) < probability

    def boxes() -> Tensor:
        corner = torch.rand(studies, regions, 2, generator=generator) * 0.6
        return torch.cat([corner, corner + 0.1 + torch.rand(studies, regions, 2, generator=generator) * 0.3], -1)

    visible, detector_visible = chance(0.8, studies, regions), chance(0.8, studies, regions)
    mentioned = chance(0.6, studies, regions)
    annotation = RegionAnnotation(
        boxes=boxes() * visible.unsqueeze(-1),
        visible=visible,
        mentioned=mentioned,
        abnormal=mentioned & chance(0.5, studies, regions),
        attributes=chance(0.5, studies, *slots.shape) & slots & mentioned.unsqueeze(-1),
        graph_known=torch.ones(studies, dtype=torch.bool),
        boxes_known=torch.ones(studies, dtype=torch.bool),
    )
    token_ids = torch.full((studies, tokens), tokenizer.pad_id)
    token_mask = torch.zeros(studies, tokens, dtype=torch.bool)
    for study in range(studies):
        count = max(3, tokens - 2 * study)
        token_ids[study, :count] = torch.randint(1, len(tokenizer.words) + 1, (count,), generator=generator)
        token_ids[study, 0], token_ids[study, count - 1] = tokenizer.bos_id, tokenizer.eos_id
        token_mask[study, :count] = True
    return Batch(
        study_ids=[f"study{study}" for study in range(studies)],
        images=torch.randn(studies, views, 3, IMAGE_SIZE, IMAGE_SIZE, generator=generator),
        view_mask=torch.ones(studies, views, dtype=torch.bool),
        frontal=torch.ones(studies, dtype=torch.bool),
        regions=annotation,
        observations=chance(0.5, studies, len(observation_names())).float(),
        observations_known=chance(0.8, studies, len(observation_names())),
        token_ids=token_ids,
        token_mask=token_mask,
        references=[tokenizer.decode(ids) for ids in token_ids],
        detector_boxes=boxes() * detector_visible.unsqueeze(-1),
        detector_visible=detector_visible,
        token_regions=chance(0.3, studies, tokens, regions) & token_mask.unsqueeze(-1),
    )


def studies_of(batch: Batch, indices: list[int]) -> Batch:
    """The studies of `batch` with the given indices, padded as before."""

    def pick(record):
        picked = {}
        for field in fields(record):
            value = getattr(record, field.name)
            if isinstance(value, RegionAnnotation):
                value = pick(value)
            elif isinstance(value, Tensor):
                value = value[indices]
            elif value is not None:
                value = [value[index] for index in indices]
            picked[field.name] = value
        return type(record)(**picked)

    return pick(batch)


def with_regions(batch: Batch, **changes: Tensor) -> Batch:
    """`batch` with changed fields of its region annotation."""
    return replace(batch, regions=replace(batch.regions, **changes))


def without_regions(batch: Batch) -> Batch:
    """`batch` with empty annotated graphs."""
    nothing = {name: torch.zeros_like(getattr(batch.regions, name)) for name in _REGION_FIELDS}
    return with_regions(batch, **nothing)


def without_annotation(batch: Batch) -> Batch:
    """`batch` with reports only: without graph, boxes and observations."""
    unknown = torch.zeros_like(batch.regions.graph_known)
    bare = with_regions(without_regions(batch), graph_known=unknown, boxes_known=unknown)
    labels = {name: torch.zeros_like(getattr(batch, name)) for name in ("observations", "observations_known")}
    return replace(bare, **labels)


_REGION_FIELDS = ("boxes", "visible", "mentioned", "abnormal", "attributes")


def teacher_forced(
    model: SGRRG, batch: Batch, graph_source: GraphSource = GraphSource.ORACLE,
    box_source: BoxSource = BoxSource.LOCALIZER, mixing_probability: float = 0.0,
    image_attention_layer: int | None = None,
) -> SGRRGOutput:
    """The model's output on `batch` as in training."""
    inputs = model_inputs(batch, graph_source, box_source, training=True)
    return model(
        inputs, batch.token_ids, batch.token_mask, graph_source, box_source, mixing_probability,
        with_region_attention=True, image_attention_layer=image_attention_layer,
    )


def losses_of(
    model: SGRRG, batch: Batch, graph_source: GraphSource = GraphSource.ORACLE,
    box_source: BoxSource = BoxSource.LOCALIZER, mixing_probability: float = 0.0, config: Config | None = None,
) -> Losses:
    """The losses of a single batch."""
    config = config or tiny_config()
    criterion = builders.build_criterion(config, tiny_vocabularies())
    layer = 1 if config.loss.attention_consistency else None
    output = teacher_forced(model, batch, graph_source, box_source, mixing_probability, layer)
    return criterion(output, batch, criterion.counts(batch))
