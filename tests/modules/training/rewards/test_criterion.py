"""The policy gradient by hand: baselines, scale, and batches without samples."""

from dataclasses import dataclass

import numpy as np
import pytest
import torch

from models.outputs import BoxSource, GraphSource
from modules.builders import build_criterion
from modules.training.rewards.criterion import RewardCriterion
from modules.training.rewards.sampling import SampledReports
from tests.support.tiny_model import teacher_forced, tiny_batch, tiny_config, tiny_model, tiny_vocabularies

STATISTICS = {"words": np.full((2, 3), 5.0), "repeated_sentences": np.zeros((2, 3))}
QUALITY = np.array([[1.0, 0.0, 0.5], [0.2, 0.2, 0.8]])
BREVITY = np.array([[0.0, 1.0, 0.0], [0.0, 0.0, 0.0]])
# 2 * quality - brevity
TOTAL = np.array([[2.0, -1.0, 1.0], [0.4, 0.4, 1.6]])
LOG_PROBABILITIES = torch.tensor([[-3.0, -4.0, -5.0], [-6.0, -7.0, -8.0]])


@dataclass
class Computed:
    """Rewards that are there already."""

    rewards: dict

    def result(self):
        return self.rewards


@pytest.fixture(scope="module")
def batch():
    return tiny_batch(3)


@pytest.fixture(scope="module")
def output(batch):
    return teacher_forced(tiny_model(), batch, GraphSource.PREDICTED, BoxSource.LOCALIZER)


def criterion(share=1.0, baseline="mean", samples=3):
    own = build_criterion(tiny_config(), tiny_vocabularies())
    return RewardCriterion(own, {"quality": 2.0, "brevity": -1.0}, share, baseline, samples)


def sampled(greedy=False, texts=(("a", "a", "b"), ("c", "d", "e"))):
    first = int(greedy)
    rewards = {"quality": QUALITY, "brevity": BREVITY, **STATISTICS}
    return SampledReports(
        torch.tensor([0, 2]), torch.zeros(2, 3 - first, 4, dtype=torch.long),
        [list(each[first:]) for each in texts], greedy, Computed(rewards),
    )


def losses(criterion, batch, output, samples, log_probabilities, world_size=1):
    return criterion(output, batch, criterion.counts(batch), world_size, samples, log_probabilities)


@pytest.mark.parametrize("world_size", [1, 2])
def test_advantage_over_the_mean_of_the_other_samples(batch, output, world_size):
    log_probabilities = LOG_PROBABILITIES.clone().requires_grad_()
    computed = losses(criterion(), batch, output, sampled(), log_probabilities, world_size)
    advantages = TOTAL - np.array([[0.0, 1.5, 0.5], [1.0, 1.0, 0.4]])
    scale = world_size / (3 * batch.token_mask[:, 1:].sum().item())
    expected = -(advantages * LOG_PROBABILITIES.numpy()).sum() * scale
    assert computed.terms["policy"].item() == pytest.approx(expected, rel=1e-5)
    (gradient,) = torch.autograd.grad(computed.terms["policy"], log_probabilities)
    np.testing.assert_allclose(gradient.numpy(), -advantages * scale, rtol=1e-5)


def test_advantage_over_the_greedy_report(batch, output):
    own = criterion(baseline="greedy", samples=2)
    computed = losses(own, batch, output, sampled(greedy=True), LOG_PROBABILITIES[:, 1:])
    advantages = np.array([[-3.0, -1.0], [0.0, 1.2]])
    tokens = batch.token_mask[:, 1:].sum().item()
    expected = -(advantages * LOG_PROBABILITIES[:, 1:].numpy()).sum() / (2 * tokens)
    assert computed.terms["policy"].item() == pytest.approx(expected, rel=1e-5)
    assert computed.terms["sampled/reward"].item() == pytest.approx(TOTAL[:, 1:].mean() * 2 / 3)
    assert computed.terms["sampled/baseline"].item() == pytest.approx(TOTAL[:, 0].mean() * 2 / 3)


def test_equal_rewards_have_no_gradient(batch, output):
    same = sampled()
    same.pending.rewards |= {"quality": np.full((2, 3), 0.7), "brevity": np.zeros((2, 3))}
    log_probabilities = LOG_PROBABILITIES.clone().requires_grad_()
    computed = losses(criterion(), batch, output, same, log_probabilities)
    (gradient,) = torch.autograd.grad(computed.terms["policy"], log_probabilities)
    assert gradient.abs().max() < 1e-6


def test_the_share_weighs_the_policy_gradient(batch, output):
    halved, whole, without = (
        losses(criterion(share), batch, output, sampled(), LOG_PROBABILITIES) for share in (0.5, 1.0, 0.0)
    )
    policy = whole.terms["policy"]
    assert torch.allclose(halved.total, without.total + 0.5 * policy)
    assert torch.allclose(whole.total, without.total + policy)


def test_means_of_the_samples_are_logged_over_all_studies_with_a_reference(batch, output):
    """Three studies have one; the samples of two are in this micro-batch."""
    terms = losses(criterion(), batch, output, sampled(), LOG_PROBABILITIES).terms
    assert terms["sampled/quality"].item() == pytest.approx(QUALITY.mean() * 2 / 3)
    assert terms["sampled/words"].item() == pytest.approx(5 * 2 / 3)
    assert terms["sampled/distinct_reports"].item() == pytest.approx((2 / 3 + 1) / 3)


def test_without_a_reference_the_policy_loss_is_a_connected_zero(output):
    unreported = tiny_batch(3)
    unreported.references = ["", " ", ""]
    nothing = SampledReports(torch.zeros(0).long(), torch.zeros(0, 3, 0).long(), [], False, None)
    computed = losses(criterion(), unreported, output, nothing, torch.zeros(0, 3))
    assert criterion().counts(unreported)[-1] == 0
    assert computed.terms["policy"].item() == 0 and computed.terms["policy"].requires_grad
    samples = losses(criterion(), tiny_batch(3), output, sampled(), LOG_PROBABILITIES)
    assert computed.terms.keys() == samples.terms.keys()
    assert not any(value.any() for name, value in computed.terms.items() if name.startswith("sampled/"))
