"""Logging of a training run: lines or a progress bar on the console, JSON lines in log.jsonl, curves of the trackers.

Every entry of log.jsonl has a `kind` (start, train, validation, message), the optimiser `step`, the current `epoch`
(from 1) and the `time`. An entry of kind start states the code, packages and device with which the run was started or
resumed.
"""

import json
import math
import platform
import subprocess
import sys
import time
from collections import defaultdict
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from datetime import UTC, datetime
from importlib import metadata
from pathlib import Path
from typing import Any

import torch
from tqdm import tqdm

from data.errors import cannot_write
from modules.settings.tracking import TENSORBOARD
from modules.training.tracking.tracker import Tracker, TrackingError
from modules.training.tracking.trackers import open_trackers
from modules.training.validation import ValidationScores
from modules.training.window_losses import SAMPLED, TOTAL, StepResult

_ROOT = Path(__file__).resolve().parents[2]
_PACKAGES = ("torch", "torchvision", "numpy", "Pillow", "pycocoevalcap")


class RunLog:
    """The log of one run. With `enabled=False`, as in all processes but rank zero, it does nothing.

    run_dir            the run folder, created if absent
    total_steps        optimiser steps of the whole run
    log_every          optimiser steps between lines
    epoch              the epoch (from 1) in which the run starts or resumes
    done_steps         steps already done by the run to resume: entries of later steps are removed; 0 starts a new log
    rerun_validation   the validation after `done_steps` is repeated: its old entry is removed as well
    averages           what `averages` of the run to resume returned after `done_steps`
    track              names of the trackers (`train.track`)
    configuration      nested settings that trackers record
    """

    def __init__(
        self, run_dir: str | Path, total_steps: int, log_every: int, epoch: int = 1, done_steps: int = 0,
        rerun_validation: bool = False, enabled: bool = True, track: Sequence[str] = (TENSORBOARD,),
        configuration: Mapping[str, Any] | None = None, averages: Mapping[str, Any] | None = None,
    ):
        self.enabled = enabled
        self.total_steps = total_steps
        self.log_every = log_every
        self.step = self._first_step = done_steps
        self.epoch = epoch
        self._bar: tqdm | None = None
        self._reset_averages()
        if averages is not None:
            self._sums.update(averages["sums"])
            self._steps, self._skipped = averages["steps"], averages["skipped"]
        if not enabled:
            return
        self._run_dir = Path(run_dir)
        path = self._run_dir / "log.jsonl"
        with self._writing():
            self._run_dir.mkdir(parents=True, exist_ok=True)
            old_lines = _lines_until(path, done_steps, rerun_validation) if done_steps else []
            partial = path.with_name(f".{path.name}.partial")
            partial.write_text("".join(f"{line}\n" for line in old_lines), encoding="utf-8")
            partial.replace(path)
            self._file = path.open("a", encoding="utf-8")
            self._trackers = open_trackers(track, self._run_dir, configuration, done_steps)
        self._interactive = sys.stderr.isatty()
        self._start_time = time.monotonic()

    def start(self, device: torch.device, **facts: Any) -> None:
        """Log the code, packages and device of the run, and `facts` (JSON values)."""
        if self.enabled:
            self._write("start", environment=environment(device), **facts)

    def message(self, text: str) -> None:
        """Log one line of text."""
        if self.enabled:
            self._print(text)
            self._write("message", text=text)

    def begin_epoch(self, epoch: int, epochs: int, steps: int, done: int) -> None:
        """Start epoch `epoch` (from 1) of `epochs`, in which `done` of its `steps` steps are already done."""
        self.epoch = epoch
        if done == 0:
            self._reset_averages()
        if self.enabled and self._interactive:
            self._bar = tqdm(
                total=steps, initial=done, desc=f"epoch {epoch}/{epochs}", unit="step", leave=False, dynamic_ncols=True
            )

    def train_step(self, step: int, result: StepResult, rates: dict[str, float], images: int) -> None:
        """Log optimiser step number `step`, on `images` images in all processes.

        rates: learning rate of each part of the model. Terms are averaged over the steps since the last line; those of
        steps that fp16 skipped are left out, and their number is logged.
        """
        self.step = step
        if not self.enabled:
            return
        self._images += images
        if result.skipped:
            self._skipped += 1
        else:
            self._steps += 1
            for name, value in result.terms.items():
                self._sums[name] += value
        means = {name: value / self._steps for name, value in self._sums.items()}
        if self._bar is not None:
            self._bar.update()
            self._bar.set_postfix_str(f"{_format_losses(means)}, all {_format_duration(self._seconds_left())}")
        if step % self.log_every == 0 or step == self.total_steps:
            self._write_line(step, means, rates, result.gradient_norm)
            self._reset_averages()

    def _write_line(
        self, step: int, means: dict[str, float], rates: dict[str, float], gradient_norm: float
    ) -> None:
        images_per_second = self._images / max(time.monotonic() - self._averages_start, 1e-9)
        skipped = {"skipped_steps": self._skipped} if self._skipped else {}
        if self._bar is None:
            self._print(
                f"epoch {self.epoch}, step {step}/{self.total_steps}: {_format_losses(means)}, "
                + (f"{self._skipped} steps skipped in fp16, " if skipped else "")
                + f"lr {rates.get('rest', max(rates.values())):.2e}, {images_per_second:.1f} images/s, "
                f"{_format_duration(self._seconds_left())} left"
            )
        terms = dict(means)
        mean_loss = terms.pop(TOTAL, None)  # None if every step was skipped
        finite_norm = gradient_norm if math.isfinite(gradient_norm) else None
        self._write(
            "train", loss=mean_loss, terms=terms, lr=rates, gradient_norm=finite_norm,
            images_per_second=round(images_per_second, 2), **skipped,
        )
        curves = {"gradient_norm": finite_norm, "images_per_second": images_per_second}
        curves |= {name if name.startswith(SAMPLED) else f"loss/{name}": value for name, value in means.items()}
        curves |= {f"lr/{part}": rate for part, rate in rates.items()}
        self._add_scalars({name: value for name, value in curves.items() if value is not None})

    def averages(self) -> dict[str, Any]:
        """Return what was summed since the last line, so that a resumed run continues the same averages."""
        return {"sums": dict(self._sums), "steps": self._steps, "skipped": self._skipped}

    def end_epoch(self) -> None:
        """End the training of this epoch, complete or not."""
        if self._bar is not None:
            self._bar.close()
            self._bar = None

    def validation(
        self, validated: ValidationScores, monitored: float | None, blind: float | None, monitor: str, improved: bool,
        **sources: str,
    ) -> None:
        """Log the scores of a validation, and the sources of its graphs and boxes.

        monitored, blind   value of the `monitor`, of the model and of the image-blind baseline; None if absent
        """
        if not self.enabled:
            return
        scores = validated.scores
        listed = ", ".join(
            f"{name} {value:.4f}{_format_blind(validated.blind.get(name))}"
            for name, value in scores.items() if value is not None
        )
        conditions = ", ".join(f"{name} {value}" for name, value in sources.items())
        data_sets = [name for name in validated.by_data_set if name]
        of_data_sets = f" of {', '.join(data_sets)}" if data_sets else ""
        self._print(f"epoch {self.epoch}, validation{of_data_sets} ({conditions}): {listed}")
        for name in data_sets if len(data_sets) > 1 else ():
            own = validated.by_data_set[name].items()
            listed = ", ".join(f"{score} {value:.4f}" for score, value in own if value is not None)
            self._print(f"epoch {self.epoch}, validation of {name} alone: {listed or 'no score'}")
        value = "absent" if monitored is None else f"{monitored:.4f}"
        best = ", the best so far" if improved else ""
        self._print(f"epoch {self.epoch}, {monitor} = {value}{_format_blind(blind)}{best}")
        self._write(
            "validation", scores=scores, absent=validated.absent, blind=validated.blind, monitor=monitor,
            monitored=monitored, improved=improved, data_sets=validated.by_data_set, **sources,
        )
        curves = {**scores, "monitored": monitored}
        self._add_scalars({f"validation/{name}": value for name, value in curves.items() if value is not None})

    def close(self) -> None:
        """Flush and close the files."""
        self.end_epoch()
        if self.enabled:
            self._on_trackers(lambda tracker: tracker.close())
            self._file.close()

    def _reset_averages(self) -> None:
        self._sums: dict[str, float] = defaultdict(float)
        self._steps = self._skipped = self._images = 0
        self._averages_start = time.monotonic()

    def _seconds_left(self) -> float:
        """Estimate from the mean time per step in this process, validations and saves included."""
        seconds_per_step = (time.monotonic() - self._start_time) / max(self.step - self._first_step, 1)
        return seconds_per_step * (self.total_steps - self.step)

    def _print(self, text: str) -> None:
        tqdm.write(text, file=sys.stderr)
        sys.stderr.flush()

    def _write(self, kind: str, **content: Any) -> None:
        now = datetime.now(UTC).isoformat(timespec="seconds")
        head = {"kind": kind, "step": self.step, "epoch": self.epoch, "time": now}
        with self._writing():
            self._file.write(json.dumps(head | content, ensure_ascii=False) + "\n")
            self._file.flush()

    def _add_scalars(self, values: dict[str, float]) -> None:
        self._on_trackers(lambda tracker: tracker.log_scalars(values, self.step))

    def _on_trackers(self, call: Callable[[Tracker], None]) -> None:
        """Call every tracker; one that fails is left out of the rest of the run, which does not depend on it."""
        for name, tracker in list(self._trackers.items()):
            try:
                with self._writing():
                    call(tracker)
            except TrackingError as error:
                del self._trackers[name]
                self.message(f"Warning: {name} does not record this run any longer ({error})")

    @contextmanager
    def _writing(self) -> Iterator[None]:
        """Re-raise a failed write as UserError."""
        try:
            yield
        except OSError as error:
            fix = "free space, then resume with train.resume=true"
            raise cannot_write(f"the log in {self._run_dir}", error, fix) from error


