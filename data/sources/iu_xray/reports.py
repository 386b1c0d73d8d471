"""The reports of IU X-Ray: Open-i's XML files, packed or not, and the two tables of its repackaging on Kaggle."""

import re
import tarfile
import zlib
from collections.abc import Iterator
from dataclasses import dataclass, field
from pathlib import Path, PurePosixPath
from xml.etree import ElementTree

from data.errors import UserError
from data.sources.distributions import read_table

_REMEDY = "fetch it again"
# The longest of the 3,955 files has 9 kB: more than this is no report, whatever it is.
_LARGEST_REPORT = 1 << 20
_IMAGE_NAME = re.compile(r"(?:CXR)?(\d{1,9})(?:_1)?_(IM-\d+(?:-\d+)*)", re.ASCII)
_PROJECTIONS = {"frontal": "FRONTAL", "lateral": "LATERAL"}


@dataclass(frozen=True)
class IUReport:
    """One report, each section with single spaces; empty where the report lacks it.

    number   the file's number, Kaggle's uid
    images   Open-i's names of its images without suffix, in order; empty where the source does not list them
    """

    number: int
    findings: str
    impression: str
    images: tuple[str, ...] = ()


@dataclass
class IUReports:
    """All reports of a source by number, and what was wrong with its other files, a line each without report text."""

    by_number: dict[int, IUReport] = field(default_factory=dict)
    damaged: list[str] = field(default_factory=list)

    def add(self, report: IUReport, where: str) -> None:
        """Take in a report; a number that is there already counts as damage."""
        if report.number in self.by_number:
            self.damaged.append(f"{where}: report {report.number} is there twice; the first is used")
        else:
            self.by_number[report.number] = report


def image_name(file_name: str) -> str | None:
    """Open-i's name of an image, from a file name of any distribution; None where it is no such name.

    `2_IM-0652-1001.dcm.png` (Kaggle), `2_IM-0652-1001.dcm` and `CXR2_IM-0652-1001.png` give `CXR2_IM-0652-1001`.
    The images of report 1 alone are called `CXR1_1_IM-...`.
    """
    match = _IMAGE_NAME.fullmatch(file_name.split(".", 1)[0])
    if match is None:
        return None
    number = int(match[1])
    return f"CXR{number}_{'1_' if number == 1 else ''}{match[2]}"


def study_number(study_id: str) -> int | None:
    """The number of the report of an R2Gen study id; None for an id of another form."""
    match = _IMAGE_NAME.fullmatch(study_id)
    return int(match[1]) if match and study_id.startswith("CXR") else None


def read_open_i(source: Path) -> IUReports:
    """The reports of a folder of XML files or of an archive with them (`NLMCXR_reports.tgz`).

    Damaged reports are skipped and listed. Raises UserError where the archive itself is damaged or unreadable.
    """
    reports = IUReports()
    for name, content in _xml_folder(source) if source.is_dir() else _xml_archive(source):
        try:
            reports.add(parse_open_i(content, name), name)
        except UserError as error:
            reports.damaged.append(str(error))
    return reports


def parse_open_i(content: bytes, name: str) -> IUReport:
    """The report of one XML file; `name` is for messages. Raises UserError naming the file and what it lacks."""
    if len(content) > _LARGEST_REPORT:
        raise UserError(f"{name} is too long for a report: {_REMEDY}")
    try:
        root = ElementTree.fromstring(content)
    except (ElementTree.ParseError, LookupError, ValueError) as error:
        raise UserError(f"{name} is damaged XML: {_REMEDY}") from error
    identifier = root.find("uId")
    number = None if identifier is None else re.fullmatch(r"CXR(\d{1,9})", identifier.get("id", ""), re.ASCII)
    if number is None:
        raise UserError(f"{name}: 'uId' with an id like CXR1 is missing; {_REMEDY}")
    sections: dict[str, list[str]] = {}
    for element in root.iter("AbstractText"):
        sections.setdefault(element.get("Label", "").strip().upper(), []).extend(element.itertext())
    images = [image_name(image.get("id", "")) for image in root.iter("parentImage")]
    if None in images:
        raise UserError(f"{name}: a 'parentImage' has no id that names an image of Open-i; {_REMEDY}")
    return IUReport(
        number=int(number[1]),
        findings=_single_spaced(" ".join(sections.get("FINDINGS", []))),
        impression=_single_spaced(" ".join(sections.get("IMPRESSION", []))),
        images=tuple(dict.fromkeys(images)),
    )


def read_kaggle(path: Path) -> IUReports:
    """The reports of `indiana_reports.csv`. Raises UserError naming file, row and column."""
    reports = IUReports()
    for row, (uid, findings, impression) in enumerate(read_table(path, ("uid", "findings", "impression")), start=1):
        if re.fullmatch(r"\d{1,9}", uid, re.ASCII) is None:
            raise UserError(f"{path} row {row}: 'uid' is no whole number; {_REMEDY}")
        report = IUReport(int(uid), _single_spaced(findings), _single_spaced(impression))
        reports.add(report, f"{path.name} row {row}")
    return reports


def read_projections(path: Path) -> dict[str, str]:
    """Open-i's image name -> "FRONTAL" or "LATERAL", from `indiana_projections.csv`.

    Raises UserError naming file, row and column.
    """
    views = {}
    for row, (file_name, projection) in enumerate(read_table(path, ("filename", "projection")), start=1):
        name, view = image_name(file_name), _PROJECTIONS.get(projection.lower())
        if name is None or view is None:
            column = "filename" if name is None else "projection"
            raise UserError(f"{path} row {row}: '{column}' is not of Kaggle's form; {_REMEDY}")
        views[name] = view
    return views


def _xml_folder(folder: Path) -> Iterator[tuple[str, bytes]]:
    paths = [path for path in folder.glob("*.xml") if _is_report(path.name) and path.is_file()]
    for path in sorted(paths, key=lambda path: int(path.stem)):
        try:
            with path.open("rb") as file:
                yield path.name, file.read(_LARGEST_REPORT + 1)
        except OSError as error:
            raise UserError(f"Cannot read {path} ({error.strerror}): make it readable") from error


def _xml_archive(path: Path) -> Iterator[tuple[str, bytes]]:
    """Nothing is unpacked to disk, so it does not matter what paths the members claim."""
    try:
        with tarfile.open(path) as archive:
            for member in archive:
                name = PurePosixPath(member.name).name
                if member.isfile() and _is_report(name):
                    yield name, archive.extractfile(member).read(_LARGEST_REPORT + 1)
    except (tarfile.TarError, OSError, EOFError, zlib.error, ValueError) as error:
        raise UserError(f"{path} is no readable tar archive ({type(error).__name__}): {_REMEDY}") from error


def _is_report(name: str) -> bool:
    return re.fullmatch(r"\d{1,9}\.xml", name, re.ASCII) is not None


def _single_spaced(text: str) -> str:
    return " ".join(text.split())
