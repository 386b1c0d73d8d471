"""The run folder: creating it, saving the checkpoints `best` and `last`, and resuming from `last`."""

import errno
import fcntl
import os
from pathlib import Path
from typing import Any, BinaryIO

import torch
from torch import nn
from torch.optim import Optimizer

from data.errors import UserError, cannot_write
from data.mixture.order import Mixture
from data.vocabulary import Vocabularies
from modules.checkpoint import (
    check_replaceable,
    has_checkpoint,
    load_checkpoint,
    remove_unfinished_saves,
    save_checkpoint,
)
from modules.config import Config, config_to_yaml
from modules.runtime import gather_objects, random_state, rank, run_on_rank_zero, world_size
from modules.training.optimizer import load_optimizer_state, optimizer_state
from modules.training.progress import RunProgress
from modules.weights import load_weights, with_current_names

# Held by the process that trains; the file stays.
_LOCK = ".lock"


class RunFolder:
    """The folder `config.run_dir`. `best` has weights for testing; `last` also has the state that resuming needs.

    Every process calls the methods; files are written by rank zero.

    studies   number of studies in the training split
    mixture   how the studies of several data sets are mixed; None for a single data set
    """

    def __init__(self, config: Config, vocabularies: Vocabularies, studies: int, mixture: Mixture | None = None):
        self.mixture = mixture
        self.config = config
        self.vocabularies = vocabularies
        self.studies = studies
        self.path: Path = config.run_dir
        self.best = self.path / "best"
        self.last = self.path / "last"
        self._lock: BinaryIO | None = None

    def create(self) -> bool:
        """Create the folder. Return whether it has a `last` checkpoint to resume from.

        From then on, no other process can train in it. Raises UserError if one does, if the folder is
        not empty and train.resume is off, if `best` or `last` holds other files than a checkpoint's, or if the folder
        cannot be written.
        """
        return run_on_rank_zero(self._create)

    def _create(self) -> bool:
        resume = self.config.train.resume
        try:
            is_taken = self.path.is_dir() and any(path.name != _LOCK for path in self.path.iterdir())
            if not is_taken or resume or (self.path / _LOCK).exists():
                self.path.mkdir(parents=True, exist_ok=True)
                self._acquire_lock()
            if is_taken and not resume:
                raise UserError(
                    f"{self.path} already holds a run: resume it with train.resume=true, or choose another name=..."
                )
            for directory in (self.best, self.last):
                check_replaceable(directory, training=True)
            for directory in (self.best, self.last):
                remove_unfinished_saves(directory)
        except OSError as error:
            raise self._cannot_write(error) from error
        return resume and has_checkpoint(self.last)

    def _acquire_lock(self) -> None:
        """Lock the folder, on file systems that can."""
        self._lock = (self.path / _LOCK).open("wb")
        try:
            # Unlike flock, it is not inherited by the loader's processes, which outlive a killed run for seconds.
            fcntl.lockf(self._lock, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except OSError as error:
            if error.errno in (errno.EACCES, errno.EAGAIN):
                raise UserError(
                    f"Another process is training in {self.path}: wait for it, or choose another name=..."
                ) from error

    def write_config(self) -> None:
        """Write config.yaml. Raises UserError if the folder cannot be written."""
        run_on_rank_zero(self._write_config)

    def _write_config(self) -> None:
        try:
            partial = self.path / ".config.yaml.partial"
            partial.write_text(config_to_yaml(self.config), encoding="utf-8")
            os.replace(partial, self.path / "config.yaml")
        except OSError as error:
            raise self._cannot_write(error) from error

    def _cannot_write(self, error: OSError) -> UserError:
        fix = "free space, or choose another folder with results=..."
        return cannot_write(f"the run folder {self.path}", error, fix)

    def save_best(self, model: nn.Module) -> None:
        """Save `best`, without a training state."""
        self._save(self.best, model, None)

    def save_last(
        self, model: nn.Module, optimizer: Optimizer, scaler: torch.amp.GradScaler, progress: RunProgress,
        log_averages: dict[str, Any],
    ) -> None:
        """Save `last`, with everything that `resume` restores; `log_averages` are those of `RunLog.averages`."""
        state = {
            "position": progress.to_dict(),
            "optimizer": optimizer_state(optimizer, model),
            "scaler": scaler.state_dict(),
            "random_states": gather_objects(random_state()),
            "vocabularies": self.vocabularies.fingerprints(),
            "order": self._study_order(),
            "log_averages": log_averages,
        }
        self._save(self.last, model, state)

    def _save(self, directory: Path, model: nn.Module, training_state: dict[str, Any] | None) -> None:
        run_on_rank_zero(lambda: save_checkpoint(directory, model, self.config, self.vocabularies, training_state))

    def resume(
        self, model: nn.Module, optimizer: Optimizer, scaler: torch.amp.GradScaler
    ) -> tuple[RunProgress, dict[str, Any] | None, dict[str, Any] | None]:
        """Load weights, optimiser and scaler from `last`. Return its progress, this process's RNG state and averages.

        The RNG state is None if `last` was saved by another number of processes; the averages, which `RunLog`
        continues, are None if an earlier version saved it. Raises UserError if `last` was trained with other
        vocabularies or another order of studies, or does not fit the model.
        """
        checkpoint = load_checkpoint(self.last, training=True)
        state = checkpoint.training_state
        self._check_vocabularies(state["vocabularies"])
        self._check_study_order(state["order"])
        load_weights(model, checkpoint.weights)
        load_optimizer_state(optimizer, model, with_current_names(model, state["optimizer"]))
        scaler.load_state_dict(state["scaler"])
        random_states = state["random_states"]
        random_state = random_states[rank()] if len(random_states) == world_size() else None
        return RunProgress.from_dict(state["position"]), random_state, state.get("log_averages")

    def _check_vocabularies(self, saved: dict[str, str]) -> None:
        current = self.vocabularies.fingerprints()
        differing = [part for part, fingerprint in current.items() if saved.get(part) != fingerprint]
        if differing:
            raise UserError(
                f"{self.last} was trained with other vocabularies ({', '.join(differing)}) than those of "
                f"{', '.join(map(str, self.config.data.roots))}: resume with the same data, or start a new run with "
                f"train.init_from={self.last}"
            )

    def _check_study_order(self, saved: dict[str, Any]) -> None:
        if "optim.batch_size" not in saved:
            raise UserError(
                f"Cannot resume from {self.last}: an earlier version saved it, which counted batches and epochs in "
                f"another way. Finish it with that version, or start a new run with train.init_from={self.last}"
            )
        order = self._study_order()
        changed = [
            f"{name} was {saved.get(name)}, now {order.get(name)}"
            for name in saved | order if saved.get(name) != order.get(name)
        ]
        if changed:
            raise UserError(
                f"Cannot resume from {self.last}: {'; '.join(changed)}. Use the same settings, or start a new run with "
                f"train.init_from={self.last}"
            )

    def _study_order(self) -> dict[str, Any]:
        """What determines, with the progress, which studies come next. A run is resumed only if all of it is equal."""
        order = {
            "seed": self.config.seed,
            "studies of the training split": self.studies,
            "optim.batch_size": self.config.optim.batch_size,
        }
        if self.mixture is None:
            return order
        return order | {
            "studies of each data set": list(self.mixture.sizes),
            "draws of each data set in an epoch": list(self.mixture.draws_per_epoch),
        }
