"""The report of the study of the context: a Markdown page generated from the finished runs."""

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from benchmarks.ablation.context_ledger import SCORES, ContextRun
from benchmarks.ablation.statistics import RESAMPLES, Estimate, difference, estimate, format_estimate, micro_f1, share
from data.errors import UserError
from modules.evaluation.results import write_atomically
from modules.evaluation.score_tables import format_score

# Rows of the table: arm, what was shown of the context.
NO_CONTEXT = ("context, none", "all")
INDICATION, EVIDENCE = ("context, indication", "all"), ("context, indication as evidence", "all")
PRIOR = ("context, prior", "all")
BOTH, WITHHELD = ("context, both", "all"), ("context, both", "none")
COLUMNS = (
    "model reads", "shown", "seeds", "comparison accuracy", "minus \"no change\"", "reports that compare, prior seen",
    "invented comparisons", "F1 of generated reports", "minus no context", "change macro F1", "observation head F1",
    "BLEU-4",
)


@dataclass
class _Test:
    """The finished runs of a row. counts: name in `ContextRun.tests` -> [seeds, patients, k]."""

    seeds: int
    counts: dict[str, NDArray]
    scores: dict[str, list[float | None]]


def write_context_report(path: Path, runs: Sequence[ContextRun]) -> None:
    """Write the page of the finished `runs`.

    Raises UserError if no run is finished, and if runs were tested on different patients.
    """
    if not runs:
        raise UserError("No run of the study of the context is finished: run the study without --report-only")
    tests = _group_tests(runs)
    first, trunks = runs[0].without_images, len({run.trunk for run in runs})
    write_atomically(path, [
        _INTRODUCTION.format(
            runs=len(runs), patients=next(iter(tests.values())).counts["observations"].shape[1], resamples=RESAMPLES,
            indication=format_score(first["indication"]), report=format_score(first["previous report"]),
            trunks="the same trunk" if trunks == 1 else f"one of {trunks} trunks, trained on different machines",
        ),
        "| " + " | ".join(COLUMNS) + " |\n" + "|---" * len(COLUMNS) + "|\n",
        *(_row(name, shown, tests) for name, shown in tests),
        "\n## Aims\n\n",
        *(_aims(tests, first) or ["Too few arms are finished to judge one.\n"]),
    ])


def _group_tests(runs: Sequence[ContextRun]) -> dict[tuple[str, str], _Test]:
    """Return (arm, what was shown) -> its test, in the order of the arms."""
    tests: dict[tuple[str, str], _Test] = {}
    for key in (NO_CONTEXT, INDICATION, EVIDENCE, PRIOR, BOTH, WITHHELD):
        found = [run.tests[key[1]] for run in sorted(runs, key=lambda run: run.seed) if run.arm == key[0]]
        if not found:
            continue
        counts = {name: [test[name] for test in found] for name in found[0] if name != "scores"}
        sizes = {len(rows) for lists in counts.values() for rows in lists} | {
            test.counts["observations"].shape[1] for test in tests.values()
        }
        if len(sizes) > 1:
            raise UserError(f"Runs of the arm '{key[0]}' were tested on different patients: delete the outdated ones")
        scores = {name: [test["scores"].get(name) for test in found] for name in SCORES}
        tests[key] = _Test(len(found), {name: np.array(lists) for name, lists in counts.items()}, scores)
    return tests


def accuracy_gain(counts: NDArray) -> NDArray:
    """Return the accuracy of comparisons minus that of "no change", of counts [..., 3] as in `ContextRun`."""
    return (counts[..., 0] - counts[..., 1]) / np.maximum(counts[..., 2], 1e-12)


def _accuracy(test: _Test) -> Estimate | None:
    counts = test.counts["comparisons"]
    return estimate(counts[..., [0, 2]], share) if counts.any() else None


def _share(test: _Test, name: str) -> Estimate | None:
    counts = test.counts[name]
    return estimate(counts, share) if counts.any() else None


