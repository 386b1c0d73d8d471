"""Typed configuration: the defaults of dataclasses, overridden by a YAML file, overridden by `key=value` arguments.

An unknown key or a value of the wrong type is an error that names the key. Models, criterion and data sets do not see a
`Config`: `builders.py` passes them plain values.
"""

import io
from dataclasses import dataclass, field
from enum import StrEnum
from functools import reduce
from pathlib import Path
from typing import Any

from omegaconf import Container, DictConfig, OmegaConf
from omegaconf.errors import OmegaConfBaseException
from yaml import YAMLError

from data.errors import UserError, cannot_read, missing, reason, wrong_value
from data.sections.marked_text import SECTION_CHOICES
from models.outputs import BoxSource, GraphSource
from modules.settings.context import ContextUse, check_context
from modules.settings.data import DataConfig, check_roots, check_sections
from modules.settings.earlier import complete_earlier, convert_earlier
from modules.settings.limits import check_limits
from modules.settings.model import MODEL_CHOICES, MODEL_MINIMA, ModelConfig, check_sizes
from modules.settings.reward import CROSS_ENTROPY, REWARD_CHOICES, REWARD_MINIMA, RewardConfig, check_reward
from modules.settings.tracking import TENSORBOARD, check_trackers
from modules.settings.yaml_check import check_yaml, read_text


class Schedule(StrEnum):
    """The learning rate after the warm-up."""

    STEP = "step"      # multiplied by `decay` every `decay_steps` steps, counted from the start
    COSINE = "cosine"  # cosine annealing to 1 % at the last step of the run


class OptimizerName(StrEnum):
    """The optimiser. Both are Adam; they differ in what weight decay does."""

    ADAMW = "adamw"  # shrinks the weights by the learning rate times `weight_decay`
    ADAM = "adam"    # adds `weight_decay` times the weights to the gradient, as the R2Gen family does


class Precision(StrEnum):
    """Precision of the forward pass; weights are always fp32. On GPUs, fp32 products use TF32."""

    AUTO = "auto"  # bf16 on GPUs that compute with it, fp32 elsewhere
    FP32 = "fp32"
    BF16 = "bf16"
    FP16 = "fp16"  # with a gradient scaler


@dataclass
class LossConfig:
    """Weights of the loss terms; 0 disables a term. Defaults from the paper, except for boxes, visibility, grounding.

    grounding         tokens attend to the sub-graphs of the regions that their sentence is about (`data/text_graph.py`)
    change            the change of regions since the previous study, for a model that reads it
    attention_consistency   CAMANet's: the attention of words to patches resembles the discriminative map, which
                      model.discriminative_map makes
    consistency_words the share of a report's words that it aggregates
    consistency_layer the decoder layer whose attention it takes, from 1; null: the last
    image_contrast, text_contrast   XProNet's: responses of model.prototypes to the patches, or to the words, of studies
                      with common observations attract each other, others repel
    contrast_margin   cosine above which sub-graphs of different abnormality are pushed apart
    attribute_pos_weight   largest weight of a positive attribute in the loss; the weight is the number of negatives per
                      positive in the training split, at least 1. null: positives weigh as much as negatives
    """

    report: float = 1.0
    observations: float = 0.25
    regions: float = 0.25
    attributes: float = 0.1
    contrast: float = 0.1
    boxes: float = 1.0
    visibility: float = 0.25
    grounding: float = 0.0
    change: float = 0.25
    attention_consistency: float = 0.0
    image_contrast: float = 0.0
    text_contrast: float = 0.0
    consistency_words: float = 0.25
    consistency_layer: int | None = None
    contrast_margin: float = 0.4
    attribute_pos_weight: float | None = None


@dataclass
class OptimConfig:
    """Optimiser with two learning rates, warm-up, schedule and gradient clipping. Steps are optimiser steps.

    batch_size                   studies of a step, over all processes and micro-batches
    lr_patch_encoder, lr         learning rates of the trunk and of the rest
    optimizer                    see `OptimizerName`
    amsgrad, beta2, epsilon      the AMSGrad variant; decay rate of the squared gradients; added to their root
    weight_decay                 applies to matrices only
    warmup_steps                 steps of linear warm-up from lr / 100
    schedule, decay, decay_steps see `Schedule`
    decay_epochs                 epochs between two decays, instead of decay_steps; null: decay_steps counts
    clip_value, clip_norm        gradient clipping by value and by norm; null: off
    """

    batch_size: int = 16
    lr_patch_encoder: float = 1e-4
    lr: float = 2e-4
    optimizer: OptimizerName = OptimizerName.ADAMW
    amsgrad: bool = False
    beta2: float = 0.999
    epsilon: float = 1e-8
    weight_decay: float = 5e-5
    warmup_steps: int = 500
    schedule: Schedule = Schedule.STEP
    decay: float = 0.8
    decay_steps: int = 5000
    decay_epochs: float | None = None
    clip_value: float | None = 0.1
    clip_norm: float | None = None


