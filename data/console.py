"""What commands print for people and for other programs to read."""

import os
import sys


def print_to_reader(text: str) -> None:
    """Print `text`. A reader that closes the pipe when it has seen enough (`| head`) is no error."""
    try:
        print(text, flush=True)
    except BrokenPipeError:
        # Python flushes stdout once more at its end, and would complain then.
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
