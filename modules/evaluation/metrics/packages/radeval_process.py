"""Runs RadEval in a process of its own: its packages change the process they are in, and may need other versions."""

import json
import os
import subprocess
import sys
import tempfile
from collections.abc import Mapping, Sequence
from contextlib import suppress
from importlib.util import find_spec
from pathlib import Path
from typing import Any

from data.errors import UserError, cannot_read, missing, reason
from modules.evaluation.metrics.packages import radeval_worker
from modules.evaluation.metrics.packages.radeval_files import check_files

_NOT_INSTALLED = (
    "needs the package radeval: pip install -r requirements-metrics.txt, here or in another environment whose Python "
    "--metrics-python names"
)


def check_package(python: Path, name: str) -> None:
    """Raise UserError if `python` is this process's and lacks the package that `name` needs."""
    if python == Path(sys.executable) and find_spec("radeval") is None:
        raise UserError(f"{name} {_NOT_INSTALLED}")


class RadEvalProcess:
    """A process with metrics of RadEval, loaded once; `close` ends it.

    version   of the package
    """

    def __init__(self, metrics: Mapping[str, Mapping[str, Any]], python: Path, name: str = "RadEval"):
        """Start the process and load `metrics` with their options.

        python   of the environment that has the package
        name     what needs the package, for messages

        Raises UserError if the package, a metric, an option or a file of weights is missing.
        """
        self._name = name
        check_package(python, name)
        offline = {"HF_HUB_OFFLINE": "1"} if check_files(metrics, python) else {}
        # In a terminal the package shows its progress; elsewhere what it prints is kept for messages.
        self._output = None if sys.stderr.isatty() else tempfile.TemporaryFile()
        try:
            self._process = subprocess.Popen(
                [python, radeval_worker.__file__], stdin=subprocess.PIPE, stdout=subprocess.PIPE, stderr=self._output,
                encoding="utf-8", env={**os.environ, "LOGURU_LEVEL": "ERROR", **offline},
            )
        except FileNotFoundError as error:
            raise missing("Python", python, "give the python of an environment by --metrics-python") from error
        except OSError as error:
            raise cannot_read(python, error, "give the python of an environment by --metrics-python") from error
        try:
            loaded = self._ask({"metrics": {metric: dict(options) for metric, options in metrics.items()}})
            self.version = loaded["version"]
        except BaseException:
            self.close()
            raise

    def compute(self, references: Sequence[str], generated: Sequence[str]) -> dict[str, dict[str, Any]]:
        """Return what the package prints for the pairs: key -> {value, per_report}. Raises UserError if it fails.

        value        of all pairs; None if the package has no number
        per_report   of each pair, None where it has no number; empty if the package has none under this key
        """
        return self._ask({"references": list(references), "generated": list(generated)})["scores"]

    def close(self) -> None:
        """End the process."""
        with suppress(BrokenPipeError):
            self._process.stdin.close()
        self._process.kill()
        self._process.wait()
        self._process.stdout.close()
        if self._output is not None:
            self._output.close()

    def _ask(self, request: Mapping[str, Any]) -> dict[str, Any]:
        try:
            self._process.stdin.write(json.dumps(request) + "\n")
            self._process.stdin.flush()
            line = self._process.stdout.readline()
        except BrokenPipeError:
            line = ""
        if not line:
            raise UserError(f"{self._name}'s process ended with status {self._process.wait()}{self._last_output()}")
        answer = json.loads(line)
        if "error" not in answer:
            return answer
        why = reason(Exception(answer["error"]))
        if answer["error"] == radeval_worker.NOT_INSTALLED:
            raise UserError(f"{self._name} {_NOT_INSTALLED}")
        metric = answer["metric"] or "package"
        if "numpy.dtype size changed" in answer["error"]:
            fix = "pip install --no-deps -r requirements-ratescore.txt, after requirements-metrics.txt"
            raise UserError(f"RadEval's {metric} needs a spaCy that runs with this NumPy: {fix}")
        raise UserError(f"RadEval's {metric} failed ({why}): check its name, options and weights")

    def _last_output(self) -> str:
        """The last line that the process printed, in brackets; empty if it is on the terminal or absent."""
        if self._output is None:
            return ""
        self._output.seek(0)
        lines = self._output.read().decode(errors="replace").split("\n")
        last = next((line for line in reversed(lines) if line.strip()), "")
        return f" ({reason(Exception(last))})" if last else ""
