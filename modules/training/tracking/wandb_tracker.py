"""Weights & Biases: a run of the project sgrrg, or of WANDB_PROJECT.

The environment variables of the package apply; with WANDB_MODE=offline it writes to RUN/wandb, which `wandb sync`
uploads.
"""

import os
import secrets
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

from data.errors import UserError, reason
from modules.settings.tracking import WANDB
from modules.training.tracking.tracker import TrackingError, read_ids, save_id

_PROJECT = "sgrrg"
# wandb's own step may not go back, as that of a resumed run can.
STEP = "optimiser_step"


class WandbTracker:
    """Records a run; see `Tracker`."""

    def __init__(self, run_dir: Path, configuration: Mapping[str, Any] | None, resumed: bool):
        """Start a run, or continue the one of `run_dir` if `resumed`.

        configuration   nested settings; None keeps those of the run

        Raises UserError if wandb cannot start, and OSError if the run folder cannot be written.
        """
        import wandb

        known = read_ids(run_dir).get(WANDB) if resumed else None
        run_id = known or secrets.token_hex(4)
        try:
            self._run = wandb.init(
                project=os.environ.get("WANDB_PROJECT", _PROJECT), name=run_dir.name, dir=str(run_dir), id=run_id,
                resume="allow", config=None if configuration is None else dict(configuration),
                settings=wandb.Settings(silent=True, console="off"),
            )
        except (wandb.Error, OSError) as error:
            raise UserError(
                f"wandb cannot start ({reason(error)}): run wandb login, or set WANDB_MODE=offline"
            ) from error
        self._run.define_metric("*", step_metric=STEP)
        save_id(run_dir, WANDB, run_id)

    def log_scalars(self, values: Mapping[str, float], step: int) -> None:
        """See `Tracker`."""
        self._try(lambda: self._run.log({**values, STEP: step}))

    def log_results(self, scores: Mapping[str, float], page: Path) -> None:
        """See `Tracker`: the scores become the summary, the page an artifact of the type report."""
        import wandb

        artifact = wandb.Artifact(f"report-{self._run.id}", type="report")
        artifact.add_file(str(page), page.name)
        self._try(lambda: self._run.summary.update(dict(scores)))
        self._try(lambda: self._run.log_artifact(artifact))

    def close(self) -> None:
        """See `Tracker`."""
        self._try(self._run.finish)

    def _try(self, call: Callable[[], object]) -> None:
        import wandb

        try:
            call()
        except wandb.Error as error:
            raise TrackingError(f"wandb: {reason(error)}") from error
