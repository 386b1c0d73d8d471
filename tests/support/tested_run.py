"""A tiny run folder with the scores of a test in metrics.json."""

import json
from pathlib import Path

from tests.support.tiny_run import write_tiny_run

METRICS = {
    "split": "test", "graph_in": "decoder", "intervals": {},
    "graph_source": "predicted", "box_source": "localizer", "protocol": "r2gen", "beam_size": 2,
    "seed": 5, "studies": 3, "checkpoint": "results/run/best", "dataset": "tiny",
    "scores": {"bleu_4": 0.25, "meteor": None}, "absent": {"meteor": "no Java"},
    "baselines": {"blind": {"bleu_4": 0.125}}, "absent_baselines": {"blind": {}},
}


def write_tested_run(folder: Path) -> tuple[Path, Path]:
    """Write a run folder and its data set into `folder`; returns the paths of both."""
    run_folder, root = write_tiny_run(folder, lively=True)
    (run_folder / "metrics.json").write_text(json.dumps(METRICS))
    return run_folder, root
