"""Finds the files of IU X-Ray in the sources, in any of its distributions."""

import os
import re
import tarfile
import zlib
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, field
from itertools import islice
from pathlib import Path, PurePosixPath

from data.errors import UserError, cannot_read, missing
from data.sources.iu_xray.reports import image_name, study_number
from data.sources.packed_files import PackedFile, list_archive
from data.storage.bounded_tar import open_tar

EXPECTED = (
    "Open-i (NLMCXR_reports.tgz or ecgen-radiology/, with NLMCXR_png.tgz, PNGs or DICOMs), Kaggle "
    "(indiana_reports.csv, indiana_projections.csv, images_normalized/) or R2Gen (annotation.json, images/)"
)
_ARCHIVE_SUFFIXES = (".tgz", ".tar.gz", ".tar")
_IMAGE_SUFFIXES = (".png", ".jpg", ".jpeg", ".dcm")
# The first members of an archive decide what kind it is.
_PEEKED_MEMBERS = 50
_ARCHIVE_ERRORS = (tarfile.TarError, OSError, EOFError, zlib.error, ValueError)


@dataclass
class IUFiles:
    """The files found, each list in the order of the sources and then of the paths.

    xml              archives and folders of Open-i's reports
    image_archives   archives of images, not searched yet
    images           Open-i's name of an image -> its file, from Open-i (PNG or DICOM) or Kaggle
    numbered         "STUDY/NUMBER" -> the file `images/STUDY/NUMBER.png` of R2Gen's copy
    """

    xml: list[Path] = field(default_factory=list)
    image_archives: list[Path] = field(default_factory=list)
    kaggle_reports: list[Path] = field(default_factory=list)
    projections: list[Path] = field(default_factory=list)
    annotations: list[Path] = field(default_factory=list)
    images: dict[str, Path] = field(default_factory=dict)
    numbered: dict[str, Path] = field(default_factory=dict)

    def summary(self) -> list[str]:
        """Return one line per distribution that was recognised. The lines are part of dataset.yaml."""
        lines = [
            *(f"Open-i reports: {path.name}" for path in self.xml),
            *(f"Open-i images, packed: {path.name}" for path in self.image_archives),
            *(f"Kaggle reports: {path.name}" for path in self.kaggle_reports),
            *(f"Kaggle projections: {path.name}" for path in self.projections),
            *(f"R2Gen annotation: {path.name}" for path in self.annotations),
        ]
        for kind, count in self._count_images().items():
            if count:
                lines.append(f"{kind} images: {count}")
        return lines

    def _count_images(self) -> dict[str, int]:
        """Return the number of images per distribution."""
        names = [path.name.lower() for path in self.images.values()]
        kaggle = sum(".dcm." in name for name in names)
        dicom = sum(name.endswith(".dcm") for name in names)
        return {
            "Open-i": len(names) - kaggle - dicom,
            "Open-i DICOM": dicom,
            "Kaggle": kaggle,
            "R2Gen": len(self.numbered),
        }


def find_files(sources: Sequence[Path]) -> IUFiles:
    """Search folders and files. Raises UserError if a source does not exist or has no files of IU X-Ray."""
    found = IUFiles()
    for source in sources:
        if not source.exists():
            raise missing("source", source, "give an existing folder or file as --source")
        before = len(found.summary()), len(found.images), len(found.numbered)
        for path in _files_below(source) if source.is_dir() else [source]:
            _add_file(path, found)
        if before == (len(found.summary()), len(found.images), len(found.numbered)):
            raise UserError(f"{source} has no new files of IU X-Ray: expected {EXPECTED}")
    return found


def _files_below(folder: Path) -> Iterator[Path]:
    for parent, folders, names in os.walk(folder):
        folders.sort()
        yield from (Path(parent, name) for name in sorted(names))


def _add_file(path: Path, found: IUFiles) -> None:
    """Add a file to the list of its kind, if any. macOS adds files that start with a dot; these are ignored."""
    name = path.name.lower()
    if name.startswith("."):
        return
    if re.fullmatch(r"\d+\.xml", name, re.ASCII):
        if path.parent not in found.xml:
            found.xml.append(path.parent)
    elif name.endswith(_ARCHIVE_SUFFIXES):
        _add_archive(path, found)
    elif name == "indiana_reports.csv":
        found.kaggle_reports.append(path)
    elif name == "indiana_projections.csv":
        found.projections.append(path)
    elif name == "annotation.json":
        found.annotations.append(path)
    elif name.endswith(_IMAGE_SUFFIXES):
        if (image := image_name(path.name)) is not None:
            found.images.setdefault(image, path)
        elif re.fullmatch(r"\d+", path.stem, re.ASCII) and study_number(path.parent.name) is not None:
            found.numbered.setdefault(f"{path.parent.name}/{path.stem}", path)


def _add_archive(path: Path, found: IUFiles) -> None:
    try:
        with open_tar(path) as archive:
            names = [PurePosixPath(member.name).name for member in islice(archive, _PEEKED_MEMBERS)]
    except _ARCHIVE_ERRORS as error:
        raise _damaged_archive(path, error) from error
    if any(re.fullmatch(r"\d+\.xml", name, re.ASCII) for name in names):
        found.xml.append(path)
    elif any(name.lower().endswith(_IMAGE_SUFFIXES) and image_name(name) for name in names):
        found.image_archives.append(path)


def find_packed_images(archive: Path, scratch: Path) -> dict[str, PackedFile]:
    """Return Open-i's name -> position of every image in an archive.

    scratch   folder for an uncompressed copy of a compressed archive, see `list_archive`

    Raises UserError if the archive is damaged or the disk is full.
    """
    images: dict[str, PackedFile] = {}
    for path, file in list_archive(archive, scratch):
        name = PurePosixPath(path).name
        if name.lower().endswith(_IMAGE_SUFFIXES) and (image := image_name(name)) is not None:
            images.setdefault(image, file)
    return images


def _damaged_archive(path: Path, error: Exception) -> UserError:
    return cannot_read(f"the archive {path}", error, "download it again, or unpack it and give the folder")
