"""Trunks of transformers, from folders with tiny models of the real classes, and without the hub."""

import json

import pytest
import torch

from models.trunks import hub, hugging_face
from models.trunks.build import build_patch_encoder, exact_trunk

transformers = pytest.importorskip("transformers", reason="transformers is not installed (requirements-trunks.txt)")

MEAN, STD = [0.5307] * 3, [0.2583] * 3  # RAD-DINO's


def save_tiny(folder, kind: str) -> torch.nn.Module:
    """Write a tiny model of the class `kind`, with random weights, and its image processor into `folder`."""
    torch.manual_seed(7)
    sizes = {"hidden_size": 16, "num_hidden_layers": 2, "num_attention_heads": 2, "intermediate_size": 32}
    configs = {
        "dinov2": lambda: transformers.Dinov2Config(**sizes, patch_size=14, image_size=42),
        "vit": lambda: transformers.ViTConfig(**sizes, patch_size=16, image_size=48),
        "resnet": lambda: transformers.ResNetConfig(
            embedding_size=8, hidden_sizes=[8, 8, 16, 16], depths=[1, 1, 1, 1], layer_type="basic"
        ),
        "one channel": lambda: transformers.ViTConfig(**sizes, patch_size=16, image_size=48, num_channels=1),
    }
    model = transformers.AutoModel.from_config(configs[kind]())
    model.save_pretrained(folder)
    processor = {"image_mean": MEAN, "image_std": STD, "do_normalize": True}
    (folder / "preprocessor_config.json").write_text(json.dumps(processor), encoding="utf-8")
    return model.eval()


@pytest.mark.parametrize(
    ("kind", "image_size", "cells"), [("dinov2", 70, 5), ("dinov2", 42, 3), ("vit", 64, 4), ("resnet", 64, 2)]
)
def test_features_are_those_of_the_model(tmp_path, kind, image_size, cells):
    model = save_tiny(tmp_path, kind)
    encoder = build_patch_encoder(f"hf:{tmp_path}", weights="pretrained", image_size=image_size).eval()
    images = torch.randn(2, 3, image_size, image_size)
    with torch.no_grad():
        grid = encoder.trunk(images)
        pixels = encoder.trunk.normalisation(images)
        expected = model(pixels, **encoder.trunk.arguments).last_hidden_state
    assert encoder.channels == 16 and grid.shape == (2, 16, cells, cells)
    if expected.dim() == 3:  # the class token comes first
        expected = expected[:, 1:].transpose(1, 2).unflatten(2, (cells, cells))
    torch.testing.assert_close(grid, expected)
    restored = images * torch.tensor([0.229, 0.224, 0.225]).view(3, 1, 1) + torch.tensor(
        [0.485, 0.456, 0.406]).view(3, 1, 1)
    torch.testing.assert_close(pixels, (restored - MEAN[0]) / STD[0], atol=1e-5, rtol=1e-5)


def test_single_channel_models_see_grey(tmp_path):
    save_tiny(tmp_path, "one channel")
    trunk = build_patch_encoder(f"hf:{tmp_path}", weights="pretrained", image_size=48).trunk
    assert trunk.normalisation(torch.zeros(1, 3, 48, 48)).shape == (1, 1, 48, 48)


def test_parameters_without_influence_are_frozen(tmp_path):
    """DDP waits for the gradient of every parameter; a mask token never gets one."""
    save_tiny(tmp_path, "dinov2")
    trunk = build_patch_encoder(f"hf:{tmp_path}", weights="pretrained", image_size=42).trunk.train()
    frozen = [name for name, parameter in trunk.named_parameters() if not parameter.requires_grad]
    assert frozen == ["network.embeddings.mask_token"]


def test_architecture_replaces_the_repository(tmp_path, monkeypatch):
    """What a checkpoint needs: configuration and weights, without the folder or the hub."""
    save_tiny(tmp_path / "model", "dinov2")
    exact = exact_trunk(f"hf:{tmp_path / 'model'}", "pretrained")
    first = build_patch_encoder(*exact[:1], None, "pretrained", None, 42, exact.architecture).eval()
    assert str(tmp_path) not in exact.architecture
    (tmp_path / "model").rename(tmp_path / "gone")
    monkeypatch.setattr(hugging_face, "hub_answers", lambda: pytest.fail("asked the hub"))
    second = build_patch_encoder(exact.backbone, None, "none", None, 42, exact.architecture).eval()
    second.load_state_dict(first.state_dict())
    images = torch.randn(1, 3, 42, 42)
    with torch.no_grad():
        assert torch.equal(first.trunk(images), second.trunk(images))


