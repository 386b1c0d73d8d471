"""Checkpoints: folders with everything that testing needs and, optionally, what resuming needs.

    weights.pt            the model's state dict; model.safetensors in a folder written by `modules/export.py`
    config.yaml           the complete configuration
    vocabularies.json     regions, attributes, observations and words
    training_state.pt     optional: optimiser, progress, RNG states (see `modules/training/run_folder.py`)
    manifest.json         size and SHA-256 of each of these files (see `modules/saving/manifest.py`)
    thresholds.json       optional: tuned probability thresholds, with a digest of its own (see `modules/calibrate.py`)

A checkpoint is written to a temporary folder that is renamed when it is complete, so a folder with the final name is
never incomplete. Readers see the files of one save, compare them with the manifest, and execute no code from them.
"""

import hashlib
import json
import os
import shutil
import sys
import time
from collections.abc import Callable, Mapping
from contextlib import suppress
from dataclasses import dataclass
from pathlib import Path
from typing import Any, BinaryIO

import torch
from safetensors import SafetensorError
from safetensors.torch import load
from torch import Tensor, nn

from data.errors import UserError, cannot_read, cannot_write, damaged, missing, reason, wrong_format, wrong_value
from data.storage.lines import LARGEST_LINE
from data.vocabulary import Vocabularies
from modules.config import Config, config_to_yaml, load_config
from modules.saving.manifest import MANIFEST, MARK, build_manifest, check_manifest, open_save
from modules.saving.torch_files import load_dictionary

WEIGHTS, CONFIG, VOCABULARIES, TRAINING_STATE = "weights.pt", "config.yaml", "vocabularies.json", "training_state.pt"
THRESHOLDS = "thresholds.json"
EXPORTED_WEIGHTS = "model.safetensors"
_PARTIAL_THRESHOLDS = f".{THRESHOLDS}.partial"

# What to do about a checkpoint that cannot be loaded.
_FIX = "use another checkpoint"
# A save that replaces another one takes less time between its two renames, unless the machine stopped there.
_SECONDS_TO_RENAME = 0.5


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
    """A checkpoint in memory.

    config_text      the content of its config.yaml
    training_state   None unless it was requested
    thresholds       None if they were not tuned
    """

    directory: Path
    config: Config
    config_text: str
    vocabularies: Vocabularies
    weights: dict[str, Tensor]
    training_state: dict[str, Any] | None
    thresholds: Thresholds | None = None

    def load_config(self, overrides: list[str]) -> Config:
        """Return the configuration with `key=value` overrides.

        Raises UserError as `modules.config.load_config`, and for another value of what only training can change, but
        the weights do not tell: the section that the model writes, and whether it reads the previous report.
        """
        config = load_config(self.directory / CONFIG, overrides, self.config_text)
        for key, value, trained in (
            ("data.sections", config.data.sections, self.config.data.sections),
            ("model.prior_report", config.model.prior_report, self.config.model.prior_report),
        ):
            if value != trained:
                raise wrong_value(key, value, f"must be {str(trained).lower()}, as the model was trained")
        return config

    def check_writes_reports(self) -> None:
        """Raise UserError if the model is an image side alone."""
        if not self.config.model.report:
            raise UserError(
                f"{self.directory} is a model without report decoder (model.report=false): start a run that trains one "
                f"with train.init_from={self.directory}"
            )


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
    ours = required | {THRESHOLDS, MANIFEST, _PARTIAL_THRESHOLDS} | ({TRAINING_STATE} if training else set())
    foreign = sorted(present - ours)
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
        CONFIG: lambda file: file.write(MARK + config_to_yaml(config).encode()),
        VOCABULARIES: lambda file: file.write(json.dumps(vocabularies.to_dict(), ensure_ascii=False).encode()),
        WEIGHTS: lambda file: torch.save(model.state_dict(), file),
    }
    if training_state is not None:
        contents[TRAINING_STATE] = lambda file: torch.save(training_state, file)
    listed = list(contents)
    contents[MANIFEST] = lambda file: file.write(build_manifest(partial, listed))
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
    path, partial = directory / THRESHOLDS, directory / _PARTIAL_THRESHOLDS
    try:
        partial.write_text(thresholds_to_json(thresholds), encoding="utf-8")
        os.replace(partial, path)
    except OSError as error:
        partial.unlink(missing_ok=True)
        raise cannot_write(path, error, "free space, or copy the checkpoint to another folder") from error


def thresholds_to_json(thresholds: Thresholds) -> str:
    """Return the content of thresholds.json, with the SHA-256 of all other entries."""
    content = vars(thresholds)
    return json.dumps(content | {"sha256": _thresholds_digest(content)}, indent=2, ensure_ascii=False) + "\n"


