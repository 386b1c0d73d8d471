"""Measures a training step without the trunk (forward, losses, backward, AdamW): ours and the published algorithm.

    python -m benchmarks train_step [--json FILE] [--threads 2] [--repeats 5]

Both have the same weights, no dropout, given patch features of 1,024 channels, 10 selected regions per image with 1 to
6 attributes each, and reports of 60 tokens on average, padded to 82. The floor counts matrix products on real tokens
and selected nodes only. `published_as_released` adds what the release's step also does, to explain the release's stated
times: dropout, gradients clipped by value, and the gradient norm.
"""

import argparse
from collections.abc import Callable
from functools import partial

import torch

from benchmarks.decode import PUBLISHED
from benchmarks.support.measure import OURS, Contender, add_common_arguments, compare, start_report
from benchmarks.support.workload import CONTRAST_MARGIN, LOSS_WEIGHTS, TINY, Sizes, build, train_step_flops
from modules.training.optimizer import build_optimizer

BATCHES, TINY_BATCHES = (16, 4, 8, 32), (2,)
LEARNING_RATE, WEIGHT_DECAY = 2e-4, 5e-5
AS_RELEASED = "published_as_released"
DROPOUT, CLIP_VALUE = 0.1, 0.1


def add_arguments(commands: argparse._SubParsersAction) -> None:
    """Register the command `train_step`."""
    parser = commands.add_parser("train_step", help="a training step without the trunk: ours, the published algorithm")
    add_common_arguments(parser)
    parser.set_defaults(run=run)


def run(options: argparse.Namespace) -> None:
    """Measure and print all batch sizes."""
    report = start_report("train_step", options)
    sizes, batches = (TINY, TINY_BATCHES) if options.tiny else (Sizes(), BATCHES)
    for batch in batches:
        batch_sizes = sizes.with_batch(batch)
        contenders = [
            Contender(OURS, partial(build_ours, batch_sizes)),
            Contender(PUBLISHED, partial(build_published, batch_sizes)),
            Contender(AS_RELEASED, partial(build_published, batch_sizes, as_released=True)),
        ]
        case = compare(f"batch {batch}", contenders, options.repeats, options.threads)
        flops = train_step_flops(build(batch_sizes))
        case.floor_seconds = report.rates.floor(flops)
        case.notes["GFLOP of the floor"] = round(flops / 1e9, 1)
        case.notes["first loss"] = {name: losses[0] for name, losses in case.results.items()}
        report.add(case)
    report.write(options.json)


def build_ours(sizes: Sizes) -> Callable[[], list[float]]:
    """Return our training step; it returns the losses of all steps so far, including the warm-up step."""
    workload = build(sizes)
    workload.model.train()
    optimizer = build_optimizer(workload.model, LEARNING_RATE, LEARNING_RATE, WEIGHT_DECAY)
    return _build_step(workload.loss, optimizer)


def build_published(sizes: Sizes, as_released: bool = False) -> Callable[[], list[float]]:
    """Return the published training step with the same weights; its AdamW decays every parameter, as in the release.

    as_released   add dropout, clip gradients by value and compute their norm
    """
    model, batch = build(sizes).published()
    optimizer = torch.optim.AdamW(model.parameters(), lr=LEARNING_RATE, weight_decay=WEIGHT_DECAY)
    if as_released:
        model.set_dropout(DROPOUT)
    before_step = partial(_clip_gradients, model) if as_released else None
    return _build_step(lambda: model.loss(batch, LOSS_WEIGHTS, CONTRAST_MARGIN)["total"], optimizer, before_step)


def _clip_gradients(model: torch.nn.Module) -> None:
    torch.nn.utils.clip_grad_value_(model.parameters(), CLIP_VALUE)
    gradients = [parameter.grad for parameter in model.parameters() if parameter.grad is not None]
    torch.nn.utils.get_total_norm(gradients).item()


def _build_step(
    loss: Callable[[], torch.Tensor], optimizer: torch.optim.Optimizer, before_step: Callable[[], None] | None = None
) -> Callable[[], list[float]]:
    """Return a training step that has run once to warm up."""
    losses: list[float] = []

    def step() -> list[float]:
        total = loss()
        total.backward()
        if before_step is not None:
            before_step()
        optimizer.step()
        optimizer.zero_grad(set_to_none=True)
        losses.append(total.item())
        return losses

    step()
    return step
