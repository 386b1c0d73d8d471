"""The observation head."""

import torch
import torch.nn.functional as F

from models.proxy_heads import ObservationHead


def test_observations_are_linear_in_the_mean_patch():
    torch.manual_seed(0)
    head, mean_patch = ObservationHead(6, 14), torch.randn(3, 6)
    torch.testing.assert_close(head(mean_patch), F.linear(mean_patch, head.head.weight, head.head.bias))
    assert head(mean_patch).shape == (3, 14)
