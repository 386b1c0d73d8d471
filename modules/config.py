"""Typed configuration: dataclasses <- a YAML file <- `key=value` overrides.

An unknown key or a value of the wrong type is an error that names the key. Configuration stops at `builders.py`: no
module beyond it sees a `Config`.
"""

from dataclasses import dataclass, field
from enum import StrEnum
from functools import reduce
from pathlib import Path

from omegaconf import Container, DictConfig, OmegaConf
from omegaconf.errors import OmegaConfBaseException
from yaml import YAMLError

from data.errors import UserError
from models.outputs import BoxSource, GraphSource


class Schedule(StrEnum):
    """How the learning rate goes on after the warm-up."""

    STEP = "step"      # times `decay` every `decay_every` epochs
    COSINE = "cosine"  # to 1 % of its height over the epochs left


class Precision(StrEnum):
    """Arithmetic of the forward pass; weights stay fp32."""

    FP32 = "fp32"
    BF16 = "bf16"
    FP16 = "fp16"  # with a gradient scaler


@dataclass
class DataConfig:
    """Which prepared data set, and how it is fed.

    root              folder of the prepared data set (holds dataset.yaml and records.jsonl)
    cleaning          rules for reports: iu_xray, mimic_cxr or corrected
    image_size        side of the square image fed to the network, pixels
    max_tokens        ids a report may have, counting BOS and EOS
    min_word_count    a word enters the vocabulary with this many occurrences in the training split
    min_attribute_count   an attribute enters a region's list with this many occurrences in the training split
    views             images a study: 1 (frontal) or 2
    distinct_special_tokens   padding, BOS and EOS get ids of their own (False: all share id 0, as in the R2Gen family)
    uncertain         uncertain observations count as: positive, negative or ignored
    boxes_file        JSON lines {"id": study, "boxes": {region: [x1, y1, x2, y2]}} of a detector, 0..1 of the image
    atlas_file        an anatomy.yaml with other atlas boxes; null: the training split's mean boxes, else the shipped
    rotate, translate, scale, intensity   augmentation: degrees, share of the side, relative zoom, relative contrast
                      and brightness
    batch_size        studies a step and process
    workers           loader processes
    cache_images      keep decoded images in memory (uint8, after resizing)
    train_limit       studies of the training split to use, drawn with the seed; null: all
    eval_limit        studies of the validation and test splits to use; null: all
    """

    root: str = "data/phantom"
    cleaning: str = "corrected"
    image_size: int = 224
    max_tokens: int = 100
    min_word_count: int = 3
    min_attribute_count: int = 10
    views: int = 1
    distinct_special_tokens: bool = True
    uncertain: str = "positive"
    boxes_file: str | None = None
    atlas_file: str | None = None
    rotate: float = 10.0
    translate: float = 0.0
    scale: float = 0.0
    intensity: float = 0.0
    batch_size: int = 16
    workers: int = 2
    cache_images: bool = False
    train_limit: int | None = None
    eval_limit: int | None = None


@dataclass
class PatchEncoderConfig:
    """The trunk.

    backbone   a torchvision classification CNN or Swin by name, or small_resnet
    stride     pixels a patch: 16 or 32
    weights    imagenet, none, or a file with a state dict
    """

    backbone: str = "resnet101"
    stride: int = 32
    weights: str = "imagenet"


