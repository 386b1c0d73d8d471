"""Settings from YAML and arguments; every error is one line that names the key."""

from dataclasses import asdict, fields, is_dataclass
from enum import StrEnum
from pathlib import Path

import pytest

from data.errors import UserError
from models.outputs import BoxSource, GraphSource
from modules.config import Config, Precision, Schedule, config_to_yaml, load_config
from modules.training.losses import ReportCriterion


def write_yaml(tmp_path: Path, text: str) -> Path:
    path = tmp_path / "experiment.yaml"
    path.write_text(text, encoding="utf-8")
    return path


def test_nothing_given_gives_the_defaults(tmp_path):
    assert load_config(None) == Config()
    assert load_config(write_yaml(tmp_path, "")) == Config()


def test_arguments_go_over_the_file_and_the_file_over_the_defaults(tmp_path):
    path = write_yaml(tmp_path, "name: mine\ndata: {views: 2, workers: 4}\nmodel:\n  patch_encoder: {stride: 16}\n")
    config = load_config(path, ["data.workers=5", "model.patch_encoder.backbone=resnet18", "data.workers=9"])
    assert (config.name, config.data.views, config.data.workers) == ("mine", 2, 9)
    assert (config.model.patch_encoder.stride, config.model.patch_encoder.backbone) == (16, "resnet18")
    assert config.optim == Config().optim


def test_values_become_what_their_key_holds():
    config = load_config(None, [
        "train.graph_source=mixed", "optim.schedule=cosine", "train.precision=bf16", "eval.box_source=atlas",
        "train.patience=null", "optim.lr=1e-3", "train.freeze=[patch_encoder, graph.localizer]", "model.gate=true",
        "data.root=my data/x=y", "optim.clip_value=null", "data.train_limit=5",
    ])
    assert config.train.graph_source is GraphSource.MIXED and config.optim.schedule is Schedule.COSINE
    assert config.train.precision is Precision.BF16 and config.eval.box_source is BoxSource.ATLAS
    assert config.train.patience is None and config.optim.clip_value is None and config.data.train_limit == 5
    assert config.optim.lr == 1e-3 and config.train.freeze == ["patch_encoder", "graph.localizer"]
    assert config.model.gate is True and config.data.root == "my data/x=y"


def test_yaml_of_a_configuration_reads_back(tmp_path):
    config = load_config(None, [
        "name=x", "train.graph_source=mixed", "optim.schedule=cosine", "train.precision=fp16", "train.patience=null",
        "train.freeze=[a, b.c]", "data.boxes_file=some/file.jsonl", "loss.contrast=0", "data.root=a b",
    ])
    assert load_config(write_yaml(tmp_path, config_to_yaml(config))) == config


def test_run_folder_is_below_results():
    assert load_config(None, ["name=x", "results=there"]).run_dir == Path("there/x")


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("dta:\n  views: 1\n", "'dta'"),
        ("data:\n  view: 1\n", "data.view"),
        ("optim:\n  batch_size: many\n", "optim.batch_size"),
        ("data:\n  root: ${nowhere}\n", "line 2 has an interpolation (${...})"),
        ("data: 3\n", "data is a group of settings"),
        ("model:\n  patch_encoder: resnet18\n", "model.patch_encoder is a group of settings"),
        ("- data\n", "holds a list"),
        ("data: [1\n", "experiment.yaml"),
        ("optim:\n  lr: null\n", "optim.lr"),
        ("data:\n  weights: [[[]]]\n", "data.weights"),
        ("model:\n  context: [[[]]]\n", "model.context"),
    ],
)
def test_mistakes_in_the_file_are_named(tmp_path, text, message):
    with pytest.raises(UserError) as caught:
        load_config(write_yaml(tmp_path, text))
    assert message in str(caught.value) and "\n" not in str(caught.value)


def test_folders_may_be_numbers(tmp_path):
    assert load_config(write_yaml(tmp_path, "data:\n  root: [1, 2.5]\n")).data.roots == (Path("1"), Path("2.5"))


def test_missing_or_unreadable_file_is_named(tmp_path):
    with pytest.raises(UserError, match="No configuration at .*nowhere.yaml: use one of configs"):
        load_config(tmp_path / "nowhere.yaml")
    (tmp_path / "image.yaml").write_bytes(b"\xff\xfe\x00")
    with pytest.raises(UserError, match="image.yaml"):
        load_config(tmp_path / "image.yaml")


