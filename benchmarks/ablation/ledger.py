"""The ledger of the ablation study: the results of finished runs, one per line of docs/results.jsonl.

The study can be continued from it on any machine. A line contains the arm, its settings, the seed, the scores of
metrics.json, and the counts per test study that the statistics of the report need.
"""

import hashlib
import json
from collections.abc import Sequence
from dataclasses import asdict, dataclass
from pathlib import Path

from benchmarks.ablation.arms import VERSION, Run
from data.errors import UserError, damaged
from data.text.report_labels import label_report
from modules.evaluation.results import write_atomically

# The score of the study, as named in metrics.json: labels read from reports against the simulated truth.
STUDY_SCORE = "truth_14_micro_f1"


@dataclass(frozen=True)
class FinishedRun:
    """A line of the ledger.

    settings     that differ from the demo's, of this arm and of all arms
    experiment   `Run.experiment`
    trunk        fingerprint of the initial weights of its trunk
    parameters   of its model
    scores       of metrics.json, by name; None for absent ones
    nearest      score of the study for the reports of the nearest training images, by the patch features of its model
    counts       per test study: observations in both the generated report and the simulation, in the report only, in
                 the simulation only
    references   `counts` of the reference report: the limit of the labeler
    version      `arms.VERSION` when it was made; the lines of version 1 do not state it
    """

    arm: str
    settings: list[str]
    seed: int
    experiment: str
    trunk: str
    parameters: int
    scores: dict[str, float | None]
    nearest: float | None
    counts: list[list[int]]
    references: list[list[int]]
    version: int = 1


def read_run(run: Run, trunk: Path) -> FinishedRun:
    """Read the results of a tested run, which started from the weights in the file `trunk`.

    Raises UserError if its predictions have no labels of the data set.
    """
    metrics = json.loads(run.metrics.read_text(encoding="utf-8"))
    with (run.folder / "log.jsonl").open(encoding="utf-8") as file:
        start = json.loads(file.readline())
    return FinishedRun(
        run.arm.name, run.settings, run.seed, run.experiment,
        hashlib.sha256(trunk.read_bytes()).hexdigest()[:6], start["parameters"], metrics["scores"],
        metrics["baselines"].get("nearest_image", {}).get(STUDY_SCORE),
        observation_counts(run.predictions, "generated"), observation_counts(run.predictions, "reference"), VERSION,
    )


def observation_counts(predictions: Path, text: str) -> list[list[int]]:
    """Return `FinishedRun.counts` for the "generated" or "reference" texts of a predictions.jsonl.

    Uncertain observations count as positive. Raises UserError if a study has no labels of the data set.
    """
    counts = []
    with predictions.open(encoding="utf-8") as file:
        for entry in map(json.loads, file):
            if not entry.get("labels"):
                raise UserError(f"{predictions}: study {entry['id']} has no labels: test the run again")
            positive = {name for name, value in label_report(entry[text]).items() if value != 0}
            simulated = {name for name, value in entry["labels"].items() if value == 1}
            counts.append([len(positive & simulated), len(positive - simulated), len(simulated - positive)])
    return counts


def read_ledger(path: Path) -> list[FinishedRun]:
    """Read the runs of the ledger; none if the file is absent. Raises UserError if a line is damaged."""
    if not path.is_file():
        return []
    runs = []
    for number, line in enumerate(path.read_text(encoding="utf-8").splitlines(), start=1):
        try:
            runs.append(FinishedRun(**json.loads(line)))
        except (TypeError, ValueError) as error:
            raise damaged(
                f"{path}, line {number}", "it is not a run of the study", "remove it to repeat the run"
            ) from error
    return runs


def write_ledger(path: Path, runs: Sequence[FinishedRun]) -> None:
    """Write all `runs`. Raises UserError if that fails."""
    write_atomically(path, (json.dumps(asdict(run)) + "\n" for run in runs))
