"""The report of the ablation study: finished runs become a Markdown page, numbers and sentences alike.

The score of the study is the micro-F1 of observations: what `data/labeler.py` reads in a generated report (uncertain as
positive) against what was simulated. Shapes: S seeds of an arm, N studies of the test split, B resamples.
"""

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from benchmarks.ablation.arms import ARMS, FULL, NO_GRAPH
from benchmarks.ablation.ledger import FinishedRun
from data.errors import UserError
from modules.evaluation.results import score_text, write_atomically

RESAMPLES = 2000
# What the table tells beside the score of the study: column -> name in metrics.json.
COLUMNS = {
    "F1 against the references' labels": "report_14_micro_f1", "BLEU-4": "bleu_4",
    "distinct reports": "distinct_reports", "observation head F1": "observation_micro_f1",
    "region F1": "region_micro_f1", "attribute F1": "attribute_micro_f1", "box IoU": "box_iou",
}
NEAREST = "F1 of the nearest training reports"
# What the full model is meant to add to the model without graph.
TARGET = 0.05


@dataclass
class ArmResult:
    """What the finished runs of an arm give.

    seeds         [S]
    counts        [S, N, 3]: both positive, generated alone, simulated alone, of every study
    parameters    of its model
    scores        name of a column -> the value of each seed, None where it is absent
    """

    seeds: list[int]
    counts: NDArray
    parameters: int
    scores: dict[str, list[float | None]]

    @property
    def f1(self) -> NDArray:
        """[S]: the micro-F1 of every seed."""
        return micro_f1(self.counts.sum(1))

    def resampled(self, weights: NDArray, generator: np.random.Generator) -> NDArray:
        """[B]: the mean over resampled seeds of the F1 with the study weights [B, N]."""
        by_seed = micro_f1(np.einsum("bn,snc->sbc", weights, self.counts))  # [S, B]
        seeds = generator.integers(len(self.seeds), size=(len(self.seeds), len(weights)))
        return np.take_along_axis(by_seed, seeds, 0).mean(0)


def micro_f1(counts: NDArray) -> NDArray:
    """F1 [...] of counts [..., 3]; 0 where nothing is positive on either side."""
    both, generated, simulated = np.moveaxis(counts, -1, 0).astype(np.float64)
    return 2 * both / np.maximum(2 * both + generated + simulated, 1e-12)


def results_by_arm(runs: Sequence[FinishedRun]) -> dict[str, ArmResult]:
    """The results by arm, in the order of `ARMS`. Raises UserError where runs were tested on different studies."""
    results: dict[str, ArmResult] = {}
    for name in dict.fromkeys([arm.name for arm in ARMS] + [run.arm for run in runs]):
        of_arm = sorted((run for run in runs if run.arm == name), key=lambda run: run.seed)
        if any(run.references != runs[0].references for run in of_arm):
            raise UserError(f"Runs of the arm '{name}' were tested on other studies: delete what is outdated")
        if of_arm:
            scores = {column: [run.scores.get(score) for run in of_arm] for column, score in COLUMNS.items()}
            scores[NEAREST] = [run.nearest for run in of_arm]
            counts = np.array([run.counts for run in of_arm])
            results[name] = ArmResult([run.seed for run in of_arm], counts, of_arm[0].parameters, scores)
    return results


def difference(first: ArmResult, second: ArmResult, seed: int = 0) -> tuple[float, float, float]:
    """Mean F1 of `first` minus that of `second`, with its 95 % interval over resampled studies and seeds.

    Both arms were tested on the same studies, so each resample of those counts for both.
    """
    generator = np.random.default_rng(seed)
    studies = first.counts.shape[1]
    weights = generator.multinomial(studies, np.full(studies, 1 / studies), size=RESAMPLES)
    differences = first.resampled(weights, generator) - second.resampled(weights, generator)
    low, high = np.percentile(differences, (2.5, 97.5))
    return float(first.f1.mean() - second.f1.mean()), float(low), float(high)


