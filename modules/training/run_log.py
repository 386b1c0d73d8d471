"""What a run tells: lines or a bar on the console, one JSON object a line in log.jsonl, curves for TensorBoard.

Every entry of log.jsonl has a `kind` (start, train, validation, message), the optimiser `step`, the `epoch` (the
present one, from 1) and the `time`. Entries of kind start say with which code, packages and device the run began or
went on.
"""

import json
import math
import platform
import subprocess
import sys
import time
from collections import defaultdict
from collections.abc import Iterator
from contextlib import contextmanager
from datetime import UTC, datetime
from importlib import metadata
from pathlib import Path
from typing import Any

import torch
from tqdm import tqdm

from data.errors import UserError

_ROOT = Path(__file__).resolve().parents[2]
_PACKAGES = ("torch", "torchvision", "numpy", "Pillow", "pycocoevalcap")
# The scores of a validation that the console shows; log.jsonl and TensorBoard have all of them.
_SHOWN = (
    "bleu_1", "bleu_4", "meteor", "rouge_l", "cider", "distinct_reports", "report_14_micro_f1", "region_micro_f1",
    "attribute_micro_f1", "box_iou", "observation_micro_f1",
)


class RunLog:
    """The log of one run. In all processes but the first it is built with `enabled=False` and then does nothing.

    run_dir         the run folder; made where it is missing
    total_steps     optimiser steps of the whole run
    log_every       optimiser steps between lines
    epoch           the epoch (from 1) in which this process begins or goes on
    done_steps      steps already done by the run that is resumed; entries of later steps are cut. 0: a fresh log
    rerun_validation    the validation after the last of `done_steps` is run again: its old entry is cut too
    """

    def __init__(
        self, run_dir: str | Path, total_steps: int, log_every: int, epoch: int = 1, done_steps: int = 0,
        rerun_validation: bool = False, enabled: bool = True,
    ):
        self.enabled = enabled
        self.total_steps = total_steps
        self.log_every = log_every
        self.step = self._first_step = done_steps
        self.epoch = epoch
        self._bar: tqdm | None = None
        self._forget_window()
        if not enabled:
            return
        # Imported here: it takes seconds, which only the process that writes has to spend.
        from torch.utils.tensorboard import SummaryWriter

        self._run_dir = Path(run_dir)
        path = self._run_dir / "log.jsonl"
        with self._writing():
            self._run_dir.mkdir(parents=True, exist_ok=True)
            kept = _entries_until(path, done_steps, rerun_validation) if done_steps else []
            partial = path.with_name(f".{path.name}.partial")
            partial.write_text("".join(f"{line}\n" for line in kept), encoding="utf-8")
            partial.replace(path)
            self._file = path.open("a", encoding="utf-8")
            self._curves = SummaryWriter(
                str(self._run_dir / "tensorboard"), purge_step=done_steps + 1 if done_steps else None
            )
        self._interactive = sys.stderr.isatty()
        self._began = time.monotonic()

    def start(self, device: torch.device, **facts: Any) -> None:
        """Note what the run is made of: code, packages, device, and `facts` (plain JSON)."""
        if self.enabled:
            self._write("start", environment=environment(device), **facts)

    def message(self, text: str) -> None:
        """One line for the reader, on the console and in the log."""
        if self.enabled:
            self._say(text)
            self._write("message", text=text)

    def begin_epoch(self, epoch: int, epochs: int, steps: int, done: int) -> None:
        """Epoch `epoch` (from 1) of `epochs` begins; it has `steps` steps, of which `done` are done already."""
        self.epoch = epoch
        self._forget_window()
        if self.enabled and self._interactive:
            self._bar = tqdm(
                total=steps, initial=done, desc=f"epoch {epoch}/{epochs}", unit="step", leave=False, dynamic_ncols=True
            )

    def train_step(
        self, step: int, loss: float, terms: dict[str, float], rates: dict[str, float], gradient_norm: float,
        images: int,
    ) -> None:
        """Optimiser step number `step` is done, on `images` images in all processes.

        rates: learning rates by part of the model. Terms are averaged over the steps since the last line.
        """
        self.step = step
        if not self.enabled:
            return
        self._steps += 1
        self._images += images
        for name, value in {"loss": loss, **terms}.items():
            self._sums[name] += value
        means = {name: value / self._steps for name, value in self._sums.items()}
        if self._bar is not None:
            self._bar.update()
            self._bar.set_postfix_str(f"{_listed(means)}, all {_duration(self._seconds_left())}")
        if step % self.log_every == 0 or step == self.total_steps:
            images_per_second = self._images / max(time.monotonic() - self._window_began, 1e-9)
            if self._bar is None:
                self._say(
                    f"epoch {self.epoch}, step {step}/{self.total_steps}: {_listed(means)}, "
                    f"lr {rates.get('rest', max(rates.values())):.2e}, {images_per_second:.1f} images/s, "
                    f"{_duration(self._seconds_left())} left"
                )
            mean_loss = means.pop("loss")
            self._write(
                "train", loss=mean_loss, terms=means, lr=rates, gradient_norm=gradient_norm,
                images_per_second=round(images_per_second, 2),
            )
            self._draw({"loss/total": mean_loss, "gradient_norm": gradient_norm})
            self._draw({"images_per_second": images_per_second})
            self._draw({f"loss/{name}": value for name, value in means.items()})
            self._draw({f"lr/{part}": rate for part, rate in rates.items()})
            self._forget_window()

    def end_epoch(self) -> None:
        """The epoch's training is over, or stopped."""
        if self._bar is not None:
            self._bar.close()
            self._bar = None

    def validation(
        self, scores: dict[str, float | None], absent: dict[str, str], monitored: float, monitor: str, improved: bool,
        **sources: str,
    ) -> None:
        """The scores of a validation, why those that are None are absent, and what the model was shown (`sources`)."""
        if not self.enabled:
            return
        shown = ", ".join(f"{name} {scores[name]:.4f}" for name in _SHOWN if scores.get(name) is not None)
        under = ", ".join(f"{name} {value}" for name, value in sources.items())
        self._say(f"epoch {self.epoch}, validation ({under}): {shown}")
        self._say(f"epoch {self.epoch}, {monitor} = {monitored:.4f}{', the best so far' if improved else ''}")
        self._write(
            "validation", scores=scores, absent=absent, monitor=monitor, monitored=monitored, improved=improved,
            **sources,
        )
        self._draw({f"validation/{name}": value for name, value in scores.items() if value is not None})
        self._draw({"validation/monitored": monitored})

    def close(self) -> None:
        """Write what is left to write."""
        self.end_epoch()
        if self.enabled:
            self._file.close()
            self._curves.close()

    def _forget_window(self) -> None:
        self._sums: dict[str, float] = defaultdict(float)
        self._steps = self._images = 0
        self._window_began = time.monotonic()

    def _seconds_left(self) -> float:
        """By the mean time a step has taken in this process, validations and saves included."""
        seconds_a_step = (time.monotonic() - self._began) / max(self.step - self._first_step, 1)
        return seconds_a_step * (self.total_steps - self.step)

    def _say(self, text: str) -> None:
        tqdm.write(text, file=sys.stderr)
        sys.stderr.flush()

    def _write(self, kind: str, **content: Any) -> None:
        now = datetime.now(UTC).isoformat(timespec="seconds")
        head = {"kind": kind, "step": self.step, "epoch": self.epoch, "time": now}
        with self._writing():
            self._file.write(json.dumps(head | content, ensure_ascii=False) + "\n")
            self._file.flush()

    def _draw(self, values: dict[str, float]) -> None:
        with self._writing():
            for name, value in values.items():
                self._curves.add_scalar(name, value, self.step)

    @contextmanager
    def _writing(self) -> Iterator[None]:
        """Turns a failed write into the line that says where."""
        try:
            yield
        except OSError as error:
            raise UserError(f"Cannot write the log in {self._run_dir}: {error.strerror}; make room there") from error


