"""Checkpoints: folders with everything that testing needs and, optionally, what resuming needs.

    weights.pt            the model's state dict; model.safetensors in a folder written by `modules/export.py`
    config.yaml           the complete configuration
    vocabularies.json     regions, attributes, observations and words
    thresholds.json       optional: tuned probability thresholds (see `modules/calibrate.py`)
    training_state.pt     optional: optimiser, progress, RNG states (see `modules/training/run_folder.py`)

A checkpoint is written to a temporary folder that is renamed when it is complete, so a folder with the final name is
never incomplete. Loading executes no code from the files.
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

from data.errors import UserError, cannot_write, damaged, missing, reason, wrong_format
from data.vocabulary import Vocabularies
from modules.config import Config, config_to_yaml, load_config

WEIGHTS, CONFIG, VOCABULARIES, TRAINING_STATE = "weights.pt", "config.yaml", "vocabularies.json", "training_state.pt"
THRESHOLDS = "thresholds.json"
EXPORTED_WEIGHTS = "model.safetensors"

# What to do about a checkpoint that cannot be loaded.
_FIX = "use another checkpoint"


@dataclass(frozen=True)
class Thresholds:
    """Tuned probability thresholds by name; those of other regions and attributes are the model's defaults.

    regions      region -> threshold
    attributes   region -> attribute -> threshold
    origin       what they were tuned on, and the scores there, for the reader
    """

    regions: dict[str, float]
    attributes: dict[str, dict[str, float]]
    origin: dict[str, Any]


@dataclass
class Checkpoint:
    """A checkpoint in memory. training_state is None unless it was requested; thresholds if they were not tuned."""

    directory: Path
    config: Config
    vocabularies: Vocabularies
    weights: dict[str, Tensor]
    training_state: dict[str, Any] | None
    thresholds: Thresholds | None = None


# Writing


def check_replaceable(directory: Path, training: bool = False) -> None:
    """Raise UserError if `directory` exists and is neither empty nor a checkpoint: saving there would destroy it.

    training: a training state is allowed in the old checkpoint.
    """
    required = {WEIGHTS, CONFIG, VOCABULARIES}
    try:
        present = {path.name for path in directory.iterdir()} if directory.exists() else set()
    except OSError as error:
        raise cannot_write(f"a checkpoint to {directory}", error, "choose another folder") from error
    foreign = sorted(present - required - {THRESHOLDS} - ({TRAINING_STATE} if training else set()))
    if foreign:
        raise UserError(f"{directory} holds {foreign[0]}, which a checkpoint there would replace: move it, or choose "
                        "another folder")
    if present and not required <= present:
        raise UserError(f"{directory} exists and is not a complete checkpoint: move it, or choose another folder")


def save_checkpoint(
    directory: str | Path, model: nn.Module, config: Config, vocabularies: Vocabularies,
    training_state: dict[str, Any] | None = None, place: str = "results=FOLDER",
) -> None:
    """Write a checkpoint to `directory`, replacing an old one there (see `check_replaceable`).

    training_state can contain tensors, numbers, strings, None, lists and dictionaries; place is the option that chooses
    the directory, for the error message. Raises UserError, naming the file, if one cannot be written (full disk, no
    permission); an old checkpoint is then unchanged.
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
    path = directory  # final path of what is being written
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
        # torch.save raises a RuntimeError if a write fails; its context is the OSError with the reason.
        cause = error
        if isinstance(error, RuntimeError) and isinstance(error.__context__, OSError):
            cause = error.__context__
        fix = f"free space, or choose another folder with {place}; an old checkpoint there is unchanged"
        raise cannot_write(path, cause, fix) from error


def save_thresholds(directory: Path, thresholds: Thresholds) -> None:
    """Write the thresholds into the checkpoint `directory`. Raises UserError if that fails."""
    path, partial = directory / THRESHOLDS, directory / f".{THRESHOLDS}.partial"
    try:
        partial.write_text(json.dumps(vars(thresholds), indent=2, ensure_ascii=False) + "\n", encoding="utf-8")
        os.replace(partial, path)
    except OSError as error:
        partial.unlink(missing_ok=True)
        raise cannot_write(path, error, "free space, or copy the checkpoint to another folder") from error


def _partial(directory: Path) -> Path:
    """The temporary folder in which a checkpoint is written."""
    return directory.with_name(f".{directory.name}.partial")


def _previous(directory: Path) -> Path:
    """The temporary name of the old checkpoint while it is being replaced."""
    return directory.with_name(f".{directory.name}.previous")


def _replace(directory: Path, partial: Path) -> None:
    """Rename `partial` to `directory`. Renaming onto a non-empty folder fails, so the old one is renamed first."""
    previous = _previous(directory)
    if directory.exists():
        directory.rename(previous)
    partial.rename(directory)
    _sync(directory.parent)
    shutil.rmtree(previous, ignore_errors=True)


