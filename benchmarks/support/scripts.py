"""Runs the scripts of this repository as a user would."""

import os
import subprocess
import sys
from collections.abc import Sequence
from pathlib import Path

from data.errors import UserError


def run_script(folder: Path, command: Sequence[str], threads: int = 1) -> None:
    """Run a script, with its output in `folder`/console.txt. Raises UserError if it fails.

    On two cores, two runs with one thread each are faster than one run with two threads.
    """
    folder.mkdir(parents=True, exist_ok=True)
    environment = os.environ | {"OMP_NUM_THREADS": str(threads), "PYTHONUNBUFFERED": "1"}
    log = folder / "console.txt"
    with log.open("a", encoding="utf-8") as file:
        process = subprocess.run([sys.executable, *command], stdout=file, stderr=subprocess.STDOUT, env=environment)
    if process.returncode:
        raise UserError(f"{folder.name}: {command[0]} ended with status {process.returncode}; see the end of {log}")
