"""ChestX-ray14 of the NIH Clinical Center (Wang et al., CVPR 2017): images with text-mined findings, without reports.

The original download: `Data_Entry_2017_v2020.csv`, `BBox_List_2017.csv`, `train_val_list.txt`, `test_list.txt`, and the
images as folders (`images_001/images/*.png`, ...) or as archives (`images_01.tar.gz`, ...). An image is a study. The
test split is the official one; of the official list for training and validation, an eighth of the patients is the
validation split.
"""

import shutil
from argparse import ArgumentParser, Namespace
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path

from data.errors import UserError
from data.images.radiograph import read_radiograph
from data.sources.fingerprints import path_fingerprint
from data.sources.nih_cxr14.files import (
    IMAGE_NAME,
    Entry,
    FindingBox,
    find_files,
    observations_of,
    read_boxes,
    read_entries,
    read_list,
)
from data.sources.packed_files import PackedFile, list_archive
from data.sources.patient_splits import draw_position
from data.sources.preparation import add_output_arguments, add_source_argument, prepare
from data.sources.source import Dropped, PreparedImage, Study

# Of the complete distribution.
_EXPECTED = {
    "images": 112_120, "patients": 30_805, "train_val_list": 86_524, "test_list": 25_596, "boxes": 984,
    "images with boxes": 880,
}
_VALIDATION = 1 / 8


@dataclass(frozen=True, slots=True)
class NihPlan:
    """A study to build: its labels, its drawn boxes in pixels, and its image."""

    id: str
    split: str
    entry: Entry
    boxes: tuple[FindingBox, ...]
    file: PackedFile


def add_arguments(parser: ArgumentParser) -> None:
    """Declare the options of `python -m data.prepare nih_cxr14`."""
    add_source_argument(parser)
    add_output_arguments(parser)


def run(arguments: Namespace) -> None:
    """Run the command."""
    scratch = arguments.out.parent / f".{arguments.out.name}.unpacked"
    source = ChestXray14(arguments.source, scratch)
    prepare(source, arguments.out, arguments.image_size, arguments.workers)
    shutil.rmtree(scratch, ignore_errors=True)


class ChestXray14:
    """The images of ChestX-ray14, a `data.sources.source.Source`."""

    name = "nih_cxr14"

    def __init__(self, sources: Sequence[Path], scratch: Path = Path()):
        """Read all tables; images are read later, by `build`.

        scratch   folder for uncompressed copies of compressed archives

        Raises UserError if a table or all images are missing, or a table is malformed.
        """
        self.paths = tuple(sources)
        self._scratch = scratch
        self._files = find_files(sources)
        self._entries = read_entries(self._files.entries)
        self._boxes = read_boxes(self._files.boxes)
        self._train_val, self._test = (read_list(path) for path in (self._files.train_val, self._files.test))
        if both := self._train_val & self._test:
            names = f"{self._files.train_val} and {self._files.test}"
            raise UserError(f"{min(both)} is in both {names}: download them again")

    def __len__(self) -> int:
        return len(self._entries)

    def describe(self) -> dict:
        """See `Source`."""
        found = {
            "images": len(self._entries),
            "patients": len({entry.patient for entry in self._entries}),
            "train_val_list": len(self._train_val),
            "test_list": len(self._test),
            "boxes": sum(map(len, self._boxes.values())),
            "images with boxes": len(self._boxes),
        }
        return {
            "distributions": self._files.summary(),
            "list": "nih_cxr14",
            "labels": "text-mined findings of ChestX-ray14",
            "sources": [path_fingerprint(path) for path in self.paths],
            "expected": _EXPECTED,
            "found": found,
        }

    def plans(self) -> Iterator[NihPlan | Dropped]:
        """See `Source`. Raises UserError if an archive of images is damaged."""
        files = {name: PackedFile(path) for name, path in self._files.images.items()}
        for archive in self._files.archives:
            for path, file in list_archive(archive, self._scratch):
                name = path.rpartition("/")[2]
                if IMAGE_NAME.fullmatch(name):
                    files.setdefault(name, file)
        for entry in self._entries:
            study_id = entry.image.rpartition(".")[0]
            split = self._split_of(entry)
            if split is None:
                yield Dropped(study_id, "in neither list of images")
            elif entry.image not in files:
                yield Dropped(study_id, "no image")
            else:
                boxes = tuple(self._boxes.get(entry.image, ()))
                yield NihPlan(study_id, split, entry, boxes, files[entry.image])

    def _split_of(self, entry: Entry) -> str | None:
        if entry.image in self._test:
            return "test"
        if entry.image not in self._train_val:
            return None
        return "val" if draw_position(entry.patient) < _VALIDATION else "train"

    def build(self, plan: NihPlan) -> Study | Dropped:
        """See `Source`."""
        try:
            radiograph = read_radiograph(plan.file.content(), plan.id)
        except (UserError, OSError):
            return Dropped(plan.id, "damaged image")
        return Study(
            id=plan.id,
            split=plan.split,
            images=(PreparedImage(radiograph.pixels, plan.entry.view),),
            report=None,
            observations=observations_of(plan.entry.findings),
            graph=None,
            warnings=radiograph.warnings,
            finding_boxes=tuple(box.relative_to(*radiograph.size) for box in plan.boxes),
        )
