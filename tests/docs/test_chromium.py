"""Finding the browser under each of its names."""

import pytest

from docs.chromium import find_chromium


@pytest.mark.parametrize("name", ["chromium", "chromium-browser", "google-chrome", "google-chrome-stable"])
def test_a_browser_is_found_by_any_of_its_names(tmp_path, monkeypatch, name):
    monkeypatch.setenv("PATH", str(tmp_path))
    assert find_chromium() is None
    (tmp_path / name).touch(mode=0o755)
    assert find_chromium() == str(tmp_path / name)
