"""Context for the invented studies of a tiny data set: patients, priors, indications and changes."""

import json
from pathlib import Path

import numpy as np

from data.ontology import CHANGES
from tests.support.tiny_dataset import write_tiny_dataset
from tests.support.tiny_run import save_tiny_run

INDICATIONS = ("Chronic cough.", "Rule out effusion.", None)


def add_context(root: Path, seed: int = 0) -> Path:
    """Give every second study of each split the one before as its prior, and most studies an indication; return `root`.

    A third of the mentioned regions of studies with a prior have a known change.
    """
    generator = np.random.default_rng(seed)
    records = [json.loads(line) for line in (root / "records.jsonl").read_text(encoding="utf-8").splitlines()]
    numbers: dict[str, int] = {}
    for position, record in enumerate(records):
        number = numbers[record["split"]] = numbers.get(record["split"], -1) + 1
        record |= {
            "patient": f"{record['split']}-patient{number // 2}", "taken": f"2100-01-0{1 + number % 2}T00:00:00",
            "indication": INDICATIONS[number % 3], "impression": "No acute change.", "comparison": None,
            "prior": records[position - 1]["id"] if number % 2 else None,
        }
        for region in record["graph"]["regions"].values() if number % 2 and record["graph"] else ():
            if region["mentioned"] and generator.random() < 0.34:
                region["change"] = str(generator.choice(CHANGES))
    lines = "".join(json.dumps(record) + "\n" for record in records)
    (root / "records.jsonl").write_text(lines, encoding="utf-8")
    return root


def save_context_run(folder: Path) -> tuple[Path, Path]:
    """Save a lively model that reads all context; return its run folder and its data set, both in `folder`."""
    root = add_context(write_tiny_dataset(folder / "tiny", image_size=32))
    save_tiny_run(
        folder / "run", root, "model.context=[indication,prior]", "model.prior_report=true", lively=True
    )
    return folder / "run", root
