"""Finds the browser for screenshots and browser tests."""

import shutil

_NAMES = ("chromium", "chromium-browser", "google-chrome", "google-chrome-stable")
MISSING = "Chromium is not installed: sudo apt-get install -y chromium"


def find_chromium() -> str | None:
    """The path of the first Chromium or Chrome on PATH; None if absent."""
    return next((path for name in _NAMES if (path := shutil.which(name))), None)