def test_weights_from_a_file(tmp_path):
    model = save_tiny(tmp_path / "model", "vit")
    torch.save({"state_dict": {f"module.{name}": value for name, value in model.state_dict().items()}},
               tmp_path / "w.pt")
    encoder = build_patch_encoder(f"hf:{tmp_path / 'model'}", weights=str(tmp_path / "w.pt"), image_size=48)
    name = "embeddings.patch_embeddings.projection.weight"
    assert torch.equal(encoder.trunk.network.state_dict()[name], model.state_dict()[name])


@pytest.mark.parametrize(
    ("settings", "message"),
    [
        ({"stride": 32}, "does not support a stride of 32, its own is 14"),
        ({"weights": "imagenet"}, "has no weights imagenet: set model.patch_encoder.weights=pretrained"),
    ],
)
def test_what_a_model_cannot_do_is_one_clear_error(tmp_path, settings, message):
    save_tiny(tmp_path, "dinov2")
    with pytest.raises(ValueError, match=message):
        build_patch_encoder(f"hf:{tmp_path}", **({"image_size": 42} | settings))


def test_stochastic_depth_is_passed_on_or_refused(tmp_path):
    save_tiny(tmp_path / "dinov2", "dinov2")
    save_tiny(tmp_path / "vit", "vit")
    trunk = build_patch_encoder(f"hf:{tmp_path / 'dinov2'}", stochastic_depth=0.2, image_size=42).trunk
    assert trunk.network.config.drop_path_rate == 0.2
    with pytest.raises(ValueError, match="has no stochastic depth: leave out"):
        build_patch_encoder(f"hf:{tmp_path / 'vit'}", stochastic_depth=0.2, image_size=48)


def test_folder_without_a_model_is_refused(tmp_path):
    with pytest.raises(ValueError, match="Cannot read the model's configuration of hf:") as error:
        build_patch_encoder(f"hf:{tmp_path}")
    assert "\n" not in str(error.value)


def test_hub_out_of_reach_is_one_clear_error(monkeypatch, tmp_path):
    monkeypatch.setattr("huggingface_hub.constants.ENDPOINT", "http://127.0.0.1:9")
    monkeypatch.setattr("huggingface_hub.constants.HF_HUB_CACHE", str(tmp_path))
    assert not hub.hub_answers()
    with pytest.raises(ConnectionError) as error:
        build_patch_encoder("hf:example/no-model", weights="pretrained")
    message = str(error.value)
    assert message.startswith("Cannot fetch the model's configuration of hf:example/no-model: the Hugging Face hub is ")
    assert "Connect to the internet once, or use a downloaded folder (hf:FOLDER)" in message and "\n" not in message


@pytest.mark.parametrize("answers", [False, True])
@pytest.mark.parametrize("damaged", ["config.json", "model.safetensors"])
def test_a_damaged_file_in_the_cache_is_named(monkeypatch, tmp_path, damaged, answers):
    commit = "0" * 40
    folder = tmp_path / "models--some--model"
    save_tiny(folder / "snapshots" / commit, "vit")
    (folder / "refs").mkdir()
    (folder / "refs" / "main").write_text(commit)
    (folder / "snapshots" / commit / damaged).write_bytes(b"damaged")
    monkeypatch.setattr("huggingface_hub.constants.HF_HUB_CACHE", str(tmp_path))
    monkeypatch.setattr("huggingface_hub.constants.ENDPOINT", "http://127.0.0.1:9")
    monkeypatch.setattr(hugging_face, "hub_answers", lambda: answers)
    with pytest.raises(ValueError, match=rf"{damaged} is damaged .*: delete it, and it is downloaded again") as error:
        build_patch_encoder(f"hf:some/model@{commit}", weights="pretrained", image_size=48)
    assert "internet" not in str(error.value) and "\n" not in str(error.value)


def test_missing_package_names_the_requirements(monkeypatch):
    monkeypatch.setattr("importlib.util.find_spec", lambda name: None)
    with pytest.raises(ValueError, match="hf:some/model needs transformers: pip install -r requirements-trunks.txt"):
        build_patch_encoder("hf:some/model")
