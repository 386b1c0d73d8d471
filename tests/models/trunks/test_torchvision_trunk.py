"""torchvision's classifiers as trunks: grids, strides, stochastic depth, and checkpoints of earlier versions."""

import copy
from urllib.error import URLError

import pytest
import torch
import torchvision.models
from torch import nn
from torchvision.models import SwinTransformer
from torchvision.ops import StochasticDepth

from models.trunks.build import build_patch_encoder
from models.trunks.torchvision_trunk import extract_trunk, rename_earlier

CNNS = {
    "resnet18": 512, "resnet50": 2048, "densenet121": 1024, "shufflenet_v2_x0_5": 1024, "mobilenet_v3_small": 576,
    "efficientnet_b0": 1280, "regnet_y_400mf": 440, "convnext_tiny": 768, "small_resnet": 256,
}
ONE_VIEW = torch.ones(1, 1, dtype=torch.bool)


@pytest.mark.parametrize("stride", [None, 16])
@pytest.mark.parametrize("backbone", CNNS)
def test_convolutional_trunks(backbone, stride, quick_initialisation):
    encoder = build_patch_encoder(backbone, stride).eval()
    with torch.no_grad():
        grid = encoder(torch.zeros(1, 1, 3, 64, 64), ONE_VIEW).frontal_grid
    assert encoder.channels == CNNS[backbone]
    assert grid.shape == (1, CNNS[backbone], 64 // (stride or 32), 64 // (stride or 32))


def test_swin_trunk(quick_initialisation):
    encoder = build_patch_encoder("swin_t").eval()
    with torch.no_grad():
        grid = encoder(torch.zeros(1, 1, 3, 64, 64), ONE_VIEW).frontal_grid
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
        assert torch.equal(classifier.fc(trunk(images).mean((2, 3))), classifier(images))


def test_a_copy_computes_the_same_and_shares_nothing():
    trunk = build_patch_encoder("resnet18").trunk.eval()
    copied, images = copy.deepcopy(trunk), torch.randn(1, 3, 64, 64)
    with torch.no_grad():
        assert torch.equal(copied(images), trunk(images))
        copied.conv1.weight.zero_()
        assert trunk.conv1.weight.any()


@pytest.mark.parametrize(
    ("backbone", "message"),
    [
        ("resnet1001", "No backbone 'resnet1001': use small_resnet, timm:NAME"),
        ("vit_b_16", "'vit_b_16' has no patch grid: .* or timm:NAME for vision transformers"),
    ],
)
def test_other_names_are_refused(backbone, message):
    with pytest.raises(ValueError, match=message):
        build_patch_encoder(backbone)


# Checkpoints of earlier versions

# A member of each family, and how earlier versions cut the trunk out of it.
EARLIER = {
    "resnet18": lambda net: nn.Sequential(
        net.conv1, net.bn1, net.relu, net.maxpool, net.layer1, net.layer2, net.layer3, net.layer4
    ),
    "shufflenet_v2_x0_5": lambda net: nn.Sequential(
        net.conv1, net.maxpool, net.stage2, net.stage3, net.stage4, net.conv5
    ),
    "regnet_y_400mf": lambda net: nn.Sequential(net.stem, net.trunk_output),
    "mnasnet0_5": lambda net: net.layers,
    "densenet121": lambda net: nn.Sequential(net.features, nn.ReLU()),
    "efficientnet_b0": lambda net: net.features,
    "mobilenet_v2": lambda net: net.features,
    "mobilenet_v3_small": lambda net: net.features,
    "convnext_tiny": lambda net: net.features,
    "vgg11": lambda net: net.features,
    "swin_t": lambda net: EarlierSwin(net),
}


class EarlierSwin(nn.Module):
    """The Swin trunk of earlier versions."""

    def __init__(self, swin: nn.Module):
        super().__init__()
        self.features = swin.features
        self.norm = swin.norm

    def forward(self, images: torch.Tensor) -> torch.Tensor:
        return self.norm(self.features(images)).permute(0, 3, 1, 2)


def halve_the_last_stride(trunk: nn.Module) -> None:
    """Set the layers that downsample from 1/16 to 1/32 to stride 1 as earlier versions did, found with hooks."""
    downsampling = []

    def collect(module, inputs, output):
        if isinstance(module, (nn.Conv2d, nn.MaxPool2d, nn.AvgPool2d)) and module.stride in (2, (2, 2)):
            if inputs[0].shape[-1] == 8:
                downsampling.append(module)

    hooks = [module.register_forward_hook(collect) for module in trunk.modules()]
    with torch.no_grad():
        trunk(torch.zeros(1, 3, 128, 128))
    for hook in hooks:
        hook.remove()
    for module in downsampling:
        module.stride = (1, 1) if isinstance(module, nn.Conv2d) else 1
        if isinstance(module, nn.Conv2d) and module.kernel_size == (2, 2):
            module.padding = "same"
        if isinstance(module, (nn.MaxPool2d, nn.AvgPool2d)) and module.kernel_size in (2, (2, 2)):
            module.kernel_size = 1


@pytest.mark.parametrize(
    ("backbone", "stride"),
    [(name, stride) for name in EARLIER for stride in (32, 16) if (name, stride) != ("swin_t", 16)],
)
def test_earlier_checkpoint_of_each_family_gives_equal_features(backbone, stride, quick_initialisation):
    torch.manual_seed(1)
    earlier = EARLIER[backbone](torchvision.models.get_model(backbone, weights=None)).eval()
    for module in earlier.modules():
        if isinstance(module, nn.BatchNorm2d):
            nn.init.uniform_(module.running_mean, -0.1, 0.1)
            nn.init.uniform_(module.weight, 0.5, 1.5)
    if stride == 16:
        halve_the_last_stride(earlier)
    saved = {f"patch_encoder.trunk.{name}": value for name, value in earlier.state_dict().items()}
    trunk = build_patch_encoder(backbone, stride).trunk.eval()
    renamed = rename_earlier(backbone, saved, "patch_encoder.trunk.")
    trunk.load_state_dict({name.removeprefix("patch_encoder.trunk."): value for name, value in renamed.items()})
    images = torch.randn(2, 3, 64, 64, generator=torch.Generator().manual_seed(2))
    with torch.no_grad():
        assert torch.equal(trunk(images), earlier(images))
    # What is saved now loads as it is.
    assert rename_earlier(backbone, trunk.state_dict()).keys() == trunk.state_dict().keys()


def test_other_trunks_and_other_parts_keep_their_names():
    names = {"patch_encoder.trunk.0.weight": 1, "decoder.layers.0.weight": 2, "0.weight": 3}
    for backbone in ("small_resnet", "timm:resnet18", "hf:folder"):
        assert rename_earlier(backbone, names, "patch_encoder.trunk.") == names
    assert rename_earlier("resnet18", names, "patch_encoder.trunk.") == {
        "patch_encoder.trunk.conv1.weight": 1, "decoder.layers.0.weight": 2, "0.weight": 3,
    }


# Stochastic depth


@pytest.fixture
def tiny_swin(monkeypatch):
    """Make swin_b a tiny Swin."""
    monkeypatch.setattr(
        torchvision.models, "get_model",
        lambda name, weights=None: SwinTransformer([4, 4], 8, [2, 2], [2, 4], [7, 7], stochastic_depth_prob=0.5),
    )


def test_stochastic_depth_rises_linearly_to_the_last_block(tiny_swin):
    def probabilities(**settings):
        trunk = build_patch_encoder("swin_b", **settings).trunk
        return [module.p for module in trunk.modules() if isinstance(module, StochasticDepth)]

    assert probabilities() == pytest.approx([0, 0.5 / 3, 1 / 3, 0.5])  # torchvision's
    assert probabilities(stochastic_depth=0.1) == pytest.approx([0, 0.1 / 3, 0.2 / 3, 0.1])
    assert probabilities(stochastic_depth=0.0) == [0, 0, 0, 0]


def test_stochastic_depth_follows_the_training_mode():
    swin = SwinTransformer([4, 4], 8, [2, 2], [2, 4], [7, 7], stochastic_depth_prob=0.9)
    trunk, images = extract_trunk(swin.eval(), "permute"), torch.randn(4, 3, 32, 32)
    assert torch.equal(trunk(images), trunk(images))
    trunk.train()
    assert not torch.equal(trunk(images), trunk(images))


@pytest.mark.parametrize("backbone", ["small_resnet", "resnet18"])
def test_stochastic_depth_of_a_trunk_without_it_is_refused(backbone):
    with pytest.raises(ValueError, match=f"{backbone} has no stochastic depth: leave out model.patch_encoder.stoch"):
        build_patch_encoder(backbone, stochastic_depth=0.1)


# Published weights


def test_hub_out_of_reach_says_how_to_do_without(monkeypatch):
    def unreachable(*args, **kwargs):
        raise URLError("no route to host")

    monkeypatch.setattr(torchvision.models._api, "load_state_dict_from_url", unreachable)
    with pytest.raises(ConnectionError, match="weights of resnet18 .*no route.*to a downloaded file or to none"):
        build_patch_encoder("resnet18", weights="pretrained")


@pytest.mark.parametrize("content", [b"", b"not weights", b"PK\3\4 a truncated archive", b"\x80\2}q\0."])
def test_a_damaged_file_in_the_cache_is_named(monkeypatch, tmp_path, content):
    monkeypatch.setattr(torch.hub, "_hub_dir", str(tmp_path))
    cached = tmp_path / "checkpoints" / "resnet18-f37072fd.pth"
    cached.parent.mkdir()
    cached.write_bytes(content)
    with pytest.raises(ValueError, match=rf"{cached} is damaged \(.*\): delete it, and it is downloaded") as error:
        build_patch_encoder("resnet18", weights="pretrained")
    assert "internet" not in str(error.value) and "\n" not in str(error.value)


@pytest.mark.parametrize(
    ("weights", "name"),
    [("imagenet", "IMAGENET1K_V2"), ("pretrained", "IMAGENET1K_V2"), ("imagenet_v1", "IMAGENET1K_V1")],
)
def test_the_named_weights_are_loaded(monkeypatch, weights, name):
    loaded = []
    monkeypatch.setattr(
        torchvision.models, "get_model",
        lambda backbone, weights: loaded.append(weights) or torchvision.models.resnet18(),
    )
    build_patch_encoder("resnet101", weights=weights)
    assert loaded == [name]
