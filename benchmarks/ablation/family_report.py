"""The report of the study of the R2Gen family: a Markdown page generated from the finished runs."""

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from benchmarks.ablation.ledger import FinishedRun
from benchmarks.ablation.statistics import RESAMPLES, difference, format_estimate, micro_f1
from data.errors import UserError
from modules.evaluation.results import write_atomically
from modules.evaluation.score_tables import format_score

# Further columns: title -> name in metrics.json.
COLUMNS = {"BLEU-4": "bleu_4", "triple F1": "triple_f1", "distinct reports": "distinct_reports"}
# Aims: gain by the graph, gain by rewards, and what BLEU-4 may change meanwhile.
GRAPH_AIM, REWARD_AIM, BLEU_TOLERANCE = 0.03, 0.02, 0.01


@dataclass
class FamilyResults:
    """Finished runs.

    pairs     technique -> for each seed, the runs without and with the graph
    rates     technique -> the chosen learning rates without and with the graph
    best      name of the arm that is trained further; empty while it is not known
    further   for each seed, that run, and those that continue it with cross-entropy and with rewards
    """

    pairs: dict[str, list[list[FinishedRun]]]
    rates: dict[str, tuple[float, float]]
    best: str
    further: list[list[FinishedRun]]


def write_family_report(path: Path, results: FamilyResults) -> None:
    """Write the page. Without a finished comparison it says so."""
    lines = [_INTRODUCTION.format(resamples=RESAMPLES), _table(results), *_graph_aims(results)]
    if results.further:
        lines += _further_section(results)
    write_atomically(path, lines)


def _counts(runs: Sequence[FinishedRun]) -> NDArray:
    """Return the counts of an arm, [seeds, studies, 3]. Raises UserError if the studies are not the same."""
    if len({len(run.counts) for run in runs}) > 1:
        raise UserError(f"Runs of the arm '{runs[0].arm}' were tested on different studies: delete the outdated ones")
    return np.array([run.counts for run in runs])


def _f1(counts: NDArray) -> str:
    values = micro_f1(counts.sum(1))
    spread = f" ± {values.std(ddof=1):.3f}" if len(values) > 1 else ""
    return f"{values.mean():.3f}{spread}"


def _mean(runs: Sequence[FinishedRun], score: str) -> float | None:
    values = [run.scores.get(score) for run in runs]
    return None if None in values else float(np.mean(values))


def _table(results: FamilyResults) -> str:
    head = ["technique", "seeds", "rates", "F1 without graph", "F1 with graph", "difference", *COLUMNS]
    head.append("million parameters")
    rows = ["| " + " | ".join(head) + " |", "|---" * len(head) + "|"]
    for technique, found in results.pairs.items():
        if not found:
            continue
        without, with_graph = (list(runs) for runs in zip(*found, strict=True))
        counts = _counts(without), _counts(with_graph)
        rows.append("| " + " | ".join([
            technique, str(len(found)), " / ".join(f"{rate:g}" for rate in results.rates[technique]),
            _f1(counts[0]), _f1(counts[1]), format_estimate(difference(counts[1], counts[0])),
            *(
                f"{format_score(_mean(without, score))} / {format_score(_mean(with_graph, score))}"
                for score in COLUMNS.values()
            ),
            f"{without[0].parameters / 1e6:.1f} / {with_graph[0].parameters / 1e6:.1f}",
        ]) + " |")
    return "\n".join(rows) + "\n"


def _graph_aims(results: FamilyResults) -> list[str]:
    lines = ["\n### Does the graph help?\n\n"]
    for technique, found in results.pairs.items():
        if found:
            counts = [_counts(runs) for runs in zip(*found, strict=True)]
            value, low, high = difference(counts[1], counts[0])
            verdict = "raises" if low > 0 else "lowers" if high < 0 else "does not measurably change"
            aim = "met" if value >= GRAPH_AIM else "missed"
            lines.append(
                f"* {technique}: the scene graph {verdict} the F1 of generated reports, by "
                f"{format_estimate((value, low, high))}. The aim of {GRAPH_AIM:+.2f} is {aim}.\n"
            )
    return lines if len(lines) > 1 else [*lines, "No comparison is finished.\n"]


def _further_section(results: FamilyResults) -> list[str]:
    """Return the table of what rewards add to the best member."""
    runs = [list(column) for column in zip(*results.further, strict=True)]
    names = ("where both start", "further cross-entropy", "further training with rewards")
    head = ["", "seeds", "F1 of generated reports", "F1 against the references' labels", *COLUMNS]
    rows = ["| " + " | ".join(head) + " |", "|---" * len(head) + "|"]
    for name, each in zip(names, runs, strict=True):
        rows.append("| " + " | ".join([
            name, str(len(each)), _f1(_counts(each)), format_score(_mean(each, "report_14_micro_f1")),
            *(format_score(_mean(each, score)) for score in COLUMNS.values()),
        ]) + " |")
    value, low, high = difference(_counts(runs[2]), _counts(runs[1]))
    lines = [_FURTHER.format(best=results.best), "\n".join(rows), "\n\n"]
    bleu = [_mean(each, "bleu_4") for each in runs[1:]]
    aim = value >= REWARD_AIM and None not in bleu and abs(bleu[1] - bleu[0]) <= BLEU_TOLERANCE
    bleu_change = "–" if None in bleu else f"{bleu[1] - bleu[0]:+.3f}"
    return [*lines, (
        f"Rewards instead of cross-entropy change the F1 of generated reports by {format_estimate((value, low, high))} "
        f"and BLEU-4 by {bleu_change}. The aim of {REWARD_AIM:+.2f} with BLEU-4 within {BLEU_TOLERANCE} is "
        f"{'met' if aim else 'missed'}.\n"
    )]


_INTRODUCTION = """# Does the scene graph help each technique of the R2Gen family?

`bash run_ablation.sh --arms family` generates this page from its runs, which are recorded in `results.jsonl` beside it.
The same command trains the missing ones.

Every run has the data, trunk and budget of [results.md](results.md), and the same score: the micro-F1 of the
14 observations that `data/labeler.py` reads in generated reports against the simulated truth, on the test split, with
predicted graph where there is one, beam 3 and protocol `r2gen`. Without the graph, models are wider, so that they have
as many parameters. Learning rates are those of 0.001 and 0.002 with the best BLEU-4 on the validation split, with the
first seed, chosen for each technique without and with graph; 0.0005 and 0.004 were worse for the plain transformer
without graph in an earlier study. The plain transformer's runs are those of that page. Scores are means over seeds ±
the standard deviation, of the seeds with which both runs are finished, without / with the graph. Intervals are 95 %
intervals from {resamples:,} resamples of studies and seeds.

"""

_FURTHER = """
## Do rewards add to the best?

The run with the graph that has the best BLEU-4 on the validation split, `{best}`, is trained for one epoch more: with
cross-entropy alone, or with `train.stage=reward` and the rewards `observations + triples`, both on predicted graphs and
with the same learning rates. The last weights of both are tested.

"""
