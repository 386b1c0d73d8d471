"""The report of the ablation study: a Markdown page generated from the finished runs.

The score of the study is the micro-F1 of observations: labels that `data/labeler.py` reads in generated reports
(uncertain ones count as positive) against the simulated truth.
"""

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from benchmarks.ablation.arms import ARMS, FULL, NO_GRAPH
from benchmarks.ablation.ledger import FinishedRun
from benchmarks.ablation.statistics import RESAMPLES, difference, format_estimate, micro_f1
from data.errors import UserError
from modules.evaluation.results import write_atomically
from modules.evaluation.score_tables import format_score

# Further columns of the table: title -> name in metrics.json.
COLUMNS = {
    "F1 against the references' labels": "report_14_micro_f1", "BLEU-4": "bleu_4",
    "distinct reports": "distinct_reports", "observation head F1": "observation_micro_f1",
    "region F1": "region_micro_f1", "attribute F1": "attribute_micro_f1", "box IoU": "box_iou",
}
NEAREST = "F1 of the nearest training reports"
# Targets of the full model: its gain over the model without graph, the lower end of that gain's interval, and its gain
# over the reports of the nearest training images.
TARGET, LOWEST_TARGET, NEAREST_TARGET = 0.08, 0.04, 0.06


@dataclass
class ArmResult:
    """The results of the finished runs of an arm.

    seeds         of its runs
    counts        [seeds, studies, 3]: `FinishedRun.counts` of every run
    parameters    of its model
    trunks        fingerprint of the trunk that each run started from
    validation    best BLEU-4 of each run on the validation split, None where it was not recorded
    scores        title of a column -> value per seed, None if absent
    """

    seeds: list[int]
    counts: NDArray
    parameters: int
    trunks: list[str]
    validation: list[float | None]
    scores: dict[str, list[float | None]]

    @property
    def f1(self) -> NDArray:
        """The micro-F1 of every seed, [seeds]."""
        return micro_f1(self.counts.sum(1))


def results_by_arm(runs: Sequence[FinishedRun]) -> dict[str, ArmResult]:
    """Group results by arm, in the order of `ARMS`. Raises UserError if runs were tested on different studies."""
    results: dict[str, ArmResult] = {}
    for name in dict.fromkeys([arm.name for arm in ARMS] + [run.arm for run in runs]):
        runs_of_arm = sorted((run for run in runs if run.arm == name), key=lambda run: run.seed)
        if any(run.references != runs[0].references for run in runs_of_arm):
            raise UserError(f"Runs of the arm '{name}' were tested on different studies: delete the outdated ones")
        if runs_of_arm:
            scores = {column: [run.scores.get(score) for run in runs_of_arm] for column, score in COLUMNS.items()}
            scores[NEAREST] = [run.nearest for run in runs_of_arm]
            counts = np.array([run.counts for run in runs_of_arm])
            results[name] = ArmResult(
                [run.seed for run in runs_of_arm], counts, runs_of_arm[0].parameters,
                [run.trunk for run in runs_of_arm], [run.validation_bleu_4 for run in runs_of_arm], scores,
            )
    return results


def write_report(path: Path, runs: Sequence[FinishedRun], overrides: Sequence[str] = ()) -> None:
    """Write the page of the finished `runs`. Arms are compared with the full model and one without graph.

    overrides: settings of all runs that differ from those of the study

    Raises UserError if no run is finished, and if runs were tested on different studies.
    """
    if not runs:
        raise UserError("No run of the study is finished: run the study without --report-only")
    results = results_by_arm(runs)
    references = np.array(runs[0].references)
    trunks = len({run.trunk for run in runs})
    write_atomically(path, [
        _INTRODUCTION.format(
            studies=len(references), labeler=float(micro_f1(references.sum(0))), runs=len(runs),
            resamples=RESAMPLES, planned=3 * len(ARMS),
            trunks="the same trunk" if trunks == 1 else f"one of {trunks} trunks, trained on different machines",
            sizes=_parameter_counts(results, best_baseline(results)),
            overrides=f" These runs differ from them in {', '.join(overrides)}." if overrides else "",
        ),
        *_section(results),
    ])