@dataclass
class ModelConfig:
    """Sizes and switches of SGRRG; names as in the paper's ablations.

    width, heads, feedforward         D, attention heads and feed-forward width of every transformer layer
    image_layers, graph_layers, decoder_layers   depths
    dropout, image_dropout            everywhere; only after the projection of the patches
    encode                            oa-c, oa-d or oa-pm: which nodes see each other
    sentence_attention                subgraph, hierarchical or node: what a word attends to
    pooling                           max or mean: sub-graph nodes to its vector
    graph_in                          decoder, encoder, both or none
    fuse                              attention, concat or add
    gate                              a learned gate between the attended graph and the state
    memory, memory_slots, memory_heads, memory_top   the region selector's memory
    roi                               pool (as the release) or align
    share_attribute_names             an attribute shares weights with those of the same name in other regions
    initial_std                       standard deviation of fresh weights, the trunk's aside
    observation_head                  proxy task 1
    localizer                         whether the model finds its own boxes
    region_threshold, attribute_threshold, visible_threshold   probabilities above which each counts at test
    """

    patch_encoder: PatchEncoderConfig = field(default_factory=PatchEncoderConfig)
    width: int = 512
    heads: int = 8
    feedforward: int = 512
    image_layers: int = 3
    graph_layers: int = 3
    decoder_layers: int = 3
    dropout: float = 0.1
    image_dropout: float = 0.2
    encode: str = "oa-c"
    sentence_attention: str = "subgraph"
    pooling: str = "max"
    graph_in: str = "decoder"
    fuse: str = "attention"
    gate: bool = False
    memory: bool = True
    memory_slots: int = 512
    memory_heads: int = 32
    memory_top: int = 32
    roi: str = "pool"
    share_attribute_names: bool = False
    initial_std: float = 0.02
    observation_head: bool = True
    localizer: bool = True
    region_threshold: float = 0.2
    attribute_threshold: float = 0.5
    visible_threshold: float = 0.5


@dataclass
class LossConfig:
    """Weights of the loss terms (0 switches a term off); defaults from the paper, box terms and grounding from us.

    grounding         words look at the sub-graphs of the regions that their sentence is about (`data/text_graph.py`)
    contrast_margin   cosine above which sub-graphs of different abnormality are pushed apart
    """

    report: float = 1.0
    observations: float = 0.25
    regions: float = 0.25
    attributes: float = 0.1
    contrast: float = 0.1
    boxes: float = 1.0
    visibility: float = 0.25
    grounding: float = 0.0
    contrast_margin: float = 0.4


@dataclass
class OptimConfig:
    """AdamW with two learning rates, warm-up, schedule and clipping.

    lr_patch_encoder, lr         learning rates of the trunk and of the rest
    weight_decay                 on matrices only
    warmup_epochs                linear from lr / 100
    schedule, decay, decay_every see `Schedule`
    clip_value, clip_norm        gradient clipping by value and by norm; null: off
    accumulate                   micro-batches a step
    """

    lr_patch_encoder: float = 1e-4
    lr: float = 2e-4
    weight_decay: float = 5e-5
    warmup_epochs: float = 5.0
    schedule: Schedule = Schedule.STEP
    decay: float = 0.8
    decay_every: int = 10
    clip_value: float | None = 0.1
    clip_norm: float | None = None
    accumulate: int = 1


@dataclass
class TrainConfig:
    """The run.

    epochs                 passes over the training split
    graph_source           oracle (the paper), mixed, predicted or none: the graph that the decoder is trained on
    mix_to, mix_epochs     `mixed`: the share of studies with a predicted graph rises from 0 to mix_to over mix_epochs
    validate_every         epochs between validations; validate_from: the first epoch that is validated (from 1)
    monitor                validation score that selects the best checkpoint, or a weighted sum: "bleu_4 + 0.5 * meteor"
    patience               validations without a better score before stopping; null: never
    log_every              optimiser steps between lines of the log
    max_steps              stop after so many optimiser steps; null: no limit
    save_every             optimiser steps between saves inside an epoch; null: at epoch ends only
    precision, compile, channels_last   see `Precision`; torch.compile; memory format of images
    freeze                 parts of the model whose weights stay (a prefix of parameter names, e.g. patch_encoder)
    init_from              checkpoint to start from: what fits is loaded (rows of words and attributes by their names),
                           the rest is listed
    resume                 go on from results/<name>/last where it exists
    device                 auto, cpu or cuda
    """

    epochs: int = 30
    graph_source: GraphSource = GraphSource.ORACLE
    mix_to: float = 0.5
    mix_epochs: float = 10.0
    validate_every: int = 1
    validate_from: int = 1
    monitor: str = "bleu_4 + 0.5 * meteor"
    patience: int | None = 7
    max_steps: int | None = None
    save_every: int | None = None
    log_every: int = 20
    precision: Precision = Precision.FP32
    compile: bool = False
    channels_last: bool = False
    freeze: list[str] = field(default_factory=list)
    init_from: str | None = None
    resume: bool = False
    device: str = "auto"


