"""From settings to objects: sizes, initial weights, every backbone, and errors that the user can fix."""

import dataclasses
import json
from pathlib import Path

import pytest
import torch
from torch import nn

from data.attribute_counts import count_attributes
from data.collate import collate
from data.errors import UserError
from data.images.network_input import to_network_input
from data.storage.statistics import training_statistics
from data.vocabulary import AttributeVocabulary, Vocabularies
from models.attribute_predictor import AttributePredictor
from models.outputs import BoxSource, GraphSource
from models.region_selector import RegionMemory
from models.sgrrg import SGRRG
from models.trunks.build import build_patch_encoder
from models.trunks.small_resnet import small_resnet
from modules import builders
from modules.config import Config, Precision, load_config
from modules.model_inputs import model_inputs
from modules.training.loss_terms import positive_weights
from modules.training.optimizer import build_optimizer
from tests.support.tiny_dataset import write_tiny_dataset
from tests.support.tiny_model import LONGEST, losses_of, tiny_batch, tiny_config, tiny_model, tiny_vocabularies

ROOT = Path(__file__).parents[2]
TRUNK = ("model.patch_encoder.backbone=small_resnet", "model.patch_encoder.weights=none")
BACKBONES = [
    "resnet18", "resnet50", "densenet121", "shufflenet_v2_x0_5", "mobilenet_v3_small", "efficientnet_b0",
    "regnet_y_400mf", "convnext_tiny", "small_resnet",
]


def build(*overrides: str) -> SGRRG:
    torch.manual_seed(0)
    return builders.build_model(tiny_config(*TRUNK, *overrides), tiny_vocabularies())


@pytest.fixture(scope="module")
def model() -> SGRRG:
    return build("model.graph_in=both", "model.fuse=concat", "model.gate=true")


# Data


@pytest.fixture(scope="module")
def data_config(tmp_path_factory) -> Config:
    root = write_tiny_dataset(tmp_path_factory.mktemp("prepared") / "tiny", image_size=32)
    return tiny_config(
        f"data.root={root}", "data.min_word_count=1", "data.min_attribute_count=1", "data.train_limit=5",
        "data.eval_limit=2", "data.views=2", "data.uncertain=ignored", "data.distinct_special_tokens=false",
    )


def test_vocabularies_follow_their_settings(data_config):
    vocabularies = builders.build_vocabularies(data_config)
    assert len(vocabularies.anatomy.regions) == 29 and vocabularies.attributes.largest > 1
    assert vocabularies.tokenizer.bos_id == vocabularies.tokenizer.eos_id == 0


def test_a_vocabulary_of_rare_words_alone_is_refused(data_config, capsys):
    data = dataclasses.replace(data_config.data, min_word_count=1000)
    config = dataclasses.replace(data_config, data=data)
    with pytest.raises(UserError, match=r"data.min_word_count=1000: the most frequent word .* occurs \d+ times"):
        builders.build_trainer(config, torch.device("cpu"))
    builders.check_words(data_config, builders.build_vocabularies(data_config))
    assert capsys.readouterr().err == ""


def test_reports_without_words_give_a_warning(tmp_path, capsys):
    root = write_tiny_dataset(tmp_path / "silent", image_size=32)
    records = [json.loads(line) | {"report": ""} for line in (root / "records.jsonl").open()]
    (root / "records.jsonl").write_text("".join(f"{json.dumps(record)}\n" for record in records))
    config = tiny_config(f"data.root={root}")
    builders.check_words(config, builders.build_vocabularies(config))
    assert "have no words: the model learns to write empty reports" in capsys.readouterr().err


def test_data_sets_follow_their_settings(data_config):
    vocabularies = builders.build_vocabularies(data_config)
    train = builders.build_dataset(data_config, vocabularies, "train", train=True)
    test = builders.build_dataset(data_config, vocabularies, "test")
    assert (len(train), len(test)) == (5, 2)
    assert train[0].image_size == 32 and test[0].images[0].shape == (32, 32) and len(train[0].token_ids) <= LONGEST
    assert torch.equal(test[0].images[0], test[0].images[0])
    assert train.augmentation is not None and test.augmentation is None
    changes = {"crop": 0.9, "squash": 0.1, "domain_randomisation": 0.8}
    changing = dataclasses.replace(data_config, data=dataclasses.replace(data_config.data, **changes))
    changed = builders.build_dataset(changing, vocabularies, "train", train=True)
    for name, value in changes.items():
        assert getattr(train.augmentation, name) == (name == "crop") and getattr(changed.augmentation, name) == value


