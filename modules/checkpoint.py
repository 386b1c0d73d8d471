"""Checkpoints: a folder with everything that testing needs, and optionally what going on with training needs.

    weights.pt            the model's state dict; model.safetensors in a folder that `modules/export.py` wrote
    config.yaml           the merged configuration
    vocabularies.json     regions, attributes, observations and words
    training_state.pt     optional: optimiser, position, random states (see `modules/training/trainer.py`)

The folder is written under another name and renamed when it is complete, so under its own name there is always a whole
checkpoint. Nothing in it is executed on loading.
"""

import json
import os
import shutil
import sys
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any, BinaryIO

import torch
from safetensors import SafetensorError
from safetensors.torch import load_file
from torch import Tensor, nn

from data.errors import UserError
from data.vocabulary import Vocabularies
from modules.config import Config, config_to_yaml, load_config

WEIGHTS, CONFIG, VOCABULARIES, TRAINING_STATE = "weights.pt", "config.yaml", "vocabularies.json", "training_state.pt"
EXPORTED_WEIGHTS = "model.safetensors"

# Of a long list of names, so many are truncate_list.
_NAMES_SHOWN = 5
# Among the weights, but a vocabulary's: the atlas boxes of the model.
_ATLAS = "graph.atlas"


@dataclass
class Checkpoint:
    """A checkpoint in memory. training_state is None unless it was asked for."""

    directory: Path
    config: Config
    vocabularies: Vocabularies
    weights: dict[str, Tensor]
    training_state: dict[str, Any] | None


# Writing


def check_replaceable(directory: Path, training: bool = False) -> None:
    """Raise UserError where something else than an old checkpoint lies at `directory`: saving would destroy it.

    training: the old checkpoint may have a training state.
    """
    files = {WEIGHTS, CONFIG, VOCABULARIES}
    try:
        found = {path.name for path in directory.iterdir()} if directory.exists() else set()
    except OSError as error:
        raise UserError(f"{directory} is no folder to write a checkpoint to: {error.strerror}") from error
    foreign = sorted(found - files - ({TRAINING_STATE} if training else set()))
    if foreign:
        raise UserError(f"{directory} holds {foreign[0]}, which a checkpoint there would replace: move it, or choose "
                        "another folder")
    if found and not files <= found:
        raise UserError(f"{directory} holds {min(found)} but no whole checkpoint: move it, or choose another folder")


def save_checkpoint(
    directory: str | Path, model: nn.Module, config: Config, vocabularies: Vocabularies,
    training_state: dict[str, Any] | None = None, place: str = "results=FOLDER",
) -> None:
    """Write a checkpoint to `directory`, in place of the one that is there (`check_replaceable`).

    training_state may hold tensors, numbers, strings, None, lists and dictionaries; place: the option that chooses the
    directory. Raises UserError naming the file that could not be written (a full disk, no permission); the checkpoint
    that was there is then still there.
    """
    directory = Path(directory)
    partial = _partial(directory)
    contents: dict[str, Callable[[BinaryIO], Any]] = {
        CONFIG: lambda file: file.write(config_to_yaml(config).encode()),
        VOCABULARIES: lambda file: file.write(json.dumps(vocabularies.to_dict(), ensure_ascii=False).encode()),
        WEIGHTS: lambda file: torch.save(model.state_dict(), file),
    }
    if training_state is not None:
        contents[TRAINING_STATE] = lambda file: torch.save(training_state, file)
    path = directory  # what is being written, by the name it is going to have
    try:
        _finish_interrupted_save(directory)
        shutil.rmtree(_previous(directory), ignore_errors=True)
        shutil.rmtree(partial, ignore_errors=True)
        partial.mkdir(parents=True)
        for name, write in contents.items():
            path = directory / name
            with (partial / name).open("wb") as file:
                write(file)
                file.flush()
                os.fsync(file.fileno())
        path = directory
        _sync(partial)
        _replace(directory, partial)
    except (OSError, RuntimeError) as error:
        shutil.rmtree(partial, ignore_errors=True)
        # torch.save reports a failed write as a RuntimeError of its own; the reason is the OSError before it.
        cause = error if isinstance(error, OSError) else error.__context__
        reason = cause.strerror if isinstance(cause, OSError) else str(error).splitlines()[0]
        raise UserError(
            f"Cannot write {path}: {reason}; make room there, or choose another place with {place}. "
            "The checkpoint before it is untouched"
        ) from error


def _partial(directory: Path) -> Path:
    """Where a checkpoint lies while it is being written."""
    return directory.with_name(f".{directory.name}.partial")


def _previous(directory: Path) -> Path:
    """Where the old checkpoint lies for the moment in which the new one takes its name."""
    return directory.with_name(f".{directory.name}.previous")


