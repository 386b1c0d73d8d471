"""Typed configuration: the defaults of dataclasses, overridden by a YAML file, overridden by `key=value` arguments.

An unknown key or a value of the wrong type is an error that names the key. Models, criterion and data sets do not see a
`Config`: `builders.py` passes them plain values.
"""

from dataclasses import dataclass, field
from enum import StrEnum
from functools import reduce
from pathlib import Path

from omegaconf import Container, DictConfig, OmegaConf
from omegaconf.errors import OmegaConfBaseException
from yaml import YAMLError

from data.errors import UserError, missing, wrong_value
from models.outputs import BoxSource, GraphSource


class Schedule(StrEnum):
    """The learning rate after the warm-up."""

    STEP = "step"      # multiplied by `decay` every `decay_every` epochs
    COSINE = "cosine"  # cosine annealing to 1 % over the remaining epochs


class Precision(StrEnum):
    """Precision of the forward pass; weights are always fp32."""

    FP32 = "fp32"
    BF16 = "bf16"
    FP16 = "fp16"  # with a gradient scaler


@dataclass
class DataConfig:
    """The prepared data set and how it is loaded.

    root              folder of the prepared data set (with dataset.yaml and records.jsonl)
    cleaning          rules for reports: iu_xray, mimic_cxr or corrected
    image_size        side of the square network input, pixels
    max_tokens        maximum length of a report in tokens, counting BOS and EOS
    min_word_count    occurrences in the training split that a word needs to enter the vocabulary
    min_attribute_count   occurrences in the training split that an attribute of a region needs to enter the vocabulary
    views             images per study: 1 (frontal) or 2
    distinct_special_tokens   padding, BOS and EOS have different ids (False: all share id 0, as in the R2Gen family)
    uncertain         uncertain observations count as: positive, negative or ignored
    boxes_file        a detector's JSON lines {"id": study, "boxes": {region: [x1, y1, x2, y2]}}, in 0..1 of the image
    atlas_file        an anatomy.yaml with other atlas boxes; null: the training split's mean boxes, or the shipped ones
                      if it has no boxes
    rotate, translate, scale, intensity   augmentation: degrees, share of the side, relative zoom, relative contrast
                      and brightness
    batch_size        studies per micro-batch and process
    workers           data loader processes
    cache_images      keep decoded images in memory (uint8, after resizing)
    train_limit       number of studies of the training split to use, drawn with the seed; null: all
    eval_limit        number of studies of the validation and test splits to use; null: all
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

    backbone   name of a torchvision classification CNN or Swin, or small_resnet
    stride     side of a patch in pixels: 16 or 32
    weights    imagenet, none, or a file with a state dict
    """

    backbone: str = "resnet101"
    stride: int = 32
    weights: str = "imagenet"


@dataclass
class ModelConfig:
    """Sizes and options of SGRRG; names as in the paper's ablations.

    width, heads, feedforward         D, attention heads and feed-forward width of every transformer layer
    image_layers, graph_layers, decoder_layers   depths
    dropout, image_dropout            dropout everywhere; after the projection of the patches
    encode                            oa-c, oa-d or oa-pm: which nodes of the graph attend to each other
    sentence_attention                subgraph, hierarchical or node: what a token attends to
    pooling                           max or mean: pools the nodes of a sub-graph into its vector
    graph_in                          decoder, encoder, both or none: where the graph is attended to
    fuse                              attention, concat or add: combines the attended graph with the state
    gate                              learned gate between the attended graph and the state
    memory, memory_slots, memory_heads, memory_top   the region selector's memory
    roi                               pool (as in the release) or align
    share_attribute_names             attributes of the same name share weights across regions
    initial_std                       standard deviation of initial weights, except in the trunk
    observation_head                  proxy task 1
    localizer                         the model predicts boxes itself
    region_threshold, attribute_threshold, visible_threshold   probability thresholds in inference
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
    """Weights of the loss terms; 0 disables a term. Defaults from the paper, except for boxes, visibility, grounding.

    grounding         tokens attend to the sub-graphs of the regions that their sentence is about (`data/text_graph.py`)
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
    """AdamW with two learning rates, warm-up, schedule and gradient clipping.

    lr_patch_encoder, lr         learning rates of the trunk and of the rest
    weight_decay                 applies to matrices only
    warmup_epochs                linear warm-up from lr / 100
    schedule, decay, decay_every see `Schedule`
    clip_value, clip_norm        gradient clipping by value and by norm; null: off
    accumulate                   micro-batches per optimiser step
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
    """Training.

    epochs                 passes over the training split
    graph_source           oracle (the paper), mixed, predicted or none: the graph that the decoder is trained on
    mix_to, mix_epochs     `mixed`: the share of studies with a predicted graph rises from 0 to mix_to over mix_epochs
    validate_every         epochs between validations; validate_from: the first epoch that is validated (from 1)
    monitor                validation score that selects the best checkpoint, or a weighted sum: "bleu_4 + 0.5 * meteor"
    patience               validations without improvement before stopping early; null: never
    log_every              optimiser steps between lines of the log
    max_steps              optimiser steps after which training stops; null: no limit
    save_every             optimiser steps between checkpoints inside an epoch; null: at the end of epochs only
    precision, compile, channels_last   see `Precision`; torch.compile; memory format of images
    freeze                 parts of the model that are not trained (prefixes of parameter names, e.g. patch_encoder)
    init_from              checkpoint to initialise weights from: what fits is loaded (rows of words and attributes by
                           their names), the rest is listed
    resume                 resume from results/<name>/last if it exists
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

    split                      split used instead of val and test, for data sets without them; null: val and test
    graph_source, box_source   where graph and boxes come from; printed with every score
    beam_size                  beam size of the test; validation_beam_size that of validations (1: greedy)
    protocol                   r2gen: references truncated to max_tokens, rare words as <unk>; full: complete, cleaned
    meteor_in_validation       compute METEOR in validations, which takes seconds each time
    batch_size                 studies per batch
    int8                       test on a CPU with the decoder's matrix products in int8 (see docs/speed.md) and the rest
                               in fp32, regardless of train.precision
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
    """The configuration of an experiment. `name` is the run folder inside `results`."""

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
        """The run folder, results/NAME."""
        return Path(self.results) / self.name