def write_report(path: Path, runs: Sequence[FinishedRun], overrides: Sequence[str] = ()) -> None:
    """Write the page of the finished `runs`; of the arms without graph the best one is compared with.

    `overrides`: settings of all runs that differ from the study's own. Raises UserError where no run is finished, or
    not all were tested on the same studies.
    """
    if not runs:
        raise UserError("No run of the study is finished yet: there is nothing to report")
    results = results_by_arm(runs)
    baselines = {name: result for name, result in results.items() if name.startswith(NO_GRAPH)}
    baseline = max(baselines, key=lambda name: baselines[name].f1.mean(), default=None)
    references = np.array(runs[0].references)
    trunks = len({run.trunk for run in runs})
    write_atomically(path, [
        _INTRODUCTION.format(
            studies=len(references), labeler=float(micro_f1(references.sum(0))), runs=len(runs),
            resamples=RESAMPLES, planned=3 * len(ARMS),
            trunks="the same trunk" if trunks == 1 else f"one of {trunks} trunks, trained alike on as many machines",
            sizes=_sizes(results, baseline),
            overrides=f" These runs differ by {', '.join(overrides)}." if overrides else "",
        ),
        _table(results, baseline),
        "\n## What follows\n\n",
        *_target(results, baseline),
        *_findings(results, baseline),
        _CAUTION,
        "\n## Every run\n\n| arm | seed | F1 of generated reports |\n|---|---|---|\n",
        *(
            f"| {name} | {seed} | {value:.3f} |\n"
            for name, result in results.items() for seed, value in zip(result.seeds, result.f1, strict=True)
        ),
    ])


def _sizes(results: dict[str, ArmResult], baseline: str | None) -> str:
    if baseline is None or FULL.name not in results:
        return ""
    small, large = (results[name].parameters / 1e6 for name in (baseline, FULL.name))
    return f" ({small:.1f} million beside {large:.1f})"


def _table(results: dict[str, ArmResult], baseline: str | None) -> str:
    columns = [*COLUMNS, NEAREST]
    head = ["arm", "seeds", "F1 of generated reports", f"minus {baseline or NO_GRAPH}", f"minus {FULL.name}", *columns]
    rows = ["| " + " | ".join(head) + " |", "|---" * len(head) + "|"]
    for name, result in results.items():
        spread = f" ± {result.f1.std(ddof=1):.3f}" if len(result.seeds) > 1 else ""
        cells = [name, str(len(result.seeds)), f"{result.f1.mean():.3f}{spread}"]
        cells += [_against(results, name, other) for other in (baseline, FULL.name)]
        cells += [_mean(result.scores[column]) for column in columns]
        rows.append("| " + " | ".join(cells) + " |")
    return "\n".join(rows) + "\n"


def _target(results: dict[str, ArmResult], baseline: str | None) -> list[str]:
    """Whether the full model adds what it is meant to."""
    if baseline is None or FULL.name not in results:
        return []
    value, low, _ = difference(results[FULL.name], results[baseline])
    verdict = "It is met." if value >= TARGET and low > 0 else (
        f"It is missed by {TARGET - value:.3f}: [tried.md](tried.md) tells why." if value < TARGET
        else "The interval does not exclude 0: it is missed."
    )
    return [
        f"* Target: the full model, with the graph that it predicts, is at least {TARGET} better than the model "
        f"without graph, and the interval excludes 0. The difference is {value:+.3f}. {verdict}\n"
    ]


def _against(results: dict[str, ArmResult], name: str, other: str | None) -> str:
    if other is None or other not in results or other == name:
        return "–"
    value, low, high = difference(results[name], results[other])
    return f"{value:+.3f} ({low:+.3f} to {high:+.3f})"


def _mean(values: list[float | None]) -> str:
    return "–" if None in values else score_text(float(np.mean(values)))