@dataclass
class TrainConfig:
    """Training.

    stage                  cross_entropy, or reward: continues from train.init_from on the scores of sampled reports
                           (`RewardConfig`, docs/training.md)
    epochs                 passes over the training split
    graph_source           oracle (the paper), mixed, predicted or none: the graph that the decoder is trained on
    mix_to, mix_epochs     `mixed`: the share of studies with a predicted graph rises from 0 to mix_to over mix_epochs
    validate_every         epochs between validations; validate_from: the first epoch that is validated (from 1)
    validate_steps         optimiser steps between further validations; null: only at the end of epochs
    monitor                validation score that selects the best checkpoint, or a weighted sum: "bleu_4 + 0.5 * meteor"
                           (with data.sections=both also of one section: "impression_bleu_4")
    patience               validations without improvement before stopping early; null: never
    least_epochs           epochs before which a run is not stopped early
    log_every              optimiser steps between lines of the log
    max_steps              optimiser steps after which training stops and the schedule ends; null: no limit
    save_every             optimiser steps between checkpoints inside an epoch; null: at the end of epochs only
    context_dropout        probability to hide the indication, and independently the previous study, from a model that
                           reads them, so that it serves without them too
    precision, compile     see `Precision`; torch.compile
    channels_last          memory format of images and convolutions; null: for CNNs on GPUs
    deterministic          only deterministic GPU operations, at some cost in speed (see docs/training.md)
    freeze                 parts of the model that are not trained (prefixes of parameter names, e.g. patch_encoder);
                           they compute as in inference, without dropout
    init_from              checkpoint to initialise weights from: what fits is loaded (rows of words and attributes by
                           their names), the rest is listed
    tune_thresholds        end with `python -m modules.calibrate` of the best checkpoint
    resume                 resume from results/<name>/last if it exists
    track                  where curves go, beside log.jsonl: tensorboard, wandb, mlflow (see docs/training.md)
    device                 auto, cpu or cuda
    """

    stage: str = CROSS_ENTROPY
    epochs: int = 30
    graph_source: GraphSource = GraphSource.ORACLE
    mix_to: float = 0.5
    mix_epochs: float = 10.0
    validate_every: int = 1
    validate_from: int = 1
    validate_steps: int | None = None
    monitor: str = "bleu_4 + 0.5 * meteor"
    patience: int | None = 7
    least_epochs: int = 10
    max_steps: int | None = None
    save_every: int | None = None
    log_every: int = 20
    context_dropout: float = 0.3
    precision: Precision = Precision.AUTO
    compile: bool = False
    channels_last: bool | None = None
    deterministic: bool = False
    freeze: list[str] = field(default_factory=list)
    init_from: str | None = None
    tune_thresholds: bool = False
    resume: bool = False
    track: list[str] = field(default_factory=lambda: [TENSORBOARD])
    device: str = "auto"


@dataclass
class EvalConfig:
    """Validation and test.

    split                      split used instead of val and test, for data sets without them; null: val and test
    context                    none, indication, prior or all: what a model that reads the context is shown of it
    graph_source, box_source   where graph and boxes come from; printed with every score
    beam_size                  beam size of the test; validation_beam_size that of validations (1: greedy)
    protocol                   r2gen: references truncated to max_tokens, rare words as <unk>; full: complete, cleaned
    validation_limit           number of studies of the validation split to use in validations, drawn with the seed;
                               null: all
    meteor_in_validation       compute METEOR in validations if train.monitor names it; it takes seconds each time
    batch_size                 studies per batch
    thresholds                 of regions and attributes: tuned (those in the checkpoint, if `modules/calibrate.py` has
                               written them there) or default (model.region_threshold, model.attribute_threshold)
    int8                       test on a CPU with the decoder's matrix products in int8 (see docs/speed.md) and the rest
                               in fp32, regardless of train.precision
    """

    split: str | None = None
    graph_source: GraphSource = GraphSource.PREDICTED
    box_source: BoxSource = BoxSource.LOCALIZER
    context: ContextUse = ContextUse.ALL
    beam_size: int = 3
    validation_beam_size: int = 1
    protocol: str = "r2gen"
    validation_limit: int | None = None
    meteor_in_validation: bool = True
    batch_size: int = 32
    thresholds: str = "tuned"
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
    reward: RewardConfig = field(default_factory=RewardConfig)
    eval: EvalConfig = field(default_factory=EvalConfig)

    @property
    def run_dir(self) -> Path:
        """The run folder, results/NAME."""
        return Path(self.results) / self.name


