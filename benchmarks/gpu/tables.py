"""The numbers of `python -m benchmarks gpu` as Markdown."""

from typing import Any

from benchmarks.gpu.decoding import TRANSFORMERS
from benchmarks.gpu.parts import Values
from benchmarks.gpu.training import CONFIGS
from benchmarks.support.measure import OURS

# Added to the name of a configuration for its steps with train.compile.
COMPILED = ", compiled"


def format_tables(report: dict[str, Any]) -> str:
    """Return tests, rates, the tables of training and decoding, and what is missing."""
    parts = report["parts"]
    decoding = parts.get("decoding", {})
    missing = dict(report["not_done"])
    for name, case in decoding.items():
        missing |= {f"{name}, {contender}": reason for contender, reason in case["absent"].items()}
    return "\n".join([
        f"Tests marked gpu: {_describe_tests(parts.get('tests', {}))}",
        f"Measured rates: {_describe_rates(parts.get('rates', {}))}", "",
        "| configuration | studies, images a step | precision | step | images/s | peak memory | loader headroom "
        "| share of the peak |", "|---|---|---|---|---|---|---|---|",
        *(_training_row(name, parts[name]) for name in training_parts() if "step_seconds" in parts.get(name, {})), "",
        "| decoding | ours | transformers | to ours | ours, share of the peak |", "|---|---|---|---|---|",
        *(_decoding_row(name, case) for name, case in decoding.items()), "",
        *(f"Not done: {name}: {reason}" for name, reason in missing.items()),
    ]).rstrip()  # fmt: skip


def training_parts() -> list[str]:
    """Return the names of the parts that measure training steps."""
    return [name + suffix for name in CONFIGS for suffix in ("", COMPILED)]


def _training_row(name: str, values: Values) -> str:
    config, comma, compiled = name.partition(",")
    cells = [
        f"`{config}`{comma}{compiled}",
        f"{values['studies_per_step']}, {values['studies_per_step'] * values['views']}", values["precision"],
        f"{1000 * values['step_seconds']:.0f} ms", f"{values['images_per_second']:.0f}",
        f"{values['peak_mib']:,.0f} MiB", _number(values.get("headroom"), ".1f"),
        _number(values.get("share_of_peak"), ".0%"),
    ]
    return f"| {' | '.join(cells)} |"


def _decoding_row(name: str, case: Values) -> str:
    ours, theirs = (case["seconds"].get(contender) for contender in (OURS, TRANSFORMERS))
    cells = [
        f"{name}, {case['words']} words", _number(ours, ".3f") + " s", _number(theirs, ".3f") + " s",
        _number(theirs / ours if ours and theirs else None, ".2f"),
        _number(case.get("share_of_peak", {}).get(OURS), ".0%"),
    ]
    return f"| {' | '.join(cells)} |"


def _describe_tests(values: Values) -> str:
    counts = [f"{values[kind]} {kind}" for kind in ("passed", "failed", "error", "skipped") if kind in values]
    return ", ".join(counts + values.get("failures", [])) or "not run"


def _describe_rates(values: Values) -> str:
    products = [f"{name.split('_')[1]} {rate:.3g} TFLOP/s" for name, rate in values.items() if "teraflops" in name]
    memory = [f"memory {rate:.3g} GB/s" for name, rate in values.items() if "gigabytes" in name]
    return ", ".join(products + memory) or "none"


def _number(value: float | None, form: str) -> str:
    return "–" if value is None else format(value, form)
