"""The training loop, to be read top to bottom.

    fit           alternates the phases of a run until it is finished or stopped by a signal
    train_epoch   phase TRAIN: the optimiser steps of one epoch
    validate      phase VALIDATE: score the model, save it as `best` if it is the best so far

Around it: `progress.py` (counters and phases), `run_folder.py` (saving and resuming), `training_step.py` (forward pass
and loss), `losses.py`, `optimizer.py` (learning rates, clipping), `run_log.py`.

A window is the micro-batches of one optimiser step: `optim.accumulate` of them, fewer in the last window of an epoch.
A run stops between two windows or between two batches of a validation, nowhere else.
"""

import math
import signal
from collections.abc import Iterator
from contextlib import nullcontext
from itertools import islice

import torch
from torch import Tensor, nn

from data.batch import Batch
from data.dataset import StudyDataset
from data.errors import UserError
from data.loaders import batches_per_epoch, evaluation_loader, training_loader
from data.vocabulary import Vocabularies
from models.outputs import GraphSource
from modules.config import Config, Precision
from modules.runtime import (
    StopSignals,
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
from modules.training.losses import ReportCriterion
from modules.training.monitor import Monitor
from modules.training.optimizer import (
    LearningRateSchedule,
    build_optimizer,
    clip_gradients,
    freeze,
    set_training_mode,
)
from modules.training.progress import Phase, RunProgress
from modules.training.run_folder import RunFolder
from modules.training.run_log import RunLog
from modules.training.training_step import build_training_step
from modules.training.validation import EvaluationStopped, Validator
from modules.weights import init_weights_from


class Trainer:
    """Trains a model as `config.train`, `config.optim` and `config.data` say.

    Each process of a distributed run has a Trainer (see `modules/runtime.py`). It takes the whole configuration because
    every checkpoint includes it.
    """

    def __init__(
        self, config: Config, vocabularies: Vocabularies, model: nn.Module, criterion: ReportCriterion,
        evaluator: Validator, train_dataset: StudyDataset, validation_dataset: StudyDataset, device: torch.device,
    ):
        """Raises UserError if settings do not fit the model or the scores. Writes nothing yet."""
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
        self.progress = RunProgress()
        self.run_folder = RunFolder(config, vocabularies, studies=len(train_dataset))
        self.signals = StopSignals()
        self.stopped_by = 0  # number of the signal that stopped the run, in any process

        self.batches = batches_per_epoch(len(train_dataset), config.data.batch_size, world_size())
        self.steps_per_epoch = math.ceil(self.batches / config.optim.accumulate)
        steps = config.train.epochs * self.steps_per_epoch
        self.total_steps = steps if config.train.max_steps is None else min(steps, config.train.max_steps)

        freeze(model, config.train.freeze)
        self.memory_format = torch.channels_last if config.train.channels_last else None
        model.to(device)
        if self.memory_format is not None:
            model.to(memory_format=self.memory_format)
        if config.train.compile:
            model.compile()
        self.training_step = build_training_step(model, criterion, config)
        self.optimizer = build_optimizer(
            model, lr=config.optim.lr, lr_patch_encoder=config.optim.lr_patch_encoder,
            weight_decay=config.optim.weight_decay,
        )
        self.schedule = LearningRateSchedule(
            self.optimizer, config.optim.schedule, config.train.epochs, config.optim.warmup_epochs, config.optim.decay,
            config.optim.decay_every,
        )
        self.scaler = torch.amp.GradScaler(device.type, enabled=config.train.precision == Precision.FP16)

    # -----------------------------------------------------------------------------------------------------------------
    # The run
    # -----------------------------------------------------------------------------------------------------------------

    def fit(self) -> int:
        """Run to the end or until a signal. Return the exit status: 0, or 128 + the signal's number.

        Raises UserError if the run folder is in use, the checkpoint to start from does not fit, a file cannot be
        written, or a loss is not finite.
        """
        with self.signals:
            self._initialise_or_resume()
            try:
                return self._run_phases()
            finally:
                self.log.close()

    def _run_phases(self) -> int:
        while not self._is_finished():
            if self.progress.phase == Phase.TRAIN:
                self.train_epoch()
                if self.stopped_by:
                    self._save_last()
                    return self._exit_after_signal()
                if self._validation_is_due():
                    self.progress.phase = Phase.VALIDATE
                else:
                    self.progress.end_epoch(self.batches)
            else:
                try:
                    self.validate()
                except EvaluationStopped:  # `last` is from before the validation, which a resumed run repeats
                    self._stop_requested()
                    return self._exit_after_signal()
                self.progress.end_epoch(self.batches)
            self._save_last()
        self._report_end()
        return 0

    def _is_finished(self) -> bool:
        """Whether all epochs or steps are done and validated, or patience has run out."""
        if self.progress.phase == Phase.VALIDATE:
            return False
        patience = self.settings.patience
        out_of_patience = patience is not None and self.progress.validations_without_gain >= max(1, patience)
        return out_of_patience or self.progress.epoch >= self.settings.epochs or self._is_last_step()

    def _is_last_step(self) -> bool:
        return self.progress.step >= self.total_steps

    def _validation_is_due(self) -> bool:
        """Whether to validate after this epoch: the settings name it, or training ends here."""
        if self._is_last_step():
            return True
        epochs_since_first = self.progress.epoch + 1 - self.settings.validate_from
        return epochs_since_first >= 0 and epochs_since_first % self.settings.validate_every == 0

    def _initialise_or_resume(self) -> None:
        """Create the run folder; load weights or resume; open the log; seed or restore the RNGs."""
        saved_random_state = misfits = None
        resumed = self.run_folder.create()
        if resumed:
            self.progress, saved_random_state = self.run_folder.resume(self.model, self.optimizer, self.scaler)
        elif self.settings.init_from is not None:
            misfits = init_weights_from(self.model, self.vocabularies, self.settings.init_from)
        self._open_log(resumed)
        if resumed:
            self.log.message(
                f"Resuming from {self.run_folder.last}: epoch {self.progress.epoch + 1}, step {self.progress.step}"
            )
        elif self.settings.resume:
            self.log.message(f"No checkpoint to resume from in {self.run_folder.last}: starting from the beginning")
        if misfits is not None:
            self.log.message(
                f"Started from {self.settings.init_from}; {len(misfits)} weights did not fit"
                + (": " + "; ".join(misfits) if misfits else "")
            )
        if saved_random_state is None:
            seed_everything(self.config.seed, rank())
        else:
            restore_random_state(saved_random_state)

    def _open_log(self, resumed: bool) -> None:
        self.log = RunLog(
            self.run_folder.path, self.total_steps, self.settings.log_every, epoch=self.progress.epoch + 1,
            done_steps=self.progress.step, rerun_validation=self.progress.phase == Phase.VALIDATE,
            enabled=is_rank_zero(),
        )
        parameters = list(self.model.parameters())
        self.log.start(
            self.device, resumed=resumed, processes=world_size(), precision=self.settings.precision,
            graph_source=self.settings.graph_source, box_source=self.config.eval.box_source,
            studies=len(self.train_dataset), parameters=sum(parameter.numel() for parameter in parameters),
            trained_parameters=sum(parameter.numel() for parameter in parameters if parameter.requires_grad),
        )

    def _save_last(self) -> None:
        self.run_folder.save_last(self.model, self.optimizer, self.scaler, self.progress)

    def _report_end(self) -> None:
        best = "without a validation" if self.progress.best is None else (
            f"the best checkpoint has {self.monitor.text} = {self.progress.best:.4f}, from epoch "
            f"{self.progress.best_epoch}: {self.run_folder.best}"
        )
        self.log.message(f"Finished after {self.progress.step} steps; {best}")

    def _exit_after_signal(self) -> int:
        """Log how to resume. Return the exit status."""
        self.log.message(
            f"Stopped by {signal.Signals(self.stopped_by).name} in epoch {self.progress.epoch + 1} after step "
            f"{self.progress.step}, saved in {self.run_folder.last}: resume with the same command and train.resume=true"
        )
        return 128 + self.stopped_by

    def _stop_requested(self) -> bool:
        """Whether any process has received a signal: all of them must stop at the same place."""
        self.stopped_by = maximum_over_processes(self.signals.received, self.device)
        return self.stopped_by != 0

    # -----------------------------------------------------------------------------------------------------------------
    # Phase TRAIN
    # -----------------------------------------------------------------------------------------------------------------

    def train_epoch(self) -> None:
        """Train from the current position to the end of the epoch, the last step of the run, or a signal."""
        set_training_mode(self.model, self.settings.freeze)
        self.log.begin_epoch(
            self.progress.epoch + 1, self.settings.epochs, self.steps_per_epoch,
            self.progress.batch // self.config.optim.accumulate,
        )
        for window in self._windows():
            self.schedule.set(self._epochs_done())
            terms = self.backward(window)
            gradient_norm = self._update_weights(window)
            self.progress.batch += len(window)
            self.progress.step += 1
            self.log.train_step(
                self.progress.step, terms.pop("total"), terms, self.schedule.rates(), gradient_norm,
                sum(len(batch) for batch in window) * world_size(),
            )
            if self._is_last_step():
                break
            if self.settings.save_every is not None and self.progress.step % self.settings.save_every == 0:
                self._save_last()
        self.log.end_epoch()

    def _epochs_done(self) -> float:
        """Epochs since the start, with the fraction of the current one."""
        return self.progress.epoch + self.progress.batch / self.batches

    def _windows(self) -> Iterator[list[Batch]]:
        """Yield the remaining windows of the epoch, on the CPU; stop after a signal."""
        loader = training_loader(
            self.train_dataset, batch_size=self.config.data.batch_size, seed=self.config.seed,
            epoch=self.progress.epoch, start_batch=self.progress.batch, rank=rank(), world_size=world_size(),
            workers=self.config.data.workers, pad_id=self.vocabularies.tokenizer.pad_id,
            pin_memory=self.device.type == "cuda",
        )
        loader.worker_init_fn = ignore_stop_signals
        batches = iter(loader)
        while not self._stop_requested() and (window := list(islice(batches, self.config.optim.accumulate))):
            yield window

    def backward(self, window: list[Batch]) -> dict[str, float]:
        """Accumulate the gradients of one optimiser step: those of one large batch over the window and all processes.

        Returns the loss terms, with their weighted sum as "total". Raises UserError if one is not finite.
        """
        self.optimizer.zero_grad(set_to_none=True)
        counts = torch.stack([self.criterion.counts(batch) for batch in window]).sum(0)
        counts = sum_over_processes(counts.to(self.device))
        rows = []
        for number, batch in enumerate(window, start=1):
            batch = batch.to(self.device, self.memory_format)
            # DDP averages gradients in the last backward pass of the window only.
            with nullcontext() if number == len(window) or not is_distributed() else self.training_step.no_sync():
                losses = self.training_step(batch, counts, self._mixing_probability())
                self.scaler.scale(losses.total).backward()
            rows.append({name: term.detach() for name, term in {"total": losses.total, **losses.terms}.items()})
        return self._sum_terms(window, rows)

    def _mixing_probability(self) -> float:
        """The share of studies for which `mixed` training currently uses the predicted graph."""
        if self.settings.graph_source != GraphSource.MIXED:
            return 0.0
        ramp = 1.0 if self.settings.mix_epochs <= 0 else min(1.0, self._epochs_done() / self.settings.mix_epochs)
        return self.settings.mix_to * ramp

    def _sum_terms(self, window: list[Batch], rows: list[dict[str, Tensor]]) -> dict[str, float]:
        """Sum the terms over the window (one row per micro-batch) and all processes. Raises as `backward`."""
        names = list(rows[0])
        table = torch.stack([torch.stack([row[name].float() for name in names]) for row in rows])
        terms = dict(zip(names, (sum_over_processes(table.sum(0)) / world_size()).tolist(), strict=True))
        if not all(math.isfinite(value) for value in terms.values()):
            culprits = [
                (batch.study_ids, dict(zip(names, values, strict=True)))
                for batch, values in zip(window, table.tolist(), strict=True)
                if not all(math.isfinite(value) for value in values)
            ]
            self._raise_not_finite("The loss", culprits)
        return terms

    def _update_weights(self, window: list[Batch]) -> float:
        """Clip the gradients and take the optimiser step. Return the gradient norm before clipping.

        In fp16 the scaler skips a step whose gradients overflow, and lowers its scale. In other precisions a gradient
        that is not finite raises UserError.
        """
        self.scaler.unscale_(self.optimizer)
        norm = float(clip_gradients(self.model.parameters(), self.config.optim.clip_value, self.config.optim.clip_norm))
        if not math.isfinite(norm) and not self.scaler.is_enabled():
            study_ids = [study_id for batch in window for study_id in batch.study_ids]
            self._raise_not_finite("A gradient", [(study_ids, {"gradient_norm": norm})])
        self.scaler.step(self.optimizer)
        self.scaler.update()
        return norm

    def _raise_not_finite(self, what: str, culprits: list[tuple[list[str], dict[str, float]]]) -> None:
        """Raise a UserError that lists the culprits of all processes: (study ids, values) of each batch."""
        batches = [culprit for of_process in gather_objects(culprits) for culprit in of_process]
        described = "; ".join(
            f"{', '.join(f'{name} {value:.4g}' for name, value in values.items())} (studies {', '.join(study_ids)})"
            for study_ids, values in batches
        )

        def fail() -> None:
            raise UserError(
                f"{what} is not finite in epoch {self.progress.epoch + 1} after step {self.progress.step}: "
                f"{described}. The last checkpoint is unchanged: lower the learning rate, clip gradients, or check "
                "these studies"
            )

        run_on_rank_zero(fail)

    # -----------------------------------------------------------------------------------------------------------------
    # Phase VALIDATE
    # -----------------------------------------------------------------------------------------------------------------

    def validate(self) -> None:
        """Score the validation split; save the model as `best` if its score is the best so far.

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
        if self._stop_requested():  # Ctrl-C during scoring also ends METEOR's Java process: the scores are unreliable
            raise EvaluationStopped
        monitored = self.monitor.value(evaluation.scores)
        is_best = self.progress.record_validation(monitored)
        self.log.validation(
            evaluation.scores, evaluation.absent, monitored, self.monitor.text, is_best,
            graph_source=self.evaluator.graph_source, box_source=self.evaluator.box_source,
        )
        for name in self.monitor.missing(evaluation.scores):
            reason = evaluation.absent.get(name, "not computed")
            self.log.message(f"Warning: {name} is absent ({reason}) and counts 0 in train.monitor")
        if is_best:
            self.run_folder.save_best(self.model)