def _thresholds_digest(content: Mapping[str, Any]) -> str:
    return hashlib.sha256(json.dumps(content, sort_keys=True).encode()).hexdigest()


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
    """Recover from a crash between the two renames of `_replace`: restore the old checkpoint.

    A save that another process is about to finish is waited for.
    """
    previous, deadline = _previous(directory), time.monotonic() + _SECONDS_TO_RENAME
    while previous.exists() and not directory.exists():
        if time.monotonic() > deadline:
            previous.rename(directory)
        else:
            time.sleep(0.02)


def remove_unfinished_saves(directory: Path) -> None:
    """Remove what killed saves left beside the checkpoint `directory` and in it. No other process may save there."""
    _finish_interrupted_save(directory)
    for leftover in (_partial(directory), _previous(directory)):
        shutil.rmtree(leftover, ignore_errors=True)
    with suppress(OSError):
        (directory / _PARTIAL_THRESHOLDS).unlink()


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
    names = [CONFIG, VOCABULARIES, EXPORTED_WEIGHTS, WEIGHTS, THRESHOLDS, MANIFEST]
    try:
        with open_save(directory, names + [TRAINING_STATE] * training) as files:
            return _read(directory, files, training)
    except OSError as error:
        raise cannot_read(directory, error, _FIX) from error


def _read(directory: Path, files: dict[str, BinaryIO], training: bool) -> Checkpoint:
    """Load the checkpoint of the open `files`, by name."""
    weights_name = EXPORTED_WEIGHTS if EXPORTED_WEIGHTS in files else WEIGHTS
    for name in (CONFIG, VOCABULARIES, weights_name) + (TRAINING_STATE,) * training:
        if name not in files:
            raise damaged(f"Checkpoint {directory}", f"it has no {name}", _FIX)
    thresholds = _load_thresholds(files.pop(THRESHOLDS), directory / THRESHOLDS) if THRESHOLDS in files else None
    check_manifest(directory, files, CONFIG, _FIX)
    try:
        config_text = files[CONFIG].read(LARGEST_LINE).decode()
    except UnicodeDecodeError as error:
        raise _damaged_by(directory / CONFIG, error) from error
    config = load_config(directory / CONFIG, checkpoint=config_text)
    try:
        vocabularies = Vocabularies.from_dict(_read_json(files[VOCABULARIES]))
    except (ValueError, KeyError, TypeError, AttributeError, RecursionError) as error:
        raise _damaged_by(directory / VOCABULARIES, error) from error
    weights = _load_weights(files[weights_name], directory / weights_name)
    state = load_dictionary(files[TRAINING_STATE], directory / TRAINING_STATE, _FIX) if training else None
    return Checkpoint(directory, config, config_text, vocabularies, weights, state, thresholds)


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


def _load_thresholds(file: BinaryIO, path: Path) -> Thresholds:
    """Load the tuned thresholds of a checkpoint; those of earlier versions have no digest."""
    try:
        content = _read_json(file)
        digest = content.pop("sha256", None)
        regions = {name: _probability(value) for name, value in content["regions"].items()}
        attributes = {
            region: {name: _probability(value) for name, value in values.items()}
            for region, values in content["attributes"].items()
        }
        if digest is not None and digest != _thresholds_digest(content):
            raise ValueError("its content is not the one of its sha256")
        return Thresholds(regions, attributes, dict(content["origin"]))
    except (ValueError, KeyError, TypeError, AttributeError, RecursionError, OverflowError) as error:
        raise damaged(path, f"{type(error).__name__}: {reason(error)}", "run modules.calibrate again, or delete it") \
            from error


def _read_json(file: BinaryIO) -> Any:
    """Return the content of a JSON file. Raises ValueError, also if it is too large or has half of a surrogate pair."""
    content = file.read(LARGEST_LINE + 1)
    if len(content) > LARGEST_LINE:
        raise ValueError(f"it has more than {LARGEST_LINE >> 20} MiB")
    parsed = json.loads(content)
    json.dumps(parsed, ensure_ascii=False).encode()
    return parsed


def _probability(value: float) -> float:
    """`value` as a float. Raises ValueError outside 0..1."""
    if not 0 <= float(value) <= 1:
        raise ValueError(f"{value} is not a probability")
    return float(value)


def _load_weights(file: BinaryIO, path: Path) -> dict[str, Tensor]:
    """Load the weights of a checkpoint, exported or not."""
    if path.name != EXPORTED_WEIGHTS:
        weights = load_dictionary(file, path, _FIX)
        if not all(isinstance(value, Tensor) for value in weights.values()):
            raise wrong_format(path, "a state dict of tensors", _FIX)
        return weights
    try:
        return load(file.read())
    except (SafetensorError, ValueError, KeyError) as error:
        raise _damaged_by(path, error) from error


def _damaged_by(path: Path, error: Exception) -> UserError:
    """Return the error for a file whose loading failed with `error`."""
    first_line = (str(error).splitlines() or [""])[0]
    return damaged(path, f"{type(error).__name__}: {first_line[:120]}", _FIX)
