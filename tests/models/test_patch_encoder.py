"""Trunks by name: grids, views, strides, and sources of weights."""

from collections import OrderedDict
from urllib.error import URLError

import pytest
import torch
import torchvision.models
from torch import nn
from torchvision.models import SwinTransformer
from torchvision.ops import StochasticDepth

from models.patch_encoder import (
    PatchEncoder,
    SwinTrunk,
    build_patch_encoder,
    exact_weights,
    is_convolutional,
    small_resnet,
)
from tests.support.tiny_model import CHANNELS, tiny_trunk

CNNS = {
    "resnet18": 512, "resnet50": 2048, "densenet121": 1024, "shufflenet_v2_x0_5": 1024, "mobilenet_v3_small": 576,
    "efficientnet_b0": 1280, "regnet_y_400mf": 440, "convnext_tiny": 768, "small_resnet": 256,
}


@pytest.fixture
def quick_initialisation(monkeypatch):
    """Skip torchvision's weight initialisation, which takes seconds; these tests depend on shapes only."""
    for name in ("kaiming_normal_", "normal_", "trunc_normal_", "kaiming_uniform_"):
        monkeypatch.setattr(nn.init, name, lambda tensor, *args, **kwargs: tensor)


# Views


def test_patches_of_all_views_lie_row_by_row_and_view_by_view():
    torch.manual_seed(0)
    encoder, images = PatchEncoder(tiny_trunk(), CHANNELS), torch.randn(2, 2, 3, 32, 32)
    patches = encoder(images, torch.ones(2, 2, dtype=torch.bool))
    assert patches.tokens.shape == (2, 32, CHANNELS) and patches.mask.shape == (2, 32)
    for study in range(2):
        for view in range(2):
            grid = encoder.trunk(images[study, view].unsqueeze(0))[0]  # [C, 4, 4]
            for row, column in ((0, 0), (0, 3), (2, 1)):
                patch = patches.tokens[study, view * 16 + row * 4 + column]
                torch.testing.assert_close(patch, grid[:, row, column])
            if view == 0:
                torch.testing.assert_close(patches.frontal_grid[study], grid)
    assert patches.mask.all()


def test_patches_of_a_missing_view_are_masked():
    encoder = PatchEncoder(tiny_trunk(), CHANNELS)
    mask = torch.tensor([[True, False], [True, True]])
    patches = encoder(torch.randn(2, 2, 3, 32, 32), mask)
    assert torch.equal(patches.mask, mask.repeat_interleave(16, 1))


def test_missing_view_does_not_enter_the_statistics_of_batch_norm():
    torch.manual_seed(0)
    trunk = nn.Sequential(nn.Conv2d(3, 4, 8, 8), nn.BatchNorm2d(4))
    encoder, images = PatchEncoder(trunk, 4), torch.randn(3, 2, 3, 32, 32)
    mask = torch.tensor([[True, False], [True, True], [True, False]])
    patches = encoder(images, mask)
    images[~mask] = 1e3
    assert torch.equal(encoder(images, mask).tokens[patches.mask], patches.tokens[patches.mask])
    one_view = encoder(images[[0, 2], :1], mask[[0, 2], :1])
    assert torch.equal(encoder(images[[0, 2]], mask[[0, 2]]).tokens[:, :16], one_view.tokens)


# Trunks by name


