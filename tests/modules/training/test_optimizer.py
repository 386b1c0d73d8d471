"""Parameter groups, optimizers, the learning-rate schedule, gradient clipping and frozen parts."""

import copy
import math

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from torch import nn
from torchvision.ops import StochasticDepth

from data.errors import UserError
from modules.config import OptimizerName, Schedule
from modules.training.optimizer import (
    LearningRateSchedule,
    build_optimizer,
    clip_gradients,
    freeze,
    load_optimizer_state,
    optimizer_state,
    set_training_mode,
)


class Parts(nn.Module):
    """Parts with a convolution and BatchNorm, a name with the same beginning, a table, and a two-dimensional bias."""

    def __init__(self):
        super().__init__()
        self.patch_encoder = nn.Sequential(nn.Conv2d(3, 4, 3), nn.BatchNorm2d(4), nn.Dropout())
        self.patch_encoder_2 = nn.Linear(4, 4)
        self.words = nn.Embedding(5, 4)
        self.norm = nn.LayerNorm(4)
        self.heads_bias = nn.Parameter(torch.zeros(3, 4))


@pytest.fixture
def model():
    torch.manual_seed(0)
    return Parts()


def names_of(model: nn.Module, parameters: list) -> set[str]:
    names = {id(parameter): name for name, parameter in model.named_parameters()}
    return {names[id(parameter)] for parameter in parameters}


def test_groups_have_the_rate_of_their_part_and_decay_matrices_only(model):
    optimizer = build_optimizer(model, lr=2e-4, lr_patch_encoder=1e-4, weight_decay=5e-5)
    groups = {
        (group["lr"], group["weight_decay"]): names_of(model, group["params"]) for group in optimizer.param_groups
    }
    assert groups == {
        (1e-4, 5e-5): {"patch_encoder.0.weight"},
        (1e-4, 0.0): {"patch_encoder.0.bias", "patch_encoder.1.weight", "patch_encoder.1.bias"},
        (2e-4, 5e-5): {"patch_encoder_2.weight"},
        (2e-4, 0.0): {"patch_encoder_2.bias", "words.weight", "norm.weight", "norm.bias", "heads_bias"},
    }


@pytest.mark.parametrize("amsgrad", [False, True])
@pytest.mark.parametrize("kind", OptimizerName)
def test_weight_decay_enters_adams_gradient_and_shrinks_the_weights_of_adamw(kind, amsgrad):
    """Two steps against the formulas of Kingma and Ba (2015), Loshchilov and Hutter (2019) and Reddi et al. (2018)."""
    rate, decay, beta2, epsilon = 0.1, 0.2, 0.98, 1e-3
    model = nn.Linear(3, 2, bias=False)
    optimizer = build_optimizer(
        model, lr=rate, lr_patch_encoder=1.0, weight_decay=decay, kind=kind, amsgrad=amsgrad, beta2=beta2,
        epsilon=epsilon,
    )
    weight = model.weight.detach().clone().double()
    mean = square = largest = torch.zeros_like(weight)
    for step, scale in enumerate((1.0, 0.1), start=1):
        model.weight.grad = torch.arange(6.0).reshape(2, 3) * scale
        gradient = model.weight.grad.double()
        if kind == OptimizerName.ADAM:
            gradient = gradient + decay * weight
        else:
            weight = weight * (1 - rate * decay)
        mean, square = 0.9 * mean + 0.1 * gradient, beta2 * square + (1 - beta2) * gradient**2
        largest = torch.maximum(largest, square) if amsgrad else square
        root = (largest / (1 - beta2**step)).sqrt() + epsilon
        weight = weight - rate * mean / (1 - 0.9**step) / root
        optimizer.step()
        torch.testing.assert_close(model.weight.detach().double(), weight, atol=1e-6, rtol=1e-5)


def test_frozen_parts_are_not_optimised(model):
    freeze(model, ["patch_encoder", "words"])
    optimizer = build_optimizer(model, lr=1.0, lr_patch_encoder=1.0, weight_decay=0.1)
    trained = names_of(model, [parameter for group in optimizer.param_groups for parameter in group["params"]])
    assert trained == {"patch_encoder_2.weight", "patch_encoder_2.bias", "norm.weight", "norm.bias", "heads_bias"}


def test_frozen_parts_compute_as_in_inference_while_the_rest_trains(model):
    """Without dropout and stochastic depth, with BatchNorm's running statistics, down to the last module."""
    frozen = ["patch_encoder"]
    model.patch_encoder.append(nn.Sequential(StochasticDepth(0.5, "row"), nn.Dropout()))
    freeze(model, frozen)
    set_training_mode(model, frozen)
    assert not any(module.training for module in model.patch_encoder.modules())
    assert model.patch_encoder_2.training and model.norm.training and model.training
    images = torch.randn(4, 3, 8, 8)
    assert torch.equal(model.patch_encoder(images), model.patch_encoder(images))
    set_training_mode(model, ["patch_encoder.0"])
    assert not model.patch_encoder[0].training
    assert all(module.training for module in model.patch_encoder[1:].modules())


