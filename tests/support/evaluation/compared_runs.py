"""Run folders with predictions of a chosen quality, and `python -m modules.compare` on them."""

import csv
import json

import numpy as np
from pycocoevalcap.bleu.bleu import Bleu

from modules.compare import main

FINDINGS = ("the heart is enlarged .", "there is pulmonary edema .", "there is a left pleural effusion .",
            "the lungs are clear .", "no pneumothorax .")


def write_run(folder, accuracy, seed=0, studies=24, **changes):
    """Write a run folder with three sentences per report, each equal to the reference with probability `accuracy`.

    changes   more: text appended to the scored references; evaluation: other values in metrics.json
    """
    references = np.random.default_rng(99)
    generator = np.random.default_rng(seed)
    folder.mkdir(parents=True)
    with (folder / "predictions.jsonl").open("w") as file:
        for number in range(studies):
            sentences = list(references.choice(FINDINGS, size=3, replace=False))
            generated = [
                text if generator.random() < accuracy else FINDINGS[generator.integers(5)] for text in sentences
            ]
            reference = " ".join(sentences)
            file.write(json.dumps({
                "id": f"s{number}", "reference": reference, "scored_reference": reference + changes.get("more", ""),
                "generated": " ".join(generated), "labels": {"Edema": int("edema" in reference)},
            }) + "\n")
    evaluation = {"dataset": "tiny", "split": "test", "protocol": "r2gen", "seed": seed, "graph_source": "predicted"}
    evaluation |= changes.get("evaluation", {})
    (folder / "metrics.json").write_text(json.dumps(evaluation))
    return folder


def read_rows(folder):
    return [json.loads(line) for line in (folder / "predictions.jsonl").read_text().splitlines()]


def change_rows(folder, **changes):
    """Set values in all predictions of `folder`; None removes the key. Return `folder`."""
    rows = [row | changes for row in read_rows(folder)]
    remaining = [{key: value for key, value in row.items() if value is not None} for row in rows]
    (folder / "predictions.jsonl").write_text("".join(json.dumps(row) + "\n" for row in remaining))
    return folder


def compare(folder, *arguments, resamples=200):
    """Run the command; return the rows of its CSV table: (score, system) -> column -> text."""
    table = folder / "table.csv"
    assert main([*map(str, arguments), "--csv", str(table), "--resamples", str(resamples), "--workers", "1"]) == 0
    with table.open() as file:
        return {(row["score"], row["system"]): row for row in csv.DictReader(file)}


def corpus_bleu(folder):
    """BLEU-4 of a run by pycocoevalcap."""
    rows = read_rows(folder)
    return Bleu(4).compute_score(
        {row["id"]: [row["scored_reference"]] for row in rows}, {row["id"]: [row["generated"]] for row in rows},
        verbose=0,
    )[0][3]
