"""Trunks of timm: grids of CNNs and vision transformers, strides, normalisation, weights from files and the hub."""

import pytest
import timm
import torch
from safetensors.torch import save_file

from models.trunks import timm_trunk
from models.trunks.build import build_patch_encoder
from models.trunks.timm_trunk import TimmTrunk

# A vision transformer of a few hundred weights under a real name.
TINY_VIT = {"embed_dim": 16, "depth": 1, "num_heads": 2}


@pytest.fixture
def tiny_vits(monkeypatch):
    """Make timm's vision transformers tiny; everything else of a name (patch size, registers, ...) stays."""
    create = timm.create_model

    def create_tiny(name, **settings):
        return create(name, **settings, **(TINY_VIT if name.startswith("vit") else {}))

    monkeypatch.setattr(timm, "create_model", create_tiny)


@pytest.mark.parametrize(
    ("backbone", "image_size", "grid"),
    [
        ("timm:vit_tiny_patch16_224", 224, 14), ("timm:vit_tiny_patch16_224", 96, 6),
        ("timm:vit_small_patch14_dinov2", 112, 8), ("timm:vit_small_patch14_reg4_dinov2", 70, 5),
    ],
)
def test_vision_transformers_have_the_grid_of_their_patches(backbone, image_size, grid, tiny_vits):
    encoder = build_patch_encoder(backbone, image_size=image_size).eval()
    assert encoder.channels == 16
    trunk, images = encoder.trunk, torch.randn(1, 3, image_size, image_size)
    with torch.no_grad():
        cells = trunk(images)
        tokens = trunk.network.forward_features(trunk.normalisation(images))
    assert cells.shape == (1, 16, grid, grid)
    # Cell (row, column) is the patch there, after class and register tokens.
    assert torch.equal(cells[0, :, 2, 3], tokens[0, tokens.shape[1] - grid * grid + 2 * grid + 3])
    assert all(parameter.requires_grad for parameter in trunk.parameters())


@pytest.mark.parametrize(
    ("backbone", "stride", "cells"),
    [
        ("timm:resnet10t", None, 4), ("timm:resnet10t", 16, 8), ("timm:resnet10t", 32, 4),
        ("timm:vit_tiny_patch16_224", 16, 8), ("timm:tf_efficientnet_lite0", 16, 8), ("timm:convnext_atto", 16, 8),
    ],
)
def test_output_stride_is_timms(backbone, stride, cells, tiny_vits):
    encoder = build_patch_encoder(backbone, stride, image_size=128).eval()
    with torch.no_grad():
        grid = encoder(torch.zeros(1, 1, 3, 128, 128), torch.ones(1, 1, dtype=torch.bool)).frontal_grid
    assert grid.shape[2:] == (cells, cells) and grid.shape[1] == encoder.channels


@pytest.mark.parametrize(
    ("backbone", "settings", "message"),
    [
        ("timm:densenet121", {"stride": 16}, "timm:densenet121 does not support a stride of 16, its own is 32: leave"),
        ("timm:vit_tiny_patch16_224", {"stride": 32}, "does not support a stride of 32, its own is 16"),
        ("timm:vit_small_patch14_dinov2", {"image_size": 100}, r"not take images of 100 pixels \(.*change data.image"),
        ("timm:resnet10tt", {}, "timm has no model 'resnet10tt': did you mean resnet10t"),
        ("timm:zzz", {}, "timm has no model 'zzz': timm.list_models"),
        ("timm:vgg11", {"stochastic_depth": 0.1}, "timm:vgg11 has no stochastic depth"),
    ],
)
def test_what_a_model_cannot_do_is_one_clear_error(backbone, settings, message, tiny_vits, quick_initialisation):
    with pytest.raises(ValueError, match=message) as error:
        build_patch_encoder(backbone, **({"image_size": 64} | settings))
    assert "\n" not in str(error.value)