def _finish_interrupted_save(directory: Path) -> None:
    """Recover from a crash between the two renames of `_replace`: restore the old checkpoint."""
    previous = _previous(directory)
    if previous.exists() and not directory.exists():
        previous.rename(directory)


def _sync(directory: Path) -> None:
    """Flush the entries of `directory` to disk."""
    descriptor = os.open(directory, os.O_RDONLY)
    try:
        os.fsync(descriptor)
    finally:
        os.close(descriptor)


# Reading


def has_checkpoint(directory: str | Path) -> bool:
    """Whether there is a checkpoint with a training state at `directory`."""
    _finish_interrupted_save(Path(directory))
    return (Path(directory) / TRAINING_STATE).is_file()


def load_checkpoint(path: str | Path, training: bool = False) -> Checkpoint:
    """Load the checkpoint at `path`, or `best` if that is a run folder (reported on stderr). Tensors are on the CPU.

    training: load the training state as well. Raises UserError if the folder is not a checkpoint, or a file in it is
    missing or damaged.
    """
    directory = _find(Path(path))
    config = load_config(_existing(directory, CONFIG))
    vocabularies_file = _existing(directory, VOCABULARIES)
    try:
        vocabularies = Vocabularies.from_dict(json.loads(vocabularies_file.read_text(encoding="utf-8")))
    except (OSError, ValueError, KeyError, TypeError, AttributeError) as error:
        raise _damaged_by(vocabularies_file, error) from error
    weights = _load_weights(directory)
    if not all(isinstance(value, Tensor) for value in weights.values()):
        raise wrong_format(directory / WEIGHTS, "a state dict of tensors", _FIX)
    training_state = _load(_existing(directory, TRAINING_STATE)) if training else None
    return Checkpoint(directory, config, vocabularies, weights, training_state, _load_thresholds(directory))


def _find(path: Path) -> Path:
    """Return `path` if it is a checkpoint, or the `best` checkpoint in it."""
    for directory in (path, path / "best"):
        _finish_interrupted_save(directory)
    if (path / WEIGHTS).is_file() or (path / EXPORTED_WEIGHTS).is_file():
        return path
    if (path / "best").is_dir():
        print(f"{path} is a run folder: using its best checkpoint, {path / 'best'}", file=sys.stderr)
        return path / "best"
    if not path.exists():
        raise missing("checkpoint", path, "give a run folder or a checkpoint in it")
    if (path / "last").is_dir():
        raise UserError(f"{path} has no best checkpoint yet, only the last one: give {path / 'last'}")
    raise wrong_format(path, f"a checkpoint (it has no {WEIGHTS})", "give a run folder or a checkpoint in it")


def _existing(directory: Path, name: str) -> Path:
    """Return the path of the file `name` of a checkpoint. Raises UserError if it is missing."""
    if not (directory / name).is_file():
        raise damaged(f"Checkpoint {directory}", f"it has no {name}", _FIX)
    return directory / name


def _load_thresholds(directory: Path) -> Thresholds | None:
    """Load the tuned thresholds of a checkpoint; None if it has none."""
    path = directory / THRESHOLDS
    if not path.is_file():
        return None
    try:
        content = json.loads(path.read_text(encoding="utf-8"))
        regions = {name: _probability(value) for name, value in content["regions"].items()}
        attributes = {
            region: {name: _probability(value) for name, value in values.items()}
            for region, values in content["attributes"].items()
        }
        return Thresholds(regions, attributes, dict(content["origin"]))
    except (OSError, ValueError, KeyError, TypeError, AttributeError) as error:
        raise damaged(path, f"{type(error).__name__}: {reason(error)}", "run modules.calibrate again, or delete it") \
            from error


def _probability(value: float) -> float:
    """`value` as a float. Raises ValueError outside 0..1."""
    if not 0 <= float(value) <= 1:
        raise ValueError(f"{value} is not a probability")
    return float(value)


def _load_weights(directory: Path) -> dict[str, Any]:
    """Load the weights of a checkpoint, exported or not."""
    exported = directory / EXPORTED_WEIGHTS
    if not exported.is_file():
        return _load(_existing(directory, WEIGHTS))
    try:
        return load_file(exported)
    except (OSError, SafetensorError) as error:
        raise _damaged_by(exported, error) from error


def _load(path: Path) -> dict[str, Any]:
    """Load a dictionary written by torch.save, without executing code from it."""
    try:
        content = torch.load(path, map_location="cpu", weights_only=True)
    except Exception as error:  # damaged archives raise many types of errors
        raise _damaged_by(path, error) from error
    if not isinstance(content, dict):
        raise wrong_format(path, f"a dictionary but a {type(content).__name__}", _FIX)
    return content


def _damaged_by(path: Path, error: Exception) -> UserError:
    """Return the error for a file whose loading failed with `error`."""
    first_line = (str(error).splitlines() or [""])[0]
    return damaged(path, f"{type(error).__name__}: {first_line[:120]}", _FIX)
