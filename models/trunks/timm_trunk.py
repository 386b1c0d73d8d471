"""Trunks of timm, the library of PyTorch image models: `timm:NAME`, with timm's weights from the Hugging Face hub."""

import difflib
import inspect
import pickle
from pathlib import Path

from safetensors import SafetensorError
from torch import Tensor, nn

from models.trunks.grids import tokens_to_grid
from models.trunks.hub import WEIGHT_FILES, damaged_in_cache, find_downloaded, hub_answers, out_of_reach
from models.trunks.normalisation import InputNormalisation
from models.trunks.weight_files import load_trunk_file

PREFIX = "timm:"


class TimmTrunk(nn.Module):
    """A timm model without its head, with the normalisation that its weights were trained with."""

    def __init__(self, network: nn.Module):
        super().__init__()
        self.network = network
        self.normalisation = InputNormalisation(network.pretrained_cfg["mean"], network.pretrained_cfg["std"])

    def forward(self, images: Tensor) -> Tensor:
        """images [B, 3, H, H] -> [B, C, G, G]. Raises ValueError if the patches do not form a square."""
        features = self.network.forward_features(self.normalisation(images))
        if features.dim() == 3:
            return tokens_to_grid(features, getattr(self.network, "num_prefix_tokens", 0))
        if getattr(self.network, "output_fmt", "NCHW") == "NHWC":
            return features.permute(0, 3, 1, 2)
        return features


def build_timm_trunk(
    backbone: str, stride: int | None, weights: str, stochastic_depth: float | None, image_size: int
) -> tuple[TimmTrunk, list[str]]:
    """Build the trunk `timm:NAME` and return it with the unused entries of its file of weights.

    weights   pretrained: timm's; none; or a file, also one of the authors' that timm can convert
    Raises as `models.trunks.build.build_patch_encoder`.
    """
    name = _known_name(backbone)
    settings = {} if stochastic_depth is None else {"drop_path_rate": stochastic_depth}
    if weights == "pretrained":
        settings |= _pretrained(backbone, name)
    network = None
    if stride == 16:
        try:
            network = _create_named(name, image_size, settings | {"output_stride": 16})
        except (TypeError, AssertionError, RuntimeError):
            pass  # not an option of this model, whose patches may be of that size all the same
    if network is None:
        try:
            network = _create_named(name, image_size, settings)
        except TypeError as error:
            if "drop_path_rate" not in str(error):
                raise
            raise ValueError(
                f"{backbone} has no stochastic depth: leave out model.patch_encoder.stochastic_depth"
            ) from error
    unused = []
    if weights not in ("pretrained", "none"):
        module = inspect.getmodule(type(network))
        unused = load_trunk_file(network, Path(weights), convert=getattr(module, "checkpoint_filter_fn", None))
    return TimmTrunk(network), unused


def exact_timm_name(backbone: str) -> str:
    """Return `timm:NAME.TAG`, the published weights that `backbone` stands for. Raises ValueError if it has none."""
    import timm

    published = timm.get_pretrained_cfg(_known_name(backbone))
    if published is None or not published.has_weights:
        raise ValueError(f"{backbone} has no published weights: set model.patch_encoder.weights to none or a file")
    return f"{PREFIX}{published.architecture}" + (f".{published.tag}" if published.tag else "")


def _known_name(backbone: str) -> str:
    """Return the name of the model. Raises ValueError if timm has none of this name."""
    import timm

    name = backbone.removeprefix(PREFIX)
    if not timm.is_model(name):
        similar = difflib.get_close_matches(name, timm.list_models(), n=3)
        advice = f"did you mean {', '.join(similar)}?" if similar else "timm.list_models() lists the names"
        raise ValueError(f"timm has no model '{name}': {advice}")
    return name


def _pretrained(backbone: str, name: str) -> dict[str, object]:
    """Return the settings that load timm's weights, from the local cache if the hub is out of reach."""
    if hub_answers():
        return {"pretrained": True}
    cached = find_downloaded(_hub_repository(name), WEIGHT_FILES)
    if cached is None:
        raise out_of_reach(backbone, "the weights")
    return {"pretrained": True, "pretrained_cfg_overlay": {"file": cached}}


def _hub_repository(name: str) -> str | None:
    import timm

    return timm.get_pretrained_cfg(name).hf_hub_id


def _create(name: str, image_size: int, settings: dict[str, object]) -> nn.Module:
    """Create the model without its head, for images of any size if it can, else of `image_size`."""
    import timm

    try:
        return timm.create_model(name, num_classes=0, dynamic_img_size=True, **settings)
    except TypeError as error:
        if "dynamic_img_size" not in str(error):
            raise
    network = timm.create_model(name, num_classes=0, **settings)
    if hasattr(network, "set_input_size"):
        network.set_input_size(img_size=image_size)
    return network


def _create_named(name: str, image_size: int, settings: dict[str, object]) -> nn.Module:
    """Create the model as `_create` does. Raises ValueError, naming the file, if its downloaded weights are damaged."""
    try:
        return _create(name, image_size, settings)
    except (SafetensorError, pickle.UnpicklingError, EOFError, RuntimeError) as error:
        cached = find_downloaded(_hub_repository(name), WEIGHT_FILES) if settings.get("pretrained") else None
        # A subclass says that the model lacks an option.
        if cached is None or (isinstance(error, RuntimeError) and type(error) is not RuntimeError):
            raise
        raise damaged_in_cache(cached, error) from error
