"""The ledger of the study of the context: docs/context_results.jsonl, one finished run per line.

Counts are sums over the test studies of each patient, which depend on each other.
"""

import json
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import yaml

from benchmarks.ablation.arms import Arm, Run
from benchmarks.ablation.ledger import RecordedRun, count_observations, describe_run, rounded
from data.ontology import CHANGES, UNCHANGED, Anatomy
from data.records import read_records
from data.text.sentence_regions import word_comparisons
from modules.evaluation.metrics.changes import read_changes
from modules.settings.context import ContextUse

# Scores of metrics.json that the report shows as they are.
SCORES = ("change_macro_f1", "observation_micro_f1", "bleu_4")


@dataclass(frozen=True)
class ContextArm(Arm):
    """An arm: what its model reads is among its `settings`. Its reports are tested with each of `shown`."""

    shown: tuple[str, ...] = ("all",)


@dataclass(frozen=True, kw_only=True)
class ContextRun(RecordedRun):
    """A line of the ledger of this study.

    without_images   micro F1 of the observations that the indication alone, and the previous report alone, predict
    tests            what was shown of the context -> `scores`, and counts of each test patient: `observations` as in
                     `ledger.FinishedRun`; `comparisons`, changes that reports state of regions with a known change:
                     right ones, those that "no change" would be right of, and all; `unseen`, reports of studies whose
                     prior the model did not see: those that compare with an earlier study, and all; `priors`: the same
                     of studies whose prior it saw
    """

    without_images: dict[str, float | None]
    tests: dict[str, dict[str, Any]]


def read_context_run(run: Run, phantom: Path, trunk: Path) -> ContextRun:
    """Read the results of a tested run on the data set `phantom`, which started from the file `trunk`."""
    description = yaml.safe_load((phantom / "dataset.yaml").read_text(encoding="utf-8"))
    records = {record["id"]: record for record in read_records(phantom, "test")}
    tests = {}
    for position, shown in enumerate(run.arm.shown):
        folder = run.folder / (f"context_{shown}" if position else "")
        metrics = json.loads((folder / run.metrics.name).read_text(encoding="utf-8"))
        reads_prior = ContextUse(shown).includes_prior and "prior" in metrics.get("context", {}).get("reads", ())
        counts = count_by_patient(folder / run.predictions.name, records, reads_prior)
        tests[shown] = {"scores": {name: rounded(metrics["scores"].get(name)) for name in SCORES}, **counts}
    return ContextRun(**describe_run(run, trunk), without_images=description["f1_without_images"], tests=tests)


def count_by_patient(predictions: Path, records: dict[str, dict], reads_prior: bool) -> dict[str, list[list[int]]]:
    """Return the counts of `ContextRun.tests`, a row for each patient, in the order of their first studies.

    predictions   a predictions.jsonl; records: its studies, by id; reads_prior: whether the model saw the priors
    """
    counts: dict[str, dict[str, np.ndarray]] = {}
    with predictions.open(encoding="utf-8") as file:
        for entry in map(json.loads, file):
            record = records[entry["id"]]
            stated, known = read_changes(entry["generated"]), _known_changes(record)
            compared = (stated >= 0) & (known >= 0)
            sees_prior = reads_prior and record["prior"] is not None
            report = np.array([word_comparisons(entry["generated"]).any(), 1])
            rows = {
                "observations": np.array(count_observations(entry, "generated", predictions)),
                "comparisons": np.array([
                    (compared & (stated == known)).sum(), (compared & (known == CHANGES.index(UNCHANGED))).sum(),
                    compared.sum(),
                ]),
                "unseen": report * (not sees_prior), "priors": report * sees_prior,
            }
            patient = counts.setdefault(record["patient"], {})
            for name, row in rows.items():
                patient[name] = patient.get(name, 0) + row
    names = ("observations", "comparisons", "unseen", "priors")
    return {name: [patient[name].tolist() for patient in counts.values()] for name in names}


def _known_changes(record: dict) -> np.ndarray:
    """Return the annotated change of each region, [R]; -1 where it is unknown."""
    regions = (record["graph"] or {"regions": {}})["regions"]
    changes = (regions.get(name, {}).get("change") for name in Anatomy.load().names)
    return np.array([CHANGES.index(change) if change in CHANGES else -1 for change in changes])