@pytest.mark.parametrize("stride", [32, 16])
@pytest.mark.parametrize("backbone", CNNS)
def test_convolutional_trunks(backbone, stride, quick_initialisation):
    encoder = build_patch_encoder(backbone, stride).eval()
    with torch.no_grad():
        grid = encoder(torch.zeros(1, 1, 3, 64, 64), torch.ones(1, 1, dtype=torch.bool)).frontal_grid
    assert encoder.channels == CNNS[backbone]
    assert grid.shape == (1, CNNS[backbone], 64 // stride, 64 // stride)


def test_swin_trunk(quick_initialisation):
    encoder = build_patch_encoder("swin_t").eval()
    with torch.no_grad():
        grid = encoder(torch.zeros(1, 1, 3, 64, 64), torch.ones(1, 1, dtype=torch.bool)).frontal_grid
    assert grid.shape == (1, 768, 2, 2) and encoder.channels == 768
    with pytest.raises(ValueError, match="swin_t does not support a stride of 16: set model.patch_encoder.stride=32"):
        build_patch_encoder("swin_t", stride=16)


def test_trunk_is_the_classifier_without_pooling_and_head():
    torch.manual_seed(0)
    trunk = build_patch_encoder("resnet18").trunk.eval()
    torch.manual_seed(0)
    classifier = torchvision.models.resnet18(weights=None).eval()
    images = torch.randn(1, 3, 64, 64)
    with torch.no_grad():
        torch.testing.assert_close(classifier.fc(trunk(images).mean((2, 3))), classifier(images))


@pytest.mark.parametrize(
    ("backbone", "message"),
    [("resnet1001", "No backbone 'resnet1001': use small_resnet or"), ("vit_b_16", r"vit_b_16' \(VisionTransformer\)")],
)
def test_other_names_are_refused(backbone, message, quick_initialisation):
    with pytest.raises(ValueError, match=message):
        build_patch_encoder(backbone)


# Weights


@pytest.fixture(scope="module")
def classifier() -> nn.Module:
    torch.manual_seed(5)
    network = torchvision.models.resnet18(weights=None)
    for module in network.modules():
        if isinstance(module, nn.BatchNorm2d):
            nn.init.uniform_(module.weight)
            nn.init.uniform_(module.running_mean)
    return network


def assert_loaded(encoder: PatchEncoder, classifier: nn.Module) -> None:
    """The trunk of `encoder` computes the patches of `classifier`."""
    images = torch.randn(1, 3, 64, 64)
    encoder.eval()
    classifier.eval()
    with torch.no_grad():
        torch.testing.assert_close(classifier.fc(encoder.trunk(images).mean((2, 3))), classifier(images))


@pytest.mark.parametrize("stride", [32, 16])
def test_weights_of_a_classifier_are_taken_by_name(classifier, tmp_path, stride):
    torch.save(classifier.state_dict(), tmp_path / "resnet18.pth")
    trunk = build_patch_encoder("resnet18", stride, str(tmp_path / "resnet18.pth")).trunk
    assert torch.equal(trunk[7][1].conv2.weight, classifier.layer4[1].conv2.weight)
    assert torch.equal(trunk[1].running_mean, classifier.bn1.running_mean)
    if stride == 32:
        assert_loaded(PatchEncoder(trunk, 512), classifier)


def test_order_and_counters_of_older_files_do_not_matter(classifier, tmp_path):
    """Older torchvision files store running means before weights and have no num_batches_tracked."""
    entries = sorted(classifier.state_dict().items())
    state = OrderedDict((name, value) for name, value in entries if not name.endswith("num_batches_tracked"))
    torch.save(state, tmp_path / "old.pth")
    assert_loaded(build_patch_encoder("resnet18", 32, str(tmp_path / "old.pth")), classifier)


def test_weights_of_a_trunk_are_taken_by_name(tmp_path):
    torch.manual_seed(5)
    own = small_resnet()
    torch.save(own.state_dict(), tmp_path / "trunk.pth")
    loaded = build_patch_encoder("small_resnet", 16, str(tmp_path / "trunk.pth")).trunk
    for name, value in own.state_dict().items():
        assert torch.equal(loaded.state_dict()[name], value), name


def test_older_names_of_dense_nets_are_understood(tmp_path, quick_initialisation):
    network = torchvision.models.densenet121(weights=None)
    with torch.no_grad():
        for number, parameter in enumerate(network.parameters()):
            parameter.fill_(number)
    state = {name.replace(".norm1.", ".norm.1.").replace(".conv2.", ".conv.2."): value
             for name, value in network.state_dict().items()}
    torch.save(state, tmp_path / "dense.pth")
    trunk = build_patch_encoder("densenet121", 32, str(tmp_path / "dense.pth")).trunk
    first, second = network.features.denseblock4.denselayer16, trunk[0].denseblock4.denselayer16
    assert torch.equal(first.conv2.weight, second.conv2.weight)


def test_weights_of_another_network_are_refused(tmp_path):
    torch.save(small_resnet(width=16).state_dict(), tmp_path / "narrow.pth")
    with pytest.raises(ValueError, match=r"narrow.pth does not fit the trunk: \d+ mismatches \(0.weight \(16, 3"):
        build_patch_encoder("small_resnet", 32, str(tmp_path / "narrow.pth"))
    torch.save({"conv1.weight": torch.zeros(64, 3, 7, 7)}, tmp_path / "part.pth")
    with pytest.raises(ValueError, match="missing for"):
        build_patch_encoder("resnet18", 32, str(tmp_path / "part.pth"))


# A Swin with two stages.
TINY_SWIN = {"embed_dim": 8, "depths": [2, 2], "num_heads": [2, 4]}


@pytest.fixture
def tiny_swin(monkeypatch):
    """Make swin_b a tiny Swin with random weights; return those of another one under torchvision's names."""
    def build(name, weights=None):
        return SwinTransformer([4, 4], window_size=[7, 7], stochastic_depth_prob=0.5, **TINY_SWIN)

    monkeypatch.setattr(torchvision.models, "get_model", build)
    torch.manual_seed(6)
    return {name: torch.randn_like(value) for name, value in SwinTrunk(build("swin_b")).named_parameters()}


def write_microsoft_swin(path, weights: dict[str, torch.Tensor]) -> None:
    """Write a file in the layout of Microsoft's Swin, with the entries that only it has."""
    renamed = {
        "features.0.0.": "patch_embed.proj.", "features.0.2.": "patch_embed.norm.", "features.1.": "layers.0.blocks.",
        "features.2.": "layers.0.downsample.", "features.3.": "layers.1.blocks.", "mlp.0.": "mlp.fc1.",
        "mlp.3.": "mlp.fc2.",
    }
    state = {}
    for name, value in weights.items():
        for ours, theirs in renamed.items():
            name = name.replace(ours, theirs)
        state[name] = value
    for stage in (0, 1):
        state[f"layers.{stage}.blocks.0.attn.relative_position_index"] = torch.zeros(49, 49, dtype=torch.long)
    state["layers.0.blocks.1.attn_mask"] = torch.zeros(64, 49, 49)
    state |= {"head.weight": torch.zeros(21841, 16), "head.bias": torch.zeros(21841)}
    torch.save({"model": state}, path)


def test_files_of_microsofts_swin_are_understood(tiny_swin, tmp_path):
    write_microsoft_swin(tmp_path / "swin.pth", tiny_swin)
    trunk = build_patch_encoder("swin_b", 32, str(tmp_path / "swin.pth")).trunk
    assert dict(trunk.named_parameters()).keys() == tiny_swin.keys()
    for name, parameter in trunk.named_parameters():
        assert torch.equal(parameter, tiny_swin[name]), name
    # The index of relative positions stays torchvision's.
    index = trunk.features[1][0].attn.relative_position_index
    assert index.shape == (49 * 49,) and index.max() > 0


def test_microsofts_swin_of_another_size_is_refused(tiny_swin, tmp_path):
    tiny_swin["features.1.0.attn.relative_position_bias_table"] = torch.zeros(23 * 23, 2)
    write_microsoft_swin(tmp_path / "swin.pth", tiny_swin)
    with pytest.raises(ValueError, match=r"swin.pth does not fit the trunk: 1 mismatches .*bias_table \(529, 2\) for"):
        build_patch_encoder("swin_b", 32, str(tmp_path / "swin.pth"))
    with pytest.raises(ValueError, match="swin.pth does not fit the trunk: .* missing for"):
        build_patch_encoder("small_resnet", 32, str(tmp_path / "swin.pth"))


def test_missing_file_of_the_release_says_where_to_download_it(tiny_swin, tmp_path):
    path = tmp_path / "swin_base_patch4_window7_224_22k.pth"
    with pytest.raises(FileNotFoundError) as error:
        build_patch_encoder("swin_b", 32, str(path))
    message = str(error.value)
    assert str(path) in message and "download https://github.com/SwinTransformer/" in message and "\n" not in message


# Stochastic depth


def test_stochastic_depth_rises_linearly_to_the_last_block(tiny_swin):
    def probabilities(**settings):
        trunk = build_patch_encoder("swin_b", **settings).trunk
        return [module.p for module in trunk.modules() if isinstance(module, StochasticDepth)]

    assert probabilities() == pytest.approx([0, 0.5 / 3, 1 / 3, 0.5])  # torchvision's
    assert probabilities(stochastic_depth=0.1) == pytest.approx([0, 0.1 / 3, 0.2 / 3, 0.1])
    assert probabilities(stochastic_depth=0.0) == [0, 0, 0, 0]


def test_stochastic_depth_of_a_trunk_without_it_is_refused():
    with pytest.raises(ValueError, match="small_resnet has no stochastic depth: leave out model.patch_encoder.stoch"):
        build_patch_encoder("small_resnet", stochastic_depth=0.1)


def test_files_without_weights_are_refused(tmp_path):
    with pytest.raises(FileNotFoundError, match="No weights at .*nowhere.pth: set model.patch_encoder.weights to"):
        build_patch_encoder("small_resnet", 32, str(tmp_path / "nowhere.pth"))
    (tmp_path / "page.pth").write_text("<html>not found</html>", encoding="utf-8")
    with pytest.raises(ValueError, match="page.pth is not a file of weights"):
        build_patch_encoder("small_resnet", 32, str(tmp_path / "page.pth"))
    (tmp_path / "empty.pth").touch()
    with pytest.raises(ValueError, match="empty.pth is not a file of weights"):
        build_patch_encoder("small_resnet", 32, str(tmp_path / "empty.pth"))
    torch.save({"model": {"weight": torch.zeros(1)}, "epoch": 3}, tmp_path / "nested.pth")
    with pytest.raises(ValueError, match="save only the state dict"):
        build_patch_encoder("small_resnet", 32, str(tmp_path / "nested.pth"))


def test_hub_out_of_reach_says_how_to_do_without(monkeypatch):
    def unreachable(*args, **kwargs):
        raise URLError("no route to host")

    monkeypatch.setattr(torchvision.models._api, "load_state_dict_from_url", unreachable)
    with pytest.raises(ConnectionError, match="weights of resnet18 .*no route.*to a downloaded file or to none"):
        build_patch_encoder("resnet18", weights="imagenet")


@pytest.mark.parametrize(
    ("backbone", "weights", "exact"),
    [
        ("resnet101", "imagenet", "imagenet_v2"), ("resnet101", "imagenet_v1", "imagenet_v1"),
        ("densenet121", "imagenet", "imagenet_v1"), ("swin_b", "imagenet", "imagenet_v1"),
        ("resnet101", "none", "none"), ("small_resnet", "folder/imagenet.pt", "folder/imagenet.pt"),
    ],
)
def test_weights_have_an_exact_name(backbone, weights, exact):
    assert exact_weights(backbone, weights) == exact


@pytest.mark.parametrize(("weights", "name"), [("imagenet", "IMAGENET1K_V2"), ("imagenet_v1", "IMAGENET1K_V1")])
def test_the_named_weights_are_loaded(monkeypatch, weights, name):
    loaded = []
    monkeypatch.setattr(
        torchvision.models, "get_model",
        lambda backbone, weights: loaded.append(weights) or torchvision.models.resnet18(),
    )
    build_patch_encoder("resnet101", weights=weights)
    assert loaded == [name]


@pytest.mark.parametrize(
    ("backbone", "weights", "message"),
    [
        ("swin_b", "imagenet_v2", "swin_b has no weights imagenet_v2: set model.patch_encoder.weights=imagenet_v1"),
        ("small_resnet", "imagenet_v1", "small_resnet has no ImageNet weights"),
        ("resnet7", "imagenet", "No backbone 'resnet7'"),
    ],
)
def test_weights_that_do_not_exist_are_refused(backbone, weights, message):
    with pytest.raises(ValueError, match=message):
        exact_weights(backbone, weights)


def test_cnns_are_told_from_transformers():
    assert [is_convolutional(name) for name in ("resnet101", "small_resnet", "swin_b")] == [True, True, False]


def test_small_resnet_has_no_imagenet_weights():
    with pytest.raises(ValueError, match="small_resnet has no ImageNet weights: set model.patch_encoder.weights=none"):
        build_patch_encoder("small_resnet", weights="imagenet")