def test_another_split_can_stand_in_for_the_validation_split(data_config):
    vocabularies = builders.build_vocabularies(data_config)
    config = tiny_config(f"data.root={data_config.data.root}", "eval.split=train")
    assert [record["id"] for record in builders.build_dataset(config, vocabularies, "val").records][:1] == ["train0"]
    assert [record["id"] for record in builders.build_dataset(config, vocabularies, "test").records][:1] == ["test0"]
    assert builders.build_dataset(config, vocabularies, "val").augmentation is None


def test_validations_of_a_training_have_a_limit_of_their_own(data_config):
    vocabularies = builders.build_vocabularies(data_config)
    for limits, validated, tested in (
        ([], 3, 3), (["eval.validation_limit=2"], 2, 3), (["eval.validation_limit=2", "data.eval_limit=1"], 1, 1),
        (["eval.validation_limit=9"], 3, 3), (["data.eval_limit=2"], 2, 2),
    ):
        config = tiny_config(f"data.root={data_config.data.root}", "eval.split=test", *limits)
        assert len(builders.build_validation_dataset(config, vocabularies)) == validated
        assert len(builders.build_dataset(config, vocabularies, "val")) == tested


def test_built_model_reads_built_data(data_config):
    vocabularies = builders.build_vocabularies(data_config)
    dataset = builders.build_dataset(data_config, vocabularies, "train", train=True)
    batch = to_network_input(collate([dataset[0], dataset[1], dataset[2]], vocabularies.tokenizer.pad_id))
    torch.manual_seed(0)
    overrides = [f"data.root={data_config.data.root}", "data.distinct_special_tokens=false"]
    model = builders.build_model(tiny_config(*TRUNK, *overrides), vocabularies)
    criterion = builders.build_criterion(data_config, vocabularies)
    inputs = model_inputs(batch, GraphSource.ORACLE, BoxSource.LOCALIZER, training=True)
    output = model(inputs, batch.token_ids, batch.token_mask, GraphSource.ORACLE, BoxSource.LOCALIZER)
    losses = criterion(output, batch, criterion.counts(batch))
    losses.total.backward()
    # Grounding is off by default; the regions of tokens are then not computed.
    assert set(losses.terms) == {
        "report", "observations", "regions", "attributes", "contrast", "boxes", "visibility",
    }
    assert torch.isfinite(losses.total)
    assert batch.token_regions is None
    with_grounding = load_config(None, [f"data.root={data_config.data.root}", "loss.grounding=0.5"])
    assert builders.build_dataset(with_grounding, vocabularies, "train", train=True)[0].token_regions is not None
    assert builders.build_dataset(with_grounding, vocabularies, "train")[0].token_regions is None


# Initial weights


def test_weights_start_as_in_the_release(model):
    for name, module in model.named_modules():
        if name.startswith("patch_encoder") or not isinstance(module, (nn.Linear, nn.Conv2d, nn.Embedding)):
            continue
        if name == "graph.localizer.shift":
            assert (module.weight == 0).all() and (module.bias == 0).all()
            continue
        # The standard deviation of n draws is within 4 / sqrt(2 n) of the true one, and their mean within 4 / sqrt(n).
        draws = module.weight.numel()
        assert module.weight.std().item() == pytest.approx(0.02, rel=4 / (2 * draws) ** 0.5), name
        assert abs(module.weight.mean().item()) < 0.02 * 4 / draws**0.5, name
        if getattr(module, "bias", None) is not None:
            assert (module.bias == 0).all(), name
    memory = next(module for module in model.modules() if isinstance(module, RegionMemory))
    assert memory.slots.std().item() == pytest.approx(1 / 256, rel=0.1)
    heads = next(module for module in model.modules() if isinstance(module, AttributePredictor))
    assert heads.weight.std().item() == pytest.approx(0.02, rel=0.1) and (heads.bias == 0).all()


