"""A small table of reports, and `python -m modules.score` on it."""

import csv
import json

from modules.score import main

ROWS = [
    ("a", "Small left pleural effusion. The heart is enlarged.", "Left pleural effusion. Normal heart.", "s1"),
    ("b", "No pneumothorax. The lungs are clear.", "The lungs are clear. No pneumothorax.", "s1"),
    ("c", "Mild pulmonary edema.", "The lungs are clear. No pneumothorax.", "s2"),
    ("d", "Possible pneumonia in the right lung base.", "Right basilar pneumonia.", "s3"),
]


def write_table(path, rows=ROWS):
    with path.open("w", newline="") as file:
        csv.writer(file).writerows([("id", "reference", "generated", "study"), *rows])
    return path


def score(path, *arguments):
    """Run the command on the table at `path`; return the results that it writes."""
    out = path.with_name("scores.json")
    assert main([str(path), "--out", str(out), "--workers", "1", *map(str, arguments)]) == 0
    return json.loads(out.read_text())