# Settings with a few allowed values, checked here once instead of at every use.
_CHOICES = MODEL_CHOICES | REWARD_CHOICES | {
    "data.cleaning": ("iu_xray", "mimic_cxr", "corrected"),
    "data.sections": SECTION_CHOICES,
    "data.uncertain": ("positive", "negative", "ignored"),
    "data.views": (1, 2),
    "train.device": ("auto", "cpu", "cuda"),
    "eval.split": (None, "train", "val", "test"),
    "eval.protocol": ("r2gen", "full"),
    "eval.thresholds": ("tuned", "default"),
    "eval.graph_source": (GraphSource.PREDICTED, GraphSource.ORACLE, GraphSource.NONE),
}

# Lower bounds of numbers; null is not checked.
_MINIMA = MODEL_MINIMA | REWARD_MINIMA | {
    "seed": 0,
    "data.image_size": 1, "data.micro_batch_size": 1, "data.workers": 0, "data.shuffle_window": 2048,
    "data.most_skipped": 0, "data.train_limit": 1, "data.eval_limit": 1,
    "data.max_tokens": 3,  # BOS, a word, EOS
    "optim.batch_size": 1, "optim.lr_patch_encoder": 0, "optim.lr": 0, "optim.weight_decay": 0, "optim.warmup_steps": 0,
    "optim.decay_steps": 1, "optim.beta2": 0, "optim.epsilon": 0,
    "loss.attribute_pos_weight": 1, "loss.attention_consistency": 0, "loss.image_contrast": 0, "loss.text_contrast": 0,
    "loss.consistency_words": 0,
    "loss.consistency_layer": 1,
    "train.epochs": 1, "train.validate_every": 1, "train.log_every": 1, "train.save_every": 1, "train.max_steps": 1,
    "train.least_epochs": 1, "train.validate_steps": 1,
    "eval.beam_size": 1, "eval.validation_beam_size": 1, "eval.validation_limit": 1,
    "eval.batch_size": 1,
}


def load_config(path: str | Path | None, overrides: list[str] | None = None, checkpoint: str | None = None) -> Config:
    """Load a YAML file (None: the defaults) and apply `key=value` overrides.

    checkpoint   the content of `path`, if that is the complete configuration of a checkpoint; settings that its version
                 did not have are added, and those of an earlier one converted (see `modules/settings/earlier.py`)

    Raises UserError, naming the key, if a key is unknown or a value has the wrong type or is not allowed; and, naming
    the file, if it is missing or not YAML, and if the configuration of a checkpoint is incomplete.
    """
    merged = OmegaConf.structured(Config)
    try:
        if path is not None:
            if checkpoint is None and not Path(path).is_file():
                raise missing("configuration", path, "use one of configs/*.yaml")
            text = read_text(Path(path)) if checkpoint is None else checkpoint
            check_yaml(text, f"Configuration {path}")
            where = f"Configuration {path}" if checkpoint is None else str(path)
            merged = _merge(merged, OmegaConf.load(io.StringIO(text)), where, is_complete=checkpoint is not None)
        for override in overrides or []:
            if "=" not in override:
                raise UserError(f"Cannot read the argument '{override}': write key=value, e.g. train.epochs=5")
            check_yaml(override.partition("=")[2], f"The argument {override[:80]}")
            merged = _merge(merged, OmegaConf.from_dotlist([override]), f"The argument {override}")
        config = OmegaConf.to_object(merged)
        check_limits(config_to_dict(config))  # converts lists again, and checks their items
    except OSError as error:
        raise cannot_read(path, error) from error
    except (OmegaConfBaseException, YAMLError, ValueError, OverflowError, RecursionError, TypeError) as error:
        where = f" (key {error.full_key})" if getattr(error, "full_key", None) else ""
        raise UserError(f"Configuration {path or ''} {overrides or ''}: {reason(error)}{where}") from error
    _check(config)
    return config