def test_fresh_weights_spread_as_they_are_told_to():
    settings = tiny_config(*TRUNK, "model.initial_std=0.1", "model.share_attribute_names=true")
    model = builders.build_model(settings, tiny_vocabularies())
    predictor = model.graph.attribute_predictor
    for weight in (model.decoder.word_head.weight, model.decoder.embedding.tokens.weight, predictor.weight,
                   predictor.name_weight, model.graph.encoder.name_embedding.weight):
        assert weight.std().item() == pytest.approx(0.1, rel=0.2)


def test_attributes_share_their_names_weights_where_told_to():
    attributes = tiny_vocabularies().attributes
    graph = tiny_model("model.share_attribute_names=true").graph
    assert graph.encoder.name_of_attribute.tolist() == sum(attributes.name_ids, [])
    assert torch.equal(
        graph.attribute_predictor.name_of_slot[attributes.slots()], graph.encoder.name_of_attribute
    )
    alone = tiny_model().graph
    assert alone.encoder.name_embedding is None and alone.attribute_predictor.name_weight is None


def test_trunk_keeps_its_own_first_weights(model):
    torch.manual_seed(0)
    expected = small_resnet()
    assert torch.equal(model.patch_encoder.trunk[0].weight, expected[0].weight)


def test_first_boxes_are_the_mean_boxes(model):
    boxes, _ = model.graph.localizer(torch.randn(2, 256, 1, 1))
    torch.testing.assert_close(boxes, tiny_vocabularies().anatomy.boxes.expand(2, -1, -1))


def test_sizes_come_from_the_vocabularies(model):
    assert model.decoder.word_head.out_features == model.decoder.embedding.tokens.num_embeddings == 23
    assert len(model.decoder.embedding.positions) == LONGEST
    assert model.observation_head.head.out_features == 14
    assert model.graph.selector.head.out_features == 29
    assert model.graph.encoder.attribute_embedding.num_embeddings == sum(tiny_vocabularies().attributes.sizes)
    assert torch.equal(model.graph.attribute_predictor.slots, tiny_vocabularies().attributes.slots())
    tokenizer = tiny_vocabularies().tokenizer
    assert (model.bos_id, model.eos_id, model.pad_id) == (tokenizer.bos_id, tokenizer.eos_id, tokenizer.pad_id)
    shared = builders.build_model(tiny_config(*TRUNK), tiny_vocabularies(False))
    assert (shared.bos_id, shared.eos_id, shared.pad_id) == (0, 0, 0)


def test_settings_reach_their_parts():
    model = tiny_model(
        "model.image_layers=2", "model.graph_layers=1", "model.decoder_layers=3", "model.dropout=0.25",
        "model.image_dropout=0.5", "model.region_threshold=0.3", "model.attribute_threshold=0.6",
        "model.visible_threshold=0.7", "model.memory_slots=9", "model.memory_top=5",
    )
    assert len(model.image_encoder.layers) == 2 and len(model.decoder.layers) == 3
    assert len(model.graph.encoder.layers) == 1
    assert model.image_encoder.dropout.p == 0.5
    rates = {module.p for name, module in model.named_modules()
             if isinstance(module, nn.Dropout) and name != "image_encoder.dropout"}
    assert rates == {0.25} and model.decoder.layers[0].image_attention.dropout == 0.25
    graph = model.graph
    assert graph.visible_threshold == 0.7
    assert torch.equal(graph.region_thresholds, torch.full((29,), 0.3))
    assert torch.equal(graph.attribute_thresholds, torch.full(tiny_vocabularies().attributes.slots().shape, 0.6))
    assert graph.selector.memory.slots.shape[0] == 9 and graph.selector.memory.top == 5


@pytest.mark.parametrize("graph_in", ["decoder", "encoder", "both", "none"])
def test_graph_attention_stands_where_graph_in_says(graph_in):
    model = tiny_model(f"model.graph_in={graph_in}")
    in_decoder = {layer.graph_attention is not None for layer in model.decoder.layers}
    in_encoder = {layer.graph_attention is not None for layer in model.image_encoder.layers}
    assert in_decoder == {graph_in in ("decoder", "both")}
    assert in_encoder == {graph_in in ("encoder", "both")}
    assert (model.graph is None) == (graph_in == "none")


