"""The files of MIMIC-CXR and MIMIC-CXR-JPG: lists of images, their views, and the files of images and reports."""

import re
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

from data.errors import cannot_read, readable, unknown_name, wrong_format
from data.records import SPLITS
from data.sources.distributions import Contents, read_table
from data.sources.r2gen import SPLIT_NAMES, read_annotation
from data.sources.zip_members import ZipMember, list_members, read_member

# Images per split in MIMIC-CXR 2.0.0, and in R2Gen's list of images whose report has findings.
KNOWN_IMAGES = {"train": 368_960, "val": 2_991, "test": 5_159}
KNOWN_R2GEN_IMAGES = {"train": 270_790, "val": 2_130, "test": 3_858}
FRONTAL = ("PA", "AP")

_VIEW_CODES = {
    "postero-anterior": "PA",
    "antero-posterior": "AP",
    "lateral": "LATERAL",
    "left lateral": "LATERAL",
}
_IMAGE_SUFFIXES = (".jpg", ".jpeg", ".png", ".dcm")
_IMAGE_ID = re.compile(r"[\w-]+")


@dataclass(frozen=True, slots=True)
class ListedImage:
    """An image in a list of the data set.

    study, subject  their ids, digits only
    view            "" if the list does not state it
    report          the complete text to learn, if the list contains it; else None
    unwanted        the reason if the image is excluded; else ""
    """

    id: str
    study: str
    subject: str
    split: str
    view: str = ""
    report: str | None = None
    unwanted: str = ""

    @classmethod
    def from_row(
        cls,
        path: Path,
        image: str,
        study: str,
        subject: str,
        split: str,
        view: str = "",
        report: str | None = None,
    ) -> "ListedImage":
        """Make an entry from a row of the list at `path`; suffix and prefixes of the ids are removed.

        Raises UserError for malformed ids, which as parts of a path could lead anywhere, and for unknown splits.
        """
        image = image.removesuffix(".dcm").removesuffix(".jpg")
        study, subject = study.lower().removeprefix("s"), subject.lower().removeprefix("p")
        for name, value, is_valid in (
            ("dicom_id", image, _IMAGE_ID.fullmatch(image)),
            ("study_id", study, study.isdecimal()),
            ("subject_id", subject, subject.isdecimal()),
        ):
            if not is_valid:
                raise wrong_format(f"{path}: '{readable(value[:60])}'", f"a {name}", "download the file again")
        if split not in SPLIT_NAMES:
            raise unknown_name("split", split[:60], SPLITS, f"{path}: image {image}")
        return cls(image, study, subject, SPLIT_NAMES[split], view.upper(), report)


@dataclass(frozen=True, slots=True)
class ImageFacts:
    """What the metadata table states about an image.

    view  "PA", "AP", "LATERAL" or another view of the table in capitals; "" if unknown
    size  width and height at full resolution; None if the table does not state them
    """

    view: str
    size: tuple[int, int] | None


UNKNOWN_IMAGE = ImageFacts("", None)


def read_splits(path: Path) -> Iterator[ListedImage]:
    """Yield the images of the split table. Raises UserError as `read_table` and `ListedImage.from_row` do."""
    for row in read_table(path, ("dicom_id", "study_id", "subject_id", "split")):
        yield ListedImage.from_row(path, *row)


def read_r2gen_images(path: Path) -> Iterator[ListedImage]:
    """Yield the images of R2Gen's annotation.json with their reports.

    Raises UserError as `read_annotation` and `ListedImage.from_row` do.
    """
    for sample in read_annotation(path):
        yield ListedImage.from_row(
            path, sample.id, sample.study_id, sample.subject_id, sample.split, report=sample.report
        )


def read_metadata(path: Path) -> Iterator[tuple[str, ImageFacts]]:
    """Yield image id and facts for each image of the metadata table. Raises UserError as `read_table` does."""
    columns = (
        "dicom_id",
        "ViewPosition",
        "ViewCodeSequence_CodeMeaning",
        "PerformedProcedureStepDescription",
        "Rows",
        "Columns",
    )
    # Few combinations occur: equal facts share one object.
    cache: dict[tuple[str, ...], ImageFacts] = {}
    for image, *views, rows, width in read_table(path, columns):
        key = (*views, rows, width)
        if key not in cache:
            cache[key] = ImageFacts(parse_view(*views), _parse_size(width, rows))
        yield image, cache[key]


