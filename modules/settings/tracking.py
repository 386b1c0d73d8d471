"""The names of `train.track`."""

from collections.abc import Sequence

from data.errors import UserError, unknown_name

TENSORBOARD, WANDB, MLFLOW = "tensorboard", "wandb", "mlflow"
TRACKERS = (TENSORBOARD, WANDB, MLFLOW)


def check_trackers(names: Sequence[str]) -> None:
    """Raise UserError if `train.track` has an unknown name, or one twice."""
    for name in names:
        if name not in TRACKERS:
            raise unknown_name("tracker", name, TRACKERS, "train.track")
    if len(set(names)) < len(names):
        raise UserError(f"train.track={list(names)}: name every tracker once")
