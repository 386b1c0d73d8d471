"""Reads the reports of IU X-Ray: Open-i's XML files, packed or not, and the two tables of its copy on Kaggle."""

import re
import tarfile
import zlib
from collections.abc import Iterator
from dataclasses import dataclass, field
from pathlib import Path, PurePosixPath
from xml.etree import ElementTree

from data.errors import UserError, cannot_read, wrong_format
from data.sources.distributions import read_table
from data.sources.missing_texts import text_or_empty
from data.storage.bounded_tar import open_tar

# In bytes. The longest of the 3,955 reports has 9 kB.
_LARGEST_REPORT = 1 << 20
_FIX = "download the file again"
# Of damaged reports, whose messages become part of dataset.yaml: another wording would make it differ from older ones.
_REPORT_FIX = "fetch it again"
_IMAGE_NAME = re.compile(r"(?:CXR)?(\d{1,9})(?:_1)?_(IM-\d+(?:-\d+)*)", re.ASCII)
_PROJECTIONS = {"frontal": "FRONTAL", "lateral": "LATERAL"}


@dataclass(frozen=True)
class IUReport:
    """One report; sections have single spaces and are empty if absent.

    number   the number of its file, Kaggle's uid
    images   Open-i's names of its images without suffix, in order; empty if the source does not list them
    """

    number: int
    findings: str
    impression: str
    images: tuple[str, ...] = ()
    indication: str = ""
    comparison: str = ""


@dataclass
class IUReports:
    """All reports of a source by number, and one line (without report text) per file that cannot be used."""

    by_number: dict[int, IUReport] = field(default_factory=dict)
    damaged: list[str] = field(default_factory=list)

    def add(self, report: IUReport, where: str) -> None:
        """Add a report; a repeated number counts as damage."""
        if report.number in self.by_number:
            self.damaged.append(f"{where}: report {report.number} is there twice; the first is used")
        else:
            self.by_number[report.number] = report


def image_name(file_name: str) -> str | None:
    """Return Open-i's name of an image from its file name in any distribution; None for other file names.

    `2_IM-0652-1001.dcm.png` (Kaggle), `2_IM-0652-1001.dcm` and `CXR2_IM-0652-1001.png` give `CXR2_IM-0652-1001`.
    Only the images of report 1 are called `CXR1_1_IM-...`.
    """
    match = _IMAGE_NAME.fullmatch(file_name.split(".", 1)[0])
    if match is None:
        return None
    number = int(match[1])
    return f"CXR{number}_{'1_' if number == 1 else ''}{match[2]}"


def study_number(study_id: str) -> int | None:
    """Return the report's number from an R2Gen study id; None for other ids."""
    match = _IMAGE_NAME.fullmatch(study_id)
    return int(match[1]) if match and study_id.startswith("CXR") else None


def read_open_i(source: Path) -> IUReports:
    """Read a folder of XML files or an archive with them (`NLMCXR_reports.tgz`).

    Damaged reports are skipped and listed. Raises UserError if the archive itself is damaged or unreadable.
    """
    reports = IUReports()
    for name, content in _read_folder(source) if source.is_dir() else _read_archive(source):
        try:
            reports.add(parse_open_i(content, name), name)
        except UserError as error:
            reports.damaged.append(str(error))
    return reports


def parse_open_i(content: bytes, name: str) -> IUReport:
    """Parse one XML file; `name` is for messages. Raises UserError, naming the file and what is missing."""
    if len(content) > _LARGEST_REPORT:
        raise UserError(f"{name} is too long for a report: {_REPORT_FIX}")
    try:
        root = ElementTree.fromstring(content)
    except (ElementTree.ParseError, LookupError, ValueError) as error:
        raise UserError(f"{name} is damaged XML: {_REPORT_FIX}") from error
    identifier = root.find("uId")
    number = None if identifier is None else re.fullmatch(r"CXR(\d{1,9})", identifier.get("id", ""), re.ASCII)
    if number is None:
        raise UserError(f"{name}: 'uId' with an id like CXR1 is missing; {_REPORT_FIX}")
    sections: dict[str, list[str]] = {}
    for element in root.iter("AbstractText"):
        sections.setdefault(element.get("Label", "").strip().upper(), []).extend(element.itertext())
    images = [image_name(image.get("id", "")) for image in root.iter("parentImage")]
    if None in images:
        raise UserError(f"{name}: a 'parentImage' has no id that names an image of Open-i; {_REPORT_FIX}")
    return IUReport(
        number=int(number[1]),
        findings=_single_spaced(" ".join(sections.get("FINDINGS", []))),
        impression=_single_spaced(" ".join(sections.get("IMPRESSION", []))),
        images=tuple(dict.fromkeys(images)),
        indication=_single_spaced(" ".join(sections.get("INDICATION", []))),
        comparison=_single_spaced(" ".join(sections.get("COMPARISON", []))),
    )


def read_kaggle(path: Path) -> IUReports:
    """Read `indiana_reports.csv`, also if pandas or a spreadsheet has saved it again.

    Raises UserError, naming file, row and column, if it is malformed.
    """
    reports = IUReports()
    columns, optional = ("uid", "findings", "impression"), ("indication", "comparison")
    for row, (uid, *texts) in enumerate(read_table(path, columns, optional=optional), start=1):
        number = re.fullmatch(r"(\d{1,9})(?:\.0*)?", uid, re.ASCII)  # pandas writes a column with gaps as floats
        if number is None:
            raise wrong_format(f"{path} row {row}: 'uid'", "an integer", _FIX)
        findings, impression, indication, comparison = (_single_spaced(text_or_empty(text)) for text in texts)
        report = IUReport(int(number[1]), findings, impression, indication=indication, comparison=comparison)
        reports.add(report, f"{path.name} row {row}")
    return reports


def read_projections(path: Path) -> dict[str, str]:
    """Read `indiana_projections.csv`; return Open-i's image name -> "FRONTAL" or "LATERAL".

    Raises UserError, naming file, row and column, if it is malformed.
    """
    views = {}
    for row, (file_name, projection) in enumerate(read_table(path, ("filename", "projection")), start=1):
        name, view = image_name(file_name), _PROJECTIONS.get(projection.lower())
        if name is None or view is None:
            column = "filename" if name is None else "projection"
            raise wrong_format(f"{path} row {row}: '{column}'", "of Kaggle's form", _FIX)
        views[name] = view
    return views


def _read_folder(folder: Path) -> Iterator[tuple[str, bytes]]:
    paths = [path for path in folder.glob("*.xml") if _is_report(path.name) and path.is_file()]
    for path in sorted(paths, key=lambda path: int(path.stem)):
        try:
            with path.open("rb") as file:
                yield path.name, file.read(_LARGEST_REPORT + 1)
        except OSError as error:
            raise cannot_read(path, error, "make it readable") from error


def _read_archive(path: Path) -> Iterator[tuple[str, bytes]]:
    """Yield the reports of an archive. Nothing is unpacked to disk, so the paths of its members do not matter."""
    try:
        with open_tar(path) as archive:
            for member in archive:
                name = PurePosixPath(member.name).name
                if member.isfile() and _is_report(name):
                    yield name, archive.extractfile(member).read(_LARGEST_REPORT + 1)
    except (tarfile.TarError, OSError, EOFError, zlib.error, ValueError) as error:
        raise cannot_read(f"the archive {path}", error, "download it again") from error


def _is_report(name: str) -> bool:
    return re.fullmatch(r"\d{1,9}\.xml", name, re.ASCII) is not None


def _single_spaced(text: str) -> str:
    return " ".join(text.split())
