"""The normalisation of a trunk, from that of the model's input."""

import pytest
import torch

from data.images.network_input import IMAGENET_MEAN, IMAGENET_STD, normalise
from models.trunks import normalisation
from models.trunks.normalisation import InputNormalisation


def test_input_statistics_are_those_that_images_are_normalised_with():
    assert (normalisation.IMAGENET_MEAN, normalisation.IMAGENET_STD) == (IMAGENET_MEAN, IMAGENET_STD)


def test_images_get_the_statistics_of_the_trunk():
    pixels = torch.rand(2, 8, 8, generator=torch.Generator().manual_seed(0))
    changed = InputNormalisation((0.5, 0.4, 0.3), (0.5, 0.25, 0.1))(normalise(pixels))
    expected = torch.stack([(pixels - 0.5) / 0.5, (pixels - 0.4) / 0.25, (pixels - 0.3) / 0.1], 1)
    torch.testing.assert_close(changed, expected)
    assert torch.allclose(InputNormalisation(IMAGENET_MEAN, IMAGENET_STD)(normalise(pixels)), normalise(pixels))


def test_single_channel_of_torchxrayvision_is_in_minus_1024_to_1024():
    pixels = torch.tensor([[[0.0, 1.0], [0.5, 0.25]]])
    changed = InputNormalisation((0.5,), (1 / 2048,), channels=1)(normalise(pixels))
    assert changed.shape == (1, 1, 2, 2)
    torch.testing.assert_close(changed[0, 0], torch.tensor([[-1024.0, 1024.0], [0.0, -512.0]]), atol=1e-3, rtol=1e-6)


def test_a_state_dict_keeps_the_statistics():
    first, second = InputNormalisation((0.1,), (0.2,)), InputNormalisation((0.5,), (0.5,))
    second.load_state_dict(first.state_dict())
    images = torch.randn(1, 3, 4, 4)
    assert torch.equal(first(images), second(images))
    with pytest.raises(RuntimeError):
        second.load_state_dict({})
