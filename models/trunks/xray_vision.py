"""The DenseNets of torchxrayvision, trained on chest X-rays: `xrv:NAME`, e.g. xrv:densenet121-res224-all."""

import contextlib
import importlib.util
import io
from collections import OrderedDict
from pathlib import Path

import torch.nn.functional as F
from torch import Tensor, nn

from models.trunks.normalisation import InputNormalisation
from models.trunks.weight_files import load_trunk_file

PREFIX = "xrv:"


class XrayVisionTrunk(nn.Module):
    """A DenseNet of one channel without pooling and classifier. Its images are in -1024..1024."""

    def __init__(self, network: nn.Module):
        super().__init__()
        self.features = network.features
        self.normalisation = InputNormalisation(mean=(0.5,), std=(1 / 2048,), channels=1)

    def forward(self, images: Tensor) -> Tensor:
        """images [B, 3, H, H] -> [B, C, G, G]."""
        return F.relu(self.features(self.normalisation(images)))


def build_xray_vision_trunk(backbone: str, weights: str) -> tuple[XrayVisionTrunk, list[str]]:
    """Build the trunk `xrv:NAME` and return it with the unused entries of its file of weights.

    weights   pretrained: torchxrayvision's of this name, from its releases; none; or a file, also one of these
    Raises as `models.trunks.build.build_patch_encoder`.
    """
    if importlib.util.find_spec("torchxrayvision") is None:
        raise ValueError(f"{backbone} needs torchxrayvision: pip install -r requirements-trunks.txt")
    from torchxrayvision import models

    name = backbone.removeprefix(PREFIX)
    names = [known for known in models.model_urls if known.startswith("densenet")]
    if name not in names:
        raise ValueError(f"torchxrayvision has no DenseNet '{name}': choose one of {', '.join(names)}")
    trunk = XrayVisionTrunk(models.DenseNet(in_channels=1, **models.get_densenet_params(name.partition("-")[0])))
    if weights == "none":
        return trunk, []
    if weights == "pretrained":
        try:
            with contextlib.redirect_stdout(io.StringIO()):  # its progress bar
                weights = models.get_weights(name)
        except OSError as error:  # the errors of requests are among these
            raise ConnectionError(
                f"Cannot fetch the weights of {backbone} from {models.model_urls[name]['weights_url']}: connect to the "
                "internet once, or set model.patch_encoder.weights to a downloaded file or to none"
            ) from error
    # Its files hold the whole module. Only its classes are needed to read the tensors from them.
    classes = [getattr(models, part) for part in ("DenseNet", "_DenseLayer", "_DenseBlock", "_Transition")]
    classes += [nn.Sequential, nn.Conv2d, nn.BatchNorm2d, nn.ReLU, nn.MaxPool2d, nn.AvgPool2d, nn.Linear, OrderedDict]
    return trunk, load_trunk_file(trunk.features, Path(weights), classes=classes)
