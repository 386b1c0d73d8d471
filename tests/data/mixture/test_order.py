"""The order of several data sets: a pure function of seed, epoch and position; shares; passes; blocks."""

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from data.mixture.order import Mixture, epoch_order

SIZES = st.lists(st.integers(1, 60), min_size=1, max_size=4)


def recorded_order(studies: int, seed: int, epoch: int) -> list[int]:
    """The order of a single data set before there were mixtures, from its definition."""
    return np.random.default_rng([3, seed, epoch]).permutation(studies).tolist()


@given(studies=st.integers(1, 300), seed=st.integers(0, 9), epoch=st.integers(0, 9))
def test_a_single_data_set_has_the_order_that_it_had(studies, seed, epoch):
    expected = recorded_order(studies, seed, epoch)
    assert epoch_order(studies, seed, epoch).tolist() == expected
    draws = Mixture((studies,)).draws(seed, epoch)
    assert draws.tolist() == [[epoch, index] for index in expected]


def test_a_single_large_data_set_has_the_order_that_it_had():
    assert epoch_order(10_000, 1, 2, 4096)[:5].tolist() == [1418, 921, 878, 1941, 1712]
    assert Mixture((10_000,)).draws(1, 2, 4096)[:, 1].tolist() == epoch_order(10_000, 1, 2, 4096).tolist()


@settings(max_examples=50)
@given(sizes=SIZES, data=st.data(), seed=st.integers(0, 5))
def test_studies_are_drawn_equally_often_and_data_sets_by_their_weights(sizes, data, seed):
    weights = data.draw(st.none() | st.lists(st.floats(0.1, 10), min_size=len(sizes), max_size=len(sizes)))
    mixture = Mixture(tuple(sizes), None if weights is None else tuple(weights))
    shares = np.array(sizes if weights is None else weights) / sum(sizes if weights is None else weights)
    assert sum(mixture.draws_per_epoch) == sum(sizes)
    assert np.abs(np.array(mixture.draws_per_epoch) - shares * sum(sizes)).max() < 1
    drawn = np.zeros(sum(sizes), dtype=int)
    for epoch in range(6):
        draws = mixture.draws(seed, epoch)
        assert np.array_equal(draws, mixture.draws(seed, epoch))
        assert len(draws) == sum(sizes) and len({tuple(draw) for draw in draws.tolist()}) == len(draws)
        for number, index in draws.tolist():
            assert number == drawn[index]  # the pass is how often the study was drawn before
            drawn[index] += 1
        for offset, size, count in zip(mixture.offsets, sizes, mixture.draws_per_epoch, strict=True):
            of_set = drawn[offset : offset + size]
            assert of_set.sum() == count * (epoch + 1) and of_set.max() - of_set.min() <= 1


def test_other_seeds_and_epochs_have_another_order():
    mixture = Mixture((50, 50), (1, 1))
    draws = mixture.draws(0, 0)
    assert not np.array_equal(draws, mixture.draws(1, 0)) and not np.array_equal(draws, mixture.draws(0, 1))
    own = [draws[:, 1][draws[:, 1] // 50 == data_set] % 50 for data_set in range(2)]
    assert own[0].tolist() != own[1].tolist()  # data sets of equal size have different orders


def test_data_sets_are_mixed_everywhere():
    draws = Mixture((1000, 1000), (3, 1)).draws(0, 0)
    from_second = draws[:, 1] >= 1000
    assert from_second.sum() == 500
    assert all(0.15 < part.mean() < 0.35 for part in np.split(from_second, 10))


def test_blocks_of_shards_are_respected():
    sizes, window = (50_000, 30_000), 8 * 2048
    draws = Mixture(sizes).draws(0, 0, window)
    assert sorted(draws[:, 1].tolist()) == list(range(sum(sizes)))
    first = draws[:window, 1]
    blocks = {(index >= sizes[0], (index - sizes[0] * (index >= sizes[0])) // 2048) for index in first.tolist()}
    # About eight blocks fill the window, and each of the data sets may have begun one more window.
    assert len(blocks) <= 8 + 2 * 5


@pytest.mark.parametrize(("sizes", "weights", "expected"), [
    ((10, 20), None, (10, 20)), ((10, 20), (1, 1), (15, 15)), ((10, 20), (2, 1), (20, 10)),
    ((1, 1, 1), (1, 1, 2), (1, 1, 1)), ((3, 3), (1, 1000), (0, 6)),
])
def test_draws_per_epoch(sizes, weights, expected):
    mixture = Mixture(sizes, weights)
    assert mixture.draws_per_epoch == expected
    assert len(mixture.draws(0, 0)) == sum(sizes)