def _replace(directory: Path, partial: Path) -> None:
    """Give `partial` the name `directory`. A folder cannot be renamed onto a full one, so the old one steps aside."""
    previous = _previous(directory)
    if directory.exists():
        directory.rename(previous)
    partial.rename(directory)
    _sync(directory.parent)
    shutil.rmtree(previous, ignore_errors=True)


def _finish_interrupted_save(directory: Path) -> None:
    """Give the old checkpoint its name back where a crash came between the two renames of `_replace`."""
    previous = _previous(directory)
    if previous.exists() and not directory.exists():
        previous.rename(directory)


def _sync(directory: Path) -> None:
    """Make the names in `directory` last a power cut."""
    descriptor = os.open(directory, os.O_RDONLY)
    try:
        os.fsync(descriptor)
    finally:
        os.close(descriptor)


# Reading


def has_checkpoint(directory: str | Path) -> bool:
    """Whether a checkpoint with a training state, to go on from, lies at `directory`."""
    _finish_interrupted_save(Path(directory))
    return (Path(directory) / TRAINING_STATE).is_file()


def load_checkpoint(path: str | Path, training: bool = False) -> Checkpoint:
    """The checkpoint at `path`, or, when that is a run folder, its `best` (a line on stderr says so).

    Tensors are on the CPU. training: with the training state. Raises UserError for a folder that is no checkpoint, and
    for a file of it that is missing or damaged.
    """
    directory = _find(Path(path))
    config = load_config(_existing(directory, CONFIG))
    described = _existing(directory, VOCABULARIES)
    try:
        vocabularies = Vocabularies.from_dict(json.loads(described.read_text(encoding="utf-8")))
    except (OSError, ValueError, KeyError, TypeError, AttributeError) as error:
        raise _damaged(described, error) from error
    weights = _load_weights(directory)
    if not all(isinstance(value, Tensor) for value in weights.values()):
        raise UserError(f"{directory / WEIGHTS} holds other things than weights: take another checkpoint")
    training_state = _load(_existing(directory, TRAINING_STATE)) if training else None
    return Checkpoint(directory, config, vocabularies, weights, training_state)


def _find(path: Path) -> Path:
    """The checkpoint folder that `path` means."""
    for directory in (path, path / "best"):
        _finish_interrupted_save(directory)
    if (path / WEIGHTS).is_file() or (path / EXPORTED_WEIGHTS).is_file():
        return path
    if (path / "best").is_dir():
        print(f"{path} is a run folder: taking its best checkpoint, {path / 'best'}", file=sys.stderr)
        return path / "best"
    if not path.exists():
        raise UserError(f"No checkpoint at {path}: there is no such folder; give a run folder or a checkpoint in it")
    if (path / "last").is_dir():
        raise UserError(f"{path} has no best checkpoint yet, only the last one: give {path / 'last'}")
    raise UserError(f"{path} is no checkpoint: it has no {WEIGHTS}; give a run folder or a checkpoint in it")


def _existing(directory: Path, name: str) -> Path:
    if not (directory / name).is_file():
        raise UserError(f"The checkpoint {directory} has no {name}: it is incomplete, take another one")
    return directory / name


def _load_weights(directory: Path) -> dict[str, Any]:
    """The weights of a checkpoint, in the form that it has."""
    exported = directory / EXPORTED_WEIGHTS
    if not exported.is_file():
        return _load(_existing(directory, WEIGHTS))
    try:
        return load_file(exported)
    except (OSError, SafetensorError) as error:
        raise _damaged(exported, error) from error


def _load(path: Path) -> dict[str, Any]:
    """A dictionary that torch.save wrote, without executing anything."""
    try:
        content = torch.load(path, map_location="cpu", weights_only=True)
    except Exception as error:  # a damaged archive fails in a dozen ways
        raise _damaged(path, error) from error
    if not isinstance(content, dict):
        raise UserError(f"{path} holds a {type(content).__name__} in place of a dictionary: take another checkpoint")
    return content


def _damaged(path: Path, error: Exception) -> UserError:
    reason = (str(error).splitlines() or [""])[0]
    return UserError(f"{path} is damaged ({type(error).__name__}: {reason[:120]}): take another checkpoint")


# Weights into a model


def load_weights(model: nn.Module, weights: dict[str, Tensor]) -> None:
    """Load all of `weights` into `model`.

    Raises UserError naming the weights that are missing, too many or of another size; the model is then as it was.
    """
    misfits = _misfits(model.state_dict(), weights)
    if misfits:
        raise UserError(
            f"The checkpoint does not fit the model: {truncate_list(misfits, '; ')}. Build the model that it was saved from"
        )
    model.load_state_dict(weights)


