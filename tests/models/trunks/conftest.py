"""Fixtures shared by the tests of trunks."""

import pytest
from torch import nn


@pytest.fixture
def quick_initialisation(monkeypatch):
    """Draw initial weights with the fastest generator; torchvision's own initialisation takes seconds."""
    for name in ("kaiming_normal_", "normal_", "trunc_normal_", "kaiming_uniform_"):
        monkeypatch.setattr(nn.init, name, lambda tensor, *args, **kwargs: nn.init.uniform_(tensor, -0.05, 0.05))