def test_criterion_has_the_configured_weights():
    criterion = builders.build_criterion(
        tiny_config("loss.regions=0.7", "loss.boxes=0", "loss.contrast_margin=0.1"), tiny_vocabularies()
    )
    assert criterion.weights["regions"] == 0.7 and "boxes" not in criterion.weights
    assert criterion.terms["contrast"].contrast_margin == 0.1
    assert torch.equal(criterion.terms["attributes"].attribute_slots, tiny_vocabularies().attributes.slots())


def test_positive_attributes_weigh_what_the_training_split_says(tmp_path):
    root = write_tiny_dataset(tmp_path / "data", train=12, image_size=32)
    settings = [f"data.root={root}", "data.min_attribute_count=1"]
    vocabularies = builders.build_vocabularies(tiny_config(*settings))
    plain, weighted, disabled = (
        builders.build_criterion(tiny_config(*settings, *more), vocabularies).terms["attributes"].attribute_weights
        for more in ([], ["loss.attribute_pos_weight=3"], ["loss.attribute_pos_weight=3", "loss.attributes=0"])
    )
    assert plain is None and disabled is None
    statistics = training_statistics(root, "corrected")
    positives, annotated = map(torch.from_numpy, count_attributes(statistics, vocabularies))
    assert torch.equal(weighted, positive_weights(positives, annotated, 3.0))
    assert weighted.min() == 1 and weighted.max() == 3


# Missing annotation


def test_vocabulary_without_any_attribute_trains_and_generates():
    """As on IU X-Ray, which has no graphs, so no region has an attribute."""
    full = tiny_vocabularies()
    bare = Vocabularies(full.anatomy, AttributeVocabulary(((),) * 29, "default"), full.observations, full.tokenizer)
    model, batch = tiny_model("model.graph_in=both", vocabularies=bare), tiny_batch(2, vocabularies=bare)
    criterion = builders.build_criterion(tiny_config(), bare)
    inputs = model_inputs(batch, GraphSource.ORACLE, BoxSource.LOCALIZER, training=True)
    output = model(inputs, batch.token_ids, batch.token_mask, GraphSource.ORACLE, BoxSource.LOCALIZER)
    losses = criterion(output, batch, criterion.counts(batch))
    losses.total.backward()
    assert losses.terms["attributes"].item() == 0 and losses.terms["contrast"].item() > 0
    assert all(torch.isfinite(parameter.grad).all() for parameter in model.parameters())
    model.eval()
    sources = (GraphSource.PREDICTED, BoxSource.LOCALIZER)
    written = model.generate(model_inputs(batch, *sources), *sources, beam_size=2, max_tokens=6)
    assert written.encoded.graph.nodes.shape[2] == 1


# Backbones


