"""Trunks by name: the library is the prefix of the name.

    small_resnet          a small ResNet for CPUs
    resnet101, ...        torchvision's classifiers
    timm:NAME             timm
    hf:REPO               transformers, from the Hugging Face hub or a folder
    xrv:NAME              the DenseNets of torchxrayvision
"""

import re
from pathlib import Path
from typing import NamedTuple

import torch
from torch import Tensor, nn

from models.patch_encoder import PatchEncoder
from models.trunks import hugging_face, timm_trunk, xray_vision
from models.trunks.hugging_face import build_hugging_face_trunk, describe_architecture, exact_repository
from models.trunks.small_resnet import small_resnet
from models.trunks.timm_trunk import build_timm_trunk, exact_timm_name
from models.trunks.torchvision_trunk import build_torchvision_trunk, exact_imagenet_weights, rename_earlier
from models.trunks.weight_files import load_trunk_file
from models.trunks.xray_vision import build_xray_vision_trunk

# Settings of weights that name published ones: the libraries', and torchvision's by version.
_PUBLISHED = r"pretrained|imagenet|imagenet_v\d"


class ExactTrunk(NamedTuple):
    """The settings that give the same trunk at any time, as `exact_trunk` returns them."""

    backbone: str
    weights: str
    architecture: str | None


def build_patch_encoder(
    backbone: str, stride: int | None = None, weights: str = "none", stochastic_depth: float | None = None,
    image_size: int = 224, architecture: str | None = None,
) -> PatchEncoder:
    """Build the patch encoder around the trunk called `backbone`.

    backbone       see the module's docstring
    stride         side of a patch in pixels, 32 or 16; None: the trunk's own
    weights        pretrained: those that the library publishes under this name; imagenet_v1, imagenet_v2: torchvision's
                   versions; none: random; otherwise a file (see `load_trunk_file`)
    stochastic_depth   probability of skipping the last residual block in training; None: the library's default
    image_size     side of the images, pixels
    architecture   of an `hf:` trunk, see `exact_trunk`
    Raises ValueError for an unknown backbone or one that does not take the other settings, FileNotFoundError and
    ConnectionError for weights that are missing or cannot be downloaded, each with the fix in the message.
    """
    backbone, weights, architecture = exact_trunk(backbone, weights, architecture)
    unused: list[str] = []
    if backbone.startswith(timm_trunk.PREFIX):
        trunk, unused = build_timm_trunk(backbone, stride, weights, stochastic_depth, image_size)
    elif backbone.startswith(hugging_face.PREFIX):
        trunk, unused = build_hugging_face_trunk(backbone, weights, stochastic_depth, architecture)
    elif backbone.startswith(xray_vision.PREFIX):
        _refuse_stochastic_depth(backbone, stochastic_depth)
        trunk, unused = build_xray_vision_trunk(backbone, weights)
    else:
        if backbone == "small_resnet":
            _refuse_stochastic_depth(backbone, stochastic_depth)
            trunk = small_resnet(stride=stride or 32)
        else:
            trunk = build_torchvision_trunk(backbone, stride, weights, stochastic_depth)
        if weights != "none" and not re.fullmatch(_PUBLISHED, weights):
            unused = load_trunk_file(trunk, Path(weights), rename=lambda state: rename_earlier(backbone, state))
    channels, side, cells = _examine(trunk, backbone, image_size)
    if stride is not None and cells not in (side // stride, -(-side // stride)):
        own_stride = round(side / cells)
        raise ValueError(
            f"{backbone} does not support a stride of {stride}, its own is {own_stride}: leave out "
            "model.patch_encoder.stride, or choose another trunk"
        )
    return PatchEncoder(trunk, channels, backbone, unused)


def exact_trunk(backbone: str, weights: str, architecture: str | None = None) -> ExactTrunk:
    """Return settings that name published weights by version, tag or commit.

    The architecture of an `hf:` trunk is read from its repository unless it is given. Raises ValueError for an unknown
    backbone and for weights that it does not have, ConnectionError if that cannot be found out.
    """
    published = re.fullmatch(_PUBLISHED, weights) is not None
    library = backbone.partition(":")[0] if ":" in backbone else "torchvision"
    if library != "torchvision":
        if library not in ("timm", "hf", "xrv"):
            raise ValueError(f"No library '{library}' of trunks for {backbone}: use timm:NAME, hf:REPO or xrv:NAME")
        if weights in ("imagenet_v1", "imagenet_v2") or (published and library != "timm" and weights != "pretrained"):
            raise ValueError(f"{backbone} has no weights {weights}: set model.patch_encoder.weights=pretrained")
        if library == "timm" and published:
            return ExactTrunk(exact_timm_name(backbone), "pretrained", None)
        if library == "hf":
            exact = exact_repository(backbone) if published and architecture is None else backbone
            return ExactTrunk(exact, weights, architecture or describe_architecture(exact))
        return ExactTrunk(backbone, weights, None)
    if not published:
        return ExactTrunk(backbone, weights, None)
    if backbone == "small_resnet":
        raise ValueError("small_resnet has no ImageNet weights: set model.patch_encoder.weights=none")
    weights = "imagenet" if weights == "pretrained" else weights
    return ExactTrunk(backbone, exact_imagenet_weights(backbone, weights), None)


def is_convolutional(trunk: nn.Module) -> bool:
    """Whether the trunk is a CNN, for which the channels-last memory format is faster on GPUs.

    Vision transformers have one convolution, which embeds the patches.
    """
    return sum(isinstance(module, nn.Conv2d) for module in trunk.modules()) > 1


def _refuse_stochastic_depth(backbone: str, probability: float | None) -> None:
    if probability is not None:
        raise ValueError(f"{backbone} has no stochastic depth: leave out model.patch_encoder.stochastic_depth")


def _examine(trunk: nn.Module, backbone: str, image_size: int) -> tuple[int, int, int]:
    """Return the channels of the trunk, the side of an image and that of its grid.

    Parameters that the output does not depend on (mask tokens, poolers) are frozen: DDP would wait for their gradients.
    Raises ValueError if the trunk cannot take images of `image_size` pixels.
    """
    is_library = ":" in backbone
    side = image_size if is_library else 64  # the others take any size, and a small image is faster
    training = trunk.training
    try:
        with torch.set_grad_enabled(is_library):
            grid: Tensor = trunk.eval()(torch.zeros(1, 3, side, side))
    except (AssertionError, RuntimeError, ValueError) as error:
        raise ValueError(
            f"{backbone} does not take images of {side} pixels ({str(error).splitlines()[0]}): change data.image_size "
            "or choose another trunk"
        ) from error
    if grid.dim() != 4 or grid.shape[2] != grid.shape[3]:
        raise ValueError(f"The backbone '{backbone}' has no square grid of patches: choose another trunk")
    if is_library:
        parameters = [parameter for parameter in trunk.parameters() if parameter.requires_grad]
        gradients = torch.autograd.grad(grid.sum(), parameters, allow_unused=True)
        for parameter, gradient in zip(parameters, gradients, strict=True):
            parameter.requires_grad_(gradient is not None)
    trunk.train(training)
    return grid.shape[1], side, grid.shape[-1]