@pytest.mark.parametrize("prefix", ["decoder", "patch", "patch_encoder.weight", ""])
def test_freezing_what_is_not_there_is_an_error(model, prefix):
    with pytest.raises(UserError, match=f"has no part '{prefix}'; its parts are patch_encoder, patch_encoder_2, words"):
        freeze(model, [prefix])


def test_freezing_everything_is_an_error(model):
    with pytest.raises(UserError, match="leaves nothing to train"):
        freeze(model, ["patch_encoder", "patch_encoder_2", "words", "norm", "heads_bias"])


def schedule(kind: Schedule, **settings) -> LearningRateSchedule:
    optimizer = build_optimizer(Parts(), lr=2.0, lr_patch_encoder=1.0, weight_decay=0.0)
    defaults = {"total_steps": 3000, "warmup_steps": 500, "decay": 0.8, "decay_steps": 1000}
    return LearningRateSchedule(optimizer, kind, **(defaults | settings))


@pytest.mark.parametrize(
    ("steps", "factor"),
    [(0, 0.01), (250, 0.505), (500, 1), (999, 1), (1000, 0.8), (1950, 0.8), (2000, 0.64), (2999, 0.64)],
)
def test_step_schedule(steps, factor):
    assert schedule(Schedule.STEP).factor(steps) == pytest.approx(factor)


@pytest.mark.parametrize(("steps", "factor"), [(0, 0.01), (500, 1), (1750, 0.505), (3000, 0.01), (3100, 0.01)])
def test_cosine_schedule(steps, factor):
    assert schedule(Schedule.COSINE).factor(steps) == pytest.approx(factor)


def test_schedules_work_without_warm_up_and_with_nothing_else():
    assert schedule(Schedule.STEP, warmup_steps=0).factor(0) == 1
    assert schedule(Schedule.COSINE, total_steps=500).factor(500) == pytest.approx(1)
    assert schedule(Schedule.COSINE, total_steps=20).factor(19) == pytest.approx(0.01 + 0.99 * 19 / 500)


@given(total=st.integers(1, 5000), warmup=st.integers(0, 5000))
def test_cosine_falls_after_the_warm_up_and_ends_at_the_last_step(total, warmup):
    cosine = schedule(Schedule.COSINE, total_steps=total, warmup_steps=warmup)
    factors = [cosine.factor(steps) for steps in range(total + 1)]
    assert all(0.01 - 1e-9 <= factor <= 1 for factor in factors)
    assert factors == sorted(factors[: warmup + 1]) + sorted(factors[warmup + 1:], reverse=True)
    if total > warmup:
        assert factors[total] == pytest.approx(0.01)


def test_rates_of_both_parts_move_together():
    moving = schedule(Schedule.STEP)
    moving.set(250)
    assert moving.rates() == pytest.approx({"patch_encoder": 0.505, "rest": 1.01})
    moving.set(1000)  # relative to the full rates, not to the previous ones
    assert moving.rates() == pytest.approx({"patch_encoder": 0.8, "rest": 1.6})


def with_gradients(*values: float) -> list[nn.Parameter]:
    parameters = [nn.Parameter(torch.zeros(1)) for _ in values]
    for parameter, value in zip(parameters, values, strict=True):
        parameter.grad = torch.tensor([value])
    return [*parameters, nn.Parameter(torch.zeros(1))]  # one without a gradient


@pytest.mark.parametrize(
    ("value", "norm", "expected"),
    [
        (None, None, [3.0, -4.0]),
        (3.5, None, [3.0, -3.5]),
        (None, 1.0, [0.6, -0.8]),
        (None, 9.0, [3.0, -4.0]),
        (3.0, 1.0, [1 / math.sqrt(2), -1 / math.sqrt(2)]),
    ],
)
def test_clipping(value, norm, expected):
    parameters = with_gradients(3.0, -4.0)
    assert float(clip_gradients(parameters, value, norm)) == pytest.approx(5.0)
    assert [float(parameter.grad) for parameter in parameters[:-1]] == pytest.approx(expected, rel=1e-5)


@pytest.mark.parametrize("bad", [math.inf, math.nan])
def test_norm_tells_of_gradients_that_are_not_finite(bad):
    assert not math.isfinite(clip_gradients(with_gradients(1.0, bad), value=0.1, norm=None))


def test_optimizer_state_goes_by_name_and_leaves_settings_alone(model, tmp_path):
    first = build_optimizer(model, lr=0.1, lr_patch_encoder=0.1, weight_decay=0.1)
    model.patch_encoder_2(torch.ones(1, 4)).sum().backward()
    first.step()
    torch.save(optimizer_state(first, model), tmp_path / "state.pt")
    other = copy.deepcopy(model)
    freeze(other, ["patch_encoder"])  # other groups, other indices
    second = build_optimizer(other, lr=0.2, lr_patch_encoder=0.2, weight_decay=0.3)
    load_optimizer_state(second, other, torch.load(tmp_path / "state.pt", weights_only=True))
    for key, value in first.state[model.patch_encoder_2.weight].items():
        assert torch.equal(second.state[other.patch_encoder_2.weight][key], value)
    assert not second.state[other.norm.weight]
    assert {group["lr"] for group in second.param_groups} == {0.2}
    assert {group["weight_decay"] for group in second.param_groups} == {0.3, 0.0}