@pytest.mark.parametrize(
    ("backbone", "stride"), [*((name, stride) for name in BACKBONES for stride in (32, 16)), ("swin_t", 32)]
)
def test_every_backbone_writes_reports(backbone, stride, monkeypatch):
    def without_slow_initialisation(*settings):
        with monkeypatch.context() as patch:
            for name in ("kaiming_normal_", "trunc_normal_"):
                patch.setattr(nn.init, name, lambda tensor, *args, **kwargs: nn.init.uniform_(tensor, -0.05, 0.05))
            return build_patch_encoder(*settings)

    monkeypatch.setattr(builders, "build_patch_encoder", without_slow_initialisation)
    torch.manual_seed(0)
    config = tiny_config(
        f"model.patch_encoder.backbone={backbone}", f"model.patch_encoder.stride={stride}",
        "model.patch_encoder.weights=none", "model.graph_layers=1", "model.decoder_layers=1",
    )
    model = builders.build_model(config, tiny_vocabularies()).eval()
    batch = tiny_batch(1)
    batch.images = torch.randn(1, 1, 3, 64, 64)
    sources = (GraphSource.PREDICTED, BoxSource.ATLAS)
    with torch.no_grad():
        written = model.generate(model_inputs(batch, *sources), *sources, beam_size=2, max_tokens=5)
    assert written.encoded.memory.shape == (1, (64 // stride) ** 2, 16)
    assert torch.isfinite(written.scores).all() and written.encoded.graph.selected.any()


def test_small_resnet_trains(model):
    batch = tiny_batch(2, views=2)
    losses = losses_of(model, batch)
    losses.total.backward()
    assert all(torch.isfinite(parameter.grad).all() for parameter in model.parameters())
    assert model.patch_encoder.trunk[0].weight.grad.abs().sum() > 0


# The configurations in configs/


@pytest.mark.parametrize("path", sorted((ROOT / "configs").glob("*.yaml")), ids=lambda path: path.stem)
def test_every_experiment_builds(path, data_config):
    """Model (with a random trunk, as tests have no internet), criterion and optimiser, without training."""
    config = load_config(path, ["model.patch_encoder.weights=none", f"data.root={data_config.data.root}"])
    vocabularies = tiny_vocabularies()
    # On the meta device there are shapes alone; drawing the weights of large trunks takes seconds.
    with torch.device("cpu" if path.stem == "demo" else "meta"):
        model = builders.build_model(config, vocabularies)
    assert builders.build_criterion(config, vocabularies).weights
    optimizer = build_optimizer(model, config.optim.lr, config.optim.lr_patch_encoder, config.optim.weight_decay)
    assert sum(len(group["params"]) for group in optimizer.param_groups) == len(list(model.parameters()))


@pytest.mark.parametrize("name", ["iu_xray", "mimic_cxr"])
def test_recipes_are_those_of_r2gencmn(name):
    """Sources: train_iu_xray.sh, train_mimic_cxr.sh and the optimiser of its code."""
    config = load_config(ROOT / f"configs/{name}.yaml")
    optim, iu = config.optim, name == "iu_xray"
    assert (optim.batch_size, config.train.epochs, config.train.patience) == (16, 100 if iu else 30, 50)
    assert (optim.optimizer, optim.amsgrad, optim.beta2, optim.epsilon) == ("adam", True, 0.98, 1e-9)
    assert (optim.lr_patch_encoder, optim.lr, optim.weight_decay, optim.warmup_steps) == (1e-4, 5e-4, 5e-5, 0)
    assert (optim.schedule, optim.decay, optim.decay_epochs) == ("step", 0.8, 10 if iu else 3)
    assert optim.clip_value is optim.clip_norm is None
    assert (config.data.max_tokens, config.data.min_word_count) == ((60, 3) if iu else (100, 10))
    assert (config.data.crop, config.data.rotate, config.data.image_size) == (224 / 256, 0, 224)
    assert (config.train.monitor, config.eval.validation_beam_size, config.eval.beam_size) == ("bleu_4", 3, 3)
    assert config.model.patch_encoder.backbone == "resnet101" and config.data.views == (2 if iu else 1)


def recipe(name: str) -> tuple:
    """Batch, epochs, patience, monitor; rates of trunk and rest, decay, its epochs, gradient clipping; trunk."""
    config = load_config(ROOT / f"configs/{name}.yaml")
    optim, train = config.optim, config.train
    assert (optim.optimizer, optim.amsgrad, optim.weight_decay, optim.schedule) == ("adam", True, 5e-5, "step")
    assert (config.model.graph_in, config.model.norm, config.model.activation, config.model.patch_projection) == (
        "none", "std", "relu", "relu")
    assert (config.model.image_dropout, config.model.dropout, config.model.initial_std) == (0.5, 0.1, None)
    assert (config.model.width, config.model.heads, config.model.feedforward) == (512, 8, 512)
    assert (config.data.max_tokens, config.data.min_word_count) == ((60, 3) if "iu" in name else (100, 10))
    assert config.data.views == (2 if "iu" in name else 1) and config.eval.validation_beam_size == 3
    return (
        optim.batch_size, train.epochs, train.patience, train.monitor, optim.lr_patch_encoder, optim.lr, optim.decay,
        optim.decay_epochs, optim.clip_value, config.model.patch_encoder.backbone,
    )


def test_recipes_of_the_family_are_the_published_ones():
    camanet, xpronet = "bleu_4 + 0.5 * bleu_1", "bleu_4 + 0.33 * bleu_1 + 0.67 * meteor"
    published = {
        "iu_xray_r2gen": (16, 100, 50, "bleu_4", 5e-5, 1e-4, 0.1, 50, 0.1, "resnet101"),
        "mimic_cxr_r2gen": (16, 30, 50, "bleu_4", 5e-5, 1e-4, 0.8, 1, 0.1, "resnet101"),
        "iu_xray_cmn": (16, 100, 50, "bleu_4", 1e-4, 5e-4, 0.8, 10, None, "resnet101"),
        "mimic_cxr_cmn": (16, 30, 50, "bleu_4", 1e-4, 5e-4, 0.8, 3, None, "resnet101"),
        "iu_xray_camanet": (32, 30, 10, camanet, 1e-3, 2e-3, 1.0, None, 0.1, "densenet121"),
        "mimic_cxr_camanet": (64, 30, 10, camanet, 5e-5, 1e-4, 1.0, None, 0.1, "densenet121"),
        "iu_xray_xpronet": (16, 30, 50, xpronet, 1e-3, 2e-3, 0.8, 10, None, "resnet101"),
        "mimic_cxr_xpronet": (64, 30, 50, xpronet, 5e-5, 1e-4, 0.8, 3, None, "resnet101"),
    }
    assert {name: recipe(name) for name in published} == published


def test_the_papers_experiment_has_the_trunk_of_the_release():
    config = load_config(ROOT / "configs/chest_imagenome.yaml")
    trunk = config.model.patch_encoder
    assert (trunk.backbone, trunk.stochastic_depth) == ("swin_b", 0.1)
    assert trunk.weights == "weights/swin_base_patch4_window7_224_22k.pth"
    assert (config.optim.batch_size, config.optim.lr_patch_encoder, config.optim.lr) == (384, 1e-4, 2e-4)


# Errors


@pytest.mark.parametrize(
    ("override", "message"),
    [
        ("model.patch_encoder.backbone=resnet1001", "No backbone 'resnet1001'"),
        ("model.patch_encoder.weights=imagenet", "small_resnet has no ImageNet weights"),
        ("model.patch_encoder.weights=nowhere.pth", "No weights at nowhere.pth"),
        ("model.patch_encoder.stochastic_depth=0.1", "small_resnet has no stochastic depth"),
        ("model.memory_heads=3", "model.memory_heads=3: must divide the 256 channels of small_resnet"),
    ],
)
def test_what_cannot_be_built_is_an_error_for_the_user(override, message):
    with pytest.raises(UserError, match=message):
        build(override)


def test_configuration_names_the_exact_weights():
    config = load_config(None, ["model.patch_encoder.backbone=resnet50"])
    named = builders.name_exact_weights(config)
    assert named.model.patch_encoder.weights == "imagenet_v2"
    expected = load_config(None, ["model.patch_encoder.backbone=resnet50", "model.patch_encoder.weights=imagenet_v2"])
    assert named == expected and config.model.patch_encoder.weights == "pretrained"
    with pytest.raises(UserError, match="small_resnet has no ImageNet weights"):
        builders.name_exact_weights(load_config(None, ["model.patch_encoder.backbone=small_resnet"]))


def test_evaluator_computes_in_the_precision_of_the_device():
    config = tiny_config("train.device=cpu")
    assert config.train.precision == Precision.AUTO
    assert builders.build_evaluator(config, tiny_vocabularies(), 1).precision == Precision.FP32


def test_stride_that_a_trunk_cannot_have_is_an_error_for_the_user():
    with pytest.raises(UserError, match="swin_t does not support a stride of 16"):
        builders.build_model(
            tiny_config("model.patch_encoder.backbone=swin_t", "model.patch_encoder.stride=16",
                        "model.patch_encoder.weights=none"),
            tiny_vocabularies(),
        )


def test_memory_heads_do_not_matter_without_memory():
    assert build("model.memory_heads=3", "model.memory=false").graph.selector.memory is None
    assert build("model.memory_heads=3", "model.graph_in=none").graph is None


@pytest.mark.parametrize("graph_source, box_source, named", [
    ("oracle", "localizer", "oracle_boxes"), ("oracle", "atlas", "oracle_boxes"), ("predicted", "atlas", "atlas"),
    ("none", "localizer", "localizer"), ("predicted", "oracle_boxes", "oracle_boxes"),
])
def test_scores_of_the_oracle_graph_name_its_own_boxes(graph_source, box_source, named):
    config = tiny_config(f"eval.graph_source={graph_source}", f"eval.box_source={box_source}")
    assert builders.build_evaluator(config, tiny_vocabularies(), 1).box_source == named