def best_baseline(results: dict[str, ArmResult]) -> str | None:
    """Return the arm without graph with the highest BLEU-4 on the validation split; None if there is no such arm.

    If the runs were too short to be validated, it is the first one.
    """
    baselines = {name: result for name, result in results.items() if name.startswith(NO_GRAPH)}
    validated = all(None not in result.validation for result in baselines.values())
    return max(
        baselines, key=lambda name: np.mean(baselines[name].validation) if validated else 0.0, default=None,
    )


def _section(results: dict[str, ArmResult]) -> list[str]:
    """Return table, findings and list of runs."""
    baseline = best_baseline(results)
    return [
        _table(results, baseline),
        "\n## Findings\n\n",
        *_target_sentences(results, baseline),
        *_comparison_sentences(results, baseline),
        _CAUTION,
        "\n## Every run\n\n| arm | seed | F1 of generated reports | trunk |\n|---|---|---|---|\n",
        *(
            f"| {name} | {seed} | {value:.3f} | {trunk} |\n"
            for name, result in results.items()
            for seed, value, trunk in zip(result.seeds, result.f1, result.trunks, strict=True)
        ),
    ]


def _parameter_counts(results: dict[str, ArmResult], baseline: str | None) -> str:
    if baseline is None or FULL.name not in results:
        return ""
    small, large = (results[name].parameters / 1e6 for name in (baseline, FULL.name))
    return f" ({small:.1f} million against {large:.1f} million)"


def _table(results: dict[str, ArmResult], baseline: str | None) -> str:
    columns = [*COLUMNS, NEAREST]
    head = ["arm", "seeds", "F1 of generated reports", f"minus {baseline or NO_GRAPH}", f"minus {FULL.name}", *columns]
    rows = ["| " + " | ".join(head) + " |", "|---" * len(head) + "|"]
    for name, result in results.items():
        cells = [name, str(len(result.seeds)), _format_f1(result)]
        cells += [_format_difference(results, name, other) for other in (baseline, FULL.name)]
        cells += [_format_mean(result.scores[column]) for column in columns]
        rows.append("| " + " | ".join(cells) + " |")
    return "\n".join(rows) + "\n"


def _format_f1(result: ArmResult) -> str:
    spread = f" ± {result.f1.std(ddof=1):.3f}" if len(result.seeds) > 1 else ""
    return f"{result.f1.mean():.3f}{spread}"


def _target_sentences(results: dict[str, ArmResult], baseline: str | None) -> list[str]:
    """Say which of its targets the full model reaches."""
    if baseline is None or FULL.name not in results:
        return []
    full = results[FULL.name]
    value, low, _ = difference(full.counts, results[baseline].counts)
    sentences = [
        f"* Target: with its predicted graph, the full model is at least {TARGET} better than the model without "
        f"graph, and the interval is above {LOWEST_TARGET}. The difference is {value:+.3f}, the interval begins at "
        f"{low:+.3f}. {_verdict(value >= TARGET and low > LOWEST_TARGET)}\n"
    ]
    if None not in full.scores[NEAREST]:
        value = float(full.f1.mean() - np.mean(full.scores[NEAREST]))
        sentences.append(
            f"* Target: it is at least {NEAREST_TARGET} better than the reports of the nearest training images. The "
            f"difference is {value:+.3f}. {_verdict(value >= NEAREST_TARGET)}\n"
        )
    return sentences


def _verdict(is_met: bool) -> str:
    return "The target is met." if is_met else "The target is missed: see [tried.md](tried.md)."


def _format_difference(results: dict[str, ArmResult], name: str, other: str | None) -> str:
    if other is None or other not in results or other == name:
        return "–"
    return format_estimate(difference(results[name].counts, results[other].counts))


def _format_mean(values: list[float | None]) -> str:
    return "–" if None in values else format_score(float(np.mean(values)))


