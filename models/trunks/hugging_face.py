"""Trunks of the Hugging Face hub through transformers: `hf:REPO`, `hf:REPO@REVISION` or `hf:FOLDER`.

The architecture of such a trunk is in a file of its repository. A run keeps it in its configuration, as a text that
`describe_architecture` returns, so that its checkpoints load without the hub.
"""

import importlib.util
import inspect
import json
import pickle
from collections.abc import Sequence
from pathlib import Path
from typing import Any
from zipfile import BadZipFile

import torch
from safetensors import SafetensorError
from torch import Tensor, nn

from models.trunks.grids import tokens_to_grid
from models.trunks.hub import WEIGHT_FILES, damaged_in_cache, find_downloaded, hub_answers, out_of_reach
from models.trunks.normalisation import IMAGENET_MEAN, IMAGENET_STD, InputNormalisation
from models.trunks.torch_archive import check_torch_file
from models.trunks.weight_files import load_trunk_file

PREFIX = "hf:"


class HuggingFaceTrunk(nn.Module):
    """A model of transformers, with the normalisation of its image processor."""

    def __init__(self, network: nn.Module, normalisation: InputNormalisation):
        super().__init__()
        self.network = network
        self.normalisation = normalisation
        accepted = inspect.signature(network.forward).parameters
        self.arguments = {"interpolate_pos_encoding": True} if "interpolate_pos_encoding" in accepted else {}
        self.patch_size = getattr(network.config, "patch_size", None)

    def forward(self, images: Tensor) -> Tensor:
        """images [B, 3, H, H] -> [B, C, G, G]. Raises ValueError if the patches do not form a square."""
        output = self.network(self.normalisation(images), **self.arguments)
        maps = output.feature_maps[-1] if "feature_maps" in output else output.last_hidden_state
        if maps.dim() == 4:
            return maps
        prefix = None
        if isinstance(self.patch_size, int):
            prefix = maps.shape[1] - (images.shape[-1] // self.patch_size) ** 2
        return tokens_to_grid(maps, prefix)


def build_hugging_face_trunk(
    backbone: str, weights: str, stochastic_depth: float | None, architecture: str | None
) -> tuple[HuggingFaceTrunk, list[str]]:
    """Build the trunk `hf:REPO` and return it with the unused entries of its weights.

    weights        pretrained: the repository's; none; or a file
    architecture   as `describe_architecture` returns it; None: read from the repository
    Raises as `models.trunks.build.build_patch_encoder`.
    """
    _check_installed(backbone)
    from transformers import AutoConfig
    from transformers.models.auto.modeling_auto import MODEL_FOR_BACKBONE_MAPPING, MODEL_MAPPING

    described = json.loads(architecture or describe_architecture(backbone))
    config = AutoConfig.for_model(**described["config"])
    if stochastic_depth is not None:
        if not hasattr(config, "drop_path_rate"):
            raise ValueError(f"{backbone} has no stochastic depth: leave out model.patch_encoder.stochastic_depth")
        config.drop_path_rate = stochastic_depth
    # Backbones return a map; other models return the tokens of the patches after those of the class and registers.
    models = MODEL_FOR_BACKBONE_MAPPING if type(config) in MODEL_FOR_BACKBONE_MAPPING else MODEL_MAPPING
    if type(config) not in models:
        raise ValueError(f"{backbone}: transformers has no image model of type {config.model_type}")
    model_class, unused = models[type(config)], []
    if weights == "pretrained":
        network, unused = _load_pretrained(backbone, model_class, config)
    else:
        network = model_class(config)
        if weights != "none":
            unused = load_trunk_file(network, Path(weights))
    normalisation = InputNormalisation(described["mean"], described["std"], getattr(config, "num_channels", 3))
    return HuggingFaceTrunk(network, normalisation), unused


def exact_repository(backbone: str) -> str:
    """Return `hf:REPO@COMMIT`, the commit that is now at the name `backbone`; a folder as it is."""
    repository, revision = _repository(backbone)
    if revision is not None or Path(repository).is_dir():
        return backbone
    commit = getattr(_read_config(backbone), "_commit_hash", None)
    return f"{backbone}@{commit}" if commit else backbone


def describe_architecture(backbone: str) -> str:
    """Return the architecture and the normalisation of `backbone` as JSON.

    Raises ValueError and ConnectionError as `models.trunks.build.build_patch_encoder`.
    """
    config = _read_config(backbone)
    config = getattr(config, "vision_config", config)  # of a model of images and texts
    contents = {name: value for name, value in config.to_diff_dict().items() if name not in _UNUSED}
    contents["model_type"] = config.model_type
    processor = _read_processor(backbone)
    mean, std = processor.get("image_mean") or IMAGENET_MEAN, processor.get("image_std") or IMAGENET_STD
    if not processor.get("do_normalize", True):
        mean, std = (0.0,), (1.0,)
    return json.dumps({"config": contents, "mean": list(mean), "std": list(std)})


# What a configuration says about where it comes from.
_UNUSED = ("_name_or_path", "architectures", "transformers_version", "dtype", "torch_dtype")


def _repository(backbone: str) -> tuple[str, str | None]:
    """The repository or folder, and the revision if `backbone` names one."""
    name = backbone.removeprefix(PREFIX)
    if Path(name).is_dir():
        return name, None
    repository, _, revision = name.partition("@")
    return repository, revision or None


def _where(backbone: str) -> dict[str, Any]:
    """The arguments of transformers' functions that read from the repository."""
    repository, revision = _repository(backbone)
    arguments = {"revision": revision} if revision is not None else {}
    return arguments | {"local_files_only": Path(repository).is_dir() or not hub_answers()}


def _read_config(backbone: str) -> Any:
    """The configuration of the repository's model."""
    _check_installed(backbone)
    from transformers import AutoConfig

    where = _where(backbone)
    try:
        return AutoConfig.from_pretrained(_repository(backbone)[0], **where)
    except (OSError, ValueError) as error:
        raise _unreadable(backbone, "the model's configuration", where, error, ("config.json",)) from error


def _read_processor(backbone: str) -> dict[str, Any]:
    """The settings of the repository's image processor; empty if it has none."""
    from transformers.utils import cached_file

    path = cached_file(
        _repository(backbone)[0], "preprocessor_config.json", **_where(backbone),
        _raise_exceptions_for_missing_entries=False, _raise_exceptions_for_connection_errors=False,
    )
    return {} if path is None else json.loads(Path(path).read_text(encoding="utf-8"))


def _load_pretrained(backbone: str, model_class: type, config: Any) -> tuple[nn.Module, list[str]]:
    """The model with the repository's weights, and the names of those that it has no use for."""
    where = _where(backbone)
    try:
        for path in Path(_repository(backbone)[0]).glob("*.bin"):  # of a folder
            with path.open("rb") as file:
                check_torch_file(file)
        network, report = model_class.from_pretrained(
            _repository(backbone)[0], config=config, dtype=torch.float32, output_loading_info=True, **where
        )
    except (OSError, ValueError, RuntimeError, EOFError, SafetensorError, pickle.UnpicklingError, BadZipFile) as error:
        raise _unreadable(backbone, "the weights", where, error, WEIGHT_FILES) from error
    missing = [name for name in report["missing_keys"] if "pooler" not in name]
    if missing:
        raise ValueError(
            f"{backbone} lacks {len(missing)} weights of the trunk ({', '.join(sorted(missing)[:3])}): choose another "
            "repository"
        )
    return network, sorted(report["unexpected_keys"])


def _unreadable(
    backbone: str, what: str, where: dict[str, Any], error: Exception, files: Sequence[str]
) -> Exception:
    """Return the error for a repository or folder without `what`, which would be in one of the `files`."""
    repository, revision = _repository(backbone)
    if not Path(repository).is_dir():
        cached = find_downloaded(repository, files, revision)
        if cached is not None:
            return damaged_in_cache(cached, error)
        if where["local_files_only"]:
            return out_of_reach(backbone, what)
    return ValueError(f"Cannot read {what} of {backbone}: {(str(error).splitlines() or [''])[0]}")


def _check_installed(backbone: str) -> None:
    """Raise ValueError if transformers is not installed."""
    if importlib.util.find_spec("transformers") is None:
        raise ValueError(f"{backbone} needs transformers: pip install -r requirements-trunks.txt")
