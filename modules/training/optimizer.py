"""Parameter groups, learning-rate schedule, gradient clipping."""

import math
from collections.abc import Iterable

from torch import Tensor, nn
from torch.optim import Adam, AdamW, Optimizer

from data.errors import UserError
from modules.config import OptimizerName, Schedule

PATCH_ENCODER = "patch_encoder"

# Share of the full learning rate at which the warm-up starts and the cosine ends.
WARMUP_START = COSINE_END = 0.01


# Frozen parameters and parameter groups


def freeze(model: nn.Module, prefixes: list[str]) -> None:
    """Freeze the parameters under each of `prefixes` (dotted module names).

    Raises UserError if a prefix matches no parameter, or if nothing is left to train.
    """
    for prefix in prefixes:
        parameters = [parameter for name, parameter in model.named_parameters() if _is_under_prefix(name, prefix)]
        if not parameters:
            parts = ", ".join(name for name, _ in model.named_children())
            raise UserError(f"train.freeze: the model has no part '{prefix}'; its parts are {parts}")
        for parameter in parameters:
            parameter.requires_grad_(False)
    if not any(parameter.requires_grad for parameter in model.parameters()):
        raise UserError(f"train.freeze={prefixes} leaves nothing to train: list fewer parts")


def set_training_mode(model: nn.Module, frozen: list[str]) -> None:
    """Set training mode, and inference mode for every module under a frozen prefix.

    What is frozen computes as in inference: without dropout and stochastic depth, with BatchNorm's running statistics.
    """
    model.train()
    for name, module in model.named_modules():
        if any(_is_under_prefix(name, prefix) for prefix in frozen):
            module.eval()


def _is_under_prefix(name: str, prefix: str) -> bool:
    return name == prefix or name.startswith(prefix + ".")


def build_optimizer(
    model: nn.Module, lr: float, lr_patch_encoder: float, weight_decay: float,
    kind: OptimizerName = OptimizerName.ADAMW, amsgrad: bool = False, beta2: float = 0.999, epsilon: float = 1e-8,
) -> Optimizer:
    """Build the optimiser `kind` over the parameters that are not frozen, in up to four groups.

    The patch encoder has its own learning rate. Weight decay applies to matrices and convolution kernels: parameters of
    two or more dimensions that are neither biases nor embedding tables.
    """
    tables = {id(module.weight) for module in model.modules() if isinstance(module, nn.Embedding)}
    groups: dict[tuple[str, bool], list[nn.Parameter]] = {}
    for name, parameter in model.named_parameters():
        if parameter.requires_grad:
            part = PATCH_ENCODER if _is_under_prefix(name, PATCH_ENCODER) else "rest"
            is_bias = name.rsplit(".", 1)[-1].endswith("bias")
            decayed = parameter.dim() >= 2 and not is_bias and id(parameter) not in tables
            groups.setdefault((part, decayed), []).append(parameter)
    rates = {PATCH_ENCODER: lr_patch_encoder, "rest": lr}
    optimizer_class = {OptimizerName.ADAMW: AdamW, OptimizerName.ADAM: Adam}[kind]
    return optimizer_class(
        [
            {"params": parameters, "part": part, "lr": rates[part], "weight_decay": weight_decay if decayed else 0.0}
            for (part, decayed), parameters in groups.items()
        ],
        betas=(0.9, beta2),
        eps=epsilon,
        amsgrad=amsgrad,
        fused=True,  # one pass over the weights instead of a dozen: saves an eighth of a small model's step on a CPU
    )


def optimizer_state(optimizer: Optimizer, model: nn.Module) -> dict[str, dict[str, Tensor]]:
    """Return the optimiser's state by parameter name, without the settings, which come from the configuration."""
    states = {name: optimizer.state.get(parameter) for name, parameter in model.named_parameters()}
    return {name: state for name, state in states.items() if state}


def load_optimizer_state(optimizer: Optimizer, model: nn.Module, state: dict[str, dict[str, Tensor]]) -> None:
    """Load what `optimizer_state` returned; parameters without an entry start with an empty state."""
    names = {id(parameter): name for name, parameter in model.named_parameters()}
    groups = optimizer.state_dict()["param_groups"]
    order = [names[id(parameter)] for group in optimizer.param_groups for parameter in group["params"]]
    optimizer.load_state_dict(
        {"param_groups": groups, "state": {i: state[name] for i, name in enumerate(order) if name in state}}
    )


# Learning rate


class LearningRateSchedule:
    """Learning rates as a function of the optimiser steps done, so there is no state to save.

    A linear warm-up from 1 % over `warmup_steps`, then Schedule.STEP (times `decay` after every `decay_steps` steps,
    counted from the start of training) or Schedule.COSINE (down to 1 % at `total_steps`, the last step of the run).
    """

    def __init__(
        self, optimizer: Optimizer, schedule: Schedule, total_steps: int, warmup_steps: int, decay: float,
        decay_steps: int,
    ):
        """The current learning rates of `optimizer` are the full ones."""
        self.optimizer = optimizer
        self.schedule = schedule
        self.total_steps = total_steps
        self.warmup_steps = warmup_steps
        self.decay = decay
        self.decay_steps = decay_steps
        self.full_rates = [group["lr"] for group in optimizer.param_groups]

    def factor(self, steps: int) -> float:
        """Return the share of the full learning rate after `steps` steps."""
        if steps < self.warmup_steps:
            return WARMUP_START + (1 - WARMUP_START) * steps / self.warmup_steps
        if self.schedule == Schedule.STEP:
            return self.decay ** (steps // self.decay_steps)
        done = min(1.0, (steps - self.warmup_steps) / max(self.total_steps - self.warmup_steps, 1))
        return COSINE_END + (1 - COSINE_END) * 0.5 * (1 + math.cos(math.pi * done))

    def set(self, steps: int) -> None:
        """Set the learning rates of the step after `steps` steps."""
        factor = self.factor(steps)
        for group, full_rate in zip(self.optimizer.param_groups, self.full_rates, strict=True):
            group["lr"] = full_rate * factor

    def rates(self) -> dict[str, float]:
        """Return the current learning rate of each part of the model."""
        return {group["part"]: group["lr"] for group in self.optimizer.param_groups}


# Gradient clipping


def clip_gradients(parameters: Iterable[nn.Parameter], value: float | None, norm: float | None) -> Tensor:
    """Clip gradients to [-value, value], then to a joint L2 norm of `norm`; None skips either.

    Returns the L2 norm before clipping, a scalar, which is not finite if any gradient is not.
    """
    parameters = [parameter for parameter in parameters if parameter.grad is not None]
    total = nn.utils.get_total_norm([parameter.grad for parameter in parameters])
    if value is not None:
        nn.utils.clip_grad_value_(parameters, value)
    if norm is not None:
        clipped = total if value is None else nn.utils.get_total_norm([parameter.grad for parameter in parameters])
        nn.utils.clip_grads_with_norm_(parameters, norm, clipped)
    return total
