"""Printing to a reader that may leave before the end."""

import subprocess
import sys

PRINTS = "from data.console import print_to_reader; print_to_reader('x' * {length}); print_to_reader('end')"


def test_a_reader_that_leaves_early_is_no_error():
    command = [sys.executable, "-c", PRINTS.format(length=10**6)]
    with subprocess.Popen(command, stdout=subprocess.PIPE, stderr=subprocess.PIPE) as process:
        process.stdout.read(10)
        process.stdout.close()
        complaint = process.stderr.read()
        assert process.wait() == 0 and complaint == b""
    whole = subprocess.run([sys.executable, "-c", PRINTS.format(length=10)], capture_output=True, check=True).stdout
    assert whole.split() == [b"x" * 10, b"end"]
