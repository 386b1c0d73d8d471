"""Settings of earlier checkpoints.

They counted the batch for each process and schedules in epochs:

    data.batch_size       studies of a micro-batch          now at most data.micro_batch_size
    optim.accumulate      micro-batches of a step           optim.batch_size follows from both, for one process
    optim.warmup_epochs   epochs of warm-up                 now optim.warmup_steps
    optim.decay_every     epochs between two decays         now optim.decay_steps

How many steps an epoch had is not among the settings, so the schedule of such a run cannot be converted: its
checkpoints can be tested and used to initialise a model, but not resumed.
"""

import copy
import os
import sys
from collections.abc import Iterable
from typing import Any

from data.errors import UserError, damaged
from modules.settings.reward import RewardConfig

_REPLACEMENTS = {
    "data.batch_size": "optim.batch_size, the studies of an optimiser step over all processes",
    "optim.accumulate": "data.micro_batch_size, the most studies that a process computes at once",
    "optim.warmup_epochs": "optim.warmup_steps",
    "optim.decay_every": "optim.decay_steps",
}


def convert_earlier(settings: dict[str, Any], where: str) -> dict[str, Any]:
    """Return `settings` (nested, as in YAML) without the keys of earlier versions.

    The complete configuration of a checkpoint, which has all of these keys, is converted. A few of them are a user's:
    that raises UserError, which names `where` they are and the settings that replace them. `data.batch_size` alone
    means the same as `optim.batch_size` for a single process: it is converted, with a note on stderr.
    """
    earlier = [key for key in _REPLACEMENTS if _has(settings, key)]
    if not earlier:
        return settings
    if settings.keys() == {"data"} and settings["data"].keys() == {"batch_size"} and _is_single_process():
        print(f"{where}: the setting is now called optim.batch_size", file=sys.stderr)
        return {"optim": {"batch_size": settings["data"]["batch_size"]}}
    if len(earlier) < len(_REPLACEMENTS):
        raise UserError(f"{where}: {earlier[0]} is a setting of an earlier version: use {_REPLACEMENTS[earlier[0]]}")
    data, optim = dict(settings["data"]), dict(settings["optim"])
    micro_batch_size, accumulate = data.pop("batch_size"), optim.pop("accumulate")
    del optim["warmup_epochs"], optim["decay_every"]
    data["micro_batch_size"] = micro_batch_size
    optim["batch_size"] = micro_batch_size * accumulate
    return settings | {"data": data, "optim": optim}


def _is_single_process() -> bool:
    """Whether torchrun has not started several processes, each of which had a batch of its own."""
    return int(os.environ.get("WORLD_SIZE", 1)) == 1


def _has(settings: dict[str, Any], key: str) -> bool:
    """Whether `settings` have the dotted `key`."""
    group, name = key.split(".")
    return isinstance(settings.get(group), dict) and name in settings[group]


# Settings that a version after 0.1 added, with the values that reproduce checkpoints of versions without them.
ADDED = {
    "model.context": [], "model.prior_report": False, "model.indication_evidence": False, "loss.change": 0.25,
    "train.context_dropout": 0.3,
    "eval.context": "ALL", "data.sections": "findings", "data.weights": None, "data.crop": 1.0, "data.squash": 0.0,
    "data.domain_randomisation": 0.0,
    "data.shuffle_window": 32768, "data.stage_dir": None, "data.most_skipped": 10,
    "model.patch_encoder.stochastic_depth": None, "model.patch_encoder.architecture": None,
    "model.report": True, "model.norm": "layer", "model.activation": "gelu", "model.patch_projection": "norm_gelu",
    "model.patch_positions": False, "model.discriminative_map": False, "model.subtract_background": False,
    "loss.attention_consistency": 0.0, "loss.consistency_words": 0.25, "loss.consistency_layer": None,
    "model.prototypes.per_observation": None, "model.prototypes.channels": 2816, "model.prototypes.heads": 8,
    "model.prototypes.responding": 15, "loss.image_contrast": 0.0, "loss.text_contrast": 0.0,
    "model.decoder.norms": "plain", "model.decoder.memory_slots": 3,
    "model.decoder.memory_heads": 8, "model.cross_modal_memory.rows": None, "model.cross_modal_memory.heads": 8,
    "model.cross_modal_memory.responding": 32, "loss.attribute_pos_weight": None, "optim.optimizer": "ADAMW",
    "optim.amsgrad": False, "optim.beta2": 0.999, "optim.epsilon": 1e-8, "optim.warmup_steps": 500,
    "optim.decay_steps": 5000, "optim.decay_epochs": None, "train.least_epochs": 10, "train.deterministic": False,
    "train.tune_thresholds": False, "train.track": ["tensorboard"], "train.stage": "cross_entropy",
    "train.validate_steps": None,
    "eval.validation_limit": None,
    "eval.thresholds": "tuned",
} | {f"reward.{name}": value for name, value in vars(RewardConfig()).items()}  # fmt: skip


def complete_earlier(settings: dict[str, Any], keys: Iterable[str], where: str) -> dict[str, Any]:
    """Return the configuration of a checkpoint with the settings that its version did not have yet.

    settings   nested, as `convert_earlier` returns them
    keys       dotted names of all settings

    Raises UserError, which says `where`, if another key is missing: the file was truncated.
    """
    completed = copy.deepcopy(settings)
    for key in keys:
        *groups, name = key.split(".")
        group = completed
        for part in groups:
            group = group.setdefault(part, {})
            if not isinstance(group, dict):
                return settings  # the next check names it
        if name in group:
            continue
        if key not in ADDED:
            raise damaged(where, f"it has no {key}", "use another checkpoint")
        group[name] = ADDED[key]
    return completed
