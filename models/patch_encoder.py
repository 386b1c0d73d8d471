"""The patch encoder: X-rays -> patches, by a CNN (or Swin) trunk without its classifier.

Shapes as in `models/outputs.py`; N = V * G * G.
"""

import pickle
import re
from dataclasses import dataclass
from pathlib import Path

import torch
import torch.nn.functional as F
import torchvision.models
from torch import Tensor, nn
from torchvision.ops import StochasticDepth

from models.layers.packing import Packing


@dataclass
class Patches:
    """The patches of all views, and the grid of the first.

    tokens        [B, N, C], view by view and row by row
    mask          [B, N] bool
    frontal_grid  [B, C, G, G]
    """

    tokens: Tensor
    mask: Tensor
    frontal_grid: Tensor


class PatchEncoder(nn.Module):
    """Encodes every view with the same trunk and concatenates the patches of all views."""

    def __init__(self, trunk: nn.Module, channels: int):
        super().__init__()
        self.trunk = trunk
        self.channels = channels

    def forward(self, images: Tensor, view_mask: Tensor, views: int | None = None) -> Patches:
        """images [B, V, 3, H, H], view_mask [B, V] bool; views: how many it keeps, if known."""
        if view_mask.shape[1] == 1:
            grids = self.trunk(images[:, 0]).unsqueeze(1)  # [B, V, C, G, G]
        else:  # missing views must not enter BatchNorm's statistics
            packing = Packing.from_mask(view_mask, views)
            grids = packing.unpack(self.trunk(packing.pack(images)))
        tokens = grids.flatten(-2).transpose(-1, -2)  # [B, V, G * G, C]
        mask = view_mask.unsqueeze(-1).expand(-1, -1, tokens.shape[2])
        return Patches(tokens.flatten(1, 2), mask.flatten(1), grids[:, 0])


class ResidualBlock(nn.Module):
    """Two 3x3 convolutions with BatchNorm and a shortcut (He et al., "Deep residual learning", 2016)."""

    def __init__(self, channels_in: int, channels: int, stride: int):
        super().__init__()
        self.conv1 = nn.Conv2d(channels_in, channels, 3, stride, padding=1, bias=False)
        self.norm1 = nn.BatchNorm2d(channels)
        self.conv2 = nn.Conv2d(channels, channels, 3, padding=1, bias=False)
        self.norm2 = nn.BatchNorm2d(channels)
        self.shortcut = nn.Identity()
        if stride != 1 or channels_in != channels:
            self.shortcut = nn.Sequential(
                nn.Conv2d(channels_in, channels, 1, stride, bias=False), nn.BatchNorm2d(channels)
            )

    def forward(self, maps: Tensor) -> Tensor:
        inner = self.norm2(self.conv2(F.relu(self.norm1(self.conv1(maps)))))
        return F.relu(inner + self.shortcut(maps))


def small_resnet(width: int = 32) -> nn.Sequential:
    """ResNet-18 of half the usual width, for CPUs: [B, 3, H, H] -> [B, 8 * width, H / 32, H / 32]."""
    stages: list[nn.Module] = [
        nn.Conv2d(3, width, 7, 2, padding=3, bias=False), nn.BatchNorm2d(width), nn.ReLU(), nn.MaxPool2d(3, 2, 1)
    ]
    channels_in = width
    for stage in range(4):
        channels = width * 2**stage
        stages += [
            ResidualBlock(channels_in, channels, stride=1 if stage == 0 else 2),
            ResidualBlock(channels, channels, stride=1),
        ]
        channels_in = channels
    return nn.Sequential(*stages)


class SwinTrunk(nn.Module):
    """torchvision's Swin without pooling and head, channels first: [B, 3, H, H] -> [B, C, H / 32, H / 32]."""

    def __init__(self, swin: nn.Module):
        super().__init__()
        self.features = swin.features
        self.norm = swin.norm

    def forward(self, images: Tensor) -> Tensor:
        return self.norm(self.features(images)).permute(0, 3, 1, 2)


# Files of weights that torchvision's hub does not have.
_DOWNLOADS = {
    "swin_base_patch4_window7_224_22k.pth": "https://github.com/SwinTransformer/storage/releases/download/v1.0.0/"
    "swin_base_patch4_window7_224_22k.pth",
}
# Names of torchvision's weights; its own are IMAGENET1K_V1 and so on.
_IMAGENET = r"imagenet_(v\d)"
# A weight that identifies the files of Microsoft's Swin.
_MICROSOFT_SWIN = "patch_embed.proj.weight"

# Names of torchvision's Swin -> names in the files of Microsoft's implementation (Liu et al., ICCV 2021), without those
# of its stages: torchvision keeps stages and patch mergings in a single list.
_SWIN_RENAMES = (
    (r"^features\.0\.0\.", "patch_embed.proj."),
    (r"^features\.0\.2\.", "patch_embed.norm."),
    (r"\.mlp\.0\.", ".mlp.fc1."),
    (r"\.mlp\.3\.", ".mlp.fc2."),
)