def read_curves(run_dir: Path) -> dict[str, dict[str, list[tuple[int, float]]]]:
    """Read the curves in a run folder's log.jsonl: group -> name -> [(optimiser step, value)].

    Groups are "Training losses" (the weighted sum `total` first, then the terms), "Sampled reports" (their rewards; not
    their length, which has another scale) and "Validation scores". Groups and names without a value are left out, and
    so is what cannot be read; the result is empty if there is no log.
    """
    curves: dict[str, dict[str, list[tuple[int, float]]]] = {}
    for entry in _entries(run_dir / "log.jsonl"):
        try:
            if entry["kind"] == "train":
                group, values = "Training losses", {"total": entry["loss"], **entry["terms"]}
            elif entry["kind"] == "validation":
                group, values = "Validation scores", dict(entry["scores"])
            else:
                continue
        except (KeyError, TypeError, ValueError):
            continue
        for name, value in values.items() if abs(entry["step"]) <= sys.float_info.max else ():
            of_samples = name.startswith(SAMPLED)
            # JSON has integers that no float can hold.
            is_number = isinstance(value, int | float) and abs(value) <= sys.float_info.max
            if is_number and name != f"{SAMPLED}words":
                curve = curves.setdefault("Sampled reports" if of_samples else group, {})
                curve.setdefault(name.removeprefix(SAMPLED), []).append((entry["step"], value))
    return curves