# Settings with a few allowed values, checked here once instead of at every use.
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

# Lower bounds of numbers; null is not checked.
_MINIMA = {
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
    """Load a YAML file (None: the defaults) and apply `key=value` overrides.

    Raises UserError, naming the key, if a key is unknown or a value has the wrong type or is not allowed; and, naming
    the file, if it is missing or not YAML.
    """
    merged = OmegaConf.structured(Config)
    try:
        if path is not None:
            if not Path(path).is_file():
                raise missing("configuration", path, "use one of configs/*.yaml")
            merged = _merge(merged, OmegaConf.load(path), f"Configuration {path}")
        for override in overrides or []:
            if "=" not in override:
                raise UserError(f"Cannot read the argument '{override}': write key=value, e.g. train.epochs=5")
            merged = _merge(merged, OmegaConf.from_dotlist([override]), f"The argument {override}")
        config = OmegaConf.to_object(merged)
    except (OmegaConfBaseException, YAMLError, UnicodeDecodeError) as error:
        where = f" (key {error.full_key})" if getattr(error, "full_key", None) else ""
        raise UserError(f"Configuration {path or ''} {overrides or ''}: {str(error).splitlines()[0]}{where}") from error
    _check(config)
    return config


def _merge(settings: DictConfig, overrides: Container, where: str) -> DictConfig:
    """Merge `overrides` into `settings`. Raises UserError for a value in place of a group of settings."""
    if not isinstance(overrides, DictConfig):
        raise UserError(f"{where} holds a list: write one setting per line, as NAME: VALUE")
    groups = [("", settings, overrides)]
    while groups:
        prefix, group, new_values = groups.pop()
        for name in new_values:
            if name in group and isinstance(group[name], DictConfig):
                if not isinstance(new_values[name], DictConfig):
                    raise UserError(f"{where}: {prefix}{name} is a group of settings: set {prefix}{name}.NAME instead")
                groups.append((f"{prefix}{name}.", group[name], new_values[name]))
    return OmegaConf.merge(settings, overrides)


def config_to_yaml(config: Config) -> str:
    """Return the complete configuration as YAML that `load_config` can read."""
    return OmegaConf.to_yaml(OmegaConf.structured(config))


def _value(config: Config, key: str) -> object:
    """Return the setting with the dotted `key`."""
    return reduce(getattr, key.split("."), config)


def _check(config: Config) -> None:
    """Raise UserError if a value is out of range or contradicts another one."""
    for key, allowed in _CHOICES.items():
        value = _value(config, key)
        if value not in allowed:
            raise wrong_value(key, value, f"choose one of {', '.join(str(choice) for choice in allowed)}")
    for key, minimum in _MINIMA.items():
        value = _value(config, key)
        if value is not None and not value >= minimum:
            raise wrong_value(key, value, f"must be at least {minimum}")
    model = config.model
    for name in ("dropout", "image_dropout"):
        if getattr(model, name) >= 1:
            raise wrong_value(f"model.{name}", getattr(model, name), "must be below 1")
    if model.width % model.heads:
        raise wrong_value("model.width", model.width, f"must be a multiple of model.heads={model.heads}")
    if model.width % 2:
        raise wrong_value("model.width", model.width, "sine and cosine positions need an even width")
    if model.memory_top > model.memory_slots:
        rule = f"must be at most model.memory_slots={model.memory_slots}"
        raise wrong_value("model.memory_top", model.memory_top, rule)
    if config.eval.box_source == BoxSource.FILE and config.data.boxes_file is None:
        raise UserError("eval.box_source=file needs a detector's file: set data.boxes_file")
    if not model.localizer and BoxSource.LOCALIZER == config.eval.box_source and model.graph_in != "none":
        raise UserError("model.localizer=false leaves no boxes for eval.box_source=localizer: choose atlas or file")
