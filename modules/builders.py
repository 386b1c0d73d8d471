"""Builds vocabularies, data sets, model, criterion and evaluator from a `Config`."""

import dataclasses
import sys
from collections.abc import Callable
from typing import TypeVar

import torch
import torch.nn.functional as F
from torch import nn

from data import vocabulary_builder
from data.attribute_counts import count_attributes
from data.context.counts import count_changes
from data.context.settings import INDICATION, PRIOR
from data.dataset import StudyDataset
from data.errors import UserError, truncate_list, wrong_value
from data.images.transforms import Augmentation
from data.mixture.dataset import MixedDataset
from data.mixture.statistics import joined_statistics
from data.ontology import CHANGES
from data.records import count_studies
from data.sections.marked_text import MARKERS
from data.text.tokenizer import UNKNOWN_WORD
from data.vocabulary import Vocabularies
from models.attribute_predictor import AttributePredictor
from models.graph_attention import GraphAttention
from models.image_encoder import ImageEncoder
from models.layers.norms import LayerStyle, StandardDeviationNorm
from models.outputs import BoxSource, GraphSource
from models.patch_encoder import PatchEncoder
from models.proxy_heads import ObservationHead
from models.region_localizer import RegionLocalizer
from models.region_pooler import RegionPooler
from models.region_selector import RegionMemory, RegionSelector
from models.report_decoder import ReportDecoder
from models.scene_graph_encoder import SceneGraphEncoder
from models.sgrrg import SGRRG, GraphParts
from models.trunks.build import build_patch_encoder, exact_trunk
from modules.building.context import build_context_parts, context_settings
from modules.building.family import (
    build_discriminative_map,
    build_relational_memory,
    build_shared_memory,
    decoder_layer_style,
)
from modules.building.initial_weights import initialise
from modules.checkpoint import Checkpoint
from modules.config import Config, Precision
from modules.evaluation.evaluator import Evaluator
from modules.evaluation.validation import SplitValidator
from modules.runtime import choose_precision, is_rank_zero, seed_everything, select_device
from modules.settings.model import ModelConfig
from modules.settings.reward import REWARD
from modules.stages.building import build_stage
from modules.training.loss_terms import class_weights, positive_weights
from modules.training.losses import ReportCriterion
from modules.training.trainer import Trainer
from modules.weights import load_thresholds, load_weights

Built = TypeVar("Built")

_NORMS = {"layer": nn.LayerNorm, "std": StandardDeviationNorm}
_ACTIVATIONS = {"gelu": F.gelu, "relu": F.relu}


def build_vocabularies(config: Config) -> Vocabularies:
    """Build the vocabularies from the training splits of `config.data.root`."""
    data = config.data
    return vocabulary_builder.build_vocabularies(
        root=data.roots, cleaning=data.cleaning, min_word_count=data.min_word_count,
        min_attribute_count=data.min_attribute_count, distinct_special_tokens=data.distinct_special_tokens,
        atlas_file=data.atlas_file, indications=INDICATION in config.model.context, sections=data.sections,
    )


def build_dataset(
    config: Config, vocabularies: Vocabularies, split: str, train: bool = False
) -> StudyDataset | MixedDataset:
    """Build one split of `config.data.root`, with augmentation and `train_limit` if `train`, else with `eval_limit`.

    For "val", `config.eval.split` is used instead if it is set. Of several data sets, those that have the split are
    mixed, with `data.weights` if `train`; a single one stays as it is. Raises UserError as `StudyDataset` and
    `MixedDataset` do.
    """
    data = config.data
    if split == "val":
        split = config.eval.split or split
    augmentation = None
    if train:
        augmentation = Augmentation(
            rotate=data.rotate, translate=data.translate, scale=data.scale, intensity=data.intensity, crop=data.crop,
            squash=data.squash, domain_randomisation=data.domain_randomisation,
        )
    roots = [root for root in data.roots if len(data.roots) == 1 or count_studies(root)[split]] or data.roots[:1]
    data_sets = [
        StudyDataset(
            root=root, split=split, vocabularies=vocabularies, cleaning=data.cleaning, image_size=data.image_size,
            max_tokens=data.max_tokens, views=data.views, uncertain=data.uncertain, augmentation=augmentation,
            boxes_file=data.boxes_file, limit=data.train_limit if train else data.eval_limit, seed=config.seed,
            cache_images=data.cache_images, token_regions=train and config.loss.grounding > 0,
            stage_dir=data.stage_dir, number=number, context=context_settings(config, train),
            sections=data.sections,
        )
        for number, root in enumerate(roots)
    ]
    weights = data.weights if train else None
    return data_sets[0] if len(data_sets) == 1 and not weights else MixedDataset(data_sets, weights)


