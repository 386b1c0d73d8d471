"""Computes scores with the package RadEval, in a process of its own; `radeval_process.py` beside it starts it.

The process may run in another environment than the program, so this file imports the standard library and RadEval
only. It reads one JSON object per line from stdin and answers each with one line:

    {"metrics": {NAME: {OPTION: value}}}            -> {"version": "2.2.1"}
    {"references": [...], "generated": [...]}       -> {"scores": {KEY: {"value": number, "per_report": [...]}}}

or with {"error": text, "metric": NAME}. Written for RadEval 2.2.1, whose adapters keep their scorer in `_scorer`.
"""

import inspect
import json
import math
import os
import sys
from collections.abc import Callable
from contextlib import nullcontext
from functools import partial
from importlib import import_module, metadata
from importlib.util import find_spec
from typing import Any
from unittest.mock import patch

# The error without the package.
NOT_INSTALLED = "No package radeval"
# The scorer class of each metric whose adapter has no options of its own: module below radeval.metrics, class.
_SCORERS = {
    "bertscore": ("bertscore.bertscore", "BertScore"),
    "f1chexbert": ("f1chexbert.f1chexbert", "F1CheXbert"),
    "f1radbert_ct": ("f1Radbert_ct.f1Radbert_ct", "F1RadbertCT"),
    "green": ("green_score.green", "GREEN"),
    "radeval_bertscore": ("radevalbertscore.radevalbertscore", "RadEvalBERTScorer"),
    "radgraph": ("radgraph", "F1RadGraph"),
    "radgraph_radcliq": ("radgraph_radcliq.radgraph_radcliq", "RadGraphRadCliQ"),
    "ratescore": ("RaTEScore.scorer", "RaTEScore"),
    "srrbert": ("SRRBert.srr_bert", "SRRBert"),
}


def main() -> None:
    """Answer the lines of stdin until it ends."""
    # Packages print to stdout: keep it for the answers, and send what they print to stderr.
    answers = os.fdopen(os.dup(1), "w", encoding="utf-8")
    os.dup2(2, 1)
    metrics: list[Metric] = []
    for line in sys.stdin:
        request, name = json.loads(line), ""
        try:
            if "metrics" in request:
                _repair_package()
                for name, options in request["metrics"].items():
                    metrics.append(Metric(name, options))
                answer = {"version": metadata.version("radeval")}
            else:
                scores = {}
                for metric in metrics:
                    name = metric.name
                    scores |= metric.compute(request["references"], request["generated"])
                answer = {"scores": scores}
        except Exception as error:  # a metric can fail in as many ways as the packages below it
            answer = {"error": str(error) or type(error).__name__, "metric": name}
        answers.write(json.dumps(answer) + "\n")
        answers.flush()


class Metric:
    """One metric of RadEval with its options."""

    def __init__(self, name: str, options: dict[str, Any]):
        """Load the metric. Raises ValueError for an unknown name or option, and what the package raises."""
        adapter = import_module("radeval.metrics._registry").get_metric_class(name)
        own = {option: value for option, value in options.items() if option in inspect.signature(adapter).parameters}
        passed_on = {option: value for option, value in options.items() if option not in own}
        if name == "f1chexbert" and not import_module("torch").cuda.is_available():
            passed_on = {"device": "cpu", **passed_on}  # the default is cuda, with or without a GPU
        self.name = name
        with self._scorer_with(passed_on):
            self._evaluator = import_module("radeval").RadEval(metrics={name: own}, show_progress=sys.stdout.isatty())
        (self._adapter,) = self._evaluator._active_metrics

    def _scorer_with(self, options: dict[str, Any]):
        """Return a context in which the adapter builds its scorer with `options`."""
        if not options:
            return nullcontext()
        where, name = _SCORERS.get(self.name, (None, None))
        allowed: dict[str, Any] = {}
        if where is not None:
            module = import_module(f"radeval.metrics.{where}")
            scorer = getattr(module, name)
            classes = (scorer, module.RadGraph) if self.name == "radgraph" else (scorer,)
            for each in classes:
                allowed |= inspect.signature(each).parameters
        for option in options:
            if option not in allowed or option == "kwargs":
                names = ", ".join(sorted(set(allowed) - {"kwargs"})) or "it has none"
                raise ValueError(f"it has no option {option!r}; options: {names}")

        def build(*args: Any, **kwargs: Any) -> Any:
            given = inspect.signature(scorer).bind(*args, **kwargs).arguments
            return scorer(**given.pop("kwargs", {}) | given | options)

        return patch.object(module, name, build)

    def compute(self, references: list[str], generated: list[str]) -> dict[str, dict[str, Any]]:
        """Return what the package prints for all pairs, and its numbers of each pair under the same keys.

        Both are calls of the package; the scorer, which does the work, runs once.
        """
        scorer = getattr(self._adapter, "_scorer", None)
        memory = _Memory(scorer)
        if scorer is not None:
            self._adapter._scorer = memory
        try:
            self._evaluator.per_sample = False
            values = self._evaluator(refs=references, hyps=generated)
            self._evaluator.per_sample = True
            per_report = self._evaluator(refs=references, hyps=generated)
            if self.name == "f1chexbert":
                # The adapter leaves out the averages over reports, which the package's classification reports have.
                *_, of_14, of_5, _, _ = memory.forward(generated, references)
                for labels, report in (("all", of_14), ("5", of_5)):
                    values[f"f1chexbert_{labels}_example_f1"] = report["samples avg"]["f1-score"]
        finally:
            if scorer is not None:
                self._adapter._scorer = scorer
        return {
            key: {"value": _number(value), "per_report": [_number(each) for each in per_report.get(key) or []]}
            for key, value in values.items() if not isinstance(value, dict)
        }


class _Memory:
    """Forwards to a scorer, and remembers its results: the same call is computed once."""

    def __init__(self, scorer: Any):
        self._scorer = scorer
        self._results: dict[str, Any] = {}

    def __getattr__(self, name: str) -> Any:
        value = getattr(self._scorer, name)
        return partial(self._remember, name, value) if callable(value) else value

    def __call__(self, *args: Any, **kwargs: Any) -> Any:
        return self._remember("__call__", self._scorer, *args, **kwargs)

    def _remember(self, name: str, function: Callable[..., Any], *args: Any, **kwargs: Any) -> Any:
        texts = {key: value for key, value in kwargs.items() if not callable(value) and value is not None}
        key = repr((name, args, texts))
        if key not in self._results:
            self._results[key] = function(*args, **kwargs)
        return self._results[key]


def _repair_package() -> None:
    """Repair what keeps RadEval 2.2.1 from running as it is installed.

    Its RadGraph imports itself as RadEval, which exists only where file names ignore case; its CheXbert reads the
    result of a private function of scikit-learn, which has one item more since version 1.9. It also asks NLTK to
    download data at every import, which is useless offline.
    """
    if find_spec("radeval") is None:
        raise ModuleNotFoundError(NOT_INSTALLED)
    if os.environ.get("HF_HUB_OFFLINE") == "1":
        import_module("nltk").download = lambda *_, **__: False
    sys.modules.setdefault("RadEval", import_module("radeval"))
    module = import_module("radeval.metrics._chexbert_base")
    check_targets = module._check_targets

    def check(*targets: Any) -> tuple[Any, ...]:
        kind, *_, true, predicted, weights = check_targets(*targets)
        return kind, true, predicted, weights

    module._check_targets = check


def _number(value: Any) -> float | None:
    """Return a number of JSON: None for None and NaN."""
    return None if value is None or math.isnan(value) else float(value)


if __name__ == "__main__":
    main()
