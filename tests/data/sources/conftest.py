"""Fixtures shared by the tests of preparation."""

import pytest

from data.sources import parts
from data.sources.preparation import prepare
from tests.support.sources.toy_source import SIDE, ToySource, folder_content


@pytest.fixture
def small_parts(monkeypatch):
    """Use parts of ten studies."""
    monkeypatch.setattr(parts, "STUDIES_PER_SHARD", 10)


@pytest.fixture(scope="session")
def expected(tmp_path_factory) -> dict[str, bytes]:
    """The files of a data set of 34 studies in parts of ten, prepared without interruption."""
    out = tmp_path_factory.mktemp("whole") / "toy"
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(parts, "STUDIES_PER_SHARD", 10)
        prepare(ToySource(34), out, SIDE, 1)
    return folder_content(out)