def microsoft_swin_name(name: str) -> str:
    """Return the name that Microsoft's Swin gives to the parameter `name` of `SwinTrunk`."""
    for pattern, replacement in _SWIN_RENAMES:
        name = re.sub(pattern, replacement, name)
    block = re.match(r"^features\.(\d+)\.(.*)", name)
    if not block:
        return name
    stage, rest = (int(block[1]) - 1) // 2, block[2]
    return f"layers.{stage}.blocks.{rest}" if int(block[1]) % 2 else f"layers.{stage}.downsample.{rest}"


# The part before pooling and head, for each family of torchvision's classifiers.
_FAMILIES = {
    "ResNet": lambda net: nn.Sequential(
        net.conv1, net.bn1, net.relu, net.maxpool, net.layer1, net.layer2, net.layer3, net.layer4
    ),
    "ShuffleNetV2": lambda net: nn.Sequential(net.conv1, net.maxpool, net.stage2, net.stage3, net.stage4, net.conv5),
    "RegNet": lambda net: nn.Sequential(net.stem, net.trunk_output),
    "MNASNet": lambda net: net.layers,
    "DenseNet": lambda net: nn.Sequential(net.features, nn.ReLU()),
    "EfficientNet": lambda net: net.features,
    "MobileNetV2": lambda net: net.features,
    "MobileNetV3": lambda net: net.features,
    "ConvNeXt": lambda net: net.features,
    "VGG": lambda net: net.features,
    "SwinTransformer": SwinTrunk,
}


def build_patch_encoder(
    backbone: str, stride: int = 32, weights: str = "none", stochastic_depth: float | None = None
) -> PatchEncoder:
    """Build the patch encoder around the trunk called `backbone`.

    backbone  `small_resnet`, or a torchvision classifier of one of the families above (resnet101, densenet121, swin_b)
    stride    side of a patch in pixels, 32 or 16; 16 removes the last downsampling of a CNN
    weights   imagenet_v1, imagenet_v2: torchvision's, from its hub; imagenet: the latest of them; none: random;
              otherwise a file with the state dict of the trunk or of the whole classifier, or of Microsoft's Swin
    stochastic_depth   see `set_stochastic_depth`; None: torchvision's default for the backbone
    Raises ValueError for an unknown backbone, and for a stride or stochastic depth that it does not support,
    FileNotFoundError and ConnectionError for weights that are missing or cannot be downloaded, each with the fix in the
    message.
    """
    weights = exact_weights(backbone, weights)
    version = re.fullmatch(_IMAGENET, weights)
    if backbone == "small_resnet":
        network = trunk = small_resnet()
    else:
        network = _torchvision_classifier(backbone, f"IMAGENET1K_{version[1].upper()}" if version else None)
        trunk = _FAMILIES[type(network).__name__](network)
    if stride == 16:
        _remove_last_downsampling(trunk, backbone)
    if stochastic_depth is not None:
        set_stochastic_depth(trunk, backbone, stochastic_depth)
    if weights != "none" and not version:
        _load_trunk(trunk, network, Path(weights))
    return PatchEncoder(trunk, _output_shape(trunk)[0])


def exact_weights(backbone: str, weights: str) -> str:
    """Return the version of torchvision's weights that `imagenet` stands for; other `weights` as they are.

    Raises ValueError for an unknown backbone, and for versions that it does not have.
    """
    if weights != "imagenet" and not re.fullmatch(_IMAGENET, weights):
        return weights
    if backbone == "small_resnet":
        raise ValueError("small_resnet has no ImageNet weights: set model.patch_encoder.weights=none")
    _check_backbone(backbone)
    published = torchvision.models.get_model_weights(backbone)
    names = [entry.name.lower().replace("imagenet1k_", "imagenet_") for entry in published]
    if weights == "imagenet":
        return names[list(published).index(published.DEFAULT)]
    if weights not in names:
        raise ValueError(f"{backbone} has no weights {weights}: set model.patch_encoder.weights={' or '.join(names)}")
    return weights


def is_convolutional(backbone: str) -> bool:
    """Whether the backbone is a CNN, for which the channels-last memory format is faster on GPUs."""
    return not backbone.startswith("swin")


def _check_backbone(backbone: str) -> None:
    """Raise ValueError if torchvision has no classifier called `backbone`."""
    if backbone not in torchvision.models.list_models(torchvision.models):
        raise ValueError(
            f"No backbone '{backbone}': use small_resnet or a name of torchvision.models.list_models(), e.g. resnet101"
        )


def _torchvision_classifier(backbone: str, weights: str | None) -> nn.Module:
    """The torchvision classifier called `backbone`, with its published `weights` (None: random)."""
    _check_backbone(backbone)
    try:
        network = torchvision.models.get_model(backbone, weights=weights)
    except OSError as error:  # urllib's errors are among these
        raise ConnectionError(
            f"Cannot fetch the ImageNet weights of {backbone} ({error}): connect to the internet once, or set "
            "model.patch_encoder.weights to a downloaded file or to none"
        ) from error
    family = type(network).__name__
    if family not in _FAMILIES:
        raise ValueError(f"The backbone '{backbone}' ({family}) has no patch grid: choose a ResNet, DenseNet, Swin...")
    return network


