"""Settings of earlier checkpoints.

They counted the batch for each process and schedules in epochs:

    data.batch_size       studies of a micro-batch          now at most data.micro_batch_size
    optim.accumulate      micro-batches of a step           optim.batch_size follows from both, for one process
    optim.warmup_epochs   epochs of warm-up                 now optim.warmup_steps
    optim.decay_every     epochs between two decays         now optim.decay_steps

How many steps an epoch had is not among the settings, so the schedule of such a run cannot be converted: its
checkpoints can be tested and used to initialise a model, but not resumed.
"""

from typing import Any

from data.errors import UserError

_REPLACEMENTS = {
    "data.batch_size": "optim.batch_size, the studies of an optimiser step over all processes",
    "optim.accumulate": "data.micro_batch_size, the most studies that a process computes at once",
    "optim.warmup_epochs": "optim.warmup_steps",
    "optim.decay_every": "optim.decay_steps",
}


def convert_earlier(settings: dict[str, Any], where: str) -> dict[str, Any]:
    """Return `settings` (nested, as in YAML) without the keys of earlier versions.

    The complete configuration of a checkpoint, which has all of these keys, is converted. A few of them are a user's:
    that raises UserError, which names `where` they are and the settings that replace them.
    """
    earlier = [key for key in _REPLACEMENTS if _has(settings, key)]
    if not earlier:
        return settings
    if len(earlier) < len(_REPLACEMENTS):
        raise UserError(f"{where}: {earlier[0]} is a setting of an earlier version: use {_REPLACEMENTS[earlier[0]]}")
    data, optim = dict(settings["data"]), dict(settings["optim"])
    micro_batch_size, accumulate = data.pop("batch_size"), optim.pop("accumulate")
    del optim["warmup_epochs"], optim["decay_every"]
    data["micro_batch_size"] = micro_batch_size
    optim["batch_size"] = micro_batch_size * accumulate
    return settings | {"data": data, "optim": optim}


def _has(settings: dict[str, Any], key: str) -> bool:
    """Whether `settings` have the dotted `key`."""
    group, name = key.split(".")
    return isinstance(settings.get(group), dict) and name in settings[group]
