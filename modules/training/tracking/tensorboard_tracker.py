"""TensorBoard curves in RUN/tensorboard."""

from collections.abc import Mapping
from pathlib import Path


class TensorBoardTracker:
    """Writes curves. It records neither the configuration nor results, which are files of the run folder."""

    def __init__(self, run_dir: Path, done_steps: int):
        """done_steps: steps of the run to resume; later points of its curves are dropped. 0 for a new run."""
        # Imported here because it takes seconds, which only the process that writes should spend.
        from torch.utils.tensorboard import SummaryWriter

        self._writer = SummaryWriter(str(run_dir / "tensorboard"), purge_step=done_steps + 1 if done_steps else None)

    def log_scalars(self, values: Mapping[str, float], step: int) -> None:
        """See `Tracker`. Raises OSError if writing fails."""
        for name, value in values.items():
            self._writer.add_scalar(name, value, step)

    def log_results(self, scores: Mapping[str, float], page: Path) -> None:
        """Record nothing."""

    def close(self) -> None:
        """See `Tracker`."""
        self._writer.close()
