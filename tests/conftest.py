"""Settings of all tests."""

import pytest
from hypothesis import settings

from tests.support.checkout import path_without_java

# No deadline per example: on a busy machine, its duration says nothing about the code.
settings.register_profile("any machine", deadline=None)
settings.load_profile("any machine")


@pytest.fixture
def without_java(monkeypatch, tmp_path):
    """Hide Java, and most other programs: METEOR would be slow."""
    monkeypatch.setenv("PATH", path_without_java(tmp_path))
