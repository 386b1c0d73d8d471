"""Upper bounds of settings: a checkpoint of unknown origin must not ask for more memory than any model needs."""

from collections.abc import Mapping
from typing import Any

from data.errors import wrong_value

# Of all other whole numbers, and of those that decide how large a model or a batch is.
_LARGEST = 2**31 - 1
_MAXIMA = {
    "data.image_size": 8192, "data.max_tokens": 100_000, "data.workers": 4096, "data.micro_batch_size": 1 << 20,
    "model.width": 16_384, "model.heads": 1024, "model.feedforward": 1 << 17, "model.image_layers": 256,
    "model.graph_layers": 256, "model.decoder_layers": 256, "model.memory_slots": 1 << 20, "model.memory_heads": 1024,
    "model.memory_top": 1 << 20, "model.cross_modal_memory.rows": 1 << 20, "model.cross_modal_memory.heads": 1024,
    "model.cross_modal_memory.responding": 1 << 20, "model.decoder.memory_slots": 4096,
    "model.prototypes.per_observation": 1 << 20, "model.prototypes.channels": 1 << 17, "model.prototypes.heads": 1024,
    "model.prototypes.responding": 1 << 20,
    "model.decoder.memory_heads": 1024, "optim.batch_size": 1 << 20, "eval.batch_size": 1 << 20,
    "eval.beam_size": 1024, "eval.validation_beam_size": 1024, "reward.samples": 1024, "reward.workers": 1024,
}  # fmt: skip


def check_limits(settings: Mapping[str, Any], prefix: str = "") -> None:
    """Raise UserError, naming the key, for a whole number in the nested `settings` that is too large."""
    for name, value in settings.items():
        key = f"{prefix}{name}"
        if isinstance(value, Mapping):
            check_limits(value, f"{key}.")
        elif isinstance(value, int) and (maximum := _MAXIMA.get(key, _LARGEST)) < abs(value):
            raise wrong_value(key, f"{value:.3g}", f"must be at most {maximum}")