def test_stochastic_depth_is_passed_on():
    trunk = build_patch_encoder("timm:convnext_atto", stochastic_depth=0.3, image_size=64).trunk
    rates = [module.drop_prob for module in trunk.modules() if type(module).__name__ == "DropPath"]
    assert max(rates) == pytest.approx(0.3)


def test_channels_last_maps_are_turned(quick_initialisation):
    network = timm.create_model("swin_tiny_patch4_window7_224", num_classes=0, depths=(1, 1, 1, 1), embed_dim=24)
    with torch.no_grad():
        assert TimmTrunk(network.eval())(torch.zeros(1, 3, 224, 224)).shape == (1, 192, 7, 7)


def test_normalisation_is_that_of_the_weights():
    trunk = build_patch_encoder("timm:tf_efficientnet_lite0", image_size=64).trunk
    images = torch.zeros(1, 3, 2, 2)  # ImageNet's mean
    expected = (torch.tensor([0.485, 0.456, 0.406]) - 0.5) / 0.5
    torch.testing.assert_close(trunk.normalisation(images)[0, :, 0, 0], expected)
    assert {name for name in trunk.state_dict() if "normalisation" in name} == {
        "normalisation.scale", "normalisation.offset",
    }


def test_weights_from_a_file(tmp_path):
    torch.manual_seed(3)
    network = timm.create_model("resnet10t").eval()
    save_file(network.state_dict(), tmp_path / "w.safetensors")
    encoder = build_patch_encoder("timm:resnet10t", weights=str(tmp_path / "w.safetensors"), image_size=64).eval()
    images = torch.randn(1, 3, 64, 64)
    with torch.no_grad():
        expected = network.forward_features(encoder.trunk.normalisation(images))
        assert torch.equal(encoder.trunk(images), expected)
    assert encoder.unused_weights == ("fc.bias", "fc.weight")


def test_files_of_the_authors_are_converted_by_timm(tiny_vits, tmp_path):
    """DINOv2's own files have a mask token, and embed the positions of another number of patches."""
    encoder = build_patch_encoder("timm:vit_small_patch14_dinov2", image_size=56)
    own = encoder.trunk.network.state_dict()
    state = {name: torch.randn_like(value) for name, value in own.items()}
    state |= {"mask_token": torch.zeros(1, 16), "pos_embed": torch.randn(1, 1 + 16, 16)}
    torch.save({"model": state}, tmp_path / "dinov2.pth")
    loaded = build_patch_encoder("timm:vit_small_patch14_dinov2", weights=str(tmp_path / "dinov2.pth"), image_size=56)
    weights = loaded.trunk.network.state_dict()
    assert torch.equal(weights["blocks.0.attn.qkv.weight"], state["blocks.0.attn.qkv.weight"])
    assert weights["pos_embed"].shape == own["pos_embed"].shape


def test_weights_of_the_hub_come_from_the_cache_if_it_is_out_of_reach(tmp_path, monkeypatch):
    torch.manual_seed(4)
    network = timm.create_model("resnet10t")
    save_file(network.state_dict(), tmp_path / "model.safetensors")
    monkeypatch.setattr(timm_trunk, "hub_answers", lambda: False)
    cached = {("timm/resnet10t.c3_in1k", "model.safetensors"): str(tmp_path / "model.safetensors")}
    monkeypatch.setattr("huggingface_hub.try_to_load_from_cache", lambda *key, **_: cached.get(key))
    trunk = build_patch_encoder("timm:resnet10t", weights="pretrained", image_size=64).trunk
    assert torch.equal(trunk.network.layer4[0].conv1.weight, network.layer4[0].conv1.weight)
    (tmp_path / "model.safetensors").write_bytes(b"damaged")
    with pytest.raises(ValueError, match=r"model.safetensors is damaged \(.*\): delete it, and it is downloaded"):
        build_patch_encoder("timm:resnet10t", weights="pretrained", image_size=64)
    cached.clear()
    with pytest.raises(ConnectionError, match="weights of timm:resnet10t.c3_in1k: the Hugging Face hub is out of"):
        build_patch_encoder("timm:resnet10t", weights="pretrained", image_size=64)
