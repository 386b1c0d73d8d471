"""Serves a web page that reports on chest X-rays and shows which regions each sentence attends to.

    python main_demo.py --checkpoint results/demo [--host 127.0.0.1] [--port 7860]
    python main_demo.py --example

For research only, not for clinical use. Uploads are not stored. Needs requirements-demo.txt.
"""

import argparse
import signal
import sys
import threading
from pathlib import Path

from data.errors import UserError, missing
from modules.inference.prediction_files import NOTICE
from modules.inference.predictor import Predictor

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
    except ModuleNotFoundError as error:
        raise UserError(f"{error.name} is not installed: pip install -r requirements-demo.txt") from error
    if options.example and not EXAMPLE.exists():
        raise missing("model", EXAMPLE, "create it with bash run_demo.sh, which needs no data and takes 10 minutes")
    predictor = Predictor(EXAMPLE if options.example else options.checkpoint, options.device)
    stopped = threading.Event()
    # Installed before the page is served, so that an early signal does not leave the folder of uploads behind.
    handlers = {
        number: signal.signal(number, lambda *_: stopped.set()) for number in (signal.SIGINT, signal.SIGTERM)
    }
    try:
        with serve_page(predictor, options.host, options.port) as address:
            print(f"Open {address} in a browser; stop with Ctrl-C. {NOTICE}", flush=True)
            stopped.wait()
    finally:
        for number, handler in handlers.items():
            signal.signal(number, handler)


if __name__ == "__main__":
    sys.exit(main())