def init_weights_from(model: nn.Module, vocabularies: Vocabularies, path: str | Path) -> list[str]:
    """Load what fits of the checkpoint at `path`; returns a line for every weight that does not fit, or not wholly.

    Rows of weights that stand for words, attributes and so on go where `vocabularies`, the model's, have the same name,
    whatever their number in the checkpoint. The atlas is the model's own.
    """
    checkpoint = load_checkpoint(path)
    own = model.state_dict()
    weights = {name: value for name, value in checkpoint.weights.items() if name != _ATLAS}
    own.pop(_ATLAS, None)
    own_names, given_names = _row_names(vocabularies), _row_names(checkpoint.vocabularies)
    lines = []
    for name in own.keys() & weights.keys() & own_names.keys():
        if own_names[name] != given_names[name]:
            moved = _by_row_name(own[name], weights[name], own_names[name], given_names[name])
            if moved is not None:
                weights[name], kept = moved
                if kept:
                    lines.append(f"{name} keeps {len(kept)} of its {len(own_names[name])} rows, which the checkpoint "
                                 f"has not: {truncate_list(kept, ', ')}")
    fitting = {name: value for name, value in weights.items() if name in own and own[name].shape == value.shape}
    model.load_state_dict(fitting, strict=False)
    return sorted(lines + _misfits(own, weights))


def _row_names(vocabularies: Vocabularies) -> dict[str, list[str | None]]:
    """Weight -> what each of its rows stands for by these vocabularies; None: for nothing.

    A row is what is left of the weight's numbers when they are dealt out evenly, in order: the heads of attributes
    [R, A, C] have R * A rows, the localizer's [4 R, hidden] R.
    """
    tokenizer, attributes = vocabularies.tokenizer, vocabularies.attributes
    regions = list(vocabularies.anatomy.names)
    words = ["id of padding, BOS and EOS", *tokenizer.words]
    if tokenizer.distinct_special_tokens:
        words = ["id of padding", *tokenizer.words, "id of BOS", "id of EOS"]
    by_region = [
        [f"{region}: {attribute}" for attribute in names]
        for region, names in zip(regions, attributes.by_region, strict=True)
    ]
    names = list(dict.fromkeys(name for names in attributes.by_region for name in names))
    of_rows = {
        "decoder.embedding.tokens.weight": words,
        "decoder.word_head.*": words,
        "graph.encoder.attribute_embedding.weight": [name for names in by_region for name in names],
        "graph.attribute_predictor.*": [
            name for names in by_region for name in [*names, *[None] * (attributes.largest - len(names))]
        ],
        "graph.encoder.name_embedding.weight": names,
        "graph.attribute_predictor.name_weight": names,
        "graph.encoder.type_embedding.weight": [*regions, "attributes"],
        "graph.selector.head.*": regions,
        "graph.localizer.shift.*": regions,
        "graph.localizer.visible.*": regions,
        "graph.localizer.mean_boxes": regions,
        "observation_head.head.*": list(vocabularies.observations),
    }
    return {name.replace("*", part): rows for name, rows in of_rows.items() for part in ("weight", "bias")}


def _by_row_name(
    own: Tensor, given: Tensor, own_names: list[str | None], given_names: list[str | None]
) -> tuple[Tensor, list[str]] | None:
    """`own` with the rows of `given` that go by the same name, and the names of the rows that stay.

    None where the two have other rows than those named, or rows of different sizes.
    """
    size = own.numel() // max(1, len(own_names))
    if own.numel() != size * len(own_names) or given.numel() != size * len(given_names) or own.dim() != given.dim():
        return None
    numbers = {name: number for number, name in enumerate(given_names)}
    taken = [(row, numbers[name]) for row, name in enumerate(own_names) if name is not None and name in numbers]
    moved = own.clone().reshape(len(own_names), size)
    if taken:
        to, source = (torch.tensor(rows) for rows in zip(*taken, strict=True))
        moved[to] = given.reshape(len(given_names), size)[source].to(moved)
    return moved.reshape(own.shape), [name for name in own_names if name is not None and name not in numbers]


def _misfits(own: dict[str, Tensor], weights: dict[str, Tensor]) -> list[str]:
    """What hinders `weights` from taking the place of the model's `own`, a line a name."""
    lines = []
    for name in own.keys() | weights.keys():
        if name not in weights:
            lines.append(f"{name} {list(own[name].shape)} is not in the checkpoint")
        elif name not in own:
            lines.append(f"{name} {list(weights[name].shape)} is not in the model")
        elif own[name].shape != weights[name].shape:
            lines.append(
                f"{name} is {list(weights[name].shape)} in the checkpoint and {list(own[name].shape)} in the model"
            )
    return sorted(lines)


def truncate_list(lines: list[str], separator: str) -> str:
    """The first few of `lines` and how many more there are."""
    more = [f"and {len(lines) - _NAMES_SHOWN} more"] if len(lines) > _NAMES_SHOWN else []
    return separator.join(lines[:_NAMES_SHOWN] + more)
