"""Domain randomisation: any image stays an image, every kind of change is seen, and equal seeds give equal pixels."""

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from data.images import domain_randomisation
from data.images.domain_randomisation import STEPS, randomise_domain


def chest(height: int = 64, width: int = 64) -> np.ndarray:
    """Two dark lungs in a bright trunk on a black background."""
    rows, columns = np.mgrid[:height, :width]
    y, x = rows / height, columns / width
    image = np.where(np.abs(x - 0.5) < 0.42, 0.8, 0.0)
    image[(np.abs(np.abs(x - 0.5) - 0.2) < 0.12) & (np.abs(y - 0.45) < 0.3)] = 0.25
    return image.astype(np.float32)


@settings(deadline=None, max_examples=40)
@given(seed=st.integers(0, 2**32), height=st.integers(16, 90), width=st.integers(16, 90), level=st.floats(0, 1))
def test_any_image_stays_within_its_range_and_shape(seed, height, width, level):
    for image in (chest(height, width), np.full((height, width), level, dtype=np.float32)):
        before = image.copy()
        result = randomise_domain(image, np.random.default_rng(seed))
        assert result.shape == image.shape and result.dtype == np.float32
        assert np.isfinite(result).all() and result.min() >= 0 and result.max() <= 1
        assert np.array_equal(image, before)


def test_equal_seeds_give_equal_pixels_and_other_seeds_others():
    one, same, other = (randomise_domain(chest(), np.random.default_rng(seed)) for seed in (1, 1, 2))
    assert np.array_equal(one, same) and not np.array_equal(one, other)


@pytest.mark.parametrize("step", [step for step, _ in STEPS], ids=lambda step: step.__name__)
def test_every_kind_of_change_changes_the_image_but_keeps_the_chest_recognisable(step):
    images = [step(chest(), np.random.default_rng(seed)).clip(0, 1) for seed in range(12)]
    assert sum(np.abs(image - chest()).max() > 0.01 for image in images) >= 6
    alike = [abs(np.corrcoef(image.ravel(), chest().ravel())[0, 1]) for image in images]
    assert np.median(alike) > 0.6


def test_each_kind_of_change_is_applied_with_its_probability(monkeypatch):
    applied = []
    steps = tuple((lambda image, generator, name=name: applied.append(name) or image, share)
                  for name, share in (("never", 0.0), ("half", 0.5), ("always", 1.0)))
    monkeypatch.setattr(domain_randomisation, "STEPS", steps)
    for seed in range(100):
        randomise_domain(chest(), np.random.default_rng(seed))
    assert applied.count("never") == 0 and applied.count("always") == 100 and 35 <= applied.count("half") <= 65


def test_an_inverted_image_has_bright_lungs():
    inverted = domain_randomisation.invert(chest(), np.random.default_rng(0))
    assert inverted[29, 20] > inverted[29, 32]


def test_collimated_borders_are_uniform():
    for seed in range(8):
        result = domain_randomisation.collimate(chest() + 0.01, np.random.default_rng(seed))
        covered = result[result != chest() + np.float32(0.01)]
        assert len(np.unique(covered)) <= 1