def _row(name: str, shown: str, tests: dict[tuple[str, str], _Test]) -> str:
    test = tests[name, shown]
    observations, compared = test.counts["observations"], test.counts["comparisons"]
    gain = estimate(compared, accuracy_gain) if compared.any() else None
    baseline = tests.get(NO_CONTEXT)
    compares = baseline is not None and baseline is not test
    against = difference(observations, baseline.counts["observations"]) if compares else None
    cells = [
        name.partition(", ")[2], shown, str(test.seeds), _format(_accuracy(test)), _format(gain, "+"),
        _format(_share(test, "priors")), _format(_share(test, "unseen")), _format(estimate(observations, micro_f1)),
        _format(against, "+"), *(_format_mean(test.scores[score]) for score in SCORES),
    ]
    return "| " + " | ".join(cells) + " |\n"


def _format(value: Estimate | None, sign: str = "") -> str:
    return "–" if value is None else format_estimate(value, sign)


def _format_mean(values: Sequence[float | None]) -> str:
    return "–" if None in values else format_score(float(np.mean(values)))


def _aims(tests: dict[tuple[str, str], _Test], without_images: dict[str, float | None]) -> list[str]:
    """Return a sentence for every aim whose arms are finished."""
    sentences = []
    for key in (PRIOR, BOTH):
        accuracy = _accuracy(tests[key]) if key in tests else None
        if accuracy is not None:
            gain = estimate(tests[key].counts["comparisons"], accuracy_gain)
            sentences.append(_aim(
                f"{_reads(key)}: comparison accuracy of at least 0.75, and 0.20 above \"no change\"",
                f"{accuracy[0]:.3f} and {gain[0]:+.3f}", accuracy[0] >= 0.75 and gain[0] >= 0.2,
            ))
    for key in tests:
        invented = _share(tests[key], "unseen")
        if key != NO_CONTEXT and invented is not None:
            sentences.append(_aim(
                f"{_reads(key)}: at most 1 % invented comparisons", f"{invented[0]:.1%}", invented[0] <= 0.01
            ))
    baseline = tests.get(NO_CONTEXT)
    if baseline is None:
        return sentences
    images = float(micro_f1(baseline.counts["observations"].sum(1)).mean())
    for key in (INDICATION, EVIDENCE, BOTH):
        if key in tests:
            value = float(micro_f1(tests[key].counts["observations"].sum(1)).mean())
            best = max(images, without_images["indication"] or 0)
            sentences.append(_aim(
                f"{_reads(key)}: observation F1 of reports 0.02 above that of the image or of the indication alone",
                f"{value - best:+.3f}", value - best >= 0.02,
            ))
    if WITHHELD in tests:
        loss = difference(tests[WITHHELD].counts["observations"], baseline.counts["observations"])
        sentences.append(_aim(
            "Both read, none shown: observation F1 of reports at most 0.01 below that of the model trained without",
            format_estimate(loss), loss[0] >= -0.01,
        ))
    return sentences


def _reads(key: tuple[str, str]) -> str:
    name = key[0].partition(", ")[2].capitalize()
    return f"{name} read, none shown" if key == WITHHELD else f"{name} read"


def _aim(aim: str, found: str, is_met: bool) -> str:
    return f"* {aim}. Found: {found}. {'Met.' if is_met else 'Missed.'}\n"


_INTRODUCTION = """# What the context adds

`bash run_ablation.sh --arms context` generates this page from its runs, which are recorded in `context_results.jsonl`
beside it. Finished runs: {runs}. [context.md](context.md) says what was tried, and why aims are missed.

Every run is the demo's experiment with the budget of [results.md](results.md) (4 epochs of 2,400 studies, bf16, and
{trunks}, trained on 2,400 other phantoms), on phantom patients of whom 80 % have two or three
studies. Scores are those of the test split, {patients} patients, with predicted graph, boxes of the localizer, beam 3
and protocol `r2gen`. Intervals are 95 % intervals from {resamples:,} resamples of patients, with all of their studies,
and of seeds.

"Comparison accuracy" is the share of right ones among the changes that generated reports state of regions whose change
is known, as `data/text_graph.py` reads them; "minus no change" compares with calling all of these unchanged. A model
without priors has one too, because it repeats comparisons from training reports. "Indication as evidence", and "both",
have `model.indication_evidence`; in "indication" it reaches the decoder alone. "Invented comparisons" is the share of
reports that compare with an earlier study, with a stated change or in general, of studies whose prior the model did not
see or that have none. F1 is the micro-F1 of the 14 observations that `data/labeler.py` reads in generated reports
against the simulated truth. Without any image, the indication alone predicts these with an F1 of {indication}, and the
previous report alone with {report}, on all studies that have one.

"""
