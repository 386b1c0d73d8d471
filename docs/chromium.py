"""The browser that shows the web page to the screenshots and to the tests."""

import shutil

# What distributions call Chromium, and Chrome, which will do as well.
_NAMES = ("chromium", "chromium-browser", "google-chrome", "google-chrome-stable")
MISSING = "Chromium is missing. To have it: sudo apt-get install -y chromium"


def find_chromium() -> str | None:
    """The path of the first such browser on PATH; None without any."""
    return next((path for name in _NAMES if (path := shutil.which(name))), None)