@dataclass
class EvalConfig:
    """Validation and test.

    split                      the split that stands in for val and test, for a data set that lacks them; null: none
    graph_source, box_source   what the model sees; printed with every score
    beam_size                  of the test; validation_beam_size of the validation (1: greedy)
    protocol                   r2gen: references cut to max_tokens ids, rare words as <unk>; full: complete cleaned ones
    meteor_in_validation       METEOR costs seconds a validation
    batch_size                 studies a batch
    int8                       the test on a CPU: the decoder's matrix products in int8 (see docs/speed.md), all else in
                               fp32 whatever train.precision says
    """

    split: str | None = None
    graph_source: GraphSource = GraphSource.PREDICTED
    box_source: BoxSource = BoxSource.LOCALIZER
    beam_size: int = 3
    validation_beam_size: int = 1
    protocol: str = "r2gen"
    meteor_in_validation: bool = True
    batch_size: int = 32
    int8: bool = False


@dataclass
class Config:
    """A whole experiment. `name` is the run folder below `results`."""

    name: str = "unnamed"
    results: str = "results"
    seed: int = 0
    data: DataConfig = field(default_factory=DataConfig)
    model: ModelConfig = field(default_factory=ModelConfig)
    loss: LossConfig = field(default_factory=LossConfig)
    optim: OptimConfig = field(default_factory=OptimConfig)
    train: TrainConfig = field(default_factory=TrainConfig)
    eval: EvalConfig = field(default_factory=EvalConfig)

    @property
    def run_dir(self) -> Path:
        """results/NAME."""
        return Path(self.results) / self.name


# Strings with few allowed values: checked here, once, instead of at every use.
_CHOICES = {
    "data.cleaning": ("iu_xray", "mimic_cxr", "corrected"),
    "data.uncertain": ("positive", "negative", "ignored"),
    "data.views": (1, 2),
    "model.patch_encoder.stride": (16, 32),
    "model.encode": ("oa-c", "oa-d", "oa-pm"),
    "model.sentence_attention": ("subgraph", "hierarchical", "node"),
    "model.pooling": ("max", "mean"),
    "model.graph_in": ("decoder", "encoder", "both", "none"),
    "model.fuse": ("attention", "concat", "add"),
    "model.roi": ("pool", "align"),
    "train.device": ("auto", "cpu", "cuda"),
    "eval.split": (None, "train", "val", "test"),
    "eval.protocol": ("r2gen", "full"),
    "eval.graph_source": (GraphSource.PREDICTED, GraphSource.ORACLE, GraphSource.NONE),
}

# The least that a number may be; null, where it is allowed, is no number.
_LEAST = {
    "seed": 0,
    "data.image_size": 1, "data.batch_size": 1, "data.workers": 0, "data.train_limit": 1, "data.eval_limit": 1,
    "data.max_tokens": 3,  # BOS, a word, EOS
    "model.width": 1, "model.heads": 1, "model.feedforward": 1, "model.image_layers": 0, "model.graph_layers": 0,
    "model.decoder_layers": 1, "model.dropout": 0, "model.image_dropout": 0, "model.memory_slots": 1,
    "model.memory_heads": 1, "model.memory_top": 1, "model.initial_std": 0,
    "optim.lr_patch_encoder": 0, "optim.lr": 0, "optim.weight_decay": 0, "optim.decay_every": 1, "optim.accumulate": 1,
    "train.epochs": 1, "train.validate_every": 1, "train.log_every": 1, "train.save_every": 1, "train.max_steps": 1,
    "eval.beam_size": 1, "eval.validation_beam_size": 1, "eval.batch_size": 1,
}


