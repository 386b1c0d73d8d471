"""The files of MIMIC-CXR and MIMIC-CXR-JPG: which images there are, their views, and where image and report lie."""

import re
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

from data.errors import UserError
from data.sources.distributions import Contents, read_table
from data.sources.r2gen import SPLIT_NAMES, read_annotation
from data.sources.zip_members import ZipMember, list_members, read_member

# Images by split in MIMIC-CXR 2.0.0, and in R2Gen's list of those with findings.
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
    """An image as a list of the data set has it.

    study, subject  their ids, the digits alone
    view            where the list tells it
    report          of the study, where the list holds it: nothing has to be cut out of it
    unwanted        why the list leaves the image out, if it does
    """

    id: str
    study: str
    subject: str
    split: str
    view: str = ""
    report: str | None = None
    unwanted: str = ""


@dataclass(frozen=True, slots=True)
class ImageFacts:
    """What the metadata table says of an image.

    view  "PA", "AP", "LATERAL" or another of the table's words in capitals; "" where nothing tells it
    size  width and height at full resolution; None where the table does not say
    """

    view: str
    size: tuple[int, int] | None


UNKNOWN_IMAGE = ImageFacts("", None)


def listed_image(
    path: Path,
    image: str,
    study: str,
    subject: str,
    split: str,
    view: str = "",
    report: str | None = None,
    unwanted: str = "",
) -> ListedImage:
    """An entry of the list at `path`, its ids without suffix and prefix.

    Raises UserError for ids that are none, which could lead anywhere as parts of a path, and for an unknown split.
    """
    image = image.removesuffix(".dcm").removesuffix(".jpg")
    study, subject = study.lower().removeprefix("s"), subject.lower().removeprefix("p")
    for name, value, is_sound in (
        ("dicom_id", image, _IMAGE_ID.fullmatch(image)),
        ("study_id", study, study.isdecimal()),
        ("subject_id", subject, subject.isdecimal()),
    ):
        if not is_sound:
            raise UserError(f"{path}: '{value[:60]}' is no {name}: fetch the file again")
    if split not in SPLIT_NAMES:
        raise UserError(f"{path}: '{split[:60]}' is no split of image {image}: fetch the file again")
    return ListedImage(image, study, subject, SPLIT_NAMES[split], view.upper(), report, unwanted)


def read_splits(path: Path) -> Iterator[ListedImage]:
    """The images of the split table. Raises UserError as `read_table`, and for ids or splits that are none."""
    for row in read_table(path, ("dicom_id", "study_id", "subject_id", "split")):
        yield listed_image(path, *row)


def read_r2gen_images(path: Path) -> Iterator[ListedImage]:
    """The images of R2Gen's annotation.json with their reports. Raises UserError as `read_annotation`."""
    for sample in read_annotation(path):
        yield listed_image(path, sample.id, sample.study_id, sample.subject_id, sample.split, report=sample.report)


def read_metadata(path: Path) -> Iterator[tuple[str, ImageFacts]]:
    """Image id and facts, for each image of the metadata table. Raises UserError as `read_table`."""
    columns = (
        "dicom_id",
        "ViewPosition",
        "ViewCodeSequence_CodeMeaning",
        "PerformedProcedureStepDescription",
        "Rows",
        "Columns",
    )
    # Few images differ in all of this: what is equal is kept once.
    known: dict[tuple[str, ...], ImageFacts] = {}
    for image, *words, rows, width in read_table(path, columns):
        key = (*words, rows, width)
        if key not in known:
            known[key] = ImageFacts(view_of(*words), _size(width, rows))
        yield image, known[key]


def view_of(position: str, code: str, procedure: str) -> str:
    """An image's view from the metadata's ViewPosition, else its view code, else the procedure if that names one."""
    position = position.strip().upper()
    if position:
        return {"LL": "LATERAL"}.get(position, position)
    if code.strip().lower() in _VIEW_CODES:
        return _VIEW_CODES[code.strip().lower()]
    named = set(re.findall(r"\b(PA|AP|LAT|LATERAL)\b", procedure.upper()))
    if named <= {"LAT", "LATERAL"} and named:
        return "LATERAL"
    return named.pop() if len(named) == 1 else ""


def _size(width: str, height: str) -> tuple[int, int] | None:
    """Width and height; None where they are no positive numbers. Tables saved by pandas may hold 3056.0."""
    try:
        size = int(float(width)), int(float(height))
    except (ValueError, OverflowError):
        return None
    return size if min(size) > 0 else None


def find_image(trees: tuple[Path, ...], image: ListedImage) -> Path | None:
    """Where the image lies in one of the `trees`, a JPEG rather than a DICOM; None if in none."""
    below = f"p{image.subject[:2]}/p{image.subject}/s{image.study}/{image.id}"
    candidates = (tree / f"{below}{suffix}" for suffix in _IMAGE_SUFFIXES for tree in trees)
    return next((path for path in candidates if path.is_file()), None)


@dataclass(frozen=True)
class Reports:
    """The reports of MIMIC-CXR, zipped or as files.

    archive  of the reports; None: they lie in the `trees`
    """

    archive: Path | None
    trees: tuple[Path, ...]

    @classmethod
    def find(cls, contents: Contents) -> "Reports":
        """The reports among the sources' contents."""
        return cls(contents.file("mimic-cxr-reports.zip"), contents.trees)

    def members(self) -> dict[str, ZipMember]:
        """Study id -> where the archive holds the report; empty without an archive."""
        if self.archive is None:
            return {}
        return {
            Path(member.name).stem.removeprefix("s"): member
            for member in list_members(self.archive)
            if member.name.endswith(".txt")
        }

    def read(self, image: ListedImage, member: ZipMember | None) -> str | None:
        """The report of an image's study, as the file holds it; None where there is none.

        Raises UserError for a file that cannot be read.
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
            raise UserError(f"Cannot read {path}: {error.strerror}") from error
