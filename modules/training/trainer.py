"""The training of a model, from an empty run folder to its best checkpoint: one file, read top to bottom.

    1 Words of the settings     what to watch, and how far a run has come
    2 The run                   for each epoch: train, validate, save, stop early
    3 An epoch of training      micro-batches, windows, optimiser steps
    4 Validation                scores, and whether they are the best so far
    5 Saving and going on       what a checkpoint holds beside the weights

A window is the micro-batches of one optimiser step (`optim.accumulate` of them; the last window of an epoch may be
shorter). A run stops between windows or between batches of a validation, nowhere else.
"""

import math
import os
import re
import signal
from collections.abc import Iterator, Sequence
from contextlib import nullcontext
from dataclasses import asdict, dataclass
from itertools import islice
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn
from torch.nn.parallel import DistributedDataParallel

from data.batch import Batch
from data.dataset import StudyDataset
from data.errors import UserError
from data.loaders import batches_per_epoch, evaluation_loader, training_loader
from data.vocabulary import Vocabularies
from models.outputs import GraphSource
from modules.checkpoint import (
    check_replaceable,
    has_checkpoint,
    init_weights_from,
    load_checkpoint,
    load_weights,
    save_checkpoint,
)
from modules.config import Config, Precision, config_to_yaml
from modules.model_inputs import model_inputs
from modules.runtime import (
    StopSignals,
    autocast,
    broadcast_buffers,
    gather_objects,
    ignore_stop_signals,
    is_distributed,
    is_rank_zero,
    maximum_over_processes,
    random_state,
    rank,
    restore_random_state,
    run_on_rank_zero,
    seed_everything,
    sum_over_processes,
    world_size,
)
from modules.training.losses import Losses, ReportCriterion
from modules.training.optimizer import (
    LearningRateSchedule,
    build_optimizer,
    clip_gradients,
    freeze,
    load_optimizer_state,
    optimizer_state,
    set_training_mode,
)
from modules.training.run_log import RunLog
from modules.training.validation import EvaluationStopped, Validator

# ---------------------------------------------------------------------------------------------------------------------
# 1 Words of the settings
# ---------------------------------------------------------------------------------------------------------------------

_MONITOR_TERM = re.compile(r"\s*([+-]?)\s*(?:(\d+\.?\d*|\.\d+)\s*\*\s*)?([A-Za-z_]\w*)\s*")


@dataclass(frozen=True)
class Monitor:
    """The number that selects the best checkpoint: a weighted sum of validation scores.

    text     as the settings have it, e.g. "bleu_4 + 0.5 * meteor"
    weights  by name of the score
    """

    text: str
    weights: dict[str, float]

    @classmethod
    def parse(cls, text: str, score_names: Sequence[str]) -> "Monitor":
        """Raises UserError for a text that is no sum of scores, and for a score that does not exist."""
        weights: dict[str, float] = {}
        position = 0
        while position < len(text) or not weights:
            match = _MONITOR_TERM.match(text, position)
            if match is None or (weights and not match[1]):
                raise UserError(
                    f"train.monitor={text!r} cannot be read from {text[position:]!r} on: write a score, or a sum as in "
                    "'bleu_4 + 0.5 * meteor'"
                )
            sign, factor, name = match.groups()
            if name not in score_names:
                raise UserError(
                    f"train.monitor={text!r}: there is no score '{name}'; there are {', '.join(score_names)}"
                )
            weights[name] = weights.get(name, 0.0) + float(factor or 1) * (-1 if sign == "-" else 1)
            position = match.end()
        return cls(text, weights)

    def value(self, scores: dict[str, float | None]) -> float:
        """The sum; scores that are absent or None count 0."""
        return sum(weight * (scores.get(name) or 0.0) for name, weight in self.weights.items())

    def missing(self, scores: dict[str, float | None]) -> list[str]:
        """The scores of the sum that are absent or None."""
        return [name for name in self.weights if scores.get(name) is None]


@dataclass
class Position:
    """How far a run has come.

    epoch                     finished epochs
    batch                     micro-batches of the present epoch that were trained on, in each process
    step                      optimiser steps since the start
    validation_pending        training has come to a validation that is not done yet
    best, best_epoch          the monitor's best value, None before the first validation; the epoch (from 1) it is from
    validations_without_gain  since the best
    """

    epoch: int = 0
    batch: int = 0
    step: int = 0
    validation_pending: bool = False
    best: float | None = None
    best_epoch: int = 0
    validations_without_gain: int = 0


# ---------------------------------------------------------------------------------------------------------------------
# 2 The run
# ---------------------------------------------------------------------------------------------------------------------


