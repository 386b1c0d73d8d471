"""Training the localizer: warps move images and boxes alike, unknown boxes do not count, and a run repeats itself."""

import math

import numpy as np
import pytest
import torch
import torch.nn.functional as F
from hypothesis import given, settings
from hypothesis import strategies as st

from data.localizer.network import SIDE, BoxNetwork
from data.localizer.training import (
    Films,
    LocalizerSettings,
    Warp,
    box_loss,
    draw_batch,
    simulate_films,
    train,
    update_average,
)
from data.ontology import Anatomy

TINY = LocalizerSettings(films=3, steps=4, batch=2)


@pytest.fixture(scope="module")
def films():
    return simulate_films(TINY)


def warp(**changes) -> Warp:
    plain = {"angle": 0.0, "zoom": np.ones(2), "shift": np.zeros(2), "stretch": np.zeros((2, 2))}
    return Warp(**plain | {name: np.array(value) for name, value in changes.items()})


@pytest.mark.parametrize("change", [
    {}, {"zoom": [1.2, 0.9]}, {"shift": [0.2, -0.1]}, {"stretch": [[0.08, -0.05], [-0.08, 0.05]]},
    {"zoom": [1.1, 1.3], "shift": [-0.1, 0.1], "stretch": [[0.05, 0.05], [0.08, -0.02]]}, {"angle": math.radians(12)},
])  # fmt: skip
def test_boxes_move_with_the_image(change):
    """A bright superellipse of the exponent that boxes assume."""
    side = 200
    place = (np.arange(side) + 0.5) / side
    x, y = np.abs(place - 0.45) / 0.15, np.abs(place - 0.5)[:, None] / 0.25
    image = torch.from_numpy((x**5 + y**5 < 1).astype(np.float32))
    moved = F.grid_sample(image[None, None], torch.from_numpy(warp(**change).grid(side))[None], align_corners=False)
    rows, columns = (torch.where((moved[0, 0] > 0.5).any(axis))[0] for axis in (1, 0))
    seen = [columns[0] / side, rows[0] / side, (columns[-1] + 1) / side, (rows[-1] + 1) / side]
    boxes, visible = warp(**change).move_boxes(np.array([[0.3, 0.25, 0.6, 0.75]]), np.array([True]))
    assert visible.all()
    np.testing.assert_allclose(boxes[0], seen, atol=0.012)


@settings(deadline=None, max_examples=50)
@given(st.integers(0, 2**32))
def test_drawn_warps_keep_boxes_inside_and_in_order(seed):
    generator = np.random.default_rng(seed)
    low = generator.uniform(0, 0.6, size=(5, 2))
    boxes = np.concatenate([low, low + generator.uniform(0.05, 0.4, size=(5, 2))], 1)
    moved, visible = Warp.draw(generator).move_boxes(boxes, np.ones(5, dtype=bool))
    assert moved.min() >= 0 and moved.max() <= 1 and (moved[visible, :2] < moved[visible, 2:]).all()


def test_batches_are_warped_randomised_and_repeatable(films):
    one, same = (draw_batch(films, 3, np.random.default_rng(5)) for _ in range(2))
    images, boxes, known = one
    assert images.shape == (3, SIDE, SIDE) and boxes.shape == (3, 29, 4) and known.shape == (3, 29)
    assert images.dtype == boxes.dtype == torch.float32 and known.any(1).all()
    assert all(torch.equal(a, b) for a, b in zip(one, same, strict=True))
    assert not torch.equal(draw_batch(films, 3, np.random.default_rng(6))[0], images)


def test_the_loss_is_zero_for_true_boxes_and_ignores_unknown_ones():
    boxes = torch.tensor([0.1, 0.1, 0.4, 0.5]).expand(1, 29, 4)
    known = torch.ones(1, 29, dtype=torch.bool)
    known[0, 3] = False
    wrong = boxes.clone()
    wrong[0, 3] += 0.3
    assert box_loss(wrong, boxes, known).item() == pytest.approx(0, abs=1e-6)
    near, far = (box_loss(boxes + offset, boxes, known).item() for offset in (0.02, 0.2))
    assert 0 < near < far


def test_errors_of_lungs_weigh_more_than_those_of_other_regions():
    boxes = torch.tensor([0.1, 0.1, 0.4, 0.5]).expand(1, 29, 4)
    losses = []
    for name in ("left lung", "carina"):
        moved = boxes.clone()
        moved[0, Anatomy.load().index(name)] += 0.1
        losses.append(box_loss(moved, boxes, torch.ones(1, 29, dtype=torch.bool)).item())
    assert losses[0] == pytest.approx(4 * losses[1], rel=1e-4)


def test_the_average_moves_towards_the_network():
    average, network = BoxNetwork(1), BoxNetwork(1)
    before = average.maps.weight.clone()
    update_average(average, network, 0.75)
    torch.testing.assert_close(average.maps.weight, 0.75 * before + 0.25 * network.maps.weight)


def test_a_training_reports_its_steps_and_repeats_itself(films):
    steps = []
    one, same = (train(films, TINY, lambda step, loss: steps.append((step, loss))) for _ in range(2))
    assert [step for step, _ in steps] == [1, 2, 3, 4] * 2
    assert all(math.isfinite(loss) for _, loss in steps)
    for first, second in zip(one.state_dict().values(), same.state_dict().values(), strict=True):
        assert torch.equal(first, second)
    assert not one.training


def test_annotated_images_fill_most_of_each_batch_and_weights_are_continued(films, monkeypatch):
    drawn = []

    def draw(films, size, generator, randomised=1.0, warped=1.0):
        drawn.append((len(films.pixels), size, randomised == 1, warped == 1))
        return draw_batch(films, size, generator, randomised, warped)

    monkeypatch.setattr("data.localizer.training.draw_batch", draw)
    annotated = Films(films.pixels[:1], films.boxes[:1], films.visible[:1] & (np.arange(29) < 2))
    losses = []
    start = train(films, TINY)
    drawn.clear()
    once = LocalizerSettings(films=3, steps=1, batch=4, rate=1e-9)
    network = train(films, once, lambda step, loss: losses.append(loss), annotated, start)
    assert drawn == [(3, 1, True, True), (1, 3, False, False)] and math.isfinite(losses[0])
    torch.testing.assert_close(network.maps.weight, start.maps.weight, atol=1e-5, rtol=0)


def test_a_weaker_warp_changes_less():
    full, weak, none = (Warp.draw(np.random.default_rng(3), strength) for strength in (1.0, 0.2, 0.0))
    boxes, visible = np.array([[0.2, 0.3, 0.6, 0.7]]), np.array([True])
    moved = [np.abs(warp.move_boxes(boxes, visible)[0] - boxes).max() for warp in (full, weak, none)]
    assert moved[0] > 2 * moved[1] > 0 and moved[2] == pytest.approx(0, abs=1e-6)


def test_training_learns(films):
    losses = []
    train(films, LocalizerSettings(films=3, steps=25, batch=2), lambda step, loss: losses.append(loss))
    assert np.mean(losses[-5:]) < 0.8 * np.mean(losses[:5])