def build_validation_dataset(config: Config, vocabularies: Vocabularies) -> StudyDataset | MixedDataset:
    """Build the split that training validates on: at most `eval.validation_limit` studies of "val"."""
    limits = [limit for limit in (config.data.eval_limit, config.eval.validation_limit) if limit is not None]
    data = dataclasses.replace(config.data, eval_limit=min(limits, default=None))
    return build_dataset(dataclasses.replace(config, data=data), vocabularies, "val")


def name_exact_weights(config: Config) -> Config:
    """Return `config` with the version of the weights that model.patch_encoder.weights=pretrained stands for.

    For an `hf:` trunk also with its architecture. Raises UserError for a backbone that does not have them.
    """
    trunk = config.model.patch_encoder
    exact = _as_user_error(lambda: exact_trunk(trunk.backbone, trunk.weights, trunk.architecture))
    trunk = dataclasses.replace(trunk, **exact._asdict())
    return dataclasses.replace(config, model=dataclasses.replace(config.model, patch_encoder=trunk))


def build_model(config: Config, vocabularies: Vocabularies) -> SGRRG:
    """Build the model with initial weights (the trunk's from `patch_encoder.weights`).

    Entries of a file of weights that the trunk has no use for are listed on stderr. Raises UserError if backbone,
    stride or weights of the trunk are not available.
    """
    settings, trunk = config.model, config.model.patch_encoder
    patch_encoder = _as_user_error(
        lambda: build_patch_encoder(
            trunk.backbone, trunk.stride, trunk.weights, trunk.stochastic_depth, config.data.image_size,
            trunk.architecture,
        )
    )
    if patch_encoder.unused_weights and is_rank_zero():
        unused = patch_encoder.unused_weights
        print(
            f"{trunk.backbone} has no use for {len(unused)} of the weights of {trunk.weights}: "
            f"{truncate_list(unused, ', ')}", file=sys.stderr,
        )
    if not settings.report:
        return _build_image_side(settings, patch_encoder, vocabularies)
    channels = patch_encoder.channels
    if settings.memory and settings.graph_in != "none" and channels % settings.memory_heads:
        rule = f"must divide the {channels} channels of {settings.patch_encoder.backbone}"
        raise wrong_value("model.memory_heads", settings.memory_heads, rule)
    style = _layer_style(settings)
    image_encoder = ImageEncoder(
        channels, settings.width, settings.heads, settings.feedforward, settings.image_layers, settings.dropout,
        settings.image_dropout, _graph_attentions(settings, "encoder", settings.image_layers, style),
        settings.patch_projection, settings.patch_positions, style,
    )
    tokenizer, decoder_style = vocabularies.tokenizer, decoder_layer_style(settings, style)
    decoder = ReportDecoder(
        len(tokenizer), settings.width, settings.heads, settings.feedforward, settings.decoder_layers,
        config.data.max_tokens, settings.dropout,
        _graph_attentions(settings, "decoder", settings.decoder_layers, decoder_style), style,
        build_relational_memory(settings), decoder_style,
    )
    observation_head = _build_observation_head(settings, channels, vocabularies)
    graph = _build_graph_parts(settings, channels, vocabularies) if settings.graph_in != "none" else None
    model = SGRRG(
        patch_encoder, image_encoder, decoder, graph, observation_head,
        bos_id=tokenizer.bos_id, eos_id=tokenizer.eos_id, pad_id=tokenizer.pad_id,
        shared_memory=build_shared_memory(settings, vocabularies),
        discriminative_map=build_discriminative_map(settings, channels, style),
        context=build_context_parts(settings, channels, vocabularies, style),
    )
    initialise(model, settings.initial_std)
    return model


