"""Replaces the shipped files of IU X-Ray in all tests of this folder."""

import pytest

from data.sources.iu_xray import source, texts
from tests.support.sources.iu_fixture import SPLITS, csv_table, label_row


@pytest.fixture(autouse=True)
def made_up_splits(tmp_path, monkeypatch, request):
    """Use splits and labels of the made-up studies instead of the shipped ones, except in tests on real data."""
    if "real" in request.node.name:
        return
    files = tmp_path / "shipped"
    files.mkdir()
    (files / "splits.csv").write_text("id,split\n" + "".join(f"{key},{value}\n" for key, value in SPLITS.items()))
    (files / "labels.csv").write_bytes(csv_table([label_row("id", "CXR9001_IM-9201", Fracture="1")]))
    for module in (source, texts):
        monkeypatch.setattr(module, "_FILES", files)
    source._shipped_labels.cache_clear()
    request.addfinalizer(source._shipped_labels.cache_clear)
