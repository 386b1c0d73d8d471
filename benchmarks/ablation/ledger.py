"""The ledgers of the studies: the results of finished runs, one per line, for example of docs/results.jsonl.

A study can be continued from its ledger on any machine. A line contains the arm, its settings, the seed, the scores of
metrics.json, and the counts per test study that the statistics of the report need.
"""

import hashlib
import json
from collections.abc import Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any, TypeVar

from benchmarks.ablation.arms import VERSION, Run
from data.errors import UserError, damaged
from data.text.report_labels import label_report
from modules.evaluation.results import write_atomically

# The score of the study, as named in metrics.json: labels read from reports against the simulated truth.
STUDY_SCORE = "truth_14_micro_f1"

Line = TypeVar("Line", bound="RecordedRun")


@dataclass(frozen=True, kw_only=True)
class RecordedRun:
    """What every line of a ledger has.

    settings     that differ from the demo's, of this arm and of all arms
    experiment   `Run.experiment`
    trunk        fingerprint of the initial weights of its trunk
    parameters   of its model
    version      `arms.VERSION` when it was made
    """

    arm: str
    settings: list[str]
    seed: int
    experiment: str
    trunk: str
    parameters: int
    version: int

    @property
    def key(self) -> tuple[str, str, int, int]:
        """Runs with equal keys are repetitions of one."""
        return self.arm, self.experiment, self.seed, self.version


@dataclass(frozen=True, kw_only=True)
class FinishedRun(RecordedRun):
    """A line of the ledger of the studies of the graph and of the family.

    scores              of metrics.json, by name; None for absent ones
    nearest             score of the study for the reports of the nearest training images, by the patch features of its
                        model
    counts              per test study: observations in both the generated report and the simulation, in the report
                        only, in the simulation only
    references          `counts` of the reference report: the limit of the labeler
    validation_bleu_4   the best BLEU-4 on the validation split, which chooses among arms; None if the run was too short
    """

    scores: dict[str, float | None]
    nearest: float | None
    counts: list[list[int]]
    references: list[list[int]]
    validation_bleu_4: float | None = None


def read_run(run: Run, trunk: Path) -> FinishedRun:
    """Read the results of a tested run, which started from the weights in the file `trunk`.

    Raises UserError if its predictions have no labels of the data set.
    """
    metrics = json.loads(run.metrics.read_text(encoding="utf-8"))
    return FinishedRun(
        **describe_run(run, trunk), scores={name: rounded(value) for name, value in metrics["scores"].items()},
        nearest=rounded(metrics["baselines"].get("nearest_image", {}).get(STUDY_SCORE)),
        counts=observation_counts(run.predictions, "generated"),
        references=observation_counts(run.predictions, "reference"), validation_bleu_4=_validation_bleu(run.folder),
    )


def describe_run(run: Run, trunk: Path) -> dict[str, Any]:
    """Return the fields of `RecordedRun` of a trained run, which started from the weights in the file `trunk`."""
    with (run.folder / "log.jsonl").open(encoding="utf-8") as file:
        start = json.loads(file.readline())
    return {
        "arm": run.arm.name, "settings": run.settings, "seed": run.seed, "experiment": run.experiment,
        "trunk": hashlib.sha256(trunk.read_bytes()).hexdigest()[:6], "parameters": start["parameters"],
        "version": VERSION,
    }


def rounded(value: float | None) -> float | None:
    """Return a score with six digits, which keeps the lines short."""
    return None if value is None else round(value, 6)


def _validation_bleu(folder: Path) -> float | None:
    """Return the best BLEU-4 on the validation split in the log of a run; None without one."""
    entries = map(json.loads, (folder / "log.jsonl").read_text(encoding="utf-8").splitlines())
    scores = [entry["scores"].get("bleu_4") for entry in entries if entry["kind"] == "validation"]
    return rounded(max((score for score in scores if score is not None), default=None))


def observation_counts(predictions: Path, text: str) -> list[list[int]]:
    """Return `FinishedRun.counts` for the "generated" or "reference" texts of a predictions.jsonl.

    Raises UserError if a study has no labels of the data set.
    """
    with predictions.open(encoding="utf-8") as file:
        return [count_observations(entry, text, predictions) for entry in map(json.loads, file)]


def count_observations(entry: dict, text: str, predictions: Path) -> list[int]:
    """Return the counts of one study, as in `FinishedRun`, from its line of the file `predictions`.

    Uncertain observations count as positive. Raises UserError if the study has no labels of the data set.
    """
    if not entry.get("labels"):
        raise UserError(f"{predictions}: study {entry['id']} has no labels: test the run again")
    positive = {name for name, value in label_report(entry[text]).items() if value != 0}
    simulated = {name for name, value in entry["labels"].items() if value == 1}
    return [len(positive & simulated), len(positive - simulated), len(simulated - positive)]


def read_ledger(path: Path, line: type[Line] = FinishedRun) -> list[Line]:
    """Read the runs of a ledger of `line`; none if the file is absent. Raises UserError if a line is damaged."""
    if not path.is_file():
        return []
    runs = []
    for number, text in enumerate(path.read_text(encoding="utf-8").splitlines(), start=1):
        try:
            runs.append(line(**json.loads(text)))
        except (TypeError, ValueError) as error:
            raise damaged(
                f"{path}, line {number}", "it is not a run of the study", "remove it to repeat the run"
            ) from error
    return runs


def write_ledger(path: Path, runs: Sequence[RecordedRun]) -> None:
    """Write all `runs`. Raises UserError if that fails."""
    write_atomically(path, (json.dumps(asdict(run), separators=(",", ":")) + "\n" for run in runs))


def record_run(path: Path, run: Line) -> list[Line]:
    """Add `run` to the ledger, in place of an earlier repetition of it, and return all runs.

    The ledger is read again: another study may have added runs meanwhile. Raises UserError if reading or writing fails.
    """
    runs = [other for other in read_ledger(path, type(run)) if other.key != run.key] + [run]
    write_ledger(path, runs)
    return runs