def _findings(results: dict[str, ArmResult], baseline: str | None) -> list[str]:
    """A sentence for every comparison that can be made already."""
    full = FULL.name
    pairs = [(full, baseline, "The scene graph")]
    pairs += [
        (full, "without proxy tasks", "Having the proxy tasks"), (full, "without contrast", "The contrast"),
        (full, "without grounding", "Grounding words in regions"),
        (full, "node attention", "Attending to sub-graphs instead of nodes"),
        (full, "hierarchical attention", "Attending to sub-graphs instead of in two steps"),
        (full, f"{full}, annotated graphs only", "Mixing predicted graphs into training"),
        (f"{full}, annotated graphs only", baseline, "The scene graph without mixing"),
    ]
    for noise in ("20 % noise", "40 % noise"):
        pairs += [
            (f"{full}, {noise}", full, f"Having {noise} in the annotated graphs"),
            (f"{full}, {noise}", baseline, f"The scene graph under {noise}"),
            (f"{full}, annotated graphs only, {noise}", baseline, f"The scene graph under {noise}, without mixing,"),
            (f"{full}, {noise}", f"{full}, annotated graphs only, {noise}", f"Mixing predicted ones in under {noise}"),
        ]
    sentences = []
    for first, second, what in pairs:
        if first in results and second in results:
            value, low, high = difference(results[first], results[second])
            verdict = "raises" if low > 0 else "lowers" if high < 0 else "does not measurably change"
            sentences.append(
                f"* {what} {verdict} the F1 of generated reports: {value:+.3f}, interval {low:+.3f} to {high:+.3f} "
                f"({len(results[first].seeds)} and {len(results[second].seeds)} seeds).\n"
            )
    return sentences or ["Too few arms are finished to compare any.\n"]


_INTRODUCTION = """# Does the scene graph help?

`bash run_ablation.sh` makes this page from its run folders, whose numbers `results.jsonl` beside it keeps.
Finished runs: {runs} of {planned}; the command makes those that are missing. What was tried before, and what bounds the
score: [tried.md](tried.md).

Every run is the demo's experiment (`configs/demo.yaml`) with 4 epochs: 2,400 phantom studies to train on, 600 steps of
16, in bf16; `benchmarks/ablation/arms.py` holds all settings.{overrides}
All begin with {trunks}, as the paper's begin with one trained on ImageNet:
it has learned to tell the observations of 2,400 other phantoms for 10 epochs. Scored is the test split, {studies}
studies, with the graph that the model predicts from the image (none where it has none), boxes of its localizer, beam 3,
protocol `r2gen`.

The score is the micro-F1 of the 14 observations (`truth_14_micro_f1` in `metrics.json`): what `data/labeler.py` reads
in a generated report, uncertain as positive, against what was simulated. The labeler's phrases are written apart from
the phantom's grammar; on the reference reports themselves it reaches {labeler:.3f}, so that is the ceiling. Beside it
stands the usual score, for which the labeler reads the reference as well.

"No graph" is the model without the graph's parts. It keeps the observation head, with the demo's weight of 3 or, in an
arm of its own, with the weight of 20 that it has beside the losses of a graph. It gets as many steps and is so wide
that it has as many parameters{sizes}. Of these arms, with four learning rates (a quarter, half,
all and twice theirs), the one counts that is best on the test split itself. Noise is the share of attributes of the
training split's graphs that are dropped, with half as many invented, and boxes moved by a fifth of it. "Annotated
graphs only" trains the decoder on annotated graphs, as the published system does; all others mix predicted ones in.

F1 is the mean over seeds ± their standard deviation. Intervals are of 95 %, from {resamples:,} resamples of studies and
seeds. The last column needs no decoder: the same score for the reports of the training images that are nearest by that
model's own patch features.

"""

_CAUTION = """
Every sentence stands for one comparison: of so many, one in forty may be wrong in either direction by chance alone, and
three seeds tell little of how runs differ.
"""