def load_config(path: str | Path | None, overrides: list[str] | None = None) -> Config:
    """The experiment of a YAML file (None: the defaults) with `key=value` overrides on top.

    Raises UserError naming the key where a key is unknown, a value is of the wrong type or not among its choices, and
    naming the file where it is missing or not YAML.
    """
    merged = OmegaConf.structured(Config)
    try:
        if path is not None:
            if not Path(path).is_file():
                raise UserError(f"No configuration at {path}: give one of configs/*.yaml")
            merged = _merged(merged, OmegaConf.load(path), f"Configuration {path}")
        for override in overrides or []:
            if "=" not in override:
                raise UserError(f"Cannot read the argument '{override}': write key=value, e.g. train.epochs=5")
            merged = _merged(merged, OmegaConf.from_dotlist([override]), f"The argument {override}")
        config = OmegaConf.to_object(merged)
    except (OmegaConfBaseException, YAMLError, UnicodeDecodeError) as error:
        where = f" (key {error.full_key})" if getattr(error, "full_key", None) else ""
        raise UserError(f"Configuration {path or ''} {overrides or ''}: {str(error).splitlines()[0]}{where}") from error
    _check(config)
    return config


def _merged(settings: DictConfig, given: Container, where: str) -> DictConfig:
    """`settings` with those `given` on top. Raises UserError for a plain value in place of a group of settings."""
    if not isinstance(given, DictConfig):
        raise UserError(f"{where} holds a list: write one setting a line, as NAME: VALUE")
    waiting = [("", settings, given)]
    while waiting:
        prefix, group, part = waiting.pop()
        for name in part:
            if name in group and isinstance(group[name], DictConfig):
                if not isinstance(part[name], DictConfig):
                    raise UserError(f"{where}: {prefix}{name} is a group of settings: give {prefix}{name}.NAME a value")
                waiting.append((f"{prefix}{name}.", group[name], part[name]))
    return OmegaConf.merge(settings, given)


def config_to_yaml(config: Config) -> str:
    """The merged configuration as YAML that `load_config` reads back."""
    return OmegaConf.to_yaml(OmegaConf.structured(config))


def _value(config: Config, key: str) -> object:
    """The setting under the dotted `key`."""
    return reduce(getattr, key.split("."), config)


def _check(config: Config) -> None:
    """Raise UserError for a value that no part of the program can work with."""
    for key, allowed in _CHOICES.items():
        value = _value(config, key)
        if value not in allowed:
            raise UserError(f"{key}={value}: choose one of {', '.join(str(choice) for choice in allowed)}")
    for key, least in _LEAST.items():
        value = _value(config, key)
        if value is not None and not value >= least:
            raise UserError(f"{key}={value}: must be at least {least}")
    model = config.model
    for name in ("dropout", "image_dropout"):
        if getattr(model, name) >= 1:
            raise UserError(f"model.{name}={getattr(model, name)}: must be below 1")
    if model.width % model.heads:
        raise UserError(f"model.width={model.width} is not a multiple of model.heads={model.heads}")
    if model.width % 2:
        raise UserError(f"model.width={model.width}: sine and cosine positions need an even width")
    if model.memory_top > model.memory_slots:
        raise UserError(
            f"model.memory_top={model.memory_top} is more than model.memory_slots={model.memory_slots}: choose fewer"
        )
    if config.eval.box_source == BoxSource.FILE and config.data.boxes_file is None:
        raise UserError("eval.box_source=file needs boxes: name a detector's file as data.boxes_file")
    if not model.localizer and BoxSource.LOCALIZER == config.eval.box_source and model.graph_in != "none":
        raise UserError("model.localizer=false leaves no boxes for eval.box_source=localizer: choose atlas or file")