def read_times(path: Path) -> Iterator[tuple[str, str]]:
    """Yield image id and time of the study for each image of the metadata table that states its date.

    Times are of the form 2180-05-06T21:30:14, so that they sort as strings. Raises UserError as `read_table` does.
    """
    for image, date, time in read_table(path, ("dicom_id",), optional=("StudyDate", "StudyTime")):
        if (taken := parse_time(date, time)) is not None:
            yield image, taken


def parse_time(date: str, time: str) -> str | None:
    """Return the time of a study from StudyDate (20180506) and StudyTime, a number that lost its leading zeros.

    3405.25 is 00:34:05.25. A blank time counts as midnight. None if the date is blank or malformed.
    """
    date = date.partition(".")[0]  # pandas writes a column with gaps as floats
    hours, _, fraction = time.partition(".")
    hours = hours.rjust(6, "0")
    if not (date.isdecimal() and len(date) == 8 and hours.isdecimal() and len(hours) == 6):
        return None
    fraction = f".{fraction}" if fraction.strip("0") else ""
    return f"{date[:4]}-{date[4:6]}-{date[6:]}T{hours[:2]}:{hours[2:4]}:{hours[4:]}{fraction}"


def parse_view(position: str, code: str, procedure: str) -> str:
    """Return an image's view from ViewPosition, else from the view code, else from the only view in the procedure."""
    position = position.strip().upper()
    if position:
        return {"LL": "LATERAL"}.get(position, position)
    if code.strip().lower() in _VIEW_CODES:
        return _VIEW_CODES[code.strip().lower()]
    named = set(re.findall(r"\b(PA|AP|LAT|LATERAL)\b", procedure.upper()))
    if named <= {"LAT", "LATERAL"} and named:
        return "LATERAL"
    return named.pop() if len(named) == 1 else ""


def _parse_size(width: str, height: str) -> tuple[int, int] | None:
    """Return width and height; None if they are not positive numbers. Tables saved by pandas may contain 3056.0."""
    try:
        size = int(float(width)), int(float(height))
    except (ValueError, OverflowError):
        return None
    return size if min(size) > 0 else None


def find_image(trees: tuple[Path, ...], image: ListedImage) -> Path | None:
    """Return the file of the image in one of the `trees`, preferring JPEG to DICOM; None if absent."""
    below = f"p{image.subject[:2]}/p{image.subject}/s{image.study}/{image.id}"
    candidates = (tree / f"{below}{suffix}" for suffix in _IMAGE_SUFFIXES for tree in trees)
    return next((path for path in candidates if path.is_file()), None)


@dataclass(frozen=True)
class Reports:
    """The reports of MIMIC-CXR, zipped or unpacked.

    archive  of the reports; None if they are files in the `trees`
    """

    archive: Path | None
    trees: tuple[Path, ...]

    @classmethod
    def find(cls, contents: Contents) -> "Reports":
        """Find the reports in the sources."""
        return cls(contents.file("mimic-cxr-reports.zip"), contents.trees)

    def members(self) -> dict[str, ZipMember]:
        """Return study id -> position of its report in the archive; empty without an archive."""
        if self.archive is None:
            return {}
        return {
            Path(member.name).stem.removeprefix("s"): member
            for member in list_members(self.archive)
            if member.name.endswith(".txt")
        }

    def read(self, image: ListedImage, member: ZipMember | None) -> str | None:
        """Return the report of an image's study with all its sections; None if absent.

        Raises UserError if its file cannot be read.
        """
        if member is not None:
            return read_member(self.archive, member).decode("utf-8", errors="replace")
        below = f"p{image.subject[:2]}/p{image.subject}/s{image.study}.txt"
        path = next((tree / below for tree in self.trees if (tree / below).is_file()), None)
        if path is None:
            return None
        try:
            return path.read_text(encoding="utf-8", errors="replace")
        except OSError as error:
            raise cannot_read(path, error) from error