class TrainingStep(nn.Module):
    """The forward pass up to the loss as one module: DDP looks for unused parameters from what its module returns."""

    def __init__(self, model: nn.Module, criterion: ReportCriterion, config: Config):
        super().__init__()
        self.model = model
        self.criterion = criterion
        self.precision = config.train.precision
        self.grounding = config.loss.grounding > 0
        self.sources = {"graph_source": config.train.graph_source, "box_source": config.eval.box_source}

    def forward(self, batch: Batch, counts: Tensor, mixing_probability: float) -> Losses:
        """The terms of one micro-batch; counts [len(TERMS)] over its whole window and all processes."""
        with autocast(self.precision, batch.images.device):
            output = self.model(
                model_inputs(batch, **self.sources, training=True), batch.token_ids, batch.token_mask, **self.sources,
                mixing_probability=mixing_probability, with_region_attention=self.grounding,
            )
        return self.criterion(output, batch, counts, world_size())


class Trainer:
    """Trains a model as `config.train`, `config.optim` and `config.data` say; see the head of this file.

    Several processes may train together (see `modules/runtime.py`); each has a Trainer. The configuration goes into
    every checkpoint, which is why the trainer has it whole.
    """

    def __init__(
        self, config: Config, vocabularies: Vocabularies, model: nn.Module, criterion: ReportCriterion,
        evaluator: Validator, train_dataset: StudyDataset, validation_dataset: StudyDataset, device: torch.device,
    ):
        """Raises UserError for settings that do not fit the model or the scores; nothing is written yet."""
        self.config = config
        self.settings = config.train
        self.vocabularies = vocabularies
        self.model = model
        self.criterion = criterion
        self.evaluator = evaluator
        self.train_dataset = train_dataset
        self.validation_dataset = validation_dataset
        self.device = device
        self.monitor = Monitor.parse(config.train.monitor, evaluator.score_names)
        self.position = Position()
        self.signals = StopSignals()
        self.stopped_by = 0

        self.batches = batches_per_epoch(len(train_dataset), config.data.batch_size, world_size())
        steps = config.train.epochs * math.ceil(self.batches / config.optim.accumulate)
        self.total_steps = steps if config.train.max_steps is None else min(steps, config.train.max_steps)

        freeze(model, config.train.freeze)
        self.memory_format = torch.channels_last if config.train.channels_last else None
        model.to(device)
        if self.memory_format is not None:
            model.to(memory_format=self.memory_format)
        if config.train.compile:
            model.compile()
        self.training_step = self._shared(TrainingStep(model, criterion, config))
        self.optimizer = build_optimizer(
            model, lr=config.optim.lr, lr_patch_encoder=config.optim.lr_patch_encoder,
            weight_decay=config.optim.weight_decay,
        )
        self.schedule = LearningRateSchedule(
            self.optimizer, config.optim.schedule, config.train.epochs, config.optim.warmup_epochs, config.optim.decay,
            config.optim.decay_every,
        )
        self.scaler = torch.amp.GradScaler(device.type, enabled=config.train.precision == Precision.FP16)

    def _shared(self, training_step: TrainingStep) -> nn.Module:
        """The module that is called in training: under several processes one that averages gradients over them.

        Looking for unused parts costs time each step. There are some only where a loss is switched off, or the decoder
        sees no graph.
        """
        if not is_distributed():
            return training_step
        switched_off = any(
            weight == 0 for name, weight in vars(self.config.loss).items()
            if name not in ("contrast_margin", "grounding")  # grounding has no part of its own
        )
        return DistributedDataParallel(
            training_step, find_unused_parameters=switched_off or self.settings.graph_source == GraphSource.NONE
        )

    def fit(self) -> int:
        """Run to the end, or to a signal. Returns the exit status: 0, or 128 + the number of the signal.

        Raises UserError where the run folder is taken, the checkpoint to start from does not fit, a file cannot be
        written, or a loss is not finite.
        """
        with self.signals:
            self._initialise_or_resume()
            try:
                return self._run()
            finally:
                self.log.close()

    def _run(self) -> int:
        while not self._finished():
            if not self.position.validation_pending:
                self.train_epoch()
                if self.stopped_by:
                    self._save_last()
                    return self._exit_after_signal()
                self.position.validation_pending = self._validation_due()
            if self.position.validation_pending:
                self._save_last()
                try:
                    self.validate()
                except EvaluationStopped:
                    self._stop_asked()
                    return self._exit_after_signal()
            self._close_epoch()
            self._save_last()
        best = "without a validation" if self.position.best is None else (
            f"the best checkpoint has {self.monitor.text} = {self.position.best:.4f}, from epoch "
            f"{self.position.best_epoch}: {self.config.run_dir / 'best'}"
        )
        self.log.message(f"Finished after {self.position.step} steps; {best}")
        return 0

    def _finished(self) -> bool:
        """Whether nothing is left to do: all epochs or steps are done and validated, or patience is at its end."""
        at_end = self.position.epoch >= self.settings.epochs or self.position.step >= self.total_steps
        patience = self.settings.patience
        out_of_patience = patience is not None and self.position.validations_without_gain >= max(1, patience)
        return not self.position.validation_pending and (at_end or out_of_patience)

    def _validation_due(self) -> bool:
        """Whether to validate here: at the end of the epochs that the settings name, and wherever training ends."""
        if self.position.step >= self.total_steps:
            return True
        epochs_since_first = self.position.epoch + 1 - self.settings.validate_from
        return epochs_since_first >= 0 and epochs_since_first % self.settings.validate_every == 0

    def _close_epoch(self) -> None:
        self.position.validation_pending = False
        if self.position.batch == self.batches:
            self.position.epoch += 1
            self.position.batch = 0

    def _exit_after_signal(self) -> int:
        """Say how to go on after a signal; returns the exit status."""
        self.log.message(
            f"Stopped by {signal.Signals(self.stopped_by).name} in epoch {self.position.epoch + 1} after step "
            f"{self.position.step} and saved in {self._last}; go on with the same command and train.resume=true"
        )
        return 128 + self.stopped_by

    def _stop_asked(self) -> bool:
        """Whether a signal came, to any process: all of them must stop at the same place."""
        self.stopped_by = maximum_over_processes(self.signals.received, self.device)
        return self.stopped_by != 0

    # -----------------------------------------------------------------------------------------------------------------
    # 3 An epoch of training
    # -----------------------------------------------------------------------------------------------------------------

    def train_epoch(self) -> None:
        """Train from the present position to the end of the epoch, to the last step of the run, or to a signal."""
        set_training_mode(self.model, self.settings.freeze)
        accumulate = self.config.optim.accumulate
        self.log.begin_epoch(
            self.position.epoch + 1, self.settings.epochs, math.ceil(self.batches / accumulate),
            self.position.batch // accumulate,
        )
        for window in self._windows():
            self.schedule.set(self._progress())
            terms = self.backward(window)
            gradient_norm = self._update_weights(window)
            self.position.batch += len(window)
            self.position.step += 1
            self.log.train_step(
                self.position.step, terms.pop("total"), terms, self.schedule.rates(), gradient_norm,
                sum(len(batch) for batch in window) * world_size(),
            )
            if self.position.step >= self.total_steps:
                break
            if self.settings.save_every is not None and self.position.step % self.settings.save_every == 0:
                self._save_last()
        self.log.end_epoch()

    def _progress(self) -> float:
        """Epochs since the start, with the present one's fraction."""
        return self.position.epoch + self.position.batch / self.batches

    def _windows(self) -> Iterator[list[Batch]]:
        """The windows left of the epoch, on the CPU; none after a signal."""
        loader = training_loader(
            self.train_dataset, batch_size=self.config.data.batch_size, seed=self.config.seed,
            epoch=self.position.epoch, start_batch=self.position.batch, rank=rank(), world_size=world_size(),
            workers=self.config.data.workers, pad_id=self.vocabularies.tokenizer.pad_id,
            pin_memory=self.device.type == "cuda",
        )
        loader.worker_init_fn = ignore_stop_signals
        batches = iter(loader)
        while not self._stop_asked() and (window := list(islice(batches, self.config.optim.accumulate))):
            yield window

    def backward(self, window: list[Batch]) -> dict[str, float]:
        """Add up the gradients of one optimiser step, in all processes those of the one large batch.

        Returns the loss terms, with their weighted sum as "total". Raises UserError when one is not finite.
        """
        self.optimizer.zero_grad(set_to_none=True)
        counts = torch.stack([self.criterion.counts(batch) for batch in window]).sum(0)
        counts = sum_over_processes(counts.to(self.device))
        rows = []
        for number, batch in enumerate(window, start=1):
            batch = batch.to(self.device, self.memory_format)
            with nullcontext() if number == len(window) or not is_distributed() else self.training_step.no_sync():
                losses = self.training_step(batch, counts, self._mixing_probability())
                self.scaler.scale(losses.total).backward()
            rows.append({name: term.detach() for name, term in {"total": losses.total, **losses.terms}.items()})
        return self._checked(window, rows)

    def _mixing_probability(self) -> float:
        """The share of studies that `mixed` training shows a predicted graph, at the present position."""
        if self.settings.graph_source != GraphSource.MIXED:
            return 0.0
        ramp = 1.0 if self.settings.mix_epochs <= 0 else min(1.0, self._progress() / self.settings.mix_epochs)
        return self.settings.mix_to * ramp

    def _checked(self, window: list[Batch], rows: list[dict[str, Tensor]]) -> dict[str, float]:
        """The terms over the window and all processes, from a row of terms a micro-batch; raises as `backward`."""
        names = list(rows[0])
        table = torch.stack([torch.stack([row[name].float() for name in names]) for row in rows])
        terms = dict(zip(names, (sum_over_processes(table.sum(0)) / world_size()).tolist(), strict=True))
        if not all(math.isfinite(value) for value in terms.values()):
            culprits = [
                (batch.study_ids, dict(zip(names, values, strict=True)))
                for batch, values in zip(window, table.tolist(), strict=True)
                if not all(math.isfinite(value) for value in values)
            ]
            self._refuse("The loss", gather_objects(culprits))
        return terms

    def _update_weights(self, window: list[Batch]) -> float:
        """Clip the gradients and take the optimiser step. Returns the gradient norm before clipping.

        Under fp16 the scaler leaves out a step whose gradients overflowed, and scales less from then on. In any other
        precision such gradients raise UserError.
        """
        self.scaler.unscale_(self.optimizer)
        norm = float(clip_gradients(self.model.parameters(), self.config.optim.clip_value, self.config.optim.clip_norm))
        if not math.isfinite(norm) and not self.scaler.is_enabled():
            ids = [study_id for batch in window for study_id in batch.study_ids]
            self._refuse("A gradient", gather_objects([(ids, {"gradient_norm": norm})]))
        self.scaler.step(self.optimizer)
        self.scaler.update()
        return norm

    def _refuse(self, what: str, culprits: list[list[tuple[list[str], dict[str, float]]]]) -> None:
        """Raise the UserError for numbers that are not finite; culprits: by process, study ids and terms of batches."""
        batches = [entry for of_process in culprits for entry in of_process]
        described = "; ".join(
            f"{', '.join(f'{name} {value:.4g}' for name, value in terms.items())} (studies {', '.join(ids)})"
            for ids, terms in batches
        )

        def complain() -> None:
            raise UserError(
                f"{what} is not finite in epoch {self.position.epoch + 1} after step {self.position.step}: "
                f"{described}. Nothing of it was saved: lower the learning rate, clip gradients, or look at the studies"
            )

        run_on_rank_zero(complain)

    # -----------------------------------------------------------------------------------------------------------------
    # 4 Validation
    # -----------------------------------------------------------------------------------------------------------------

    def validate(self) -> None:
        """Score the validation split, save the model as `best` where it is, and count validations without a gain.

        Raises EvaluationStopped after a signal.
        """
        broadcast_buffers(self.model)
        loader = evaluation_loader(
            self.validation_dataset, batch_size=self.config.eval.batch_size, workers=self.config.data.workers,
            rank=rank(), world_size=world_size(), pad_id=self.vocabularies.tokenizer.pad_id,
            pin_memory=self.device.type == "cuda",
        )
        loader.worker_init_fn = ignore_stop_signals
        before = random_state()
        evaluation = self.evaluator.evaluate(
            self.model, loader, self.device, meteor=self.config.eval.meteor_in_validation,
            should_stop=lambda: self.signals.received != 0, resamples=0,
        )
        restore_random_state(before)  # how often a run is validated must not change what it learns
        if self._stop_asked():  # while reports were scored: Ctrl-C may have taken METEOR's process away
            raise EvaluationStopped
        monitored = self.monitor.value(evaluation.scores)
        improved = self.position.best is None or monitored > self.position.best
        self.log.validation(
            evaluation.scores, evaluation.absent, monitored, self.monitor.text, improved,
            graph_source=self.evaluator.graph_source, box_source=self.evaluator.box_source,
        )
        for name in self.monitor.missing(evaluation.scores):
            reason = evaluation.absent.get(name, "not computed")
            self.log.message(f"Warning: {name} is absent ({reason}) and counts 0 in train.monitor")
        if improved:
            self.position.best, self.position.best_epoch = monitored, self.position.epoch + 1
            self.position.validations_without_gain = 0
            self._save(self.config.run_dir / "best", None)
        else:
            self.position.validations_without_gain += 1

    # -----------------------------------------------------------------------------------------------------------------
    # 5 Saving and going on
    # -----------------------------------------------------------------------------------------------------------------

    @property
    def _last(self) -> Path:
        return self.config.run_dir / "last"

    def _save_last(self) -> None:
        self._save(
            self._last,
            {
                "position": asdict(self.position),
                "optimizer": optimizer_state(self.optimizer, self.model),
                "scaler": self.scaler.state_dict(),
                "random_states": gather_objects(random_state()),
                "vocabularies": self.vocabularies.fingerprints(),
                "order": self._order(),
            },
        )

    def _save(self, directory: Path, training_state: dict[str, Any] | None) -> None:
        run_on_rank_zero(
            lambda: save_checkpoint(directory, self.model, self.config, self.vocabularies, training_state)
        )

    def _order(self) -> dict[str, int]:
        """What the order of studies follows from, beside the position: a run goes on with the same only."""
        return {
            "seed": self.config.seed, "studies of the training split": len(self.train_dataset),
            "data.batch_size": self.config.data.batch_size, "optim.accumulate": self.config.optim.accumulate,
            "processes": world_size(),
        }

    def _initialise_or_resume(self) -> None:
        """Take the run folder, load what to start or go on from, and set the random generators."""
        going_on = run_on_rank_zero(self._claim_run_folder)
        state = self._resume() if going_on else None
        misfits = None
        if not going_on and self.settings.init_from is not None:
            misfits = init_weights_from(self.model, self.vocabularies, self.settings.init_from)
        self.log = RunLog(
            self.config.run_dir, self.total_steps, self.settings.log_every, epoch=self.position.epoch + 1,
            done_steps=self.position.step, rerun_validation=self.position.validation_pending,
            enabled=is_rank_zero(),
        )
        self.log.start(
            self.device, resumed=going_on, processes=world_size(), precision=self.settings.precision,
            graph_source=self.settings.graph_source, box_source=self.config.eval.box_source,
            studies=len(self.train_dataset), parameters=sum(parameter.numel() for parameter in self.model.parameters()),
            trained_parameters=sum(p.numel() for p in self.model.parameters() if p.requires_grad),
        )
        if going_on:
            self.log.message(f"Going on from {self._last}: epoch {self.position.epoch + 1}, step {self.position.step}")
        elif self.settings.resume:
            self.log.message(f"Nothing to go on from in {self._last}: starting from the beginning")
        if misfits is not None:
            self.log.message(
                f"Started from {self.settings.init_from}; {len(misfits)} weights did not fit"
                + (": " + "; ".join(misfits) if misfits else "")
            )
        if state is None:
            seed_everything(self.config.seed, rank())
        else:
            restore_random_state(state["random_states"][rank()])

    def _claim_run_folder(self) -> bool:
        """Make the run folder with its config.yaml. Returns whether there is a run in it to go on with."""
        run_dir = self.config.run_dir
        try:
            taken = run_dir.is_dir() and any(run_dir.iterdir())
            if taken and not self.settings.resume:
                raise UserError(
                    f"{run_dir} already holds a run: go on with it by train.resume=true, or choose another name=..."
                )
            for directory in (run_dir / "best", self._last):
                check_replaceable(directory, training=True)
            run_dir.mkdir(parents=True, exist_ok=True)
            partial = run_dir / ".config.yaml.partial"
            partial.write_text(config_to_yaml(self.config), encoding="utf-8")
            os.replace(partial, run_dir / "config.yaml")
        except OSError as error:
            raise UserError(
                f"Cannot write the run folder {run_dir}: {error.strerror}; make room there, or give another results=..."
            ) from error
        return self.settings.resume and has_checkpoint(self._last)

    def _resume(self) -> dict[str, Any]:
        """Take weights, optimiser and position from `last`; returns its training state."""
        checkpoint = load_checkpoint(self._last, training=True)
        state = checkpoint.training_state
        own = self.vocabularies.fingerprints()
        differing = [part for part, fingerprint in own.items() if state["vocabularies"].get(part) != fingerprint]
        if differing:
            raise UserError(
                f"{self._last} was trained with other vocabularies ({', '.join(differing)}) than "
                f"{self.config.data.root} has now: go on with the same data set, or start another run by "
                f"train.init_from={self._last}"
            )
        order = state["order"]
        changed = [f"{name} was {order[name]}, now {now}" for name, now in self._order().items() if order[name] != now]
        if changed:
            raise UserError(
                f"{self._last} cannot be gone on with: {'; '.join(changed)}. Give the same, or start another run by "
                f"train.init_from={self._last}"
            )
        load_weights(self.model, checkpoint.weights)
        load_optimizer_state(self.optimizer, self.model, state["optimizer"])
        self.scaler.load_state_dict(state["scaler"])
        self.position = Position(**state["position"])
        return state