def _build_image_side(settings: ModelConfig, patch_encoder: PatchEncoder, vocabularies: Vocabularies) -> SGRRG:
    """Build the model for `model.report=false`. What it has, it has under the same names as one that writes reports."""
    channels, tokenizer = patch_encoder.channels, vocabularies.tokenizer
    graph = None
    if settings.localizer:
        graph = GraphParts(
            selector=None, pooler=None, attribute_predictor=None, encoder=None, atlas=vocabularies.anatomy.boxes,
            localizer=RegionLocalizer(channels, vocabularies.anatomy.boxes, dropout=settings.dropout),
            visible_threshold=settings.visible_threshold,
        )
    model = SGRRG(
        patch_encoder, image_encoder=None, decoder=None, graph=graph,
        observation_head=_build_observation_head(settings, channels, vocabularies),
        bos_id=tokenizer.bos_id, eos_id=tokenizer.eos_id, pad_id=tokenizer.pad_id,
    )
    initialise(model, settings.initial_std)
    return model


def _build_observation_head(
    settings: ModelConfig, channels: int, vocabularies: Vocabularies
) -> ObservationHead | None:
    return ObservationHead(channels, len(vocabularies.observations)) if settings.observation_head else None


def load_model(checkpoint: Checkpoint, config: Config) -> SGRRG:
    """Build the model of a checkpoint, with its tuned thresholds if `eval.thresholds` says so.

    Raises UserError if the checkpoint's weights do not fit `config`, or if `config` has other default thresholds than
    the checkpoint while the tuned ones are in use, so that changing them would have no effect.
    """
    # The checkpoint includes the trunk's weights: downloading the pretrained ones would be useless.
    trunk = dataclasses.replace(config.model.patch_encoder, weights="none")
    config = dataclasses.replace(config, model=dataclasses.replace(config.model, patch_encoder=trunk))
    model = build_model(config, checkpoint.vocabularies)
    load_weights(model, checkpoint.weights)
    if checkpoint.thresholds is not None and config.eval.thresholds == "tuned":
        for name in ("region_threshold", "attribute_threshold"):
            value = getattr(config.model, name)
            if value != getattr(checkpoint.config.model, name):
                raise wrong_value(
                    f"model.{name}", value, f"{checkpoint.directory} has tuned thresholds: add eval.thresholds=default"
                )
        load_thresholds(model, checkpoint.vocabularies, checkpoint.thresholds)
    return model


def box_source_of_new_images(model: SGRRG, config: Config) -> BoxSource:
    """Return the box source for images outside any data set, which have neither a boxes file nor an annotation.

    That is the localizer if the model has one and `config.eval` does not choose the atlas, else the atlas.
    """
    has_localizer = model.graph is not None and model.graph.localizer is not None
    if has_localizer and config.eval.box_source != BoxSource.ATLAS:
        return BoxSource.LOCALIZER
    return BoxSource.ATLAS


def build_criterion(config: Config, vocabularies: Vocabularies) -> ReportCriterion:
    """Build the criterion with the weights of `config.loss`.

    `loss.attribute_pos_weight` counts the attributes of the training split of `config.data.root`; that raises UserError
    as `joined_statistics` does.
    """
    loss = config.loss
    weights = {term: getattr(loss, term) for term in ReportCriterion.TERMS}
    if config.train.stage == REWARD:
        weights["report"] *= 1 - config.reward.share
    attribute_weights = None
    if loss.attribute_pos_weight is not None and loss.attributes > 0:
        positives, annotated = count_attributes(
            joined_statistics(config.data.roots, config.data.cleaning), vocabularies
        )
        attribute_weights = positive_weights(
            torch.from_numpy(positives), torch.from_numpy(annotated), loss.attribute_pos_weight
        )
    change_weights = None
    if PRIOR in config.model.context and loss.change > 0:
        change_weights = class_weights(count_changes(config.data.roots))
    return ReportCriterion(
        weights, vocabularies.attributes.slots(), loss.contrast_margin, attribute_weights, loss.consistency_words,
        change_weights,
    )


def build_trainer(config: Config, device: torch.device) -> Trainer:
    """Build everything that a run needs, from the data sets to the trainer, with seeded weights."""
    seed_everything(config.seed)
    vocabularies = build_vocabularies(config)
    if config.model.report:
        check_words(config, vocabularies)
    train_dataset = build_dataset(config, vocabularies, "train", train=True)
    validator = build_validator(config, vocabularies, train_dataset)
    criterion = build_criterion(config, vocabularies)
    criterion, stage = build_stage(config, vocabularies, criterion, validator, train_dataset)
    return Trainer(
        config=config, vocabularies=vocabularies, model=build_model(config, vocabularies), criterion=criterion,
        evaluator=validator, train_dataset=train_dataset,
        validation_dataset=build_validation_dataset(config, vocabularies), device=device, stage=stage,
    )


