"""The Python that has the package RadEval."""

import os
import sys
from importlib.util import find_spec
from pathlib import Path

import pytest

VARIABLE = "SGRRG_METRICS_PYTHON"


def find_metrics_python() -> Path:
    """Return the Python that the environment variable names, or this one; skip the tests if it lacks the package."""
    if VARIABLE in os.environ:
        return Path(os.environ[VARIABLE])
    if find_spec("radeval") is None:
        pytest.skip(f"RadEval is not installed: pip install -r requirements-metrics.txt, or set {VARIABLE}")
    return Path(sys.executable)
