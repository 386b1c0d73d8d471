"""Writes reports in the formats of other programs (`modules.score --format`)."""

from collections.abc import Sequence
from pathlib import Path

from data.errors import UserError
from data.text.report_tables import csv_lines
from modules.evaluation.formats.rexrank import PREDICTION, write_studies
from modules.evaluation.formats.sections import split_sections
from modules.evaluation.results import write_atomically

REXRANK, CXR_REPORT_METRIC = "rexrank", "cxr-report-metric"
FORMATS = (REXRANK, CXR_REPORT_METRIC)
# The names of CXR-Report-Metric's configuration.
REFERENCES_CSV, GENERATED_CSV = "gt_reports.csv", "predicted_reports.csv"


def write_reports(
    name: str, out: Path, ids: Sequence[str], references: Sequence[str], generated: Sequence[str]
) -> list[Path]:
    """Write reports in the format `name`, one of `FORMATS`, and return the files.

    out   ReXrank: the JSON file; CXR-Report-Metric: the folder of its two CSV files

    Raises UserError if a file cannot be written.
    """
    if name == REXRANK:
        studies = {}
        for study, reference, report in zip(ids, references, generated, strict=True):
            sections = split_sections(reference)
            studies[study] = {
                "report": reference, "section_findings": sections.findings or None,
                "section_impression": sections.impression or None, PREDICTION: report,
            }
        write_studies(out, studies)
        return [out]
    if out.is_file():
        raise UserError(f"{out} is a file: {CXR_REPORT_METRIC} takes a folder for its two files")
    paths = [out / REFERENCES_CSV, out / GENERATED_CSV]
    for path, texts in zip(paths, (references, generated), strict=True):
        rows = [("study_id", "report"), *zip(ids, texts, strict=True)]
        write_atomically(path, (f"{line}\n" for line in csv_lines(rows)))
    return paths


def default_output(name: str, predictions: Path) -> Path:
    """Return where the reports of the file `predictions` are written by default: beside it."""
    suffix = {REXRANK: ".json", CXR_REPORT_METRIC: ""}[name]
    return predictions.with_name(f"{predictions.stem}_{name.replace('-', '_')}{suffix}")
