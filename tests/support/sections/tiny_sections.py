"""Impressions for the invented studies of a tiny data set."""

import json
from pathlib import Path

IMPRESSIONS = ("No acute disease.", "Small effusion.", None)


def add_impressions(root: Path, without_findings: int = 3) -> Path:
    """Give two of three studies of each split an impression, and take the report of every `without_findings`th one of
    those; return `root`.
    """
    records = [json.loads(line) for line in (root / "records.jsonl").read_text(encoding="utf-8").splitlines()]
    numbers: dict[str, int] = {}
    for record in records:
        number = numbers[record["split"]] = numbers.get(record["split"], -1) + 1
        record["impression"] = IMPRESSIONS[number % 3]
        if record["impression"] is not None and number % without_findings == without_findings - 2:
            record["report"] = None
    (root / "records.jsonl").write_text("".join(json.dumps(record) + "\n" for record in records), encoding="utf-8")
    return root
