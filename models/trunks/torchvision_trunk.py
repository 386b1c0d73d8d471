"""torchvision's classifiers as trunks: the part up to the feature map before pooling, by torchvision's own extraction.

The state dict of a trunk has the classifier's names. Checkpoints of earlier versions have others for most families, see
`rename_earlier`. torchvision is imported where it is used: that takes two seconds and 160 MiB, which other trunks save.
"""

import pickle
import re
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path, PurePosixPath
from typing import TypeVar
from urllib.parse import urlparse

import torch
from torch import fx, nn
from torch.fx.passes.shape_prop import ShapeProp

from models.trunks.hub import damaged_in_cache

Value = TypeVar("Value")

# Names of torchvision's weights; its own are IMAGENET1K_V1 and so on.
_IMAGENET = r"imagenet_(v\d)"


@dataclass(frozen=True)
class _Family:
    """A family of classifiers.

    last      the node of the computation that returns the feature map, as torchvision's feature extraction names it
    earlier   the parts that earlier versions numbered 0, 1, ...; a name: the part that all their numbers are in
    """

    last: str
    earlier: tuple[str, ...] | str = ()


_RESNET = _Family("layer4", ("conv1", "bn1", "relu", "maxpool", "layer1", "layer2", "layer3", "layer4"))
_FEATURES = _Family("features", "features")
_FAMILIES = {
    "resnet": _RESNET, "resnext": _RESNET, "wide_resnet": _RESNET,
    "shufflenet": _Family("conv5", ("conv1", "maxpool", "stage2", "stage3", "stage4", "conv5")),
    "regnet": _Family("trunk_output", ("stem", "trunk_output")),
    "mnasnet": _Family("layers", "layers"),
    "densenet": _Family("relu", ("features",)),
    "efficientnet": _FEATURES, "mobilenet": _FEATURES, "convnext": _FEATURES, "vgg": _FEATURES,
    "swin": _Family("permute"),
}


def build_torchvision_trunk(
    backbone: str, stride: int | None, weights: str, stochastic_depth: float | None
) -> fx.GraphModule:
    """Build the trunk [B, 3, H, H] -> [B, C, G, G] of the classifier `backbone`.

    weights: imagenet_v1 or imagenet_v2, from torchvision's hub; anything else leaves them random. Raises ValueError and
    ConnectionError as `models.trunks.build.build_patch_encoder`.
    """
    import torchvision.models

    _check_backbone(backbone)
    family = _family(backbone)
    if family is None:
        raise ValueError(
            f"The backbone '{backbone}' has no patch grid: choose a ResNet, DenseNet, Swin..., or timm:NAME for vision "
            "transformers"
        )
    version = re.fullmatch(_IMAGENET, weights)
    name = f"IMAGENET1K_{version[1].upper()}" if version else None
    try:
        network = torchvision.models.get_model(backbone, weights=name)
    except (OSError, RuntimeError, EOFError, pickle.UnpicklingError) as error:  # urllib's errors are among the first
        cached = None if name is None else _cached_weights(backbone, name)
        if cached is not None and cached.is_file():
            raise damaged_in_cache(cached, error) from error
        if not isinstance(error, OSError):
            raise
        raise ConnectionError(
            f"Cannot fetch the ImageNet weights of {backbone} ({error}): connect to the internet once, or set "
            "model.patch_encoder.weights to a downloaded file or to none"
        ) from error
    if stochastic_depth is not None:
        _set_stochastic_depth(network, backbone, stochastic_depth)
    trunk = extract_trunk(network, family.last)
    if stride == 16:
        _remove_last_downsampling(trunk, backbone)
    return trunk


def _cached_weights(backbone: str, name: str) -> Path:
    """Return where torch.hub keeps the weights `name` of `backbone`."""
    import torchvision.models

    url = torchvision.models.get_model_weights(backbone)[name].url
    return Path(torch.hub.get_dir(), "checkpoints", PurePosixPath(urlparse(url).path).name)


def extract_trunk(network: nn.Module, last: str) -> fx.GraphModule:
    """Return the part of `network` that computes the output of its node `last`, with the same weights and names."""
    from torchvision.models.feature_extraction import create_feature_extractor

    extractor = create_feature_extractor(network, {last: "grid"})
    output = next(reversed(extractor.graph.nodes))
    output.args = (output.args[0]["grid"],)  # the map itself instead of a dictionary
    return fx.GraphModule(extractor, extractor.graph, type(network).__name__)


