"""Serves a web page that reports on chest X-rays and shows where the model looked.

    python main_demo.py --checkpoint results/demo [--host 127.0.0.1] [--port 7860]
    python main_demo.py --example

For research only, not for clinical use. Nothing that is uploaded is kept. Needs requirements-demo.txt.
"""

import argparse
import signal
import sys
import threading
from pathlib import Path

from data.errors import UserError
from modules.inference.prediction_files import NOTICE
from modules.inference.predictor import Predictor

EXAMPLE = Path("results/demo")


def main(arguments: list[str] | None = None) -> int:
    """Exit status: 0 after Ctrl-C, or 1 after one line on stderr that says what the user can mend."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    model = parser.add_mutually_exclusive_group(required=True)
    model.add_argument("--checkpoint", metavar="DIR", help="a checkpoint, or a run folder (its best)")
    model.add_argument("--example", action="store_true", help=f"the model that run_demo.sh makes, {EXAMPLE}")
    parser.add_argument(
        "--host", default="127.0.0.1", help="address to listen on; 0.0.0.0 lets other machines in (%(default)s)"
    )
    parser.add_argument("--port", type=int, help="port to listen on (the first free one from 7860 on)")
    parser.add_argument("--device", default="auto", choices=["auto", "cpu", "cuda"], help="(%(default)s)")
    options = parser.parse_args(arguments)
    try:
        serve(options)
    except UserError as error:
        print(error, file=sys.stderr)
        return 1
    return 0


def serve(options: argparse.Namespace) -> None:
    """Serve until Ctrl-C or SIGTERM. Raises UserError for what the user can mend."""
    try:
        from modules.inference.demo.page import served
    except ModuleNotFoundError as error:
        raise UserError(f"{error.name} is missing. To have it: pip install -r requirements-demo.txt") from error
    if options.example and not EXAMPLE.exists():
        raise UserError(f"There is no {EXAMPLE} yet. To make it, without any data, in 10 minutes: bash run_demo.sh")
    predictor = Predictor(EXAMPLE if options.example else options.checkpoint, options.device)
    stopped = threading.Event()
    # From before the page is served: what comes meanwhile must not leave its folder of uploads behind.
    handlers = {
        number: signal.signal(number, lambda *_: stopped.set()) for number in (signal.SIGINT, signal.SIGTERM)
    }
    try:
        with served(predictor, options.host, options.port) as address:
            print(f"Open {address} in a browser; Ctrl-C ends it. {NOTICE}", flush=True)
            stopped.wait()
    finally:
        for number, handler in handlers.items():
            signal.signal(number, handler)


if __name__ == "__main__":
    sys.exit(main())