def environment(device: torch.device) -> dict[str, Any]:
    """Return the git commit (None outside a repository), the package versions, and the name of the device."""
    try:
        commit = subprocess.run(
            ["git", "rev-parse", "HEAD"], cwd=_ROOT, capture_output=True, text=True, check=True, timeout=10
        ).stdout.strip()
    except (OSError, subprocess.SubprocessError):
        commit = None
    packages = {}
    for name in _PACKAGES:
        try:
            packages[name] = metadata.version(name)
        except metadata.PackageNotFoundError:
            packages[name] = None
    name = torch.cuda.get_device_name(device) if device.type == "cuda" else platform.processor() or platform.machine()
    return {
        "git_commit": commit, "python": platform.python_version(), "packages": packages,
        "device": f"{device.type} ({name})",
    }


def _lines_until(path: Path, step: int, rerun_validation: bool) -> list[str]:
    """Return the lines of a log up to `step`."""
    lines = []
    for entry in _entries(path):
        is_repeated = rerun_validation and entry["kind"] == "validation" and entry["step"] == step
        if entry["step"] <= step and not is_repeated:
            lines.append(json.dumps(entry, ensure_ascii=False))
    return lines


def _entries(path: Path) -> Iterator[dict[str, Any]]:
    """Yield the entries of a log, skipping damaged lines and those that a crash cut short; none without a file."""
    try:
        content = path.read_bytes()
    except FileNotFoundError:
        return
    for line in content.splitlines():
        try:
            entry = json.loads(line)
        except (ValueError, RecursionError):
            continue
        if isinstance(entry, dict) and isinstance(entry.get("kind"), str) and type(entry.get("step")) is int:
            yield entry


def _format_losses(means: dict[str, float]) -> str:
    names = {TOTAL: "loss", f"{SAMPLED}reward": "reward"}
    shown = {names.get(name, name): value for name, value in means.items()}
    terms = [f"{name} {value:.3f}" for name, value in shown.items() if not name.startswith(SAMPLED)]
    return ", ".join(terms) or "no loss"


def _format_blind(value: float | None) -> str:
    """The value of the image-blind baseline, to follow that of the model; empty if it is absent."""
    return "" if value is None else f" (image-blind {value:.4f})"


def _format_duration(seconds: float) -> str:
    """Format a duration for display: 40 s, 12 min, 3 h 05 min."""
    if seconds < 90:
        return f"{seconds:.0f} s"
    minutes = round(seconds / 60)
    return f"{minutes} min" if minutes < 90 else f"{minutes // 60} h {minutes % 60:02d} min"
