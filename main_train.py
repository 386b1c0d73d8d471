"""Train a model.

    python main_train.py --config configs/demo.yaml [key=value ...]
    torchrun --standalone --nproc_per_node=2 main_train.py --config configs/mimic_cxr.yaml [key=value ...]

Writes to the run folder results/NAME. Ctrl-C and SIGTERM save a checkpoint and exit; resume with train.resume=true.
"""

# First: it handles Ctrl-C, also during the other imports.
import data  # noqa: F401

# isort: split

import argparse
import sys

from data.console import run_command
from data.errors import UserError
from modules.builders import build_trainer, name_exact_weights
from modules.calibrate import calibrate_after_training
from modules.config import Config, load_config
from modules.runtime import configure_backends, distributed, is_rank_zero, select_device


def main(arguments: list[str] | None = None) -> int:
    """Return the exit status: 0, 1 after a UserError (one line on stderr), or 128 + the signal that stopped the run."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--config", metavar="YAML", help="an experiment in configs/; defaults to the built-in settings")
    parser.add_argument("overrides", nargs="*", metavar="key=value", help="override settings, e.g. train.epochs=5")
    options = parser.parse_intermixed_args(arguments)
    try:
        return train(load_config(options.config, options.overrides))
    except UserError as error:
        print(error, file=sys.stderr)
        return 1
    except KeyboardInterrupt:
        print("Interrupted before training started", file=sys.stderr)
        return 130


def train(config: Config) -> int:
    """Build everything and train. Return the exit status."""
    device = select_device(config.train.device)
    configure_backends(device, config.train.deterministic)
    config = name_exact_weights(config)
    with distributed(device):
        status = build_trainer(config, device).fit()
        calibrates = status == 0 and is_rank_zero() and config.train.tune_thresholds
    if calibrates and config.model.report and config.model.graph_in != "none":
        calibrate_after_training(config)
    return status


if __name__ == "__main__":
    sys.exit(run_command(main))