def check_words(config: Config, vocabularies: Vocabularies) -> None:
    """Raise UserError if no word is frequent enough to be learned; warn if the training reports have no words."""
    data = config.data
    if set(vocabularies.tokenizer.words) - set(MARKERS.values()) != {UNKNOWN_WORD}:
        return
    counts = vocabulary_builder.count_report_words(
        joined_statistics(data.roots, data.cleaning), data.roots, data.cleaning, data.sections
    )
    if counts:
        raise wrong_value(
            "data.min_word_count", config.data.min_word_count,
            f"the most frequent word of the training reports occurs {max(counts.values())} times, so the model could "
            f"only write {UNKNOWN_WORD}: lower it",
        )
    if is_rank_zero():
        print(
            f"The training reports of {config.data.root} have no words: the model learns to write empty reports",
            file=sys.stderr,
        )


def build_evaluator(config: Config, vocabularies: Vocabularies, beam_size: int) -> Evaluator:
    """Build the evaluator of `config.eval`.

    The oracle graph always uses the annotated boxes, so its box source is reported as `oracle_boxes`, regardless of
    `eval.box_source`. A model with an int8 decoder runs in fp32.
    """
    graph_source, box_source = config.eval.graph_source, config.eval.box_source
    if graph_source == GraphSource.ORACLE:
        box_source = BoxSource.ORACLE_BOXES
    precision = choose_precision(config.train.precision, select_device(config.train.device))
    return Evaluator(
        vocabularies=vocabularies, protocol=config.eval.protocol, max_tokens=config.data.max_tokens,
        graph_source=graph_source, box_source=box_source, beam_size=beam_size,
        precision=Precision.FP32 if config.eval.int8 else precision,
        visible_threshold=config.model.visible_threshold, writes_reports=config.model.report,
        context=config.eval.context,
    )


def build_validator(
    config: Config, vocabularies: Vocabularies, training: StudyDataset | MixedDataset
) -> SplitValidator:
    """Build what scores the model during training; `training` is the training split, for the image-blind baseline."""
    return SplitValidator(build_evaluator(config, vocabularies, config.eval.validation_beam_size), training)


def _layer_style(settings: ModelConfig) -> LayerStyle:
    return LayerStyle(_NORMS[settings.norm], _ACTIVATIONS[settings.activation])


def _graph_attentions(
    settings: ModelConfig, where: str, layers: int, style: LayerStyle
) -> list[GraphAttention] | None:
    """Build one graph attention per layer of the encoder or decoder; None if `graph_in` does not name it."""
    if settings.graph_in not in (where, "both"):
        return None
    return [
        GraphAttention(
            settings.width, settings.heads, settings.dropout, settings.sentence_attention, settings.fuse,
            settings.gate, style,
        )
        for _ in range(layers)
    ]


def _build_graph_parts(settings: ModelConfig, channels: int, vocabularies: Vocabularies) -> GraphParts:
    sizes = list(vocabularies.attributes.sizes)
    regions = len(vocabularies.anatomy.regions)
    names = vocabularies.attributes.name_ids if settings.share_attribute_names else None
    atlas = vocabularies.anatomy.boxes
    memory = None
    if settings.memory:
        memory = RegionMemory(channels, settings.memory_slots, settings.memory_heads, settings.memory_top)
    return GraphParts(
        selector=RegionSelector(channels, regions, settings.dropout, memory),
        pooler=RegionPooler(channels, settings.dropout, settings.roi),
        attribute_predictor=AttributePredictor(channels, sizes, names),
        encoder=SceneGraphEncoder(
            channels, settings.width, settings.heads, settings.feedforward, settings.graph_layers, sizes,
            settings.dropout, settings.encode, settings.pooling, names, _layer_style(settings),
            changes=len(CHANGES) if PRIOR in settings.context else 0,
        ),
        localizer=RegionLocalizer(channels, atlas, dropout=settings.dropout) if settings.localizer else None,
        atlas=atlas,
        region_threshold=settings.region_threshold,
        attribute_threshold=settings.attribute_threshold,
        visible_threshold=settings.visible_threshold,
    )


def _as_user_error(build: Callable[[], Built]) -> Built:
    """Return `build()`, with the built-in exceptions that `models/` raises as UserError."""
    try:
        return build()
    except (ValueError, FileNotFoundError, ConnectionError) as error:
        raise UserError(str(error)) from error
