"""The database of the Japanese Society of Radiological Technology (JSRT; Shiraishi et al., AJR 2000), with the outlines
of SCR (van Ginneken et al., Medical Image Analysis 2006): 154 chest films with a lung nodule and 93 without.

The original downloads, unpacked or as archives: the films `JPCLN001.IMG` to `JPCNN093.IMG`, the tables `CLNDAT_EN.txt`
and `CNNDAT_EN.TXT`, and SCR's masks (`masks/left lung/JPCLN001.gif`, ...) or landmarks (`JPCLN001.pfs`, ...). A film is
a study, and the only one of its patient. There is no official split, so one is drawn. Films have no report; known are
whether there is a nodule, and the boxes of both lungs and of the heart.
"""

import re
import shutil
from argparse import ArgumentParser, Namespace
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path

from data.errors import UserError
from data.ontology import observation_names
from data.sources.fingerprints import path_fingerprint
from data.sources.jsrt.files import (
    STRUCTURES,
    Nodule,
    landmark_boxes,
    mask_box,
    read_film,
    read_film_names,
    read_nodules,
    region_boxes,
)
from data.sources.packed_files import PackedFile, is_archive, list_archive, list_paths
from data.sources.patient_splits import draw_split
from data.sources.preparation import add_output_arguments, add_source_argument, prepare
from data.sources.source import Dropped, PreparedImage, Study

_FILM = re.compile(r"(JPC[LN]N\d{3})\.IMG", re.IGNORECASE)
_MASK = re.compile(r"(?:.*/)?(?P<structure>right lung|left lung|heart)/(?P<film>JPC[LN]N\d{3})\.(gif|png|tiff?|bmp)",
                   re.IGNORECASE)
_LANDMARKS = re.compile(r"(JPC[LN]N\d{3})\.pfs", re.IGNORECASE)
_WITH_NODULE = "JPCLN"
# Of the complete distribution.
_EXPECTED = {
    "films": 247, "films with a nodule": 154, "films without a nodule": 93, "films with outlines": 247,
    "films in the table with a nodule": 154, "films in the table without": 93,
}


@dataclass(frozen=True, slots=True)
class JsrtPlan:
    """A film to build: its file, its nodule, and the files of its outlines."""

    id: str
    split: str
    film: PackedFile
    nodule: Nodule | None
    masks: dict[str, PackedFile]
    landmarks: PackedFile | None


def add_arguments(parser: ArgumentParser) -> None:
    """Declare the options of `python -m data.prepare jsrt`."""
    add_source_argument(parser)
    add_output_arguments(parser)


def run(arguments: Namespace) -> None:
    """Run the command."""
    scratch = arguments.out.parent / f".{arguments.out.name}.unpacked"
    prepare(Jsrt(arguments.source, scratch), arguments.out, arguments.image_size, arguments.workers)
    shutil.rmtree(scratch, ignore_errors=True)


class Jsrt:
    """The films of the JSRT database, a `data.sources.source.Source`."""

    name = "jsrt"

    def __init__(self, sources: Sequence[Path], scratch: Path = Path()):
        """Search the sources and read the tables; films and outlines are read later, by `build`.

        scratch   folder for uncompressed copies of compressed archives

        Raises UserError if there are no films, or a table or an archive is damaged.
        """
        self.paths = tuple(sources)
        self._films: dict[str, PackedFile] = {}
        self._masks: dict[str, dict[str, PackedFile]] = {}
        self._landmarks: dict[str, PackedFile] = {}
        self._nodules: dict[str, Nodule] = {}
        self._listed: dict[str, set[str]] = {"CLNDAT": set(), "CNNDAT": set()}
        for path in list_paths(sources):
            if is_archive(path):
                for name, file in list_archive(path, scratch):
                    self._add(name, file)
            else:
                self._add(path.as_posix(), PackedFile(path))
        if not self._films:
            raise UserError("The sources have no films of JSRT: add a --source with JPCLN001.IMG, JPCLN002.IMG, ...")

    def _add(self, path: str, file: PackedFile) -> None:
        """Remember a file, if it is of a known kind."""
        name = path.rpartition("/")[2]
        if film := _FILM.fullmatch(name):
            self._films.setdefault(film[1].upper(), file)
        elif mask := _MASK.fullmatch(path.replace("_", " ")):
            structures = self._masks.setdefault(mask["film"].upper(), {})
            structures.setdefault(mask["structure"].lower(), file)
        elif landmarks := _LANDMARKS.fullmatch(name):
            self._landmarks.setdefault(landmarks[1].upper(), file)
        elif name.upper() in ("CLNDAT_EN.TXT", "CNNDAT_EN.TXT"):
            self._listed[name[:6].upper()] |= read_film_names(file.read(), name)
            if name.upper().startswith("CLN"):
                self._nodules |= read_nodules(file.read(), name)

    def __len__(self) -> int:
        return len(self._films)

    def describe(self) -> dict:
        """See `Source`."""
        with_nodule = sum(film.startswith(_WITH_NODULE) for film in self._films)
        masked = {film for film, masks in self._masks.items() if STRUCTURES.keys() <= masks.keys()}
        outlines = f"masks of {len(masked)} films, landmarks of {len(self._landmarks)}"
        found = {
            "films": len(self._films),
            "films with a nodule": with_nodule,
            "films without a nodule": len(self._films) - with_nodule,
            "films with outlines": len(self._films.keys() & (masked | self._landmarks.keys())),
            "films in the table with a nodule": len(self._listed["CLNDAT"]),
            "films in the table without": len(self._listed["CNNDAT"]),
        }
        return {
            "distributions": [f"films: {len(self._films)}", f"positions of nodules: {len(self._nodules)}", outlines],
            "split": "drawn",
            "sources": [path_fingerprint(path) for path in self.paths],
            "expected": _EXPECTED,
            "found": found,
        }

    def plans(self) -> Iterator[JsrtPlan]:
        """See `Source`."""
        for film in sorted(self._films):
            yield JsrtPlan(
                film, draw_split(film), self._films[film], self._nodules.get(film), self._masks.get(film, {}),
                self._landmarks.get(film),
            )

    def build(self, plan: JsrtPlan) -> Study | Dropped:
        """See `Source`."""
        try:
            pixels = read_film(plan.film.read(), plan.id)
        except (UserError, OSError):
            return Dropped(plan.id, "damaged film")
        warnings: list[str] = []
        regions = region_boxes(_read_outlines(plan, warnings))
        observations = dict.fromkeys(observation_names()) | {"Lung Lesion": int(plan.id.startswith(_WITH_NODULE))}
        nodules = () if plan.nodule is None else ({"finding": "Nodule", "box": plan.nodule.box()},)
        return Study(
            id=plan.id,
            split=plan.split,
            images=(PreparedImage(pixels, "PA"),),
            report=None,
            observations=observations,
            graph={"box_source": "annotated", "complete": False, "regions": regions} if regions else None,
            warnings=tuple(warnings),
            finding_boxes=nodules,
        )


def _read_outlines(plan: JsrtPlan, warnings: list[str]) -> dict[str, list[float]]:
    """Return the box of each structure: from the masks, else from the landmarks."""
    boxes: dict[str, list[float]] = {}
    if plan.landmarks is not None:
        try:
            boxes |= landmark_boxes(plan.landmarks.read(), plan.id)
        except (UserError, OSError):
            warnings.append("damaged landmarks")
    for structure, file in plan.masks.items():
        try:
            boxes[structure] = mask_box(file.read(), plan.id)
        except (UserError, OSError):
            warnings.append("damaged mask")
    if not boxes:
        warnings.append("no outlines")
    return boxes