@pytest.mark.parametrize(
    ("override", "message"),
    [
        ("train.epochs", "Cannot read the argument 'train.epochs': write key=value"),
        ("epochs=3", "'epochs'"),
        ("train.epoch=3", "train.epoch"),
        ("train.epochs=three", "train.epochs"),
        ("train.graph_source=magic", "train.graph_source"),
        ("train.freeze=patch_encoder", "train.freeze"),
        ("name=", "name"),
        ("data=3", "data is a group of settings"),
        ("data.views=3", "data.views=3: choose one of 1, 2"),
        ("data.cleaning=mine", "data.cleaning=mine: choose one of iu_xray, mimic_cxr, corrected"),
        ("model.encode=oa", "model.encode=oa: choose one of oa-c, oa-d, oa-pm"),
        ("model.patch_encoder.stride=8", "model.patch_encoder.stride=8: choose one of None, 16, 32"),
        ("eval.split=validate", "eval.split=validate: choose one of None, train, val, test"),
        ("eval.graph_source=mixed", "eval.graph_source=mixed: choose one of predicted, oracle, none"),
        ("train.epochs=0", "train.epochs=0: must be at least 1"),
        ("eval.beam_size=0", "eval.beam_size=0: must be at least 1"),
        ("data.max_tokens=2", "data.max_tokens=2: must be at least 3"),
        ("data.workers=-1", "data.workers=-1: must be at least 0"),
        ("data.shuffle_window=2047", "data.shuffle_window=2047: must be at least 2048"),
        ("data.most_skipped=-1", "data.most_skipped=-1: must be at least 0"),
        ("data.micro_batch_size=0", "data.micro_batch_size=0: must be at least 1"),
        ("optim.batch_size=0", "optim.batch_size=0: must be at least 1"),
        ("optim.warmup_steps=-1", "optim.warmup_steps=-1: must be at least 0"),
        ("optim.decay_steps=0", "optim.decay_steps=0: must be at least 1"),
        ("optim.decay_epochs=0", "optim.decay_epochs=0.0: must be above 0"),
        ("optim.optimizer=sgd", "optim.optimizer"),
        ("optim.beta2=1", "optim.beta2=1.0: must be below 1"),
        ("optim.epsilon=-1", "optim.epsilon=-1.0: must be at least 0"),
        ("model.patch_encoder.stochastic_depth=1", "model.patch_encoder.stochastic_depth=1.0: must be below 1"),
        ("model.patch_encoder.stochastic_depth=-1", "model.patch_encoder.stochastic_depth=-1.0: must be at least 0"),
        ("loss.attribute_pos_weight=0.5", "loss.attribute_pos_weight=0.5: must be at least 1"),
        ("eval.thresholds=best", "eval.thresholds=best: choose one of tuned, default"),
        ("eval.validation_limit=0", "eval.validation_limit=0: must be at least 1"),
        ("train.least_epochs=0", "train.least_epochs=0: must be at least 1"),
        ("optim.lr=nan", "optim.lr=nan: must be at least 0"),
        ("seed=-1", "seed=-1: must be at least 0"),
        ("model.heads=0", "model.heads=0: must be at least 1"),
        ("model.dropout=1", "model.dropout=1.0: must be below 1"),
        ("model.width=510", "model.width=510: must be a multiple of model.heads=8"),
        ("model.memory_top=600", "model.memory_top=600: must be at most model.memory_slots=512"),
        ("model.cross_modal_memory.rows=0", "model.cross_modal_memory.rows=0: must be at least 1"),
        ("model.cross_modal_memory={rows: 64, heads: 3}",
         "model.cross_modal_memory.heads=3: must divide model.width=512"),
        ("model.cross_modal_memory.rows=16",
         "model.cross_modal_memory.responding=32: must be at most model.cross_modal_memory.rows=16"),
        ("model.decoder.norms=conditional", "model.decoder.norms=conditional: choose one of plain, memory"),
        ("model.decoder.memory_slots=0", "model.decoder.memory_slots=0: must be at least 1"),
        ("model.decoder={norms: memory, memory_heads: 3}", "model.decoder.memory_heads=3: must divide model.width=512"),
        ("model={discriminative_map: true, observation_head: false}", "set model.observation_head=true"),
        ("model.subtract_background=true", "needs the map of model.discriminative_map=true"),
        ("loss.attention_consistency=1", "set model.discriminative_map=true"),
        ("loss.consistency_words=1.5", "loss.consistency_words=1.5: must be at most 1"),
        ("loss.consistency_layer=4", "loss.consistency_layer=4: must be at most model.decoder_layers=3"),
        ("model.prototypes.per_observation=0", "model.prototypes.per_observation=0: must be at least 1"),
        ("model.prototypes={per_observation: 2, heads: 3}", "model.prototypes.heads=3: must divide model.width=512"),
        ("model={prototypes: {per_observation: 2}, observation_head: false}", "set model.observation_head=true"),
        ("model={prototypes: {per_observation: 2}, cross_modal_memory: {rows: 64}}", "exclude each other"),
        ("loss.image_contrast=1", "loss.image_contrast compares what prototypes respond"),
        ("loss.text_contrast=1", "set model.prototypes.per_observation"),
        ("eval.box_source=file", "eval.box_source=file needs a detector's file: set data.boxes_file"),
        ("train.deterministic=true", "train.deterministic=true needs model.roi=align"),
        ("model.localizer=false", "no boxes for eval.box_source=localizer: choose atlas or file"),
    ],
)
def test_mistakes_in_arguments_are_named(override, message):
    with pytest.raises(UserError) as caught:
        load_config(None, [override])
    assert message in str(caught.value) and "\n" not in str(caught.value)


def test_odd_width_is_refused():
    with pytest.raises(UserError, match="model.width=15: .* even width"):
        load_config(None, ["model.width=15", "model.heads=3"])


def test_model_without_graph_needs_no_boxes():
    config = load_config(None, ["model.localizer=false", "model.graph_in=none"])
    assert config.eval.box_source is BoxSource.LOCALIZER


def groups(config: object) -> list[object]:
    """All dataclasses of the configuration, including itself."""
    inner = [getattr(config, field.name) for field in fields(config)]
    return [config, *(group for value in inner if is_dataclass(value) for group in groups(value))]


@pytest.mark.parametrize("group", groups(Config()), ids=lambda group: type(group).__name__)
def test_every_setting_is_explained(group):
    values = {field.name for field in fields(group) if not is_dataclass(getattr(group, field.name))}
    obvious = {"name", "results", "seed", *ReportCriterion.TERMS}
    assert [name for name in values - obvious if name not in type(group).__doc__] == []


def test_configuration_holds_plain_values_alone():
    """So it can be written as YAML and read without executing code."""

    def leaves(value: object) -> list[object]:
        return [leaf for inner in value.values() for leaf in leaves(inner)] if isinstance(value, dict) else [value]

    assert all(
        value is None or isinstance(value, (bool, int, float, str, StrEnum, list)) for value in leaves(asdict(Config()))
    )