def set_stochastic_depth(trunk: nn.Module, backbone: str, probability: float) -> None:
    """Set with which probability residual branches are dropped in training.

    It rises linearly from 0 in the first block to `probability` in the last (Huang et al., ECCV 2016). Raises
    ValueError if the trunk has no stochastic depth.
    """
    blocks = [module for module in trunk.modules() if isinstance(module, StochasticDepth)]
    if not blocks:
        raise ValueError(f"{backbone} has no stochastic depth: leave out model.patch_encoder.stochastic_depth")
    for index, block in enumerate(blocks):
        block.p = probability * index / max(len(blocks) - 1, 1)


def _output_shape(trunk: nn.Module, side: int = 64) -> tuple[int, ...]:
    """Channels and grid of the trunk's output for a square image, found with a forward pass."""
    training = trunk.training
    with torch.no_grad():
        shape = trunk.eval()(torch.zeros(1, 3, side, side)).shape[1:]
    trunk.train(training)
    return tuple(shape)


def _remove_last_downsampling(trunk: nn.Module, backbone: str) -> None:
    """Set the stride of the layers that downsample from stride 16 to 32 to 1. Their weights are unchanged.

    A forward pass finds these layers: those with stride 2 whose input is 1/16 of the image.
    """
    side = 128
    downsampling: list[nn.Module] = []

    def collect(module: nn.Module, inputs: tuple[Tensor, ...], output: Tensor) -> None:
        if isinstance(module, (nn.Conv2d, nn.MaxPool2d, nn.AvgPool2d)) and module.stride in (2, (2, 2)):
            if inputs[0].shape[-1] == side // 16:
                downsampling.append(module)

    hooks = [module.register_forward_hook(collect) for module in trunk.modules()]
    _output_shape(trunk, side)
    for hook in hooks:
        hook.remove()
    for module in downsampling:
        module.stride = (1, 1) if isinstance(module, nn.Conv2d) else 1
        if isinstance(module, nn.Conv2d) and module.kernel_size == (2, 2):
            module.padding = "same"  # ConvNeXt's 2x2 convolution would shrink the grid by one
        if isinstance(module, (nn.MaxPool2d, nn.AvgPool2d)) and module.kernel_size in (2, (2, 2)):
            module.kernel_size = 1  # and so would the 2x2 pooling of DenseNet and VGG
    if _output_shape(trunk, side)[-1] != side // 16:
        raise ValueError(
            f"{backbone} does not support a stride of 16: set model.patch_encoder.stride=32 or choose a ResNet"
        )


def _load_trunk(trunk: nn.Module, network: nn.Module, path: Path) -> None:
    """Load a state dict of `trunk`, or of the classifier `network` that contains it, or of Microsoft's Swin."""
    if not path.is_file():
        download = f"download {_DOWNLOADS[path.name]} to it, or " if path.name in _DOWNLOADS else ""
        raise FileNotFoundError(
            f"No weights at {path}: {download}set model.patch_encoder.weights to imagenet, none or a file"
        )
    state = _read_state(path)
    own = trunk.state_dict(keep_vars=True)
    # Older files lack the counters of BatchNorm; the index of Swin's relative positions is constant.
    needed = [name for name in own if not name.endswith(("num_batches_tracked", "relative_position_index"))]
    if _MICROSOFT_SWIN in state:
        state = {name: state[microsoft_swin_name(name)] for name in needed if microsoft_swin_name(name) in state}
    elif not state.keys() >= set(needed):
        name_of = {id(value): name for name, value in network.state_dict(keep_vars=True).items()}
        state = {name: state[name_of[id(value)]] for name, value in own.items() if name_of[id(value)] in state}
    wrong = [
        f"{name} {tuple(state[name].shape) if name in state else 'missing'} for {tuple(own[name].shape)}"
        for name in needed if name not in state or state[name].shape != own[name].shape
    ]
    if wrong:
        raise ValueError(f"{path} does not fit the trunk: {len(wrong)} mismatches ({'; '.join(wrong[:3])})")
    trunk.load_state_dict({name: state[name] for name in own if name in state}, strict=False)


def _read_state(path: Path) -> dict[str, Tensor]:
    """Read a state dict, with the names of the current torchvision. Raises ValueError for any other content."""
    try:
        state = torch.load(path, map_location="cpu", weights_only=True)
    except (pickle.UnpicklingError, RuntimeError, EOFError) as error:
        raise ValueError(f"{path} is not a file of weights: give a state dict written by torch.save") from error
    if isinstance(state, dict) and isinstance(state.get("model"), dict) and _MICROSOFT_SWIN in state["model"]:
        state = state["model"]
    if not isinstance(state, dict) or not all(isinstance(value, Tensor) for value in state.values()):
        raise ValueError(f"{path} contains more than names and tensors: save only the state dict")
    # torchvision's own DenseNet files write norm.1 where the module is called norm1.
    return {re.sub(r"(denselayer\d+\.(?:norm|conv))\.(\d)", r"\1\2", name): value for name, value in state.items()}
