"""Opens the trackers of `train.track`, and adds the results of a test to the record of a run."""

import importlib.util
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from data.errors import UserError
from modules.settings.tracking import MLFLOW, TENSORBOARD, WANDB
from modules.training.tracking.mlflow_tracker import MLflowTracker
from modules.training.tracking.tensorboard_tracker import TensorBoardTracker
from modules.training.tracking.tracker import Tracker, TrackingError, read_ids
from modules.training.tracking.wandb_tracker import WandbTracker

# Packages that a tracker needs, beside those of the program.
_PACKAGES = {WANDB: ("wandb",), MLFLOW: ("mlflow", "sqlalchemy", "alembic")}


def check_installed(names: Sequence[str]) -> None:
    """Raise UserError if a package of one of the trackers is not installed."""
    for name in names:
        for package in _PACKAGES.get(name, ()):
            if importlib.util.find_spec(package) is None:
                raise UserError(
                    f"train.track={name} needs the package {package}: pip install -r requirements-tracking.txt"
                )


def open_trackers(
    names: Sequence[str], run_dir: Path, configuration: Mapping[str, Any] | None, done_steps: int
) -> dict[str, Tracker]:
    """Open the trackers of a run: name -> tracker.

    configuration   nested settings to record
    done_steps      steps already done by the run to resume; 0 for a new run

    Raises UserError if one cannot start, and OSError if the run folder cannot be written.
    """
    return {name: _open(name, run_dir, configuration, done_steps) for name in names}


def _open(name: str, run_dir: Path, configuration: Mapping[str, Any] | None, done_steps: int) -> Tracker:
    check_installed([name])
    if name == TENSORBOARD:
        return TensorBoardTracker(run_dir, done_steps)
    try:
        return {WANDB: WandbTracker, MLFLOW: MLflowTracker}[name](run_dir, configuration, resumed=done_steps > 0)
    except TrackingError as error:
        raise UserError(f"train.track: {error}: correct its settings, or leave it out of train.track") from error


def record_results(run_dir: Path, test: str, scores: Mapping[str, float | None], page: Path) -> list[str]:
    """Add the scores of a test, as TEST/NAME, and its page to the record of the run in `run_dir`.

    Does nothing for a run without tracking.json. Returns one line for each tracker that recorded them, or could not.
    """
    values = {f"{test}/{name}": value for name, value in scores.items() if value is not None}
    lines = []
    try:
        names = read_ids(run_dir)
    except UserError as error:
        return [f"Warning: the results were not recorded. {error}"]
    for name in names:
        try:
            # The run exists, so its steps only have to be more than 0.
            tracker = _open(name, run_dir, None, done_steps=1)
            tracker.log_results(values, page)
            tracker.close()
            lines.append(f"recorded by {name}: {len(values)} scores and {page.name}")
        except (UserError, TrackingError, OSError) as error:
            lines.append(f"Warning: {name} did not record the results ({error})")
    return lines
