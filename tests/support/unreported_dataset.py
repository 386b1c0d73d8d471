"""A prepared data set of images without reports: observations, some unknown, and outlines of a few regions."""

import json
from pathlib import Path

from tests.support.tiny_dataset import write_tiny_dataset

OUTLINED = ("left lung", "right lung", "cardiac silhouette")


def write_unreported_dataset(root: str | Path, **settings) -> Path:
    """Write a data set as `write_tiny_dataset` does, and take away the reports, most of the graph and some labels."""
    root = write_tiny_dataset(root, **settings)
    records = [json.loads(line) for line in (root / "records.jsonl").read_text(encoding="utf-8").splitlines()]
    for record in records:
        record["id"] = f"film-{record['id']}"
        record["report"] = None
        record["observations"] = {"Edema": 1, "Lung Lesion": 0, "Fracture": None, "Pneumonia": -1}
        if record["graph"] is not None:
            regions = record["graph"]["regions"]
            boxes = {name: {"box": regions[name]["box"]} for name in OUTLINED if name in regions}
            record["graph"] = {"box_source": "annotated", "complete": False, "regions": boxes}
    text = "".join(json.dumps(record) + "\n" for record in records)
    (root / "records.jsonl").write_text(text, encoding="utf-8")
    return root
