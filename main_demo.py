"""Serves a web page that reports on chest X-rays and shows which regions each sentence attends to.

    python main_demo.py --checkpoint results/demo [--host 127.0.0.1] [--port 7860]
    python main_demo.py --example
    python main_demo.py --example --host 0.0.0.0 --allowed-host xrays.example.org --password -

For research only, not for clinical use. Uploads are not stored. The page may show images of patients: use a password if
other machines can reach it (docs/security.md). Needs requirements-demo.txt.
"""

# First: it handles Ctrl-C, also during the other imports.
import data  # noqa: F401

# isort: split

import argparse
import signal
import sys
import threading
from pathlib import Path

from data.console import run_command
from data.errors import UserError, missing
from modules.inference.prediction_files import NOTICE

EXAMPLE = Path("results/demo")


def main(arguments: list[str] | None = None) -> int:
    """Exit status: 0 after Ctrl-C, or 1 after an error of one line on stderr."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    model = parser.add_mutually_exclusive_group(required=True)
    model.add_argument("--checkpoint", metavar="DIR", help="a checkpoint, or a run folder (its best)")
    model.add_argument("--example", action="store_true", help=f"the model trained by run_demo.sh, {EXAMPLE}")
    parser.add_argument(
        "--host", default="127.0.0.1", help="address to listen on; 0.0.0.0 allows other machines (%(default)s)"
    )
    parser.add_argument("--port", type=int, help="port to listen on (the first free one from 7860)")
    parser.add_argument(
        "--allowed-host", action="append", default=[], metavar="NAME",
        help="a name that the page may be opened by, besides localhost and the address it listens on; may be repeated",
    )
    parser.add_argument(
        "--password", help="password that visitors need (any user name); - reads it from the first line of stdin"
    )
    parser.add_argument("--device", default="auto", choices=["auto", "cpu", "cuda"], help="(%(default)s)")
    options = parser.parse_args(arguments)
    try:
        serve(options)
    except UserError as error:
        print(error, file=sys.stderr)
        return 1
    return 0


def serve(options: argparse.Namespace) -> None:
    """Serve until Ctrl-C or SIGTERM. Raises UserError if the page cannot be served."""
    try:
        from modules.inference.demo.page import serve_page
        from modules.inference.demo.request_guard import is_loopback
    except ModuleNotFoundError as error:
        raise UserError(f"{error.name} is not installed: pip install -r requirements-demo.txt") from error
    if options.example and not EXAMPLE.exists():
        raise missing("model", EXAMPLE, "create it with bash run_demo.sh, which needs no data and takes 10 minutes")
    password = read_password(options.password)
    if password is None and not is_loopback(options.host):
        print(
            f"Warning: everyone who can reach {options.host} can use the page and see what is opened on it; "
            "set --password",
            file=sys.stderr, flush=True,
        )
    checkpoint = EXAMPLE if options.example else options.checkpoint
    stopped = threading.Event()
    # Installed before the page is served, so that an early signal does not leave the folder of uploads behind.
    handlers = {
        number: signal.signal(number, lambda *_: stopped.set()) for number in (signal.SIGINT, signal.SIGTERM)
    }
    try:
        page = serve_page(checkpoint, options.device, options.host, options.port, options.allowed_host, password)
        with page as address:
            print(f"Open {address} in a browser; stop with Ctrl-C. {NOTICE}", flush=True)
            stopped.wait()
    finally:
        for number, handler in handlers.items():
            signal.signal(number, handler)


def read_password(option: str | None) -> str | None:
    """Return the value of --password, read from stdin if it is "-". Raises UserError if it is empty."""
    password = sys.stdin.readline().rstrip("\r\n") if option == "-" else option
    if password == "":
        raise UserError("--password is empty: give one, or leave the option out")
    return password


if __name__ == "__main__":
    sys.exit(run_command(main))
