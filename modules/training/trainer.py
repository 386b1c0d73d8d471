"""The training loop, to be read top to bottom.

    fit           alternates the phases of a run until it is finished or stopped by a signal
    train_epoch   phase TRAIN: the optimiser steps of one epoch
    train_step    one optimiser step
    validate      phase VALIDATE: score the model, save it as `best` if it is the best so far

Around it: `progress.py` (counters and phases), `run_folder.py` (saving and resuming), `training_step.py` (forward pass
and loss), `losses.py`, `optimizer.py` (learning rates, clipping), `run_log.py`.

A window is the micro-batches of one optimiser step in this process (see `BatchPlan`).
A run stops between two windows or between two batches of a validation, nowhere else.
"""

import math
import signal
from collections.abc import Iterator
from contextlib import nullcontext
from itertools import islice
from typing import Any

import torch
from torch import nn

from data.batch import Batch
from data.dataset import StudyDataset
from data.errors import UserError
from data.images.network_input import to_network_input
from data.loaders import BatchPlan, StudyLoader, check_skipped, evaluation_loader, training_loader, worker_errors
from data.mixture.dataset import MixedDataset
from data.vocabulary import Vocabularies
from models.outputs import GraphSource
from models.trunks.build import is_convolutional
from modules.config import Config, Precision, config_to_dict
from modules.model_inputs import count_sizes
from modules.runtime import (
    StopSignals,
    broadcast_buffers,
    choose_precision,
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
from modules.training.stage import Stage
from modules.training.tracking.trackers import check_installed
from modules.training.training_step import wrap_training_step
from modules.training.validation import EvaluationStopped, Validator
from modules.training.window_losses import StepResult, WindowLosses
from modules.weights import init_weights_from

# Steps in a row that fp16 may skip. Each halves the scale: 20 of them take it from 65,536 to below 0.1. A gradient that
# is still not finite then is not due to the range of fp16.
MOST_SKIPPED_STEPS = 20


class Trainer:
    """Trains a model as `config.train`, `config.optim` and `config.data` say.

    Each process of a distributed run has a Trainer (see `modules/runtime.py`). It takes the whole configuration because
    every checkpoint includes it.
    """

    def __init__(
        self, config: Config, vocabularies: Vocabularies, model: nn.Module, criterion: ReportCriterion,
        evaluator: Validator, train_dataset: StudyDataset | MixedDataset,
        validation_dataset: StudyDataset | MixedDataset, device: torch.device, stage: Stage | None = None,
    ):
        """Raises UserError if settings do not fit the model or the scores. Writes nothing yet."""
        self.stage = stage or Stage()
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
        mixture = train_dataset.mixture if isinstance(train_dataset, MixedDataset) else None
        self.run_folder = RunFolder(config, vocabularies, len(train_dataset), mixture)
        self.signals = StopSignals()
        self.stopped_by = 0  # number of the signal that stopped the run, in any process
        self.train_loader: StudyLoader | None = None
        self.skipped_studies: dict[str, str] = {}  # study -> error, in all processes
        self.skipped_steps = 0  # steps that fp16 has skipped in a row

        self.plan = BatchPlan(len(train_dataset), config.optim.batch_size, world_size(), config.data.micro_batch_size)
        steps = config.train.epochs * self.plan.steps
        self.total_steps = steps if config.train.max_steps is None else min(steps, config.train.max_steps)

        check_installed(config.train.track)
        freeze(model, config.train.freeze)
        self.precision = choose_precision(config.train.precision, device)
        channels_last = config.train.channels_last
        if channels_last is None:
            channels_last = device.type == "cuda" and is_convolutional(model.patch_encoder)
        self.memory_format = torch.channels_last if channels_last else torch.contiguous_format
        model.to(device)
        if channels_last:
            model.to(memory_format=self.memory_format)
        if config.train.compile:
            model.compile()
        self.training_step = wrap_training_step(self.stage.step_class(model, criterion, config), config)
        self.optimizer = build_optimizer(
            model, lr=config.optim.lr, lr_patch_encoder=config.optim.lr_patch_encoder,
            weight_decay=config.optim.weight_decay, kind=config.optim.optimizer, amsgrad=config.optim.amsgrad,
            beta2=config.optim.beta2, epsilon=config.optim.epsilon,
        )
        decay_steps = config.optim.decay_steps
        if config.optim.decay_epochs is not None:
            decay_steps = max(1, round(config.optim.decay_epochs * self.plan.steps))
        self.schedule = LearningRateSchedule(
            self.optimizer, config.optim.schedule, self.total_steps, config.optim.warmup_steps, config.optim.decay,
            decay_steps,
        )
        self.scaler = torch.amp.GradScaler(device.type, enabled=self.precision == Precision.FP16)

    # -----------------------------------------------------------------------------------------------------------------
    # The run
    # -----------------------------------------------------------------------------------------------------------------

    def fit(self) -> int:
        """Run to the end or until a signal. Return the exit status: 0, or 128 + the signal's number.

        Raises UserError if the run folder is in use, the checkpoint to start from does not fit, a file cannot be
        written, or a loss is not finite.
        """
        with self.signals, worker_errors():
            self._initialise_or_resume()
            try:
                return self._run_phases()
            finally:
                self.log.close()
                self.stage.close()
                if self.train_loader is not None:
                    self.train_loader.close()

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
                    self.progress.end_epoch(self.plan.steps)
            else:
                try:
                    self.validate()
                except EvaluationStopped:  # `last` is from before the validation, which a resumed run repeats
                    self._stop_requested()
                    return self._exit_after_signal()
                self.progress.end_epoch(self.plan.steps)
            self._save_last()
        if self.progress.best is None:
            self.run_folder.save_best(self.model)
        self._report_end()
        return 0

    def _is_finished(self) -> bool:
        """Whether all epochs or steps are done and validated, or patience has run out."""
        if self.progress.phase == Phase.VALIDATE:
            return False
        if self.progress.broken_guard:
            return True
        patience = self.settings.patience
        out_of_patience = patience is not None and self.progress.validations_without_gain >= max(1, patience)
        out_of_patience = out_of_patience and self.progress.epoch >= self.settings.least_epochs
        return out_of_patience or self.progress.epoch >= self.settings.epochs or self._is_last_step()

    def _is_last_step(self) -> bool:
        return self.progress.step >= self.total_steps

    def _validation_is_due(self) -> bool:
        """Whether to validate now: the settings name this step or epoch, or training ends here."""
        if self._is_last_step() or self._validates_after_this_step():
            return True
        epochs_since_first = self.progress.epoch + 1 - self.settings.validate_from
        return epochs_since_first >= 0 and epochs_since_first % self.settings.validate_every == 0

    def _validates_after_this_step(self) -> bool:
        every = self.settings.validate_steps
        return every is not None and self.progress.step % every == 0

    def _initialise_or_resume(self) -> None:
        """Create the run folder; load weights or resume; open the log; seed or restore the RNGs."""
        random_state = misfits = averages = None
        resumed = self.run_folder.create()
        if resumed:
            self.progress, random_state, averages = self.run_folder.resume(self.model, self.optimizer, self.scaler)
        elif self.settings.init_from is not None:
            misfits = init_weights_from(self.model, self.vocabularies, self.settings.init_from)
        self.run_folder.write_config()
        self._open_log(resumed, averages)
        if resumed:
            self.log.message(
                f"Resuming from {self.run_folder.last}: epoch {self.progress.epoch + 1}, step {self.progress.step}"
                + ("" if random_state else "; it had another number of processes, so dropout draws other numbers")
            )
        elif self.settings.resume:
            self.log.message(f"No checkpoint to resume from in {self.run_folder.last}: starting from the beginning")
        if misfits is not None:
            self.log.message(
                f"Started from {self.settings.init_from}; {len(misfits)} weights did not fit"
                + (": " + "; ".join(misfits) if misfits else "")
            )
        if random_state is None:
            seed_everything(self.config.seed, rank(), self.progress.step)
        else:
            restore_random_state(random_state)
        if self.stage.validates_first and not resumed:
            self.progress.phase = Phase.VALIDATE
            self._save_last()

    def _open_log(self, resumed: bool, averages: dict[str, Any] | None) -> None:
        self.log = RunLog(
            self.run_folder.path, self.total_steps, self.settings.log_every, epoch=self.progress.epoch + 1,
            done_steps=self.progress.step, rerun_validation=self.progress.phase == Phase.VALIDATE,
            enabled=is_rank_zero(), track=self.settings.track, configuration=config_to_dict(self.config),
            averages=averages,
        )
        parameters = list(self.model.parameters())
        self.log.start(
            self.device, resumed=resumed, processes=world_size(), precision=self.precision,
            graph_source=self.settings.graph_source, box_source=self.config.eval.box_source,
            studies=len(self.train_dataset), parameters=sum(parameter.numel() for parameter in parameters),
            trained_parameters=sum(parameter.numel() for parameter in parameters if parameter.requires_grad),
        )

    def _save_last(self) -> None:
        self.run_folder.save_last(self.model, self.optimizer, self.scaler, self.progress, self.log.averages())

    def _report_end(self) -> None:
        if self.progress.broken_guard:
            self.log.message(f"Warning: a guard has stopped the training: {self.progress.broken_guard}")
        best = f"no validation had {self.monitor.text}, so the last weights are saved as {self.run_folder.best}"
        if self.progress.best is not None:
            best = (
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
        """Train from the current position to the end of the epoch, the last step of the run, or a signal.

        Raises UserError if a sample of the files of the data set differs from its manifest.
        """
        if self._stop_requested():
            return
        run_on_rank_zero(self.train_dataset.check_files)
        set_training_mode(self.model, self.settings.freeze)
        self.log.begin_epoch(self.progress.epoch + 1, self.settings.epochs, self.plan.steps, self.progress.batch)
        for window in self._windows():
            self.schedule.set(self.progress.step)
            result = self.train_step(window)
            self.progress.batch += 1
            self.progress.step += 1
            self.log.train_step(
                self.progress.step, result, self.schedule.rates(), images=sum(map(len, window)) * world_size()
            )
            if self._is_last_step() or self._validates_after_this_step():
                break
            if result.stop_requested and self._stop_requested():
                break
            if self.settings.save_every is not None and self.progress.step % self.settings.save_every == 0:
                self._save_last()
        self.log.end_epoch()
        self._log_skipped(self.train_loader, "training replaces it by the next readable study")

    def _log_skipped(self, loader: StudyLoader, treatment: str) -> None:
        """Log the studies that `loader` could not read in any process. Raises UserError if they are too many."""
        gathered = [study for studies in gather_objects(list(loader.skipped.values())) for study in studies]
        for study in gathered:
            if study.study_id not in self.skipped_studies:
                self.skipped_studies[study.study_id] = study.reason
                self.log.message(f"Warning: study {study.study_id} cannot be read, {treatment}: {study.reason}")
        distinct = {study.index: study for study in gathered}.values()
        run_on_rank_zero(lambda: check_skipped(distinct, self.config.data.most_skipped))

    def _windows(self) -> Iterator[list[Batch]]:
        """Yield the remaining windows of the epoch, on the CPU. The loader's workers live as long as the run."""
        if self.train_loader is None:
            self.train_dataset.share_cache(gather_objects)
            self.train_loader = training_loader(
                self.train_dataset, batch_size=self.config.optim.batch_size, seed=self.config.seed, rank=rank(),
                world_size=world_size(), workers=self.config.data.workers, pad_id=self.vocabularies.tokenizer.pad_id,
                pin_memory=self.device.type == "cuda", micro_batch_size=self.config.data.micro_batch_size,
                most_skipped=self.config.data.most_skipped, shuffle_window=self.config.data.shuffle_window,
            )
            self.train_loader.worker_init_fn = ignore_stop_signals
        self.train_loader.set_position(self.progress.epoch, self.progress.batch)
        batches = iter(self.train_loader)
        while window := list(islice(batches, self.plan.micro_batches)):
            yield window

    def train_step(self, window: list[Batch]) -> StepResult:
        """Take one optimiser step on the micro-batches `window` of this process.

        In fp16, the scaler skips a step whose gradient is not finite, and lowers its scale. Raises UserError if that
        happens `MOST_SKIPPED_STEPS` times in a row, or if a loss or a gradient is not finite in another precision.
        """
        losses = self.backward(window)
        self.scaler.unscale_(self.optimizer)
        norm = clip_gradients(self.model.parameters(), self.config.optim.clip_value, self.config.optim.clip_norm)
        signals = torch.full((1,), float(self.signals.received), device=self.device)
        sums = sum_over_processes(torch.cat([losses.table.sum(0) / world_size(), signals]))
        # The only point of a step at which the CPU waits for the device.
        *sums, signals, norm = torch.cat([sums, norm.float().reshape(1)]).tolist()
        result = StepResult(
            dict(zip(losses.names, sums, strict=True)), norm, stop_requested=signals != 0,
            skipped=self.scaler.is_enabled() and not math.isfinite(norm),
        )
        self._check_finite(losses, result)
        self.scaler.step(self.optimizer)
        self.scaler.update()
        return result

    def backward(self, window: list[Batch]) -> WindowLosses:
        """Compute the gradient of one optimiser step: that of one large batch over the window and all processes."""
        self.optimizer.zero_grad(set_to_none=True)
        counts = torch.stack([self.criterion.counts(batch) for batch in window]).sum(0)
        counts = sum_over_processes(counts.to(self.device))
        window_losses = []
        prepared = self.stage.prepare(self.model, window, self.progress.step, self.memory_format)
        for number, (batch, arguments) in enumerate(zip(window, prepared, strict=True), start=1):
            sizes = count_sizes(batch)
            batch = to_network_input(batch.to(self.device), self.memory_format)
            # DDP averages gradients in the last backward pass of the window only.
            with nullcontext() if number == len(window) or not is_distributed() else self.training_step.no_sync():
                losses = self.training_step(batch, counts, self._mixing_probability(), sizes, *arguments)
                self.scaler.scale(losses.total).backward()
            window_losses.append(losses)
        return WindowLosses.from_losses(window, window_losses)

    def _mixing_probability(self) -> float:
        """The share of studies for which `mixed` training currently uses the predicted graph."""
        if self.settings.graph_source != GraphSource.MIXED:
            return 0.0
        epochs_done = self.progress.epoch + self.progress.batch / self.plan.steps
        ramp = 1.0 if self.settings.mix_epochs <= 0 else min(1.0, epochs_done / self.settings.mix_epochs)
        return self.settings.mix_to * ramp

    def _check_finite(self, losses: WindowLosses, result: StepResult) -> None:
        """Count the steps that the scaler skips in a row. Raises UserError as `train_step`."""
        self.skipped_steps = self.skipped_steps + 1 if result.skipped else 0
        if self.scaler.is_enabled():
            if self.skipped_steps == MOST_SKIPPED_STEPS:
                self._raise_not_finite(f"The gradient of {MOST_SKIPPED_STEPS} steps in a row", losses, result)
        elif not all(map(math.isfinite, result.terms.values())):
            self._raise_not_finite("The loss", losses, result)
        elif not math.isfinite(result.gradient_norm):
            self._raise_not_finite("A gradient", losses, result)

    def _raise_not_finite(self, what: str, losses: WindowLosses, result: StepResult) -> None:
        """Raise a UserError with the terms and studies of the micro-batches of all processes that are not finite."""
        described = losses.describe_not_finite()

        def fail() -> None:
            raise UserError(
                f"{what} is not finite in epoch {self.progress.epoch + 1} after step {self.progress.step}: "
                f"gradient_norm {result.gradient_norm:.4g}; {described}. The last checkpoint is unchanged: lower the "
                "learning rate, clip gradients, or check these studies"
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
            pin_memory=self.device.type == "cuda", most_skipped=self.config.data.most_skipped,
        )
        loader.worker_init_fn = ignore_stop_signals
        before = random_state()
        evaluation = self.evaluator.validate(
            self.model, loader, self.device,
            names=tuple(dict.fromkeys((*self.monitor.weights, *self.stage.watched))),
            meteor=self.config.eval.meteor_in_validation, should_stop=lambda: self.signals.received != 0,
        )
        restore_random_state(before)  # how often a run is validated must not change what it learns
        self._log_skipped(loader, "the validation leaves it out")
        if self._stop_requested():  # Ctrl-C during scoring also ends METEOR's Java process: the scores are unreliable
            raise EvaluationStopped
        monitored = self.monitor.value(evaluation.scores)
        self.progress.broken_guard = self.stage.check(evaluation.scores, self.progress)
        is_best = not self.progress.broken_guard and self.progress.record_validation(monitored)
        self.log.validation(
            evaluation, monitored, self.monitor.value(evaluation.blind), self.monitor.text, is_best,
            graph_source=self.evaluator.graph_source, box_source=self.evaluator.box_source,
        )
        for name in self.monitor.missing(evaluation.scores):
            reason = evaluation.absent.get(name, "not computed")
            self.log.message(
                f"Warning: {name} is absent ({reason}), so this validation has no {self.monitor.text} and selects no "
                "checkpoint: choose another train.monitor"
            )
        if is_best:
            self.run_folder.save_best(self.model)