def _comparison_sentences(results: dict[str, ArmResult], baseline: str | None) -> list[str]:
    """Return a sentence for every comparison whose arms are finished."""
    full, unmixed = FULL.name, f"{FULL.name}, annotated graphs only"
    pairs = [(full, baseline, "The scene graph")]
    pairs += [
        (full, "without proxy tasks", "Training with the proxy tasks"),
        (full, "without contrast", "The contrastive loss"),
        (full, "without grounding", "Grounding words in regions"),
        (full, "node attention", "Attending to sub-graphs instead of nodes"),
        (full, "hierarchical attention", "Attending to sub-graphs directly instead of hierarchically"),
        (full, unmixed, "Mixing predicted graphs into training"),
        (unmixed, baseline, "The scene graph without mixing"),
    ]
    for noise in ("20 % noise", "40 % noise"):
        pairs += [
            (f"{full}, {noise}", full, f"Adding {noise} to the annotated graphs"),
            (f"{full}, {noise}", baseline, f"The scene graph under {noise}"),
            (f"{unmixed}, {noise}", baseline, f"The scene graph under {noise}, without mixing,"),
            (f"{full}, {noise}", f"{unmixed}, {noise}", f"Mixing predicted graphs into training under {noise}"),
        ]
    sentences = []
    for first, second, change in pairs:
        if first in results and second in results:
            value, low, high = difference(results[first].counts, results[second].counts)
            verdict = "raises" if low > 0 else "lowers" if high < 0 else "does not measurably change"
            sentences.append(
                f"* {change} {verdict} the F1 of generated reports: {value:+.3f}, interval {low:+.3f} to {high:+.3f} "
                f"({len(results[first].seeds)} and {len(results[second].seeds)} seeds).\n"
            )
    return sentences or ["Too few arms are finished for a comparison.\n"]


_INTRODUCTION = """# Does the scene graph help?

`bash run_ablation.sh` generates this page from its runs, whose results are recorded in `results.jsonl` beside it.
Finished runs: {runs} of {planned}; the same command trains the missing ones. For earlier experiments, and for what
limits the score, see [tried.md](tried.md).

Every run is the demo's experiment (`configs/demo.yaml`) with 4 epochs: 2,400 phantom studies for training, 600 steps
with batches of 16, in bf16. `benchmarks/ablation/arms.py` lists all settings.{overrides}
All start from {trunks}, as those of the paper start from one trained on ImageNet:
it was trained for 10 epochs to classify the observations of 2,400 other phantoms
(`files/phantom_trunk.safetensors`). Scores are those of the test split,
{studies} studies, with the graph that the model predicts from the image (if it has one), boxes of its localizer, beam 3
and protocol `r2gen`.

The score is the micro-F1 of the 14 observations (`truth_14_micro_f1` in `metrics.json`): labels that `data/labeler.py`
reads in a generated report, uncertain ones counted as positive, against the simulated truth. The labeler's phrases were
written independently of the phantom's grammar. On the reference reports themselves it reaches {labeler:.3f}, which is
the upper limit. The usual score, with labels read from the reference reports as well, has a separate column.

"No graph" is the model without the parts of the graph. It keeps the observation head, with the demo's weight of 3 or,
in a separate arm, with the weight of 20 of the arms with a graph. It is trained for the same number of steps and is
wider, to have about as many parameters{sizes}. Its learning rates are a quarter, half, one and two
times that of the other arms; comparisons are with the arm that has the highest BLEU-4 on the validation split. Noise
is the share of attributes that are dropped from the training split's graphs; half as many are invented, and boxes are
moved by a fifth of it. "Annotated graphs only" trains the decoder on annotated graphs, as the published system does;
all other arms mix in predicted ones.

F1 is the mean over seeds ± the standard deviation. Intervals are 95 % intervals from {resamples:,} resamples of studies
and seeds. The last column needs no decoder: it is the same score for the reports of the nearest training images, by the
patch features of that model.

"""

_CAUTION = """
Each sentence is one comparison. With this many comparisons, one in forty may be wrong in either direction by chance
alone, and three seeds say little about the variation between runs.
"""