def read_curves(run_dir: Path) -> dict[str, dict[str, list[tuple[int, float]]]]:
    """What log.jsonl of a run folder tells of its course: group -> name -> [(optimiser step, value)].

    Groups are "Training losses" (the weighted sum `total` first, then the terms) and "Validation scores"; a group or a
    name without a value is left out. Empty without a log.
    """
    curves: dict[str, dict[str, list[tuple[int, float]]]] = {}
    for entry in _entries(run_dir / "log.jsonl"):
        if entry["kind"] == "train":
            group, values = "Training losses", {"total": entry["loss"], **entry["terms"]}
        elif entry["kind"] == "validation":
            group, values = "Validation scores", entry["scores"]
        else:
            continue
        for name, value in values.items():
            if value is not None and math.isfinite(value):
                curves.setdefault(group, {}).setdefault(name, []).append((entry["step"], value))
    return curves


def environment(device: torch.device) -> dict[str, Any]:
    """The code's git commit (None outside of a repository), package versions, and the device by name."""
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


def _entries_until(path: Path, step: int, rerun_validation: bool) -> list[str]:
    """The lines of a log up to `step`."""
    kept = []
    for entry in _entries(path):
        again = rerun_validation and entry["kind"] == "validation" and entry["step"] == step
        if entry["step"] <= step and not again:
            kept.append(json.dumps(entry, ensure_ascii=False))
    return kept


def _entries(path: Path) -> Iterator[dict[str, Any]]:
    """The entries of a log; a line that a crash cut short is none. Missing file: no entries."""
    if not path.is_file():
        return
    for line in path.read_text(encoding="utf-8").splitlines():
        try:
            yield json.loads(line)
        except ValueError:
            continue


def _listed(values: dict[str, float]) -> str:
    return ", ".join(f"{name} {value:.3f}" for name, value in values.items())


def _duration(seconds: float) -> str:
    """A length of time for people: 40 s, 12 min, 3 h 05 min."""
    if seconds < 90:
        return f"{seconds:.0f} s"
    minutes = round(seconds / 60)
    return f"{minutes} min" if minutes < 90 else f"{minutes // 60} h {minutes % 60:02d} min"
