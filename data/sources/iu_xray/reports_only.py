"""`python -m data.prepare iu_xray --reports-only`: the texts of IU X-Ray without images."""

import csv
import shutil
from collections import Counter
from collections.abc import Iterable
from pathlib import Path

import yaml

from data.errors import UserError, cannot_write
from data.records import SPLITS
from data.sources.iu_xray.texts import IUText, IUTexts
from data.sources.preparation import check_outside_sources
from data.sources.source import Source


def write_reports(source: Source, texts: IUTexts, out: Path) -> None:
    """Write only the texts of a source: `reports.csv` (id, split, report, findings, impression) and `dataset.yaml`.

    `report` is the text that models learn to write. If `out` already holds these reports, nothing is changed. Raises
    UserError if `out` is inside a source, holds something else, or cannot be written.
    """
    check_outside_sources(source.paths, out)
    description = _describe(source, texts)
    try:
        if out.exists() and (not out.is_dir() or any(out.iterdir())):
            _check_same(out, description)
            print(f"{out} holds these reports already")
            return
        out.parent.mkdir(parents=True, exist_ok=True)
        building = out.with_name(f".{out.name}.partial")
        shutil.rmtree(building, ignore_errors=True)  # what a killed run left
        try:
            building.mkdir()
            _write_table(building / "reports.csv", texts.studies)
            (building / "dataset.yaml").write_text(yaml.safe_dump(description, sort_keys=False), encoding="utf-8")
            building.replace(out)
        finally:
            shutil.rmtree(building, ignore_errors=True)
    except OSError as error:
        raise cannot_write(out, error) from error
    _print_summary(out, description)


def _describe(source: Source, texts: IUTexts) -> dict:
    """Return the content of dataset.yaml."""
    counts = Counter(study.split for study in texts.studies)
    described = source.describe()
    description = {"name": source.name, "reports_only": True, "counts": {split: counts[split] for split in SPLITS}}
    description |= {name: described[name] for name in ("distributions", "reports", "damaged_reports", "sources")}
    return description | {"expected": described["expected"], "found": description["counts"] | described["found"]}


def _check_same(out: Path, description: dict) -> None:
    try:
        same = yaml.safe_load((out / "dataset.yaml").read_text(encoding="utf-8")) == description
    except (OSError, yaml.YAMLError, ValueError, RecursionError):
        same = False
    if not same:
        raise UserError(f"{out} holds something else: delete it, or choose another --out")


def _write_table(path: Path, studies: Iterable[IUText]) -> None:
    with path.open("w", encoding="utf-8", newline="") as file:
        rows = csv.writer(file, lineterminator="\n")
        rows.writerow(("id", "split", "report", "findings", "impression"))
        for study in studies:
            rows.writerow((study.id, study.split, study.findings, study.findings, study.impression or ""))


def _print_summary(out: Path, description: dict) -> None:
    for line in description["distributions"]:
        print(f"{description['name']}: {line}")
    by_split = ", ".join(f"{count} {split}" for split, count in description["counts"].items())
    print(f"{out}: {sum(description['counts'].values())} reports ({by_split})")
    for name, expected in description["expected"].items():
        if description["found"][name] != expected:
            print(f"  differs: {name}: {description['found'][name]} instead of {expected}")
