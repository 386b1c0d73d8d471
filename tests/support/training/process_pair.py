"""Two gloo processes of one machine that run a module of the tests."""

import os
import socket
import subprocess
import sys

from tests.support.checkout import ROOT


def run_two_processes(module: str, *arguments: str, timeout: float) -> None:
    """Run `python -m module arguments` as both ranks, at most `timeout` seconds each; neither may fail."""
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        port = probe.getsockname()[1]
    variables = os.environ | {
        "OMP_NUM_THREADS": "1", "WORLD_SIZE": "2", "MASTER_ADDR": "127.0.0.1", "MASTER_PORT": str(port),
        "PYTHONPATH": str(ROOT),
    }
    processes = [
        subprocess.Popen(
            [sys.executable, "-m", module, *arguments], cwd=ROOT, env=variables | {"RANK": str(rank)},
            stderr=subprocess.PIPE, text=True,
        )
        for rank in range(2)
    ]
    errors = [process.communicate(timeout=timeout)[1] for process in processes]
    assert [process.returncode for process in processes] == [0, 0], errors
