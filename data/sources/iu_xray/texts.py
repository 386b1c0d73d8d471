"""The texts of IU X-Ray's studies: the 2,955 studies of R2Gen, selected from all reports of a source."""

import csv
from dataclasses import dataclass, field
from pathlib import Path, PurePosixPath

from data.errors import UserError, readable
from data.ontology import FILES
from data.sources.iu_xray.files import EXPECTED, IUFiles
from data.sources.iu_xray.reports import IUReports, read_kaggle, read_open_i, study_number
from data.sources.r2gen import read_annotation

_FILES = FILES / "iu_xray"
# Reports in the complete distributions.
_REPORTS_OF_OPEN_I, _REPORTS_OF_KAGGLE = 3955, 3851


@dataclass(frozen=True)
class IUText:
    """The text of a study.

    impression, indication, comparison   None if the source does not contain them (R2Gen's annotation)
    images       Open-i's names of its images, in order; empty if the source does not list them
    copies       the names of its images in R2Gen's copy, "STUDY/NUMBER", in order
    """

    id: str
    split: str
    findings: str
    impression: str | None
    images: tuple[str, ...]
    copies: tuple[str, ...]
    indication: str | None = None
    comparison: str | None = None


@dataclass
class IUTexts:
    """The texts of all studies in a source.

    origin     kind of file they were read from
    found      further counts; `expected` has those of the complete distribution
    damaged    one line per report that was left out
    """

    origin: str
    studies: list[IUText]
    found: dict[str, int] = field(default_factory=dict)
    expected: dict[str, int] = field(default_factory=dict)
    damaged: list[str] = field(default_factory=list)


def read_texts(files: IUFiles) -> IUTexts:
    """Read the texts of the studies: from Open-i's XML if present, else Kaggle's table, else R2Gen's annotation.

    Raises UserError if none of them is present, if no study of IU X-Ray is in it, and if a file is unreadable or
    malformed.
    """
    if files.xml:
        texts = _select_studies("Open-i's XML", read_open_i(files.xml[0]), _REPORTS_OF_OPEN_I)
    elif files.kaggle_reports:
        texts = _select_studies("Kaggle's table", read_kaggle(files.kaggle_reports[0]), _REPORTS_OF_KAGGLE)
    elif files.annotations:
        texts = _read_annotated_studies(files.annotations[0])
    else:
        raise UserError(f"The sources have no reports of IU X-Ray: expected {EXPECTED}")
    if not texts.studies:
        raise UserError(f"{texts.origin} has no studies of IU X-Ray: give another --source")
    return texts


def read_splits() -> list[tuple[str, str]]:
    """Return R2Gen's id and split of every study, ordered by the number of its report."""
    with (_FILES / "splits.csv").open(encoding="utf-8", newline="") as file:
        return [(row["id"], row["split"]) for row in csv.DictReader(file)]


def _select_studies(origin: str, reports: IUReports, expected: int) -> IUTexts:
    """Select the studies among all reports, ordered by number."""
    studies = []
    for study_id, split in read_splits():
        report = reports.by_number.get(study_number(study_id))
        if report is not None and report.findings:
            copies = (f"{study_id}/0", f"{study_id}/1")
            studies.append(
                IUText(
                    study_id, split, report.findings, report.impression, report.images, copies, report.indication,
                    report.comparison,
                )
            )
    return IUTexts(
        origin,
        studies,
        found={"reports": len(reports.by_number)},
        expected={"reports": expected},
        damaged=reports.damaged,
    )


def _read_annotated_studies(path: Path) -> IUTexts:
    """Read the studies of an annotation file, in the file's splits; those without a report are listed as damaged."""
    studies, damaged = [], []
    for sample in read_annotation(path):
        if study_number(sample.id) is None:
            raise UserError(
                f"{path}: '{sample.id[:40]}' is not a study of IU X-Ray; give the annotation file of IU X-Ray"
            )
        if not sample.report.strip():
            damaged.append(f"{path.name}: {readable(sample.id)[:40]} has an empty report, left out")
            continue
        copies = tuple("/".join(PurePosixPath(image).with_suffix("").parts[-2:]) for image in sample.images)
        studies.append(IUText(sample.id, sample.split, " ".join(sample.report.split()), None, (), copies))
    return IUTexts("R2Gen's annotation", studies, damaged=damaged)