def exact_imagenet_weights(backbone: str, weights: str) -> str:
    """Return the version of torchvision's weights that `imagenet` stands for; other `weights` as they are.

    Raises ValueError for an unknown backbone, and for versions that it does not have.
    """
    import torchvision.models

    _check_backbone(backbone)
    published = torchvision.models.get_model_weights(backbone)
    names = [entry.name.lower().replace("imagenet1k_", "imagenet_") for entry in published]
    if weights == "imagenet":
        return names[list(published).index(published.DEFAULT)]
    if weights not in names:
        raise ValueError(f"{backbone} has no weights {weights}: set model.patch_encoder.weights={' or '.join(names)}")
    return weights


def rename_earlier(backbone: str, values: Mapping[str, Value], prefix: str = "") -> dict[str, Value]:
    """Return `values` with the names of weights that earlier versions gave to those of torchvision trunks replaced.

    Only names below `prefix` that start with a number are concerned: `4.0.conv1.weight` of a ResNet, which is
    `layer1.0.conv1.weight`.
    """
    family = _family(backbone)
    if family is None:
        return dict(values)

    def rename(name: str) -> str:
        number = re.match(r"(\d+)\.", name.removeprefix(prefix))
        if number is None or not name.startswith(prefix) or not family.earlier:
            return name
        if isinstance(family.earlier, str):
            return f"{prefix}{family.earlier}.{name.removeprefix(prefix)}"
        return f"{prefix}{family.earlier[int(number[1])]}.{name[len(prefix) + number.end():]}"

    return {rename(name): value for name, value in values.items()}


def _family(backbone: str) -> _Family | None:
    """The family of the classifier `backbone`; None for another name."""
    return next((family for start, family in _FAMILIES.items() if backbone.startswith(start)), None)


def _check_backbone(backbone: str) -> None:
    """Raise ValueError if torchvision has no classifier called `backbone`."""
    import torchvision.models

    if backbone not in torchvision.models.list_models(torchvision.models):
        raise ValueError(
            f"No backbone '{backbone}': use small_resnet, timm:NAME, hf:REPO, xrv:NAME, or a name of "
            "torchvision.models.list_models(), e.g. resnet101"
        )


def _set_stochastic_depth(network: nn.Module, backbone: str, probability: float) -> None:
    """Set with which probability residual branches are dropped in training.

    It rises linearly from 0 in the first block to `probability` in the last (Huang et al., ECCV 2016). Raises
    ValueError if the network has no stochastic depth.
    """
    from torchvision.ops import StochasticDepth

    blocks = [module for module in network.modules() if isinstance(module, StochasticDepth)]
    if not blocks:
        raise ValueError(f"{backbone} has no stochastic depth: leave out model.patch_encoder.stochastic_depth")
    for index, block in enumerate(blocks):
        block.p = probability * index / max(len(blocks) - 1, 1)


def _remove_last_downsampling(trunk: fx.GraphModule, backbone: str) -> None:
    """Set the stride of the layers that downsample from stride 16 to 32 to 1. Their weights are unchanged.

    Without dilation: earlier checkpoints of stride 16 are trained so.
    """
    side = 128
    _propagate_shapes(trunk, side)
    for node in trunk.graph.nodes:
        if node.op == "call_module" and (_side(node.args[0]), _side(node)) == (side // 16, side // 32):
            for module in trunk.get_submodule(node.target).modules():
                if isinstance(module, (nn.Conv2d, nn.MaxPool2d, nn.AvgPool2d)) and module.stride in (2, (2, 2)):
                    _set_stride_to_one(module)
    if _propagate_shapes(trunk, side)[-1] != side // 16:
        raise ValueError(
            f"{backbone} does not support a stride of 16: set model.patch_encoder.stride=32 or choose a ResNet"
        )


def _set_stride_to_one(module: nn.Conv2d | nn.MaxPool2d | nn.AvgPool2d) -> None:
    """Keep the size of the map."""
    if isinstance(module, nn.Conv2d):
        module.stride = (1, 1)
        if module.kernel_size == (2, 2):
            module.padding = "same"  # ConvNeXt's 2x2 convolution would shrink the grid by one
    else:
        module.stride = 1
        if module.kernel_size in (2, (2, 2)):
            module.kernel_size = 1  # and so would the 2x2 pooling of DenseNet and VGG


def _propagate_shapes(trunk: fx.GraphModule, side: int) -> torch.Size:
    """Give every node the shape of its output for images of `side` pixels. Return that of the last."""
    training = trunk.training
    with torch.no_grad():
        output = ShapeProp(trunk.eval()).propagate(torch.zeros(1, 3, side, side))
    trunk.train(training)
    return output.shape


def _side(node: fx.Node) -> int | None:
    """The side of the map [B, C, G, G] that `node` returns; None for anything else."""
    shape = getattr(node.meta.get("tensor_meta"), "shape", ())
    return shape[-1] if len(shape) == 4 else None
