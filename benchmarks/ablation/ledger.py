"""What the finished runs of the ablation study gave, one a line: the study goes on from it, on whatever machine.

A line holds the arm, its settings, the seed, scores of metrics.json, and what the report's statistics need of every
study of the test split.
"""

import hashlib
import json
from collections.abc import Sequence
from dataclasses import asdict, dataclass
from pathlib import Path

from benchmarks.ablation.arms import Run
from data.errors import UserError
from data.text.report_labels import label_report
from modules.evaluation.results import write_atomically

# The score of the study, by its name in metrics.json: what the labeler reads in reports against what was simulated.
STUDY_SCORE = "truth_14_micro_f1"


@dataclass(frozen=True)
class FinishedRun:
    """A line of the ledger.

    settings   what differs from the demo's, for this arm and for all
    experiment `Run.experiment`
    trunk      a fingerprint of the weights that its trunk began with
    parameters of its model
    scores     of metrics.json, by name; None where one is absent
    nearest    the F1 of the study for the reports of the nearest training images, by its own patch features
    counts     for every study: observations both in the generated report and simulated, in the report alone, simulated
               alone
    references the same of the reference report: what the labeler can reach
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


def read_run(run: Run, trunk: Path) -> FinishedRun:
    """What the folder of a tested run gives that began with the weights in the file `trunk`.

    Raises UserError where its predictions lack the data set's labels.
    """
    metrics = json.loads(run.metrics.read_text(encoding="utf-8"))
    with (run.folder / "log.jsonl").open(encoding="utf-8") as file:
        start = json.loads(file.readline())
    return FinishedRun(
        run.arm.name, run.settings, run.seed, run.experiment,
        hashlib.sha256(trunk.read_bytes()).hexdigest()[:6], start["parameters"], metrics["scores"],
        metrics["baselines"].get("nearest_image", {}).get(STUDY_SCORE),
        observation_counts(run.predictions, "generated"), observation_counts(run.predictions, "reference"),
    )


def observation_counts(predictions: Path, text: str) -> list[list[int]]:
    """`FinishedRun.counts` of the `generated` or the `reference` texts of a predictions.jsonl, uncertain as positive.

    Raises UserError for a file without the data set's own labels.
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
    """The runs of the ledger; none where there is no file. Raises UserError for a line that is none."""
    if not path.is_file():
        return []
    runs = []
    for number, line in enumerate(path.read_text(encoding="utf-8").splitlines(), start=1):
        try:
            runs.append(FinishedRun(**json.loads(line)))
        except (TypeError, ValueError) as error:
            raise UserError(f"{path}, line {number} is no run of the study: remove it, and it is run again") from error
    return runs


def write_ledger(path: Path, runs: Sequence[FinishedRun]) -> None:
    """Write all `runs`. Raises UserError where the disk does not take it."""
    write_atomically(path, (json.dumps(asdict(run)) + "\n" for run in runs))
