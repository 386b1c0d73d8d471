"""The published baseline computes the same as ours: same loss, same gradients, same words."""

from dataclasses import replace
from functools import partial

import pytest
import torch
from torch.nn.attention import SDPBackend, sdpa_kernel
from torch.utils.flop_counter import FlopCounterMode

from benchmarks.support.workload import (
    CONTRAST_MARGIN,
    LOSS_WEIGHTS,
    TINY,
    Sizes,
    Workload,
    build,
    decode_flops,
    train_step_flops,
)
from modules.release.published_weights import to_official

SIZES = replace(TINY, batch=4, tokens=8, padded=11)


@pytest.fixture(params=range(3))
def workload(request) -> Workload:
    return build(SIZES, seed=request.param)


def without_graph(workload: Workload, study: int) -> Workload:
    """Remove the graph of `study`, in place."""
    for field in (workload.batch.regions.mentioned, workload.batch.regions.abnormal, workload.batch.regions.attributes):
        field[study] = False
    return workload


def losses_and_gradients(workload: Workload):
    sizes = list(workload.sizes.attributes_per_region)
    ours = workload.loss()
    ours.backward()
    gradients = {
        name: torch.zeros_like(value) if value.grad is None else value.grad
        for name, value in workload.model.named_parameters()
    }
    model, batch = workload.published()
    theirs = model.loss(batch, LOSS_WEIGHTS, CONTRAST_MARGIN)["total"]
    theirs.backward()
    return ours, theirs, to_official(gradients, sizes), dict(model.named_parameters())


def check_step(workload: Workload) -> None:
    ours, theirs, gradients, parameters = losses_and_gradients(workload)
    assert ours.item() == pytest.approx(theirs.item(), abs=1e-5)
    assert gradients.keys() == parameters.keys()
    for name, parameter in parameters.items():
        expected = torch.zeros_like(parameter) if parameter.grad is None else parameter.grad
        torch.testing.assert_close(gradients[name], expected, atol=1e-5, rtol=1e-3, msg=name)


def test_the_same_loss_and_gradients(workload):
    check_step(workload)


def test_the_same_loss_and_gradients_with_a_study_without_graph(workload):
    check_step(without_graph(workload, study=1))


@pytest.mark.parametrize("endless", [True, False])
def test_the_same_words(endless):
    """With beams if no hypothesis ends; otherwise greedily, since ours never drops a finished hypothesis."""
    beams = 3 if endless else 1
    for seed in range(3):
        workload = without_graph(build(SIZES, seed=seed, endless=endless), study=2)
        if not endless:
            workload.model.decoder.word_head.bias.data[0] = 2.0
        workload.model.eval()
        model, batch = workload.published()
        ours, theirs = workload.generate(beams, tokens=9), model.generate(batch, beams, longest=9)
        assert torch.equal(ours, theirs)
        assert (ours == 0).any() != endless


def test_the_batch_is_as_described():
    batch = build(replace(SIZES, batch=8, regions_selected=3)).batch
    regions = batch.regions
    assert (regions.mentioned.sum(1) == 3).all()
    given = regions.attributes.sum(-1)
    assert (given[regions.mentioned] >= 1).all() and (given <= SIZES.max_attributes).all()
    assert (given[~regions.mentioned] == 0).all()
    assert batch.token_ids.shape == (8, SIZES.padded)
    assert batch.token_mask.sum(1).float().mean() == pytest.approx(SIZES.tokens, abs=0.5)
    assert (batch.token_ids[:, 0] == 0).all() and (batch.token_ids[~batch.token_mask] == 0).all()


def test_the_floor_counts_what_torch_counts_where_nothing_is_padded():
    """With equal lengths and full sub-graphs, our forward pass computes the products of the floor and little else."""
    full = replace(SIZES, tokens=11, attributes_per_region=(2, 2, 2, 2), regions_selected=4, channels=64, width=32)
    workload = build(full)
    workload.batch.regions.attributes[:] = True
    math = partial(sdpa_kernel, SDPBackend.MATH)  # the only attention kernel that torch counts on CPUs
    with FlopCounterMode(display=False) as counter, math(), torch.no_grad():
        workload.loss()
    assert counter.get_total_flops() == pytest.approx(train_step_flops(workload) / 3, rel=0.15)
    workload.model.eval().requires_grad_(False)  # the counter uses hooks on gradients
    with FlopCounterMode(display=False) as counter, math():
        workload.generate(beams=3, tokens=9)
    assert counter.get_total_flops() == pytest.approx(decode_flops(workload, 3, 9), rel=0.15)


def test_the_releases_sizes_give_the_stated_floor():
    assert train_step_flops(build(Sizes())) / 1e9 == pytest.approx(124, rel=0.03)
