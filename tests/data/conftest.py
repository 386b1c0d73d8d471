"""Fixtures of the data layer's tests."""

from pathlib import Path

import pytest

from data.vocabulary import Vocabularies
from data.vocabulary_builder import build_vocabularies
from tests.support.tiny_dataset import write_tiny_dataset


@pytest.fixture(scope="session")
def tiny_root(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A prepared data set of studies with one view; do not modify it."""
    return write_tiny_dataset(tmp_path_factory.mktemp("prepared") / "tiny")


@pytest.fixture(scope="session")
def vocabularies(tiny_root: Path) -> Vocabularies:
    """The vocabularies of `tiny_root`."""
    return build_vocabularies(tiny_root, "corrected", 1, 1, True)
