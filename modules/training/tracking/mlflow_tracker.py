"""MLflow: a run of the experiment sgrrg, or of MLFLOW_EXPERIMENT_NAME.

It is recorded at MLFLOW_TRACKING_URI if that is set, else in the folder `mlflow` beside the run folders, which
`mlflow ui --backend-store-uri sqlite:///results/mlflow/mlflow.db` shows.
"""

import logging
import os
import time
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any, TypeVar

from data.errors import reason
from modules.settings.tracking import MLFLOW
from modules.training.tracking.tracker import TrackingError, flatten, read_ids, save_id

_EXPERIMENT = "sgrrg"
# Limits of MLflow: parameters in one call, and characters of a value.
_BATCH, _LONGEST = 100, 6000

Result = TypeVar("Result")


class MLflowTracker:
    """Records a run; see `Tracker`."""

    def __init__(self, run_dir: Path, configuration: Mapping[str, Any] | None, resumed: bool):
        """Start a run, or continue the one of `run_dir` if `resumed`.

        configuration   nested settings, recorded for a new run

        Raises TrackingError if MLflow cannot record, and OSError if a folder cannot be written.
        """
        logging.getLogger("mlflow").setLevel(logging.WARNING)  # it reports the creation of its tables
        logging.getLogger("alembic").setLevel(logging.WARNING)
        from mlflow import MlflowClient

        uri, artifacts = os.environ.get("MLFLOW_TRACKING_URI"), None
        if uri is None:
            folder = run_dir.resolve().parent / "mlflow"
            folder.mkdir(parents=True, exist_ok=True)
            uri, artifacts = f"sqlite:///{folder / 'mlflow.db'}", (folder / "artifacts").as_uri()
        self._client = _call(lambda: MlflowClient(tracking_uri=uri))
        known = read_ids(run_dir).get(MLFLOW) if resumed else None
        if known is None or not self._continue(known):
            self._run_id = self._start(run_dir, artifacts, configuration or {})
        save_id(run_dir, MLFLOW, self._run_id)

    def _continue(self, run_id: str) -> bool:
        """Continue a run; return whether it exists."""
        try:
            _call(lambda: self._client.update_run(run_id, status="RUNNING"))
        except TrackingError:
            return False
        self._run_id = run_id
        return True

    def _start(self, run_dir: Path, artifacts: str | None, configuration: Mapping[str, Any]) -> str:
        """Create a run, and its experiment if absent; return its id."""
        from mlflow.entities import Param

        name = os.environ.get("MLFLOW_EXPERIMENT_NAME", _EXPERIMENT)
        experiment = _call(lambda: self._client.get_experiment_by_name(name))
        experiment_id = experiment.experiment_id if experiment is not None else _call(
            lambda: self._client.create_experiment(name, artifact_location=artifacts)
        )
        run_id = _call(lambda: self._client.create_run(experiment_id, run_name=run_dir.name)).info.run_id
        parameters = [Param(key, str(value)[:_LONGEST]) for key, value in flatten(configuration).items()]
        for start in range(0, len(parameters), _BATCH):
            chunk = parameters[start : start + _BATCH]
            _call(lambda chunk=chunk: self._client.log_batch(run_id, params=chunk))
        return run_id

    def log_scalars(self, values: Mapping[str, float], step: int) -> None:
        """See `Tracker`."""
        from mlflow.entities import Metric

        now = int(time.time() * 1000)
        metrics = [Metric(name, value, now, step) for name, value in values.items()]
        for start in range(0, len(metrics), _BATCH):
            chunk = metrics[start : start + _BATCH]
            _call(lambda chunk=chunk: self._client.log_batch(self._run_id, metrics=chunk))

    def log_results(self, scores: Mapping[str, float], page: Path) -> None:
        """See `Tracker`: the scores become metrics, the page an artifact."""
        self.log_scalars(scores, 0)
        _call(lambda: self._client.log_artifact(self._run_id, str(page)))

    def close(self) -> None:
        """See `Tracker`."""
        _call(lambda: self._client.set_terminated(self._run_id))


def _call(function: Callable[[], Result]) -> Result:
    """Return `function()`. Raises TrackingError if MLflow or its database fails."""
    from mlflow.exceptions import MlflowException

    try:
        return function()
    except MlflowException as error:
        raise TrackingError(f"mlflow: {reason(error)}") from error
