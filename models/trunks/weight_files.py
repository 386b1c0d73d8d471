"""Files with the weights of a trunk, in the forms that they are published in. Reading executes no code from them."""

import argparse
import re
from collections import Counter
from collections.abc import Callable, Collection, Mapping
from pathlib import Path

import torch
from safetensors.torch import load_file
from torch import Tensor, nn

from models.trunks.swin_names import MICROSOFT_SWIN, microsoft_swin_name
from models.trunks.torch_archive import check_torch_file

State = dict[str, Tensor]

# Files of weights that no hub has.
_DOWNLOADS = {
    "swin_base_patch4_window7_224_22k.pth": "https://github.com/SwinTransformer/storage/releases/download/v1.0.0/"
    "swin_base_patch4_window7_224_22k.pth",
}
# Keys under which training programs save the state dict.
_WRAPPERS = ("state_dict", "model_state_dict", "model")
_MOST_WRAPPERS = 3
# Entries that older files lack, or that are constants of the architecture.
_OPTIONAL = ("num_batches_tracked", "relative_position_index")


def load_trunk_file(
    network: nn.Module, path: Path, rename: Callable[[State], State] | None = None,
    convert: Callable[[State, nn.Module], Mapping[str, Tensor]] | None = None, classes: Collection[type] = (),
) -> list[str]:
    """Load the file of weights `path` into `network`. Return the entries of the file that it has no use for.

    The file is a state dict of the network or of a model around it (names with a common prefix such as `module.` or
    `backbone.`), alone or under `state_dict` or `model` in a training checkpoint, written by torch.save or safetensors.

    rename    changes names before anything else
    convert   changes the state dict of another implementation, tried if the names do not fit
    classes   that a file may hold besides tensors, see `read_weights`
    Raises FileNotFoundError, and ValueError if the file holds no weights or lacks some of the network's, listing them;
    the network is then unchanged.
    """
    state = read_weights(path, classes)
    # torchvision's own DenseNet files write norm.1 where the module is called norm1.
    state = {re.sub(r"(denselayer\d+\.(?:norm|conv))\.(\d)", r"\1\2", name): value for name, value in state.items()}
    state = rename(state) if rename is not None else state
    own = network.state_dict()
    needed = [name for name in own if not name.endswith(_OPTIONAL)]
    if MICROSOFT_SWIN in state and MICROSOFT_SWIN not in own:
        originals = {microsoft_swin_name(name): name for name in needed}
        state = {originals.get(name, name): value for name, value in state.items()}
    state = _without_prefix(state, own)
    if convert is not None and _misfits(own, needed, state):
        try:
            state = dict(convert(state, network))
        except (KeyError, RuntimeError, ValueError, AttributeError, TypeError):
            pass  # not a file of an implementation that it knows: what is missing is listed below
    wrong = _misfits(own, needed, state)
    if wrong:
        raise ValueError(f"{path} does not fit the trunk: {len(wrong)} mismatches ({'; '.join(wrong[:3])})")
    network.load_state_dict(
        {name: state[name] for name in own if name in state and state[name].shape == own[name].shape}, strict=False
    )
    return sorted(name for name in state if name not in own and not name.endswith(_OPTIONAL))


def read_weights(path: Path, classes: Collection[type] = ()) -> State:
    """Read the tensors of a file of weights.

    classes   the classes of a module that was saved as a whole; its parts are then unpickled without calling anything
              of theirs
    Raises FileNotFoundError, and ValueError for a file without a state dict.
    """
    if not path.is_file():
        download = f"download {_DOWNLOADS[path.name]} to it, or " if path.name in _DOWNLOADS else ""
        raise FileNotFoundError(
            f"No weights at {path}: {download}set model.patch_encoder.weights to imagenet, none or a file"
        )
    try:
        if path.suffix == ".safetensors":
            content = load_file(path)
        else:
            # Many training programs save their options, a plain container of values, beside the weights.
            with path.open("rb") as file, torch.serialization.safe_globals([argparse.Namespace, *classes]):
                check_torch_file(file)
                content = torch.load(file, map_location="cpu", weights_only=True)
    except Exception as error:  # a damaged or hostile file may raise anything
        refused = re.search(r"GLOBAL ([\w.]+)", str(error))
        holds = f" (it holds {refused[1]}, which is not loaded: it could run code)" if refused else ""
        holds = f" ({error})" if not refused and type(error) is ValueError else holds
        raise ValueError(
            f"{path} is not a file of weights{holds}: give a state dict written by torch.save or safetensors"
        ) from error
    if isinstance(content, nn.Module):
        content = _tensors_of(content, path)
    for _ in range(_MOST_WRAPPERS):
        content = _wrapped(content) or content
    state = {name: value for name, value in content.items() if isinstance(value, Tensor)} \
        if isinstance(content, dict) else {}
    if not state:
        raise ValueError(f"{path} contains no weights: give a state dict, alone or under 'state_dict' or 'model'")
    return state


def _tensors_of(module: nn.Module, path: Path) -> State:
    """The weights and buffers of a module that was saved as a whole.

    Raises ValueError for one that is not made of modules; `state_dict` would visit parts that are shared many times.
    """
    try:
        return dict(module.named_parameters()) | dict(module.named_buffers())
    except (AttributeError, TypeError, RecursionError) as error:
        raise ValueError(f"{path} is not a file of weights (its module is malformed): give a state dict") from error


def _wrapped(content: object) -> dict | None:
    """The dictionary under one of `_WRAPPERS`; None if `content` has none."""
    if not isinstance(content, dict):
        return None
    return next((content[key] for key in _WRAPPERS if isinstance(content.get(key), dict) and content[key]), None)


def _without_prefix(state: State, own: Collection[str]) -> State:
    """Return `state` without the prefix with which most of its names are names of the network; others keep theirs."""
    own, prefixes = frozenset(own), Counter()
    for name in state:
        starts = [0, *(match.end() for match in re.finditer(r"\.", name))]
        prefixes.update(name[:start] for start in starts if name[start:] in own)
    if not prefixes:
        return state
    prefix = max(prefixes, key=lambda each: (prefixes[each], -len(each)))
    return {
        name.removeprefix(prefix): value for name, value in state.items()
        if name.startswith(prefix) or name not in own
    }


def _misfits(own: State, needed: Collection[str], state: Mapping[str, Tensor]) -> list[str]:
    """Return a line for each weight that `state` lacks or has in another shape."""
    return [
        f"{name} {tuple(state[name].shape) if name in state else 'missing'} for {tuple(own[name].shape)}"
        for name in needed if name not in state or state[name].shape != own[name].shape
    ]
