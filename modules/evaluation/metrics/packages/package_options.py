"""The options of scores by other packages, for `modules.score` and `modules.compare`."""

import sys
from argparse import ArgumentParser, Namespace
from collections.abc import Iterator, Sequence
from contextlib import ExitStack, contextmanager
from pathlib import Path
from typing import Any

import yaml

from data.errors import unknown_name, wrong_value
from modules.evaluation.metrics.comparers import RadEvalComparer, load_radgraph
from modules.evaluation.metrics.packages.radeval_scores import METRICS


def add_package_options(parser: ArgumentParser) -> None:
    """Add the options that `open_comparers` reads."""
    parser.add_argument("--radgraph", type=Path, metavar="DIR", help="add RadGraph F1 with the model in DIR")
    parser.add_argument(
        "--radeval", nargs="+", metavar="NAME[:KEY=VALUE]",
        help="add these metrics of the package RadEval; repeat NAME for more options",
    )
    parser.add_argument(
        "--metrics-python", type=Path, metavar="PATH",
        help="the python of an environment that has RadEval; default: that of this program",
    )


@contextmanager
def open_comparers(options: Namespace) -> Iterator[list[RadEvalComparer]]:
    """Load the comparers that the `options` of `add_package_options` name, and close them at the end.

    Raises UserError for an unknown metric, and if a package, an option or weights are missing.
    """
    metrics = parse_metrics(options.radeval or ())
    python = options.metrics_python or Path(sys.executable)
    with ExitStack() as stack:
        comparers = []
        if options.radgraph is not None:
            comparers.append(load_radgraph(options.radgraph, python))
            stack.callback(comparers[-1].close)
        if metrics:
            comparers.append(RadEvalComparer(metrics, python))
            stack.callback(comparers[-1].close)
        yield comparers


def parse_metrics(names: Sequence[str]) -> dict[str, dict[str, Any]]:
    """Return metric -> its options, from NAME or NAME:KEY=VALUE; a value is read as YAML.

    Raises UserError for an unknown metric, and for an option that is not KEY=VALUE.
    """
    metrics: dict[str, dict[str, Any]] = {}
    for each in names:
        name, colon, option = each.partition(":")
        if name not in METRICS:
            raise unknown_name("metric", name, METRICS, "--radeval")
        key, sign, value = option.partition("=")
        if colon and not (sign and key):
            raise wrong_value("--radeval", each, "write NAME or NAME:KEY=VALUE")
        metrics.setdefault(name, {})
        if colon:
            metrics[name][key] = _parse_value(value)
    return metrics


def _parse_value(text: str) -> Any:
    """A number, true, false or null as YAML reads it; any other text as it is."""
    try:
        value = yaml.safe_load(text)
    except (yaml.YAMLError, ValueError, RecursionError):
        return text
    return value if isinstance(value, bool | int | float) or text == "null" else text


def describe_comparers(options: Namespace, comparers: Sequence[RadEvalComparer]) -> dict[str, str]:
    """What the packages do, in words: step -> description; empty without one. Keys of web services are not named."""
    if not comparers:
        return {}
    metrics = parse_metrics(options.radeval or ())
    named = [
        name + "".join(f" {key}={value}" for key, value in given.items() if not key.endswith("api_key"))
        for name, given in metrics.items()
    ]
    if options.radgraph is not None:
        named.insert(0, f"RadGraph of {options.radgraph}")
    return {
        f"RadEval {comparers[0].version}": f"{', '.join(named)}; reads both texts as they are in the file, and not "
        "pairs with an empty reference"
    }