def _merge(settings: DictConfig, overrides: Container, where: str, is_complete: bool = False) -> DictConfig:
    """Merge `overrides`, which have all settings if `is_complete`, into `settings`.

    Raises UserError for a value in place of a group of settings.
    """
    if not isinstance(overrides, DictConfig):
        raise UserError(f"{where} holds a list: write one setting per line, as NAME: VALUE")
    content = convert_earlier(OmegaConf.to_container(overrides), where)
    overrides = OmegaConf.create(complete_earlier(content, setting_names(), where) if is_complete else content)
    groups = [("", settings, overrides)]
    while groups:
        prefix, group, new_values = groups.pop()
        for name in new_values:
            if name in group and isinstance(group[name], DictConfig):
                if not isinstance(new_values[name], DictConfig):
                    raise UserError(f"{where}: {prefix}{name} is a group of settings: set {prefix}{name}.NAME instead")
                groups.append((f"{prefix}{name}.", group[name], new_values[name]))
    return OmegaConf.merge(settings, overrides)


def setting_names() -> list[str]:
    """Return the dotted names of all settings."""

    def names(group: dict[str, Any], prefix: str) -> list[str]:
        return [
            full for name, value in group.items()
            for full in (names(value, f"{prefix}{name}.") if isinstance(value, dict) else [f"{prefix}{name}"])
        ]

    return names(config_to_dict(Config()), "")


def config_to_yaml(config: Config) -> str:
    """Return the complete configuration as YAML that `load_config` can read."""
    return OmegaConf.to_yaml(OmegaConf.structured(config))


def config_to_dict(config: Config) -> dict[str, Any]:
    """Return the complete configuration as nested dictionaries of plain values."""
    return OmegaConf.to_container(OmegaConf.structured(config), enum_to_str=True)


def _value(config: Config, key: str) -> object:
    """Return the setting with the dotted `key`."""
    return reduce(getattr, key.split("."), config)


def _check(config: Config) -> None:
    """Raise UserError if a value is out of range or contradicts another one."""
    check_roots(config.data)
    check_sections(config.data)
    check_context(config.model)
    if not 0 <= config.train.context_dropout < 1:
        raise wrong_value("train.context_dropout", config.train.context_dropout, "must be from 0 to below 1")
    check_trackers(config.train.track)
    train = config.train
    check_reward(config.reward, train.stage, config.model.report, train.init_from, train.graph_source)
    for key, allowed in _CHOICES.items():
        value = _value(config, key)
        if value not in allowed:
            raise wrong_value(key, value, f"choose one of {', '.join(str(choice) for choice in allowed)}")
    for key, minimum in _MINIMA.items():
        value = _value(config, key)
        if value is not None and not value >= minimum:
            raise wrong_value(key, value, f"must be at least {minimum}")
    model = config.model
    for key in ("model.dropout", "model.image_dropout", "model.patch_encoder.stochastic_depth", "optim.beta2"):
        value = _value(config, key)
        if value is not None and value >= 1:
            raise wrong_value(key, value, "must be below 1")
    if config.optim.decay_epochs is not None and config.optim.decay_epochs <= 0:
        raise wrong_value("optim.decay_epochs", config.optim.decay_epochs, "must be above 0")
    check_sizes(model)
    has_graph = model.report and model.graph_in != "none"
    if not model.report and not (model.observation_head or model.localizer):
        raise UserError("model.report=false leaves nothing to train: set model.observation_head or model.localizer")
    if not model.report and config.eval.int8:
        raise UserError("eval.int8=true concerns the report decoder, which a model with model.report=false lacks")
    if config.loss.attention_consistency > 0 and not (model.report and model.discriminative_map):
        raise UserError("loss.attention_consistency compares attention with a map: set model.discriminative_map=true")
    for name in ("image_contrast", "text_contrast"):
        if getattr(config.loss, name) > 0 and model.prototypes.per_observation is None:
            raise UserError(f"loss.{name} compares what prototypes respond: set model.prototypes.per_observation")
    if config.loss.consistency_words > 1:
        raise wrong_value("loss.consistency_words", config.loss.consistency_words, "must be at most 1")
    if config.loss.consistency_layer is not None and config.loss.consistency_layer > model.decoder_layers:
        rule = f"must be at most model.decoder_layers={model.decoder_layers}"
        raise wrong_value("loss.consistency_layer", config.loss.consistency_layer, rule)
    if config.train.deterministic and has_graph and model.roi == "pool":
        raise UserError("train.deterministic=true needs model.roi=align: the gradient of RoI pooling varies on GPUs")
    if config.eval.box_source == BoxSource.FILE and config.data.boxes_file is None:
        raise UserError("eval.box_source=file needs a detector's file: set data.boxes_file")
    if not model.localizer and BoxSource.LOCALIZER == config.eval.box_source and has_graph:
        raise UserError("model.localizer=false leaves no boxes for eval.box_source=localizer: choose atlas or file")
